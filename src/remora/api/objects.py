"""Objects as the user sees them: ``put``, ``get``, ``wait``, ``create`` and ``cancel``."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from remora.api.actors import ActorHandle, ActorMethod, RemoteActor
from remora.api.deferred import pending, raise_deferred
from remora.api.init import connect_or_init
from remora.base import runtime
from remora.base.call_sites import call_site
from remora.base.object_ref import ObjectRef

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike

T = TypeVar("T")

_get_frame = sys._getframe

MAX_COPIES = 2**32 - 1
FOR_EVER_S = 1e9
"""A timeout from here on, 30 years, is none: system calls refuse such numbers."""


def put(value: T, *, copies: int = 1, _owner: ActorHandle[Any] | None = None) -> ObjectRef[T]:
    """Put a value into the object store.

    Parameters:
        value: anything that can be pickled. Arrays are copied once, into shared memory, and never again.
        copies: on how many nodes of a cluster the value is kept, so that it outlives the death of all but one of
            them. When one dies another node takes its place; with fewer nodes there are fewer copies.
        _owner: accepted for Ray's sake; an object lives as long as anyone holds it, whoever made it.

    Returns:
        A ref to the value, which nobody can change any more.

    Raises:
        TypeError: *value* is a ref.
        SerializationError: it cannot be pickled; the message names the part that cannot.
        ObjectStoreFullError: it does not fit.

    Example:
        >>> ref = remora.put(numpy.zeros(1_000_000))
        >>> remora.get(ref).sum()
        0.0
    """
    if type(value) is ObjectRef:
        raise TypeError(
            f"put({value!r}): this is a ref already; pass it on as it is, put([ref]) to nest it, or put(get(ref)) "
            "to make another object of the same value"
        )
    session = runtime.current
    if session is None:
        session = connect_or_init()
    if copies == 1 and _owner is None:
        ref = session.put(value)
    else:
        if type(copies) is not int or not 1 <= copies <= MAX_COPIES:
            raise ValueError(f"put(copies={copies!r}): it must be a whole number from 1 to {MAX_COPIES}")
        ref = session.put(value, _actor_of(_owner, "_owner") if _owner is not None else None, copies)
    ref.site = call_site(_get_frame(1))
    if pending:
        raise_deferred()
    return ref


@overload
def get(refs: ObjectRef[T], *, timeout: float | None = None, copy: bool = False) -> T: ...
@overload
def get(refs: Sequence[ObjectRef[T]], *, timeout: float | None = None, copy: bool = False) -> list[T]: ...
@overload
def get(refs: Sequence[ObjectRef[Any]], *, timeout: float | None = None, copy: bool = False) -> list[Any]: ...
def get(refs: Any, *, timeout: float | None = None, copy: bool = False) -> Any:
    """The value of a ref, or the values of a list of refs, waiting until they are there.

    Parameters:
        refs: a ref, or a list or tuple of refs.
        timeout: seconds to wait; None waits for ever, 0 returns or raises at once.
        copy: give a value of the caller's own, whose arrays can be written to. Without it arrays are read-only
            views of the object store.

    Raises:
        TaskError: the task failed; it is also an instance of the exception class that the task raised.
        GetTimeoutError: a value was not there in time.
        ActorDiedError, WorkerCrashedError, ObjectLostError: there will be no value.
        TypeError, ValueError: the arguments are wrong.

    Example:
        >>> remora.get([square.remote(2), square.remote(3)])
        [4, 9]
    """
    session = runtime.current
    if session is None:
        session = connect_or_init()
    try:
        if type(refs) is ObjectRef and timeout is None and not copy:
            return session.get_one(refs, None)
        if timeout is not None:
            timeout = _seconds("get", timeout)
        if type(refs) is ObjectRef:
            return session.get_one(refs, timeout, copy)
        if not isinstance(refs, (list, tuple)):
            _refuse_get(refs)
        if list(map(type, refs)).count(ObjectRef) != len(refs):
            _refuse_items("get", refs)
        return session.get_many(refs if type(refs) is list else list(refs), timeout, copy) if refs else []
    finally:
        if pending:
            raise_deferred()


def wait(
    refs: Sequence[ObjectRef[T]],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
) -> tuple[list[ObjectRef[T]], list[ObjectRef[T]]]:
    """Wait until some of the refs have their value or error.

    Parameters:
        refs: a list of distinct refs.
        num_returns: how many to wait for.
        timeout: seconds to wait; None waits for ever, 0 only looks.
        fetch_local: ready means that the value is on this node; otherwise, that it is anywhere.

    Returns:
        The ready refs, *num_returns* of them or fewer at the timeout, and the others; both in the order given.

    Raises:
        TypeError, ValueError: the arguments are wrong.

    Example:
        >>> ready, others = remora.wait(refs, num_returns=2, timeout=0.5)
    """
    if not isinstance(refs, (list, tuple)):
        _refuse_wait(refs)
    _check_num_returns(num_returns, refs)
    if timeout is not None:
        timeout = _seconds("wait", timeout)
    session = runtime.current
    if session is None:
        session = connect_or_init()
    try:
        if not refs:
            return [], []
        if len(set(refs)) != len(refs):
            _refuse_duplicates(refs)
        return session.wait(refs if type(refs) is list else list(refs), num_returns, timeout, fetch_local)
    except (AttributeError, TypeError):
        # Looked at only now, because a look at the type of each of many refs costs as much as all the rest.
        _refuse_items("wait", refs)
        raise
    finally:
        if pending:
            raise_deferred()


def create(shape: int | Sequence[int], dtype: DTypeLike = "float64") -> np.ndarray[Any, Any]:
    """A new array that lies in the object store already, to be filled and then given to :func:`put`.

    ``put`` of it copies nothing and seals it: from then on the array cannot be written to.

    Parameters:
        shape: length of each dimension.
        dtype: any numpy dtype without Python objects in it.

    Raises:
        ValueError: a length is negative, or the dtype holds Python objects.
        ObjectStoreFullError: it does not fit.

    Example:
        >>> array = remora.create((1000, 1000), "float32")
        >>> array[:] = 1
        >>> ref = remora.put(array)
    """
    import numpy

    lengths = (shape,) if isinstance(shape, int) else tuple(shape)
    if any(length < 0 for length in lengths):
        raise ValueError(f"create(shape={shape!r}): a length is negative")
    kind = numpy.dtype(dtype)
    if kind.hasobject:
        raise ValueError(f"create(dtype={kind!r}): arrays of Python objects cannot lie in shared memory")
    session = runtime.current or connect_or_init()
    array = session.create(lengths, kind)
    if pending:
        raise_deferred()
    return array


def cancel(ref: ObjectRef[Any], *, force: bool = False, recursive: bool = True) -> None:
    """Ask that the task which makes *ref* ends. A get of the ref then raises ``TaskCancelledError``.

    A call that has not started is dropped; a running task gets a ``KeyboardInterrupt``, which it may catch to clean up;
    a running method of an async actor gets an ``asyncio.CancelledError``. A running method of another actor goes on,
    since its actor's state must not be left half changed: it may ask ``get_runtime_context().is_canceled()``. What has
    ended is left alone.

    Parameters:
        ref: a ref that a remote call returned.
        force: kill the worker that runs the task, whatever it does.
        recursive: cancel the tasks that the task has submitted, too.

    Raises:
        TypeError: *ref* is no ref.
        ValueError: *force* for a method of an actor; use :func:`remora.kill`.

    Example:
        >>> remora.cancel(endless.remote())
    """
    if type(ref) is not ObjectRef:
        advice = "kill(handle) ends an actor" if isinstance(ref, ActorHandle) else "give it what .remote() returned"
        raise TypeError(f"cancel({ref!r}): this is no ref but {_a(ref)}; {advice}")
    session = runtime.current or connect_or_init()
    session.cancel(ref, force, recursive)
    if pending:
        raise_deferred()


# ---------------------------------------------------------------------- errors


def _a(value: object) -> str:
    return f"an object of type {type(value).__name__}"


def _actor_of(handle: object, name: str) -> RemoteActor:
    if not isinstance(handle, ActorHandle):
        raise TypeError(f"{name} must be an actor handle, not {_a(handle)}")
    return handle._remora_actor


def _seconds(function: str, timeout: Any) -> float | None:
    """The timeout to give to a runtime; what is as good as for ever becomes None."""
    if isinstance(timeout, (bool, str)) or not hasattr(timeout, "__float__"):
        raise TypeError(f"{function}(timeout={timeout!r}): it must be a number of seconds, or None to wait for ever")
    seconds = float(timeout)
    if seconds < 0 or math.isnan(seconds):
        raise ValueError(f"{function}(timeout={timeout!r}): it must be 0 (look and return at once), more, or None")
    return seconds if seconds < FOR_EVER_S else None


def _check_num_returns(num_returns: Any, refs: Sequence[object]) -> None:
    if isinstance(num_returns, bool) or not hasattr(num_returns, "__index__"):
        raise TypeError(f"wait(num_returns={num_returns!r}): it must be a whole number")
    if num_returns <= 0:
        raise ValueError(f"wait(num_returns={num_returns}): it must be at least 1")
    if refs and num_returns > len(refs):
        raise ValueError(f"wait(num_returns={num_returns}): there are only {len(refs)} refs to wait for")


def _refuse_get(value: object) -> NoReturn:
    advice = "it takes a ref, or a list of refs"
    if isinstance(value, ActorHandle):
        advice = "an actor handle has no value; call a method, as in get(handle.method.remote())"
    elif isinstance(value, ActorMethod):
        advice = f"call the method: get(handle.{value.name}.remote())"
    elif isinstance(value, (dict, set, frozenset)) or hasattr(value, "__next__"):
        advice = f"{advice}; make a list of what is in the {type(value).__name__}"
    raise TypeError(f"get() was given {_a(value)}, {_cut(value)}: {advice}")


def _refuse_wait(value: object) -> NoReturn:
    advice = "write wait([ref])" if type(value) is ObjectRef else "it takes a list of refs"
    raise TypeError(f"wait() was given {_a(value)}, {_cut(value)}: {advice}")


def _refuse_items(function: str, refs: Sequence[object]) -> None:
    """Raise an error about the first item that is no ref; return if all are."""
    for position, item in enumerate(refs):
        if type(item) is ObjectRef:
            continue
        advice = "every item must be a ref"
        if isinstance(item, (list, tuple)):
            advice = f"lists of refs cannot be nested; write {function}([ref for part in refs for ref in part])"
        elif isinstance(item, ActorHandle):
            advice = "an actor handle has no value; call a method of it"
        raise TypeError(f"{function}(refs): item {position} is {_a(item)}, {_cut(item)}: {advice}")


def _refuse_duplicates(refs: Sequence[ObjectRef[Any]]) -> NoReturn:
    seen: dict[object, int] = {}
    for position, ref in enumerate(refs):
        first = seen.setdefault(ref, position)
        if first != position:
            raise ValueError(
                f"wait(refs): items {first} and {position} are the same ref, {ref!r}; "
                "write wait(list(dict.fromkeys(refs)))"
            )
    raise AssertionError("there is a duplicate")


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
