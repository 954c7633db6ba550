"""Errors about processes that ended or cannot be reached: workers, actors, daemons, nodes."""

from __future__ import annotations

import signal as signals

from remora.base.ids import short
from remora.base.remora_error import RemoraError
from remora.base.wording import describe_exit, sentences, where


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
            or sentences(
                f"the worker{where(pid, node)} that ran {function_name or 'the task'} {how}",
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
        return "Look for the kernel's memory killer (dmesg), or for who sent the signal"
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
        return named + where(self.pid, self.node)

    def _describe(self) -> str:
        return sentences(f"{self._name()} cannot be used", self.reason)

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
        return sentences(f"{self._name()} {happened}", self._ended(), self.reason, restarted, advice)


class ActorUnavailableError(ActorError):
    """The actor cannot be reached now; the call may or may not have run. Later calls can succeed."""

    def _describe(self) -> str:
        advice = "The call may have run or not. Call again, or give the method max_task_retries"
        return sentences(f"{self._name()} cannot be reached now", self._ended(), self.reason, advice)


class AsyncioActorExit(RemoraError):
    """Raised inside an async actor by ``exit_actor`` to end it."""


class ActorAlreadyExistsError(ValueError, RemoraError):
    """A live actor in this namespace has the name already. Use ``get_if_exists=True`` to get it instead."""


class ActorHandleNotFoundError(ValueError, RemoraError):
    """The handle belongs to another session than the one that this process is connected to."""


class PendingCallsLimitExceeded(RemoraError):
    """The actor has as many unfinished calls as its ``max_pending_calls`` allows."""


class NodeDiedError(RemoraError):
    """The node that ran the task, or had the object, died."""


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
            or sentences(
                f"the session is over: its node daemon{where(pid, '')} {describe_exit(exit_code, signal)}",
                f"Its log is {log_path}" if log_path else "",
                "Call remora.shutdown() and remora.init() to start a new session",
            )
        )
