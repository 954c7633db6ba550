"""Runs the calls of a threaded actor: at most ``max_concurrency`` at a time, each in a thread of a pool."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from remora.messages.tasks import Task
from remora.processes.worker.call_runner import CallRunner, WorkerExit
from remora.processes.worker.context import Call, running, take_out
from remora.processes.worker.submitters import Submitter

if TYPE_CHECKING:
    from remora.processes.client.client import Client


class ThreadedExecutor:
    """One queue, many threads; the main thread reads the sockets. Threads are made when they are first needed."""

    def __init__(self, client: Client, runner: CallRunner, max_concurrency: int) -> None:
        self._client = client
        self._runner = runner
        self._max_threads = max_concurrency
        self._queue: deque[Call] = deque()
        self._available = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._running: dict[int, Call] = {}
        self._counting = threading.Lock()
        self._idle_threads = 0
        self._is_ending = False
        self._exit: WorkerExit | None = None

    def add(self, call: Call) -> None:
        """A call came."""
        self._queue.append(call)
        with self._counting:
            wants_thread = self._idle_threads < len(self._queue) and len(self._threads) < self._max_threads
            if wants_thread:
                thread = threading.Thread(target=self._run_thread, name=f"actor-{len(self._threads)}", daemon=True)
                self._threads.append(thread)
        self._available.release()
        if wants_thread:
            thread.start()

    def drop(self, submitter: Submitter, call: int) -> Task | None:
        """Take a call that has not begun out of the queue; None when it is not there."""
        return take_out(self._queue, submitter, call)

    def waiting_calls(self) -> list[Call]:
        """The calls that have not begun."""
        return list(self._queue)

    def calls(self) -> tuple[list[Call], int]:
        """What runs now, and how many calls wait; for inspection, on any thread."""
        return list(self._running.values()), len(self._queue)

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not self._queue and not self._running

    def end(self) -> None:
        """Leave :meth:`run` when the queue is empty and everything has ended."""
        self._is_ending = True

    def look(self, now_s: float) -> float:
        """Nothing is given back: an actor's calls run nowhere else."""
        return 0.01 if self._is_ending else -1

    def hand_back(self) -> None:
        """An actor's calls run nowhere else."""

    def flush_submitters(self) -> None:
        """Each thread writes its replies itself."""

    def run(self) -> None:
        """Until :meth:`end`, or the session ends.

        Raises:
            WorkerExit: a call asked the process to end.
        """
        self._client.leadership.wait_until(self._is_done)
        if self._exit is not None:
            raise self._exit

    def _is_done(self) -> bool:
        return bool(self._client.ended) or self._exit is not None or (self._is_ending and self.is_idle)

    def _run_thread(self) -> None:
        ident = threading.get_ident()
        while True:
            with self._counting:
                self._idle_threads += 1
            self._available.acquire()
            with self._counting:
                self._idle_threads -= 1
            try:
                call = self._queue.popleft()
            except IndexError:  # it was dropped
                continue
            running.call = self._running[ident] = call
            submitter = call[0]
            try:
                self._runner.run(submitter, call[1])
            except WorkerExit as leaving:
                self._exit = leaving
            finally:
                running.call = None
                self._running.pop(ident, None)
            self._client.flush()
            submitter.connection.flush()
            if self._exit is not None or self._is_ending:
                self._client.reactor.wake()
