"""What one node tells of itself: it asks its processes, waits for their answers, but not long, and puts it together.

What only a process knows of itself (its calls, the lines that made its refs, its views) the daemon asks for when
somebody wants to know. A process answers between two messages, also while the user's code runs; one that does not
(its code holds the interpreter's lock, or it is stopped) is shown as such, after a while.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from remora.base.resources import STORE
from remora.messages import inspection as m
from remora.processes.daemon.memory_report import MemoryBuilder, Steps
from remora.processes.daemon.status_report import StatusBuilder

if TYPE_CHECKING:
    from remora.processes.daemon.main import NodeDaemon

PATIENCE_S = 1.0
"""How long a process may take to answer."""
SLICE_S = 0.015
"""How long a report of the memory is worked on in one go: leases and heartbeats wait meanwhile."""
STEPS_PER_LOOK = 64

Answer = m.NodeStatus | m.NodeMemory
Deliver = Callable[[Answer, float], None]
"""``deliver(answer, now_s)``."""


class ProcessQuestion:
    """A question that waits for the answers of this node's processes."""

    __slots__ = ("awaited", "deadline_s", "deliver", "message", "reports")

    def __init__(self, message: m.DescribeNode, deliver: Deliver, awaited: set[bytes], deadline_s: float) -> None:
        self.message = message
        self.deliver = deliver
        self.awaited = awaited
        self.deadline_s = deadline_s
        self.reports: dict[bytes, m.ProcessReport] = {}


class NodeInspection:
    """Reads the services' state; changes none of it."""

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon
        self._questions: dict[int, ProcessQuestion] = {}
        self._last_number = 0
        self._building: list[tuple[Steps, Deliver]] = []

    def describe(self, message: m.DescribeNode, deliver: Deliver, now_s: float) -> None:
        """Have *deliver* called with the answer, now or later."""
        processes = self._daemon.processes
        asked = {connected.process for connected in processes if connected.role != "inspector"}
        self._last_number += 1
        self._questions[self._last_number] = ProcessQuestion(message, deliver, set(asked), now_s + PATIENCE_S)
        for process in asked:
            processes.send(process, m.DescribeYourself(self._last_number, message.with_objects, message.max_calls))
        self.tick(now_s)

    def on_report(self, process: bytes, report: m.ProcessReport, now_s: float) -> None:
        """A process has answered; perhaps too late."""
        question = self._questions.get(report.number)
        if question is not None:
            question.awaited.discard(process)
            question.reports[process] = report
            self.tick(now_s)

    def tick(self, now_s: float) -> float | None:
        """Answer what waits for no process any more; when to come again (monotonic seconds), or None."""
        processes = self._daemon.processes
        for number, question in list(self._questions.items()):
            if now_s < question.deadline_s and any(processes.get(process) for process in question.awaited):
                continue
            del self._questions[number]
            self._answer(question, now_s)
        return min((question.deadline_s for question in self._questions.values()), default=None)

    def _answer(self, question: ProcessQuestion, now_s: float) -> None:
        message = question.message
        if not message.with_objects:
            builder = StatusBuilder(self._daemon, question.reports)
            question.deliver(builder.build(message.number, self.node_report(), now_s), now_s)
            return
        steps = MemoryBuilder(self._daemon, message, question.reports).steps(self.node_report())
        self._building.append((steps, question.deliver))
        if len(self._building) == 1:
            self._build()

    def _build(self) -> None:
        """Work on the first report for a while, and go on when the loop has looked at everything else."""
        steps, deliver = self._building[0]
        end_s = monotonic() + SLICE_S
        try:
            while monotonic() < end_s:
                for _ in range(STEPS_PER_LOOK):
                    next(steps)
        except StopIteration as end:
            del self._building[0]
            deliver(end.value, monotonic())
        if self._building:
            self._daemon.reactor.call_after(0.0, self._build)

    def node_report(self) -> m.NodeReport:
        """This node."""
        daemon = self._daemon
        cluster = daemon.configuration.cluster
        hostname = socket.gethostname()
        return m.NodeReport(
            daemon.node,
            True,
            hostname,
            daemon.processes.node_address or hostname,
            {**daemon.workers.leases.ledger.total.to_floats(), STORE: float(daemon.store_limit_bytes)},
            {
                **daemon.workers.leases.ledger.available(),
                STORE: float(daemon.objects.arena.usage().free_bytes),
            },
            daemon.configuration.labels,
            is_head_node=cluster is not None and cluster.is_head,
        )
