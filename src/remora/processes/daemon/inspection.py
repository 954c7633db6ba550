"""Answers about the running session: its nodes, and what ``remora status`` and ``remora memory`` show.

What only a process knows of itself (its calls, the lines that made its refs, its views) the daemon asks for when
somebody wants to know. A process answers between two messages, also while the user's code runs; one that does not
(its code holds the interpreter's lock, or it is stopped) is shown as such, after a while.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from remora.messages import inspection as m
from remora.processes.daemon.connected import ConnectedProcess
from remora.processes.daemon.memory_report import MemoryBuilder
from remora.processes.daemon.status_report import StatusBuilder

if TYPE_CHECKING:
    from remora.processes.daemon.main import NodeDaemon

PATIENCE_S = 1.0
"""How long a process may take to answer."""

Reports = dict[bytes, m.ProcessReport]


class Question:
    """An inspector's question that waits for the answers of the processes."""

    __slots__ = ("asker", "awaited", "deadline_s", "message", "reports")

    def __init__(self, asker: bytes, message: Any, awaited: set[bytes], deadline_s: float) -> None:
        self.asker = asker
        self.message = message
        self.awaited = awaited
        self.deadline_s = deadline_s
        self.reports: Reports = {}


class InspectionService:
    """Reads the services' state; changes none of it."""

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon
        self._questions: dict[int, Question] = {}
        self._last_number = 0

    def on_message(self, connected: ConnectedProcess, message: Any, now_s: float) -> None:
        """A question, or a process's part of an answer."""
        if isinstance(message, m.GetNodes):
            self._daemon.processes.send(connected.process, m.Nodes(message.request, [self.node_report()]))
        elif isinstance(message, m.InspectStatus | m.InspectMemory):
            self._ask_all(connected, message, now_s)
        elif isinstance(message, m.ProcessReport):
            question = self._questions.get(message.number)
            if question is not None:
                question.awaited.discard(connected.process)
                question.reports[connected.process] = message
                self.tick(now_s)
        else:
            raise ValueError(f"{connected!r} sent {message!r}, which only a daemon says")

    def tick(self, now_s: float) -> float | None:
        """Answer what waits for nobody any more; when to come again (monotonic seconds), or None."""
        processes = self._daemon.processes
        for number, question in list(self._questions.items()):
            if now_s < question.deadline_s and any(processes.get(process) for process in question.awaited):
                continue
            del self._questions[number]
            processes.send(question.asker, self._answer(question, now_s))
        return min((question.deadline_s for question in self._questions.values()), default=None)

    def _ask_all(self, asker: ConnectedProcess, message: Any, now_s: float) -> None:
        processes = self._daemon.processes
        asked = {connected.process for connected in processes if connected.role != "inspector"}
        self._last_number += 1
        self._questions[self._last_number] = Question(asker.process, message, set(asked), now_s + PATIENCE_S)
        with_objects = isinstance(message, m.InspectMemory)
        for process in asked:
            processes.send(process, m.DescribeYourself(self._last_number, with_objects))
        self.tick(now_s)

    def _answer(self, question: Question, now_s: float) -> m.StatusReport | m.MemoryReport:
        if isinstance(question.message, m.InspectMemory):
            return MemoryBuilder(self._daemon, question.reports).build(question.message.max_objects)
        return StatusBuilder(self._daemon, question.reports).build(self.node_report(), now_s)

    def node_report(self) -> m.NodeReport:
        """This node."""
        daemon = self._daemon
        hostname = socket.gethostname()
        return m.NodeReport(
            daemon.node,
            True,
            hostname,
            hostname,
            {**daemon.total.to_floats(), "object_store_memory": float(daemon.store_limit_bytes)},
            {
                **daemon.workers.leases.ledger.available(),
                "object_store_memory": float(daemon.objects.arena.usage().free_bytes),
            },
            daemon.configuration.labels,
        )
