"""The calls of a worker: which one a thread or a coroutine runs, whose code may ask, and those that have not begun."""

from __future__ import annotations

import threading
from collections import deque
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


def take_out(queue: deque[Call], submitter: Submitter, call: int) -> Task | None:
    """Take a call out of the queue of those that have not begun; None when it is not there.

    Other threads begin calls of the queue meanwhile.
    """
    for queued in list(queue):
        if queued[0] is submitter and queued[1].call == call:
            try:
                queue.remove(queued)
            except ValueError:  # it has begun meanwhile
                return None
            return queued[1]
    return None


def task_id_of(call: Call) -> bytes:
    """12 bytes: the submitter's process id and its call number."""
    submitter, task = call
    return submitter.process + task.call.to_bytes(4, "big")
