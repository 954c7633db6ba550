"""Ending a call that somebody has cancelled.

The main thread's call is interrupted by a signal, whose handler raises if that call still runs and the user's code is
on the stack: that ends a ``time.sleep`` at once, where an exception set from another thread would wait for it. In
other threads such an exception is all there is. Coroutines are cancelled by asyncio.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from types import FrameType
from typing import TYPE_CHECKING

from remora.base.errors import TaskCancelledError
from remora.messages.tasks import CancelTask
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


def install_cancel_handler() -> None:
    """In the main thread of a worker."""
    signal.signal(CANCEL_SIGNAL, _on_cancel_signal)


def _on_cancel_signal(number: int, frame: FrameType | None) -> None:
    while _wanted:
        call = _wanted.pop()
        if running_main.call is call:
            raise_or_defer(frame, TaskCancelledError("the task was cancelled while it ran"))


def cancel_call(worker: Worker, submitter: Submitter, message: CancelTask) -> None:
    """End the call: unstarted ones are dropped, running ones interrupted, or with ``force`` the process is killed."""
    executor = worker.executor
    task = executor.drop(submitter, message.call)
    if task is not None:
        error = TaskCancelledError(f"{submitter.name_of(task.function)!r} was cancelled before it started")
        worker.runner.finish_failed(submitter, task, serialize_system_error(error))
        submitter.connection.flush()
        return
    if isinstance(executor, ThreadedExecutor):
        thread = executor.thread_of(submitter, message.call)
        if thread is not None:
            _raise_in_thread(thread)
    elif isinstance(executor, SerialExecutor) and executor.is_running(submitter, message.call):
        if message.recursive:
            worker.client.tasks.cancel_since(executor.first_call, message.force)
        if message.force:
            executor.flush_submitters()
            os.kill(os.getpid(), signal.SIGKILL)
        call = running_main.call
        if call is not None:
            _wanted.append(call)
            signal.pthread_kill(threading.main_thread().ident or 0, CANCEL_SIGNAL)
    elif not isinstance(executor, SerialExecutor):
        # Not by its class: importing it would import asyncio into every worker.
        executor.cancel(submitter, message.call)


def _raise_in_thread(thread: int) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TaskCancelledError))
