"""Every error that a user of Remora can meet, with Ray's names as aliases.

A message says whose fault it is, what happened, where, and what to do. It is worded from the error's fields, so that
programs can look at fields and people at the text. Each class also takes a ready message as its first argument.
"""

from __future__ import annotations

import signal as signals

from remora.base.ids import short
from remora.base.remora_error import RemoraError
from remora.base.task_error import TaskError, UnserializableException

__all__ = [
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorError",
    "ActorHandleNotFoundError",
    "ActorPlacementGroupRemoved",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "AsyncioActorExit",
    "AuthenticationError",
    "CrossLanguageError",
    "DaemonDiedError",
    "DeserializationError",
    "GetTimeoutError",
    "InternalError",
    "LocalRayletDiedError",
    "NodeDiedError",
    "ObjectFetchTimedOutError",
    "ObjectFreedError",
    "ObjectLostError",
    "ObjectReconstructionFailedError",
    "ObjectReconstructionFailedLineageEvictedError",
    "ObjectReconstructionFailedMaxAttemptsExceededError",
    "ObjectRefStreamEndOfStreamError",
    "ObjectStoreFullError",
    "OutOfDiskError",
    "OutOfMemoryError",
    "OwnerDiedError",
    "PendingCallsLimitExceeded",
    "PlasmaObjectNotAvailable",
    "RayActorError",
    "RayError",
    "RaySystemError",
    "RayTaskError",
    "ReferenceCountingAssertionError",
    "RemoraError",
    "RuntimeEnvSetupError",
    "SerializationError",
    "TaskCancelledError",
    "TaskError",
    "TaskPlacementGroupRemoved",
    "TaskUnschedulableError",
    "UnserializableException",
    "UserCodeException",
    "WorkerCrashedError",
    "describe_exit",
    "format_size",
]


def describe_exit(exit_code: int | None, signal: int | None, *, out_of_memory: bool = False) -> str:
    """How a process ended, in words.

    Example:
        >>> describe_exit(None, 9)
        'was killed by SIGKILL (9)'
    """
    if out_of_memory:
        return "was killed by the kernel because the machine or its memory cgroup ran out of memory"
    if signal is not None:
        try:
            name = signals.Signals(signal).name
        except ValueError:
            name = "signal"
        return f"was killed by {name} ({signal})"
    if exit_code is not None:
        return f"exited with code {exit_code}"
    return "ended"


def format_size(size_bytes: int) -> str:
    """A size for people: ``1.5 GB``, decimal units."""
    size = float(size_bytes)
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _sentences(*parts: str) -> str:
    return " ".join(part if part.endswith((".", "?", ":")) else f"{part}." for part in parts if part)


def _where(pid: int, node: str) -> str:
    named = [f"pid {pid}" if pid else "", f"node {node}" if node else ""]
    inside = ", ".join(part for part in named if part)
    return f" ({inside})" if inside else ""


class SerializationError(RemoraError, TypeError):
    """A value cannot be pickled. The message names the place inside the value; ``path`` is that place alone."""

    def __init__(self, message: str = "", *, path: str = "", reason: str = "", advice: str = "") -> None:
        self.path = path
        self.reason = reason
        super().__init__(message or _sentences(f"{path or 'the value'}: {reason or 'cannot be pickled'}", advice))


class DeserializationError(RemoraError):
    """A value that was pickled elsewhere cannot be rebuilt in this process; ``__cause__`` says why."""

    def __init__(self, message: str = "", *, object_id: bytes = b"", type_name: str = "") -> None:
        self.object_id = object_id
        self.type_name = type_name
        super().__init__(message or _sentences(f"{_name_object(object_id)} cannot be rebuilt in this process"))


def _name_object(object_id: bytes) -> str:
    return f"object {short(object_id)}" if object_id else "an object"


class GetTimeoutError(RemoraError, TimeoutError):
    """``get`` or another wait ended before its object was ready. The object is still being made: get it again."""

    def __init__(
        self, message: str = "", *, timeout_s: float | None = None, pending: int = 0, object_id: bytes = b""
    ) -> None:
        self.timeout_s = timeout_s
        self.pending = pending
        self.object_id = object_id
        waited = f" within {timeout_s:g} s" if timeout_s is not None else ""
        what = _name_object(object_id)
        if pending > 1:
            what = f"{pending} objects, among them {what},"
        super().__init__(
            message or _sentences(f"{what} did not get ready{waited}", "Call get again with a longer timeout")
        )


class TaskCancelledError(RemoraError):
    """The task was cancelled with :func:`remora.cancel` before it could finish."""

    def __init__(self, message: str = "", *, task_id: bytes = b"", function_name: str = "") -> None:
        self.task_id = task_id
        self.function_name = function_name
        named = f"task {function_name or 'of this ref'}" + (f" ({short(task_id)})" if task_id else "")
        super().__init__(message or f"{named} was cancelled.")


class WorkerCrashedError(RemoraError):
    """The worker process died while it ran the task, and no retry was left."""

    def __init__(
        self,
        message: str = "",
        *,
        function_name: str = "",
        pid: int = 0,
        node: str = "",
        exit_code: int | None = None,
        signal: int | None = None,
        out_of_memory: bool = False,
        attempts: int = 1,
        last_output: str = "",
    ) -> None:
        self.function_name = function_name
        self.pid = pid
        self.node = node
        self.exit_code = exit_code
        self.signal = signal
        self.out_of_memory = out_of_memory
        self.attempts = attempts
        how = describe_exit(exit_code, signal, out_of_memory=out_of_memory)
        super().__init__(
            message
            or _sentences(
                f"the worker{_where(pid, node)} that ran {function_name or 'the task'} {how}",
                f"The task was started {attempts} times" if attempts > 1 else "",
                _advice_for_exit(exit_code, signal, out_of_memory),
                f"Its last output:\n{last_output}" if last_output else "",
            )
        )


def _advice_for_exit(exit_code: int | None, signal: int | None, out_of_memory: bool) -> str:
    if out_of_memory:
        return "Give the task less data at once, or run fewer tasks together with num_cpus or memory"
    if signal == signals.SIGSEGV:
        return "A segmentation fault comes from native code that the task called"
    if signal == signals.SIGKILL:
        return (
            "Nothing in Remora sends it this signal by itself: look for the kernel's memory killer (dmesg) or a person"
        )
    if exit_code is not None:
        return "Code in the task ended the process: look for sys.exit, os._exit or a library that does so"
    return ""


class OutOfMemoryError(RemoraError):
    """A process was ended, or a request refused, because the machine or its memory cgroup had no memory left."""


class ActorError(RemoraError):
    """An actor could not answer. :class:`ActorDiedError` is for ever, :class:`ActorUnavailableError` is for now."""

    def __init__(
        self,
        message: str = "",
        *,
        actor_id: bytes = b"",
        class_name: str = "",
        actor_name: str = "",
        reason: str = "",
        pid: int = 0,
        node: str = "",
        exit_code: int | None = None,
        signal: int | None = None,
        out_of_memory: bool = False,
        restarts: int = 0,
        never_started: bool = False,
    ) -> None:
        self._actor_id = actor_id
        self.class_name = class_name
        self.actor_name = actor_name
        self.reason = reason
        self.pid = pid
        self.node = node
        self.exit_code = exit_code
        self.signal = signal
        self.out_of_memory = out_of_memory
        self.restarts = restarts
        self.never_started = never_started
        super().__init__(message or self._describe())

    @property
    def actor_id(self) -> str | None:
        """The actor's id in hexadecimal, or None when it is not known."""
        return self._actor_id.hex() if self._actor_id else None

    def _name(self) -> str:
        named = f"actor {self.class_name}" if self.class_name else "the actor"
        if self.actor_name:
            named += f" named {self.actor_name!r}"
        if self._actor_id:
            named += f" {short(self._actor_id)}"
        return named + _where(self.pid, self.node)

    def _describe(self) -> str:
        return _sentences(f"{self._name()} cannot be used", self.reason)

    def _ended(self) -> str:
        if self.exit_code is None and self.signal is None and not self.out_of_memory:
            return ""
        return f"Its process {describe_exit(self.exit_code, self.signal, out_of_memory=self.out_of_memory)}"


class ActorDiedError(ActorError):
    """The actor is dead and will not come back: its process died, it was killed, or it could not be made."""

    def _describe(self) -> str:
        happened = "was never started" if self.never_started else "is dead"
        restarted = f"It had been restarted {self.restarts} times" if self.restarts else ""
        advice = "" if self.reason else "Make a new actor, or give it max_restarts to have it made again"
        return _sentences(f"{self._name()} {happened}", self._ended(), self.reason, restarted, advice)


class ActorUnavailableError(ActorError):
    """The actor cannot be reached now; the call may or may not have run. Later calls can succeed."""

    def _describe(self) -> str:
        advice = "The call may have run or not. Call again, or give the method max_task_retries"
        return _sentences(f"{self._name()} cannot be reached now", self._ended(), self.reason, advice)


class AsyncioActorExit(RemoraError):
    """Raised inside an async actor by ``exit_actor`` to end it."""


class ActorAlreadyExistsError(ValueError, RemoraError):
    """A live actor in this namespace has the name already. Use ``get_if_exists=True`` to get it instead."""


class ActorHandleNotFoundError(ValueError, RemoraError):
    """The handle belongs to another session than the one that this process is connected to."""


class PendingCallsLimitExceeded(RemoraError):
    """The actor has as many unfinished calls as its ``max_pending_calls`` allows."""


class ObjectLostError(RemoraError):
    """The value of an object is nowhere any more and cannot be made again."""

    HAPPENED = "is lost"

    def __init__(
        self, message: str = "", *, object_id: bytes = b"", reason: str = "", node: str = "", site: str = ""
    ) -> None:
        self.object_id = object_id
        self.reason = reason
        self.node = node
        self.site = site
        super().__init__(
            message
            or _sentences(
                f"{_name_object(object_id)}{_where(0, node)} {self.HAPPENED}",
                reason,
                f"It was made at {site}" if site else "",
            )
        )


class ObjectFetchTimedOutError(ObjectLostError):
    """No node that has a copy could deliver it in time."""

    HAPPENED = "could not be fetched in time"


class ObjectFreedError(ObjectLostError):
    """The object was freed by hand while refs to it were left."""

    HAPPENED = "was freed by an explicit call"


class OwnerDiedError(ObjectLostError):
    """The process that had to make or to name the value died before it did."""

    HAPPENED = "will never have a value, because the process that was to give it died"


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """The object was freed while a ref was left: an error in Remora, or a ref that was rebuilt from its bytes."""

    HAPPENED = "was already freed although this ref points to it"


class ObjectReconstructionFailedError(ObjectLostError):
    """The value is lost, and the task that made it cannot make it again."""

    HAPPENED = "is lost and cannot be made again"


class ObjectReconstructionFailedMaxAttemptsExceededError(ObjectReconstructionFailedError):
    """The value is lost, and the task that made it has no retry left."""

    HAPPENED = "is lost, and the task that made it has no retry left"


class ObjectReconstructionFailedLineageEvictedError(ObjectReconstructionFailedError):
    """The value is lost, and how it was made is no longer recorded."""

    HAPPENED = "is lost, and the record of how it was made was dropped to save memory"


class PlasmaObjectNotAvailable(RemoraError):
    """The object is not in this node's store."""


class ObjectRefStreamEndOfStreamError(RemoraError):
    """The generator task has no more items."""


class ObjectStoreFullError(RemoraError):
    """The object does not fit into the store, or the machine has no memory left to grow it."""

    def __init__(
        self,
        message: str = "",
        *,
        size_bytes: int = 0,
        used_bytes: int = 0,
        limit_bytes: int = 0,
        reason: str = "",
        largest_holders: str = "",
    ) -> None:
        self.size_bytes = size_bytes
        self.used_bytes = used_bytes
        self.limit_bytes = limit_bytes
        super().__init__(
            message
            or _sentences(
                f"an object of {format_size(size_bytes)} does not fit into the object store: "
                f"{format_size(used_bytes)} of {format_size(limit_bytes)} are in use",
                reason,
                f"Largest: {largest_holders}" if largest_holders else "",
                "Drop refs and arrays that are no longer needed, or give init a larger object_store_memory",
            )
        )


class OutOfDiskError(RemoraError):
    """The disk that objects are spilled to is full."""


class NodeDiedError(RemoraError):
    """The node that ran the task, or had the object, died."""


class InternalError(RemoraError):
    """Remora itself failed; Ray's name for it is ``RaySystemError``."""


class DaemonDiedError(RemoraError):
    """This node's daemon died and the session ended with it. ``shutdown()`` and a new ``init()`` work."""

    def __init__(
        self,
        message: str = "",
        *,
        pid: int = 0,
        exit_code: int | None = None,
        signal: int | None = None,
        log_path: str = "",
    ) -> None:
        self.pid = pid
        self.exit_code = exit_code
        self.signal = signal
        self.log_path = log_path
        super().__init__(
            message
            or _sentences(
                f"the session is over: its node daemon{_where(pid, '')} {describe_exit(exit_code, signal)}",
                f"Its log is {log_path}" if log_path else "",
                "Call remora.shutdown() and remora.init() to start a new session",
            )
        )


class TaskUnschedulableError(RemoraError):
    """No node can ever run the task: it asks for a resource or a placement that does not exist."""

    def __init__(self, message: str = "", *, function_name: str = "", wanted: str = "", available: str = "") -> None:
        self.function_name = function_name
        self.wanted = wanted
        self.available = available
        super().__init__(message or _describe_unschedulable(f"task {function_name}".strip(), wanted, available))


class ActorUnschedulableError(RemoraError):
    """No node can ever run the actor: it asks for a resource or a placement that does not exist."""

    def __init__(self, message: str = "", *, class_name: str = "", wanted: str = "", available: str = "") -> None:
        self.class_name = class_name
        self.wanted = wanted
        self.available = available
        super().__init__(message or _describe_unschedulable(f"actor {class_name}".strip(), wanted, available))


def _describe_unschedulable(what: str, wanted: str, available: str) -> str:
    asks = f" asks for {wanted}, which no node has" if wanted else " cannot be placed on any node"
    return _sentences(
        f"{what}{asks}",
        f"There is: {available}" if available else "",
        "Ask for less with .options(...), or add a node that has it",
    )


class RuntimeEnvSetupError(RemoraError):
    """The environment that ``runtime_env`` asks for could not be made."""

    def __init__(self, message: str = "", *, error_message: str = "") -> None:
        self.error_message = error_message or message
        super().__init__(message or _sentences("the runtime_env could not be set up", error_message))


class TaskPlacementGroupRemoved(RemoraError):
    """The task's placement group was removed before the task ran."""


class ActorPlacementGroupRemoved(RemoraError):
    """The actor's placement group was removed."""


class CrossLanguageError(RemoraError):
    """A call between languages failed on the other side."""


class AuthenticationError(RemoraError):
    """The peer could not prove that it belongs to this cluster."""


class UserCodeException(RemoraError):
    """Code of the user that Remora called back raised."""


RayError = RemoraError
RayTaskError = TaskError
RayActorError = ActorError
RaySystemError = InternalError
LocalRayletDiedError = DaemonDiedError
