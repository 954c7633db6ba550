"""Runs calls one after another in the main thread: tasks, and actors without concurrency.

The main thread, not another one, because a signal can then interrupt a call, and because libraries expect it. While
it runs a call nobody may be reading the sockets: after a moment the I/O thread does.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import TYPE_CHECKING

from remora.messages.tasks import HandedBack, Task
from remora.processes.worker.call_runner import CallRunner
from remora.processes.worker.context import Call, running, take_out
from remora.processes.worker.submitters import Submitter
from remora.system import interrupts

if TYPE_CHECKING:
    from remora.processes.client.client import Client

REPLY_DELAY_S = 200e-6
"""A reply waits so long for company when more calls are queued."""
LONG_CALL_S = 0.01
"""A task that runs longer gives the ones behind it back to their submitter."""
MAX_UNSENT_BYTES = 8 << 20
MAX_UNSENT_REPLIES = 512
"""Beside the bytes: what a blocked connection was not asked to encode yet is not counted among them."""


class SerialExecutor:
    """One queue, one thread."""

    def __init__(self, client: Client, runner: CallRunner, hands_back: bool) -> None:
        self._client = client
        self._runner = runner
        self._hands_back = hands_back
        self._queue: deque[Call] = deque()
        self._dirty: dict[Submitter, None] = {}
        self._began_s = 0.0
        self._is_ending = False
        self.first_call = 0
        """Calls that this process has submitted since are the running call's children."""

    # ------------------------------------------------------------------ from the thread that leads

    def add(self, call: Call) -> None:
        """A call came."""
        self._queue.append(call)

    def drop(self, submitter: Submitter, call: int) -> Task | None:
        """Take a call that has not begun out of the queue; None when it is not there."""
        return take_out(self._queue, submitter, call)

    def waiting_calls(self) -> list[Call]:
        """The calls that have not begun."""
        return list(self._queue)

    def is_running(self, submitter: Submitter, call: int) -> bool:
        """Whether this very call runs now."""
        current = running_main.call
        return current is not None and current[0] is submitter and current[1].call == call

    def calls(self) -> tuple[list[Call], int]:
        """What runs now, and how many calls wait; for inspection, on any thread."""
        current = running_main.call
        return [current] if current is not None else [], len(self._queue)

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not self._queue and not self._began_s

    def end(self) -> None:
        """Leave :meth:`run` when the queue is empty."""
        self._is_ending = True

    def look(self, now_s: float) -> float:
        """Periodic, on another thread: give back what waits behind a long call. Returns when to look again, in s."""
        if not self._began_s:
            return -1
        # The main thread is busy, or this would not run: replies must not wait for the end of its call.
        self.flush_submitters()
        if not self._queue:
            return -1
        left_s = self._began_s + LONG_CALL_S - now_s
        if left_s > 0:
            return left_s
        self.hand_back()
        return -1

    def hand_back(self) -> None:
        """Give what has not begun back to its submitters: this worker is going to be busy, or waits itself."""
        if not self._hands_back:
            return
        calls: dict[Submitter, list[int]] = {}
        while self._queue:
            try:
                submitter, task = self._queue.pop()
            except IndexError:  # the main thread took the last one
                break
            calls.setdefault(submitter, []).append(task.call)
        for submitter, numbers in calls.items():
            numbers.reverse()
            with self._client.lock:
                for number in numbers:
                    self._client.refs.machine.task_handed_back(submitter.process, number)
                submitter.connection.send(HandedBack(numbers))
            submitter.connection.flush()

    # ------------------------------------------------------------------ the main thread

    def run(self) -> None:
        """Until :meth:`end`, or the session ends."""
        leadership = self._client.leadership
        while not self._client.ended:
            leadership.wait_until(self._has_something)
            if self._queue:
                self._run_queued()
            elif self._is_ending:
                return

    def _has_something(self) -> bool:
        return bool(self._queue) or self._is_ending or bool(self._client.ended)

    def _run_queued(self) -> None:
        queue = self._queue
        run = self._runner.run
        dirty = self._dirty
        next_call = self._client.next_call
        self._began_s = flushed_s = monotonic()
        try:
            while queue:
                try:
                    call = queue.popleft()
                except IndexError:  # handed back meanwhile
                    break
                running.call = running_main.call = call
                self.first_call = next(next_call)
                submitter = call[0]
                run(submitter, call[1])
                running_main.call = None
                if interrupts.pending:
                    # A cancel that came too late for its call is not for the next one.
                    interrupts.pending.clear()
                dirty[submitter] = None
                self._began_s = now_s = monotonic()
                if now_s - flushed_s > REPLY_DELAY_S or not queue:
                    self._flush()
                    flushed_s = now_s
                    if queue:
                        # The I/O thread takes the lead when nobody has had it for a moment; keep it away.
                        self._client.leadership.serve_now()
        finally:
            running.call = running_main.call = None
            self._began_s = 0.0
            self._flush()

    def _flush(self) -> None:
        self._client.flush()
        dirty = self._dirty
        while dirty:
            submitter, _ = dirty.popitem()
            connection = submitter.connection
            connection.flush()
            if connection.unsent_bytes > MAX_UNSENT_BYTES or len(connection.outgoing) > MAX_UNSENT_REPLIES:
                # Stop running calls whose replies nobody reads; go on reading.
                self._client.leadership.wait_until(
                    lambda connection=connection: (  # type: ignore[misc]
                        (connection.unsent_bytes < MAX_UNSENT_BYTES and not connection.outgoing) or connection.closed
                    )
                )

    def flush_submitters(self) -> None:
        """From any thread: write replies that wait for company, because the main thread is busy or going to wait."""
        for submitter in tuple(self._dirty):
            submitter.connection.flush()


class _RunningMain:
    """The call of the main thread, for other threads; ``running`` is each thread's own."""

    call: Call | None = None


running_main = _RunningMain()
