"""Ending a call that somebody has cancelled.

A task is interrupted by a signal, whose handler raises if that call still runs and the user's code is on the stack:
that ends a ``time.sleep`` at once, where an exception set from another thread would wait for it. Coroutines are
cancelled by asyncio. A method of another actor is not interrupted, since that would leave the actor's state half
changed: it may ask ``get_runtime_context().is_canceled()``.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any

from remora.base.errors import TaskCancelledError
from remora.messages.tasks import CancelTask
from remora.processes.worker.call_runner import CallInterrupted
from remora.processes.worker.context import Call
from remora.processes.worker.serial_executor import SerialExecutor, running_main
from remora.processes.worker.submitters import Submitter
from remora.processes.worker.threaded_executor import ThreadedExecutor
from remora.serialization import serialize_system_error
from remora.system.interrupts import raise_or_defer

if TYPE_CHECKING:
    from remora.processes.worker.main import Worker

CANCEL_SIGNAL = signal.SIGRTMIN + 7
"""A real-time signal, which libraries hardly ever use."""

_wanted: list[Call] = []
_cancelled: set[tuple[Submitter, int]] = set()
"""Calls that were cancelled while they ran."""


def install_cancel_handler() -> None:
    """In the main thread of a worker."""
    signal.signal(CANCEL_SIGNAL, _on_cancel_signal)


def _on_cancel_signal(number: int, frame: FrameType | None) -> None:
    while _wanted:
        call = _wanted.pop()
        if running_main.call is call:
            raise_or_defer(frame, CallInterrupted())


def cancel_call(worker: Worker, submitter: Submitter, message: CancelTask) -> None:
    """End the call: unstarted ones are dropped, running ones interrupted, or with ``force`` the process is killed."""
    executor = worker.executor
    task = executor.drop(submitter, message.call)
    if task is not None:
        error = TaskCancelledError(f"{submitter.call_name(task)!r} was cancelled before it started")
        worker.runner.finish_failed(submitter, task, serialize_system_error(error))
        submitter.connection.flush()
        return
    _note_cancelled(executor, submitter, message.call)
    if isinstance(executor, ThreadedExecutor):
        return
    if not isinstance(executor, SerialExecutor):
        # Not by its class: importing it would import asyncio into every worker.
        executor.cancel(submitter, message.call)
    elif executor.is_running(submitter, message.call):
        if message.recursive:
            worker.client.tasks.cancel_since(executor.first_call, message.force)
        if not worker.runner.is_actor:
            _interrupt(executor, message.force)


def _interrupt(executor: SerialExecutor, force: bool) -> None:
    if force:
        executor.flush_submitters()
        os.kill(os.getpid(), signal.SIGKILL)
    call = running_main.call
    if call is not None:
        _wanted.append(call)
        signal.pthread_kill(threading.main_thread().ident or 0, CANCEL_SIGNAL)


def is_cancelled(call: Call) -> bool:
    """Whether somebody has cancelled the call, which runs."""
    return (call[0], call[1].call) in _cancelled


def _note_cancelled(executor: Any, submitter: Submitter, call: int) -> None:
    running = {(current[0], current[1].call) for current in executor.calls()[0]}
    _cancelled.intersection_update(running)  # of the others nobody asks any more
    if (submitter, call) in running:
        _cancelled.add((submitter, call))
