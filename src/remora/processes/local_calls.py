"""Calls of local mode: arguments in, the user's function in the middle, values or errors of refs out.

Values are not copied: what a task gets and returns are the caller's own objects. Errors go through the serializer as
they do between processes, so that a program meets the same classes and texts.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import msgspec

from remora.base.errors import RemoraError, TaskCancelledError, WorkerCrashedError
from remora.base.object_ref import FAILED, FIRST_FINISHED, IMMEDIATE, PENDING, ObjectRef
from remora.base.options import RetryExceptions, is_retried
from remora.serialization import deserialize_error, serialize_error, serialize_system_error

if TYPE_CHECKING:
    from remora.processes.local_actor import LocalActor


class ActorExit(BaseException):
    """Leaves the method that called ``exit_actor``. No ``Exception``, because the user's code must not catch it."""


class LocalCall(msgspec.Struct, eq=False, kw_only=True):
    """One call, from ``.remote()`` until its refs are finished.

    ``function_name`` is how errors name what runs. ``actor`` is None for a task. ``future`` is the asyncio side of a
    call to an async actor.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    refs: list[ObjectRef[Any]]
    task_id: bytes
    function_name: str
    task_name: str
    actor: Any = None
    concurrency_group: str = ""
    retries: int = 0
    retry_exceptions: RetryExceptions = False
    resources: dict[str, float] = {}
    is_cancelled: bool = False
    future: Any = None

    def argument_refs(self) -> list[ObjectRef[Any]]:
        """The refs among the arguments, whose values the function gets."""
        return [value for value in (*self.args, *self.kwargs.values()) if type(value) is ObjectRef]

    def is_ready(self) -> bool:
        """Whether all of them are finished."""
        return all(ref.state >= FIRST_FINISHED for ref in self.argument_refs())

    def values(self) -> tuple[list[Any], dict[str, Any]]:
        """The arguments, with values in the place of refs."""
        args = [value.data if type(value) is ObjectRef else value for value in self.args]
        kwargs = {name: value.data if type(value) is ObjectRef else value for name, value in self.kwargs.items()}
        return args, kwargs

    def take_retry(self, error: BaseException) -> bool:
        """Whether the call runs once more after *error*."""
        if self.retries == 0 or not is_retried(self.retry_exceptions, error):
            return False
        self.retries -= 1
        return True


running: ContextVar[LocalCall | None] = ContextVar("remora_local_call", default=None)
"""The call whose code runs in this thread or asyncio task."""


class Outcomes:
    """The calls that have not ended, and the one place where refs get their values and errors."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open: set[LocalCall] = set()

    def begin(self, call: LocalCall) -> None:
        """From now until it ends the call, its arguments and its actor are kept."""
        self._open.add(call)

    def call_of(self, ref: ObjectRef[Any]) -> LocalCall | None:
        """The call that has not ended and will give *ref* its value."""
        return next((call for call in tuple(self._open) if ref in call.refs), None)

    def calls_to(self, actor: LocalActor) -> list[LocalCall]:
        """The calls to *actor* that have not ended."""
        return [call for call in tuple(self._open) if call.actor is actor]

    # ------------------------------------------------------------------ ends of calls

    def returned(self, call: LocalCall, result: Any) -> None:
        """The function returned.

        Raises:
            ValueError: it did not return ``num_returns`` values.
        """
        count = len(call.refs)
        if inspect.isgenerator(result) and count == 0:
            deque(result, maxlen=0)
        values = [result] if count == 1 else list(result) if count else []
        if len(values) != count:
            raise ValueError(f"{call.function_name} returned {len(values)} values, but num_returns is {count}")
        for ref, value in zip(call.refs, values):
            self._settle(ref, IMMEDIATE, value)
        self._open.discard(call)

    def raised(self, call: LocalCall, error: BaseException) -> None:
        """The user's function raised."""
        if isinstance(error, SystemExit):
            self._exited(call, error)
            return
        is_actor = call.actor is not None
        self.failed(call, serialize_error(error, function_name=call.task_name, pid=os.getpid(), is_actor=is_actor))

    def _exited(self, call: LocalCall, error: SystemExit) -> None:
        """Elsewhere it would have ended the worker, and an actor with it."""
        message = (
            f"{call.function_name} called sys.exit({error.code!r}), which ends a worker: return, or raise an exception"
        )
        self.refused(call, WorkerCrashedError(message))
        if call.actor is not None:
            call.actor.end("It called sys.exit")

    def refused(self, call: LocalCall, error: RemoraError) -> None:
        """The call will not have a result."""
        self.failed(call, serialize_system_error(error))

    def cancelled(self, call: LocalCall) -> None:
        """Somebody cancelled it."""
        call.is_cancelled = True
        self.refused(call, TaskCancelledError(task_id=call.task_id, function_name=call.function_name))

    def failed(self, call: LocalCall, error: bytes) -> None:
        """The call ends with a serialized *error*, unless it has ended already."""
        for ref in call.refs:
            self._settle(ref, FAILED, error)
        self._open.discard(call)

    def _settle(self, ref: ObjectRef[Any], state: int, data: object) -> None:
        with self._changed:
            if ref.state != PENDING:
                return
            ref.data = data
            ref.state = state
            callbacks, ref.waiters = ref.waiters, None
            self._changed.notify_all()
        for callback in callbacks or ():
            callback()

    # ------------------------------------------------------------------ waiting

    def wait_until(self, done: Callable[[], bool], timeout_s: float | None = None) -> bool:
        """Wait until *done* is true, which only a ref's end can make it; false at the timeout."""
        with self._changed:
            return self._changed.wait_for(done, timeout_s)

    def when_finished(self, ref: ObjectRef[Any], callback: Callable[[], object]) -> None:
        """Call *callback* once: when the ref gets its value or error, or now if it has it."""
        with self._changed:
            if ref.state < FIRST_FINISHED:
                ref.waiters = [*(ref.waiters or ()), callback]
                return
        callback()

    def future(self, ref: ObjectRef[Any]) -> Future[Any]:
        """A future with the ref's value or error."""
        future: Future[Any] = Future()

        def finish() -> None:
            if not future.set_running_or_notify_cancel():
                return
            if ref.state == FAILED:
                future.set_exception(deserialize_error(ref.data))
            else:
                future.set_result(ref.data)

        self.when_finished(ref, finish)
        return future


def value_of(ref: ObjectRef[Any]) -> Any:
    """The value of a finished ref, or its error raised."""
    if ref.state == FAILED:
        raise deserialize_error(ref.data)
    return ref.data


def when_ready(call: LocalCall, run: Callable[[], None], outcomes: Outcomes) -> None:
    """Call *run* now if the call's arguments are finished, else later in a thread of its own."""
    if call.is_ready():
        run()
        return

    def wait_and_run() -> None:
        outcomes.wait_until(call.is_ready)
        run()

    threading.Thread(target=wait_and_run, name="remora-local-call", daemon=True).start()


def run_call(call: LocalCall, outcomes: Outcomes) -> None:
    """Run the call here and now; its arguments are finished.

    Raises:
        KeyboardInterrupt: Ctrl-C; the call has ended as cancelled.
        ActorExit: the method called ``exit_actor``; the call has not ended.
    """
    if call.is_cancelled or has_failed_argument(call, outcomes):
        return
    args, kwargs = call.values()
    token = running.set(call)
    try:
        while True:
            try:
                outcomes.returned(call, call.function(*args, **kwargs))
                return
            except (KeyboardInterrupt, ActorExit):
                raise
            except BaseException as error:  # noqa: BLE001 - whatever the user's code raises belongs to the refs
                if not call.take_retry(error):
                    outcomes.raised(call, error)
                    return
    except KeyboardInterrupt:
        outcomes.cancelled(call)
        raise
    finally:
        running.reset(token)


def has_failed_argument(call: LocalCall, outcomes: Outcomes) -> bool:
    """If an argument has an error, the call ends with it."""
    for ref in call.argument_refs():
        if ref.state == FAILED:
            outcomes.failed(call, ref.data)
            return True
    return False
