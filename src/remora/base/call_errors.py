"""Errors about calls that were cancelled or can never run."""

from __future__ import annotations

from remora.base.ids import short
from remora.base.remora_error import RemoraError
from remora.base.wording import sentences


class TaskCancelledError(RemoraError):
    """The task was cancelled with :func:`remora.cancel` before it could finish."""

    def __init__(self, message: str = "", *, task_id: bytes = b"", function_name: str = "") -> None:
        self.task_id = task_id
        self.function_name = function_name
        named = f"task {function_name or 'of this ref'}" + (f" ({short(task_id)})" if task_id else "")
        super().__init__(message or f"{named} was cancelled.")


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
    return sentences(
        f"{what}{asks}",
        f"There is: {available}" if available else "",
        "Ask for less with .options(...), or add a node that has it",
    )


class RuntimeEnvSetupError(RemoraError):
    """The environment that ``runtime_env`` asks for could not be made."""

    def __init__(self, message: str = "", *, error_message: str = "") -> None:
        self.error_message = error_message or message
        super().__init__(message or sentences("the runtime_env could not be set up", error_message))


class TaskPlacementGroupRemoved(RemoraError):
    """The task's placement group was removed before the task ran."""


class ActorPlacementGroupRemoved(RemoraError):
    """The actor's placement group was removed."""
