"""The object ref: points to a remote object without showing its value.

There is at most one live ``ObjectRef`` per object id in a process: the table of published refs finds it
again when the id arrives in a message, and an id that was never published cannot arrive. So equality and
hash are those of object identity, which C does, and "how many refs does this process hold" is Python's own
reference count: the ref's death is the release.

The fields are the process's knowledge of the object. They are not part of the public API.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Generic, NoReturn, TypeVar

import msgspec

from remora.base.ids import ObjectId, short

T = TypeVar("T")

PENDING = 0
"""A task will make it; its reply comes to this process."""
BORROWED = 1
"""Has no value here: the node daemon knows. It came from another process, or its value lies on another node; then
``data`` is its :class:`remora.messages.objects.Location` there, and it is known to have a value."""
INLINE = 2
"""``data`` is the serialized value."""
STORED = 3
"""``data`` is the :class:`remora.messages.objects.Location` in this node's arena."""
FAILED = 4
"""``data`` is the serialized error."""
IMMEDIATE = 5
"""``data`` is the value itself, of an immutable builtin type; never sent, it is serialized when it escapes."""

FIRST_FINISHED = INLINE
"""A ref with a state from here on has its value or its error in this process."""

STATE_NAMES = {
    PENDING: "pending",
    BORROWED: "borrowed",
    INLINE: "inline",
    STORED: "stored",
    FAILED: "failed",
    IMMEDIATE: "inline",
}


class RefHooks:
    """What a ref needs from the running client; the client installs itself when it connects.

    The class lives in `base` because every layer knows refs, and only the client knows how to wait.
    """

    future: Callable[[Any], Any] | None = None
    wait_async: Callable[[Any], Generator[Any, None, Any]] | None = None
    reduce: Callable[[Any], tuple[Any, ...]] | None = None
    task_id: Callable[[Any], bytes] | None = None


hooks = RefHooks()


class ObjectRef(msgspec.Struct, Generic[T], eq=False, weakref=True):
    """A pointer to a remote object.

    Made by :func:`remora.put` and by remote calls, resolved by :func:`remora.get`. Passing it as an argument of
    a remote call makes the value arrive there; inside a list or any other object it arrives as a ref.

    Example:
        >>> ref = remora.put([1, 2, 3])
        >>> remora.get(ref)
        [1, 2, 3]
    """

    id: ObjectId
    state: int = PENDING
    data: Any = None
    contents: tuple[Any, ...] = ()
    waiters: Any = None
    task: Any = None
    published: bool = False
    site: Any = None

    def binary(self) -> bytes:
        """The 16 bytes of the object id."""
        return self.id

    def hex(self) -> str:
        """The object id in 32 hexadecimal digits."""
        return self.id.hex()

    def task_id(self) -> bytes:
        """The id (12 bytes) of the task that makes the object."""
        return self.id[:12]

    def future(self) -> Any:
        """A ``concurrent.futures.Future`` that gets the object's value or its error."""
        if hooks.future is None:
            _not_connected(self)
        return hooks.future(self)

    def __await__(self) -> Generator[Any, None, T]:
        if hooks.wait_async is None:
            _not_connected(self)
        return hooks.wait_async(self)

    def __repr__(self) -> str:
        return f"ObjectRef({self.id.hex()})"

    def __copy__(self) -> ObjectRef[T]:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> ObjectRef[T]:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if hooks.reduce is None:
            _not_connected(self)
        return hooks.reduce(self)

    def __iter__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} is one ref and cannot be iterated: use remora.get(ref) for its value, "
            "or call the function with .options(num_returns=N) to get N refs"
        )


def _not_connected(ref: ObjectRef[Any]) -> NoReturn:
    raise RuntimeError(f"ref {short(ref.id)} cannot be used here: this process is not connected to Remora")
