"""Questions about the whole cluster: who is asked, who is waited for, and what is told when somebody is silent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from remora.base.ids import make_process_id, node_of
from remora.messages import inspection as m
from remora.messages.head import ActorStates, ListActorStates
from remora.messages.inspection import ActorReport
from remora.messages.placement_groups import FindPlacementGroups, PlacementGroups
from remora.processes.daemon.inspection import (
    HEAD_PATIENCE_S,
    MEMORY_PATIENCE_S,
    NODE_PATIENCE_S,
    InspectionService,
)

DAEMON = make_process_id(1, 0)
INSPECTOR = make_process_id(1, 9)
HERE, THERE, FAR, GONE = (node_of(make_process_id(number, 0)) for number in (1, 2, 3, 4))
STORE = m.StoreUsage(100, 0, 0, 0, 100, 0)


def node_report(node: bytes, *, is_alive: bool = True) -> m.NodeReport:
    return m.NodeReport(node, is_alive, "host", f"10.0.0.{node[-1]}:7000", {}, {}, {}, "" if is_alive else "killed")


def status_of(node: bytes, number: int) -> m.NodeStatus:
    return m.NodeStatus(number, node_report(node), STORE, [], [])


def memory_of(node: bytes, number: int) -> m.NodeMemory:
    return m.NodeMemory(number, node_report(node), STORE, m.StoreContents(0, 0, 0, 0), [], [], [], [], 0, 0)


def actor(worker: bytes, number: int, *, is_detached: bool = False, state: str = "alive") -> ActorReport:
    return ActorReport(
        make_process_id(1, 5) + bytes(7) + bytes([number]), b"", "A", "", "", state, worker, 0, is_detached, ""
    )


class OwnNode:
    """Stands for the inspection of the node itself: keeps what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[m.DescribeNode, Any]] = []

    def describe(self, message: m.DescribeNode, deliver: Any, now_s: float) -> None:
        self.asked.append((message, deliver))

    def answer(self, now_s: float) -> None:
        message, deliver = self.asked.pop(0)
        deliver((memory_of if message.with_objects else status_of)(HERE, message.number), now_s)

    def tick(self, now_s: float) -> float | None:
        return None

    def node_report(self) -> m.NodeReport:
        return node_report(HERE)


class Rig:
    """The service of node 1, what it has said to whom, and a clock."""

    def __init__(self, nodes: list[m.NodeReport] | None) -> None:
        self.own = OwnNode()
        self.told: list[tuple[bytes, Any]] = []
        self.asked_head: list[Any] = []
        self.answers: list[Any] = []
        cluster = None
        if nodes is not None:
            cluster = SimpleNamespace(
                nodes=SimpleNamespace(reports=lambda: nodes),
                links=SimpleNamespace(send=lambda node, message: self.told.append((node, message))),
                head=SimpleNamespace(process_message=self._ask_head),
            )
        daemon = SimpleNamespace(
            node=HERE,
            cluster=cluster,
            processes=SimpleNamespace(node_address="10.0.0.1:7000", send=self._answer),
            actors=None,
            groups=SimpleNamespace(reports=list),
        )
        self.service = InspectionService(cast(Any, daemon), cast(Any, self.own))

    def _answer(self, process: bytes, message: Any) -> None:
        assert process == INSPECTOR
        self.answers.append(message)

    def _ask_head(self, process: bytes, job: bytes, message: Any) -> None:
        assert process == DAEMON
        self.asked_head.append(message)

    def ask(self, message: Any, now_s: float = 0.0) -> None:
        self.service.on_message(cast(Any, SimpleNamespace(process=INSPECTOR)), message, now_s)

    def head_answers(self, actors: list[ActorReport] | None = None, now_s: float = 0.0) -> None:
        for question in self.asked_head:
            is_about_actors = isinstance(question, ListActorStates)
            answer = (
                ActorStates(question.request, actors or []) if is_about_actors else PlacementGroups(question.request)
            )
            self.service.on_head_message(answer, now_s)
        self.asked_head.clear()


@pytest.fixture
def cluster() -> Rig:
    return Rig([node_report(HERE), node_report(THERE), node_report(FAR), node_report(GONE, is_alive=False)])


def test_a_session_alone_asks_nobody_else() -> None:
    rig = Rig(None)
    rig.ask(m.InspectStatus())
    rig.own.answer(0.1)
    (report,) = rig.answers
    assert [status.node.node for status in report.nodes] == [HERE]
    assert (report.silent, report.dead, rig.told, rig.asked_head) == ([], [], [], [])


def test_the_head_is_asked_first_and_then_every_living_node(cluster: Rig) -> None:
    cluster.ask(m.InspectStatus())
    assert [type(question) for question in cluster.asked_head] == [ListActorStates, FindPlacementGroups]
    assert (cluster.told, cluster.own.asked) == ([], [])
    cluster.head_answers()
    assert [node for node, _ in cluster.told] == [THERE, FAR]
    assert len(cluster.own.asked) == 1


def test_the_answer_waits_for_all_and_begins_with_the_node_that_was_asked(cluster: Rig) -> None:
    cluster.ask(m.InspectStatus())
    cluster.head_answers([actor(make_process_id(2, 3), 1)])
    number = cluster.told[0][1].number
    cluster.service.on_node_message(FAR, status_of(FAR, number), 0.1)
    cluster.service.on_node_message(THERE, status_of(THERE, number), 0.2)
    assert cluster.answers == []
    cluster.own.answer(0.3)
    (report,) = cluster.answers
    assert [status.node.node for status in report.nodes] == [HERE, THERE, FAR]
    assert len(report.actors) == 1
    assert report.silent == []
    assert [node.node for node in report.dead] == [GONE]


def test_a_silent_node_is_named_with_how_long_it_was_waited_for(cluster: Rig) -> None:
    cluster.ask(m.InspectStatus(), 10.0)
    cluster.head_answers(now_s=10.0)
    cluster.own.answer(10.1)
    cluster.service.on_node_message(FAR, status_of(FAR, cluster.told[0][1].number), 10.1)
    assert cluster.service.tick(10.2) == 10.0 + NODE_PATIENCE_S
    assert cluster.answers == []
    cluster.service.tick(10.0 + NODE_PATIENCE_S)
    (report,) = cluster.answers
    assert report.silent == [m.SilentNode(THERE, "10.0.0.2:7000", NODE_PATIENCE_S)]
    assert [status.node.node for status in report.nodes] == [HERE, FAR]


def test_an_answer_that_comes_too_late_does_no_harm(cluster: Rig) -> None:
    cluster.ask(m.InspectStatus())
    cluster.head_answers()
    number = cluster.told[0][1].number
    cluster.own.answer(0.1)
    cluster.service.tick(NODE_PATIENCE_S)
    cluster.service.on_node_message(THERE, status_of(THERE, number), NODE_PATIENCE_S + 1)
    assert len(cluster.answers) == 1
    assert cluster.service.tick(NODE_PATIENCE_S + 2) is None


def test_without_the_head_the_nodes_are_asked_after_a_while(cluster: Rig) -> None:
    cluster.ask(m.InspectStatus(), 5.0)
    assert cluster.service.tick(5.5) == 5.0 + HEAD_PATIENCE_S
    cluster.service.tick(5.0 + HEAD_PATIENCE_S)
    number = cluster.told[0][1].number
    for node in (THERE, FAR):
        cluster.service.on_node_message(node, status_of(node, number), 6.5)
    cluster.head_answers([actor(make_process_id(2, 3), 1)], now_s=6.6)
    cluster.own.answer(6.7)
    (report,) = cluster.answers
    assert report.silent == [m.SilentNode(b"", "", HEAD_PATIENCE_S)]
    assert report.actors == []
    assert len(report.nodes) == 3


def test_nobody_waits_for_a_node_that_is_declared_dead(cluster: Rig) -> None:
    cluster.ask(m.InspectStatus())
    cluster.head_answers()
    cluster.own.answer(0.1)
    cluster.service.on_node_message(FAR, status_of(FAR, cluster.told[0][1].number), 0.2)
    cluster.service.node_dead(THERE, 0.3)
    (report,) = cluster.answers
    assert report.silent == []


def test_memory_is_asked_for_with_the_workers_that_live_by_their_actors_handles(cluster: Rig) -> None:
    workers = [make_process_id(2, number) for number in range(1, 4)]
    actors = [actor(workers[0], 1), actor(workers[1], 2, is_detached=True), actor(workers[2], 3, state="dead")]
    cluster.ask(m.InspectMemory(7))
    cluster.head_answers(actors)
    message = cluster.told[0][1]
    assert (message.with_objects, message.max_objects) == (True, 7)
    assert message.actor_workers == {workers[0]: actors[0].actor}
    assert cluster.service.tick(0.1) == MEMORY_PATIENCE_S
    for node in (THERE, FAR):
        cluster.service.on_node_message(node, memory_of(node, message.number), 0.2)
    cluster.own.answer(0.3)
    (report,) = cluster.answers
    assert isinstance(report, m.MemoryReport)
    assert len(report.nodes) == 3


def test_a_question_of_another_node_is_answered_to_that_node(cluster: Rig) -> None:
    cluster.service.on_node_message(FAR, m.DescribeNode(41), 0.0)
    cluster.own.answer(0.1)
    ((node, answer),) = cluster.told
    assert (node, answer.number, answer.node.node) == (FAR, 41, HERE)
    assert cluster.answers == []


def test_two_questions_at_once_get_an_answer_each(cluster: Rig) -> None:
    cluster.ask(m.InspectStatus())
    cluster.ask(m.InspectStatus())
    cluster.head_answers()
    numbers = {message.number for _, message in cluster.told}
    assert len(numbers) == 2
    for number in numbers:
        for node in (THERE, FAR):
            cluster.service.on_node_message(node, status_of(node, number), 0.1)
    cluster.own.answer(0.2)
    cluster.own.answer(0.2)
    assert len(cluster.answers) == 2


def test_nodes_are_those_of_the_cluster_dead_ones_included(cluster: Rig) -> None:
    cluster.ask(m.GetNodes(3))
    (answer,) = cluster.answers
    assert answer.request == 3
    assert [(node.node, node.is_alive, node.cause) for node in answer.nodes] == [
        (HERE, True, ""),
        (THERE, True, ""),
        (FAR, True, ""),
        (GONE, False, "killed"),
    ]


def test_what_no_daemon_says_breaks_the_link(cluster: Rig) -> None:
    with pytest.raises(ValueError, match="no daemon says"):
        cluster.service.on_node_message(FAR, m.InspectStatus(), 0.0)
