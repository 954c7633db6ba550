"""Answers about the whole cluster: its nodes, and what ``remora status`` and ``remora memory`` show.

The head is asked first, because the actors that it knows are needed to tell what is leaked; then all nodes at once,
this one included. Who does not answer in time is named in the report, which goes out without its part.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from remora.base.ids import NodeId, daemon_of
from remora.messages import inspection as m
from remora.messages.actors import ACTOR_STATE_NAMES, DEAD
from remora.messages.head import ActorStates, ListActorStates
from remora.messages.inspection import ActorReport
from remora.messages.placement_groups import FindPlacementGroups, PlacementGroupReport, PlacementGroups
from remora.processes.daemon.actors import ActorService
from remora.processes.daemon.connected import ConnectedProcess
from remora.processes.daemon.node_inspection import PATIENCE_S, Answer, NodeInspection

if TYPE_CHECKING:
    from remora.processes.daemon.main import NodeDaemon

HEAD_PATIENCE_S = 1.0
"""How long the head may take to answer; when it is being started again it is away for about so long."""
NODE_PATIENCE_S = PATIENCE_S + 1.0
"""How long another node may take for its status."""
MEMORY_PATIENCE_S = 10.0
"""The same for its memory: a million objects take some seconds."""


class ClusterQuestion:
    """An inspector's question, and what came of the answer until now."""

    __slots__ = (
        "actors",
        "answers",
        "asked_s",
        "asker",
        "awaited",
        "deadline_s",
        "groups",
        "is_head_awaited",
        "message",
        "silent",
    )

    def __init__(self, asker: bytes, message: m.InspectStatus | m.InspectMemory, now_s: float) -> None:
        self.asker = asker
        self.message = message
        self.is_head_awaited = True
        """Nodes are asked after it."""
        self.asked_s = now_s
        self.deadline_s = now_s + HEAD_PATIENCE_S
        self.actors: list[ActorReport] | None = None
        self.groups: list[PlacementGroupReport] | None = None
        self.awaited: dict[bytes, str] = {}
        """Nodes and their addresses."""
        self.answers: dict[bytes, Answer] = {}
        self.silent: list[m.SilentNode] = []

    @property
    def wants_memory(self) -> bool:
        """Or else the status."""
        return isinstance(self.message, m.InspectMemory)

    @property
    def has_heard_head(self) -> bool:
        """Whether the head has said all that it was asked."""
        return self.actors is not None and (self.groups is not None or self.wants_memory)


class InspectionService:
    """Questions of inspectors on this node, and questions of other nodes' daemons about this one."""

    def __init__(self, daemon: NodeDaemon, own: NodeInspection | None = None) -> None:
        self._daemon = daemon
        self._own = own or NodeInspection(daemon)
        self._questions: dict[int, ClusterQuestion] = {}
        self._last_number = 0

    # ------------------------------------------------------------------ messages

    def on_message(self, connected: ConnectedProcess, message: Any, now_s: float) -> None:
        """A question of a process of this node, or its part of an answer."""
        if isinstance(message, m.GetNodes):
            self._daemon.processes.send(connected.process, m.Nodes(message.request, self._node_reports()))
        elif isinstance(message, m.InspectStatus | m.InspectMemory):
            self._ask_head(ClusterQuestion(connected.process, message, now_s), now_s)
        elif isinstance(message, m.ListJobs):
            self._list_jobs(connected, message)
        elif isinstance(message, m.ProcessReport):
            self._own.on_report(connected.process, message, now_s)
        else:
            raise ValueError(f"{connected!r} sent {message!r}, which only a daemon says")

    def _list_jobs(self, connected: ConnectedProcess, message: m.ListJobs) -> None:
        if self._daemon.cluster is not None:
            self._daemon.cluster.head.process_message(connected.process, connected.job, message)
        else:
            self._daemon.processes.send(connected.process, m.Jobs(message.request, self._daemon.jobs.reports()))

    def on_node_message(self, node: NodeId, message: Any, now_s: float) -> None:
        """A question of another node's daemon, or its part of an answer.

        Raises:
            ValueError: no daemon says this to another.
        """
        if isinstance(message, m.DescribeNode):
            self._own.describe(message, lambda answer, _: self._tell_node(node, answer), now_s)
        elif isinstance(message, m.NodeStatus | m.NodeMemory):
            self._on_answer(node, message, now_s)
        else:
            raise ValueError(f"it sent {message!r}, which no daemon says to another")

    def on_head_message(self, message: Any, now_s: float) -> None:
        """An answer of the head to this daemon: ``ActorStates`` or ``PlacementGroups``; perhaps too late."""
        question = self._questions.get(message.request)
        if question is None or not question.is_head_awaited:
            return
        if isinstance(message, ActorStates):
            question.actors = message.actors
        elif isinstance(message, PlacementGroups):
            question.groups = message.groups
        self.tick(now_s)

    def node_dead(self, node: NodeId, now_s: float) -> None:
        """The node was declared dead: nobody waits for it any more."""
        for question in self._questions.values():
            question.awaited.pop(node, None)
        self.tick(now_s)

    def tick(self, now_s: float) -> float | None:
        """Go on with what waits for nobody any more; when to come again (monotonic seconds), or None."""
        for number, question in list(self._questions.items()):
            is_late = now_s >= question.deadline_s
            if question.is_head_awaited and (question.has_heard_head or is_late):
                self._ask_nodes(number, question, now_s)
            elif not question.is_head_awaited and (not question.awaited or is_late):
                self._finish(number, question, now_s)
        times = [question.deadline_s for question in self._questions.values()]
        own_s = self._own.tick(now_s)
        return min(times if own_s is None else [*times, own_s], default=None)

    # ------------------------------------------------------------------ the course of a question

    def _ask_head(self, question: ClusterQuestion, now_s: float) -> None:
        self._last_number += 1
        number = self._last_number
        self._questions[number] = question
        if self._daemon.cluster is None:
            question.actors = local_actors(self._daemon)
            question.groups = self._daemon.groups.reports()
        else:
            daemon = daemon_of(self._daemon.node)
            questions = [ListActorStates(number), *([] if question.wants_memory else [FindPlacementGroups(number)])]
            for one in questions:
                self._daemon.cluster.head.process_message(daemon, daemon, one)
        self.tick(now_s)

    def _ask_nodes(self, number: int, question: ClusterQuestion, now_s: float) -> None:
        if not question.has_heard_head:
            question.silent.append(m.SilentNode(b"", "", now_s - question.asked_s))
        message = question.message
        if isinstance(message, m.InspectMemory):
            describe = m.DescribeNode(number, True, message.max_objects, actor_workers(question.actors or []))
        else:
            describe = m.DescribeNode(number, max_calls=message.max_calls)
        patience_s = MEMORY_PATIENCE_S if question.wants_memory else NODE_PATIENCE_S
        question.is_head_awaited = False
        question.asked_s = now_s
        question.deadline_s = now_s + patience_s
        question.awaited[self._daemon.node] = self._daemon.processes.node_address
        for other in self._node_reports():
            if other.is_alive and other.node != self._daemon.node:
                question.awaited[other.node] = other.address
                self._tell_node(other.node, describe)
        self._own.describe(describe, lambda answer, then_s: self._on_answer(self._daemon.node, answer, then_s), now_s)

    def _on_answer(self, node: bytes, answer: Answer, now_s: float) -> None:
        question = self._questions.get(answer.number)
        if question is not None and node in question.awaited:
            del question.awaited[node]
            question.answers[node] = answer
            self.tick(now_s)

    def _finish(self, number: int, question: ClusterQuestion, now_s: float) -> None:
        del self._questions[number]
        waited_s = now_s - question.asked_s
        silent = [
            *question.silent,
            *(m.SilentNode(node, address, waited_s) for node, address in question.awaited.items()),
        ]
        own = question.answers.pop(self._daemon.node, None)
        answers = [*([own] if own is not None else []), *(question.answers[node] for node in sorted(question.answers))]
        dead = [report for report in self._node_reports() if not report.is_alive]
        actors = question.actors or []
        report: m.StatusReport | m.MemoryReport
        if question.wants_memory:
            memories = [answer for answer in answers if isinstance(answer, m.NodeMemory)]
            report = m.MemoryReport(memories, actors, silent, dead)
        else:
            statuses = [answer for answer in answers if isinstance(answer, m.NodeStatus)]
            report = m.StatusReport(statuses, actors, question.groups or [], silent, dead)
        self._daemon.processes.send(question.asker, report)

    def _node_reports(self) -> list[m.NodeReport]:
        cluster = self._daemon.cluster
        return cluster.nodes.reports() if cluster is not None else [self._own.node_report()]

    def _tell_node(self, node: bytes, message: Any) -> None:
        cluster = self._daemon.cluster
        if cluster is not None:
            cluster.links.send(NodeId(node), message)


def local_actors(daemon: NodeDaemon) -> list[ActorReport]:
    """The actors of a session without a head."""
    if not isinstance(daemon.actors, ActorService):
        return []
    return [
        ActorReport(
            actor.id,
            actor.job,
            actor.spec.class_name,
            actor.key[1],
            actor.key[0],
            ACTOR_STATE_NAMES[actor.state.state],
            actor.state.worker,
            actor.restarts,
            actor.detached,
            actor.state.cause,
        )
        for actor in daemon.actors.registry.actors()
    ]


def actor_workers(actors: Iterable[ActorReport]) -> dict[bytes, bytes]:
    """The creation object of each worker that lives as long as its actor's handles do."""
    dead = ACTOR_STATE_NAMES[DEAD]
    return {
        actor.worker: actor.actor for actor in actors if actor.worker and not actor.is_detached and actor.state != dead
    }
