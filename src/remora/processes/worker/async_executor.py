"""Runs the calls of an async actor on one event loop, in the main thread, at most ``max_concurrency`` at a time.

The loop watches the reactor, so a call that arrives is read, started and answered in one thread. The I/O thread helps
out only when the user's code blocks the loop.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from remora.base.errors import TaskCancelledError
from remora.messages.tasks import Task
from remora.processes.worker.call_runner import CallRunner, WorkerExit, call_user
from remora.processes.worker.context import Call, async_call, take_out
from remora.processes.worker.submitters import Submitter
from remora.serialization import Serialized

if TYPE_CHECKING:
    from remora.processes.client.client import Client


class AsyncExecutor:
    """One event loop."""

    def __init__(self, client: Client, runner: CallRunner, max_concurrency: int) -> None:
        self._client = client
        self._runner = runner
        self._max_concurrency = max_concurrency
        self._loop = asyncio.new_event_loop()
        self._waiting: deque[Call] = deque()
        self._tasks: dict[asyncio.Task[None], Call] = {}
        self._dirty: dict[Submitter, None] = {}
        self._is_ending = False
        self._exit: WorkerExit | None = None
        self._thread = threading.get_ident()

    # ------------------------------------------------------------------ from the thread that leads

    def add(self, call: Call) -> None:
        """A call came."""
        if threading.get_ident() == self._thread:
            self._start(call)
        else:
            self._loop.call_soon_threadsafe(self._start, call)

    def drop(self, submitter: Submitter, call: int) -> Task | None:
        """Take a call that has not begun out of the queue; None when it is not there."""
        return take_out(self._waiting, submitter, call)

    def waiting_calls(self) -> list[Call]:
        """The calls that have not begun."""
        return list(self._waiting)

    def cancel(self, submitter: Submitter, call: int) -> None:
        """Cancel the asyncio task of this call."""
        for task, current in list(self._tasks.items()):
            if current[0] is submitter and current[1].call == call:
                self._loop.call_soon_threadsafe(task.cancel)

    def calls(self) -> tuple[list[Call], int]:
        """What runs now, and how many calls wait; for inspection, on any thread."""
        return list(self._tasks.values()), len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not self._tasks and not self._waiting

    def end(self) -> None:
        """Leave :meth:`run` when everything has ended."""
        self._is_ending = True
        self._loop.call_soon_threadsafe(self._stop_if_done)

    def look(self, now_s: float) -> float:
        """Nothing is given back: an actor's calls run nowhere else."""
        if self._client.ended:
            self._loop.call_soon_threadsafe(self._stop_if_done)
        return -1

    def hand_back(self) -> None:
        """An actor's calls run nowhere else."""

    def flush_submitters(self) -> None:
        """From any thread: write replies that wait for company, because the code of a call blocks the loop."""
        for submitter in tuple(self._dirty):
            submitter.connection.flush()

    # ------------------------------------------------------------------ the main thread

    def run(self) -> None:
        """Until :meth:`end`, or the session ends.

        Raises:
            WorkerExit: a call asked the process to end.
        """
        leadership = self._client.leadership
        asyncio.set_event_loop(self._loop)
        self._loop.add_reader(self._client.reactor.fileno(), self._serve)
        leadership.serve_elsewhere()
        self._loop.call_soon(self._serve)
        try:
            self._loop.run_forever()
        finally:
            self._loop.remove_reader(self._client.reactor.fileno())
        if self._exit is not None:
            raise self._exit

    def _serve(self) -> None:
        self._client.leadership.serve_now()
        self._stop_if_done()

    def _stop_if_done(self) -> None:
        if self._client.ended or self._exit is not None or (self._is_ending and self.is_idle):
            self._flush()
            self._loop.stop()

    def _start(self, call: Call) -> None:
        if len(self._tasks) >= self._max_concurrency:
            self._waiting.append(call)
            return
        task = self._loop.create_task(self._run(call))
        self._tasks[task] = call
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        while self._waiting and len(self._tasks) < self._max_concurrency:
            self._start(self._waiting.popleft())
        if not task.cancelled() and task.exception() is not None:
            raise SystemError("running a call failed outside of the user's code") from task.exception()
        if self._is_ending or self._exit is not None:
            self._stop_if_done()

    async def _run(self, call: Call) -> None:
        submitter, task = call
        async_call.set(call)
        function: Any = None
        args: Any = None
        kwargs: Any = None
        result: Any = None
        results: list[Serialized] = []
        error_data = b""
        exit_code: int | None = None
        try:
            function, args, kwargs = self._runner.prepare(submitter, task)
            result = call_user(function, args, kwargs)
            if inspect.isawaitable(result):
                result = await result
            results = self._runner.serialize_result(submitter, task, result)
        except asyncio.CancelledError:
            cancelled = TaskCancelledError(f"call {submitter.call_name(task)!r} was cancelled")
            error_data, exit_code = self._runner.describe_failure(submitter, task, cancelled)
        except BaseException as error:  # noqa: BLE001 - the code of a user may raise anything
            error_data, exit_code = self._runner.describe_failure(submitter, task, error)
        function = args = kwargs = result = None
        if error_data:
            self._runner.finish_failed(submitter, task, error_data)
        else:
            self._runner.finish(submitter, task, results)
        if not self._dirty:
            # After the other calls of this turn of the loop: their replies leave in one frame.
            self._loop.call_soon(self._flush)
        self._dirty[submitter] = None
        if exit_code is not None:
            self._exit = WorkerExit(exit_code)

    def _flush(self) -> None:
        self._client.flush()
        while self._dirty:
            submitter, _ = self._dirty.popitem()
            submitter.connection.flush()
