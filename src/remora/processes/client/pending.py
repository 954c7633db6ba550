"""The client's record of a call that it has submitted and that has not ended."""

from __future__ import annotations

from typing import Any

import msgspec

from remora.base.object_ref import ObjectRef
from remora.messages.tasks import Task


class PendingCall(msgspec.Struct, gc=False):
    """One call, from ``.remote()`` to its settled reply.

    ``message`` is what goes to the worker; ``shape`` is the :class:`~remora.core.task_queue.TaskShape` of a task and
    the caller's record of the actor for a method. ``returns`` are the refs to fill. ``references`` keeps alive what
    travels in the call, until the reply is settled and the worker has closed the call; ``creation`` keeps the actor
    alive whose method it is. ``top_level`` are the refs whose values are arguments. ``is_submitted`` says of a task
    that the submission machine has it: not while it waits for arguments, or before a repetition.

    Not tracked by the collector: a million of these are queued at times, and each is taken apart when it ends.
    """

    call: int
    message: Task
    function: Any
    shape: Any
    returns: ObjectRef[Any] | list[ObjectRef[Any]] | None
    retries_left: int = 0
    references: tuple[ObjectRef[Any], ...] = ()
    top_level: tuple[ObjectRef[Any], ...] = ()
    creation: ObjectRef[Any] | None = None
    retry_exceptions: Any = False
    is_cancelled: bool = False
    is_submitted: bool = False

    @property
    def name(self) -> str:
        """What the user called the call, or its function's name."""
        return self.message.name or str(self.function.name)

    def return_refs(self) -> list[ObjectRef[Any]]:
        """The refs to fill, as a list."""
        returns = self.returns
        if returns is None:
            return []
        return returns if isinstance(returns, list) else [returns]
