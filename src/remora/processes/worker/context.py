"""What the code of a call can ask about the call: ``get_runtime_context()``, the running call of a thread."""

from __future__ import annotations

import threading
from contextvars import ContextVar

import msgspec

from remora.base.ids import ActorId
from remora.messages.tasks import Task
from remora.processes.worker.submitters import Submitter

Call = tuple[Submitter, Task]
"""One call that was received here."""


class ActorContext(msgspec.Struct):
    """The actor that this worker is."""

    actor: ActorId
    incarnation: int
    name: str = ""
    namespace: str = ""
    class_name: str = ""
    handle: bytes = b""
    gpu_ids: tuple[int, ...] = ()


class _Running(threading.local):
    call: Call | None = None


running = _Running()
"""``running.call`` is the call of this thread. A thread local, not a ContextVar: it is set for every call."""

async_call: ContextVar[Call | None] = ContextVar("remora_call", default=None)
"""The call of this asyncio task, in async actors."""


def current_call() -> Call | None:
    """The call whose code is asking."""
    return async_call.get() or running.call


def task_id_of(call: Call) -> bytes:
    """12 bytes: the submitter's process id and its call number."""
    submitter, task = call
    return submitter.process + task.call.to_bytes(4, "big")
