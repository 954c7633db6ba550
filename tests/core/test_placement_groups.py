"""Placement groups over nodes: all bundles or none, whatever is asked at once, dies, or is started again."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from remora.base.bundle_names import in_group, name_in_group, parse_name
from remora.base.resources import UNITS_PER_ONE, Resources
from remora.core.bundle_ledger import BundleLedger
from remora.core.bundle_placement import STRATEGIES, NoRoom, choose_nodes
from remora.core.placement_groups import ForgetGroup, PlacementGroupManager, SaveGroup, Send, SendNode
from remora.core.resources_ledger import Allocation, ResourcesLedger
from remora.messages import placement_groups as m

DRIVER, JOB = b"\0\0\0\x63driv", b"job-one."
NAMES = "abcdefgh"


def cpus(*amounts: float) -> list[dict[str, int]]:
    return [{"CPU": round(amount * UNITS_PER_ONE)} for amount in amounts]


class Node:
    """A node daemon's side, with what its tasks have taken."""

    def __init__(self, cpu_count: float) -> None:
        self.ledger = ResourcesLedger(Resources.of(num_cpus=cpu_count))
        self.bundles = BundleLedger(self.ledger)
        self.tasks: list[Allocation] = []
        self.inbox: deque[Any] = deque()
        self.answers: deque[m.BundlesAnswer] = deque()

    def take(self) -> None:
        """Handle one message of the manager."""
        message = self.inbox.popleft()
        if isinstance(message, m.ReserveBundles):
            wanted = {index: Resources(units) for index, units in message.bundles.items()}
            ok = self.bundles.reserve(message.group, message.attempt, wanted)
            self.answer(message, m.RESERVED if ok else m.REFUSED)
        elif isinstance(message, m.CommitBundles):
            ok = self.bundles.commit(message.group, message.attempt)
            self.answer(message, m.COMMITTED if ok else m.MISSING)
        else:
            self.bundles.give_back(message.group, message.indices, message.reason)
            for effect in self.bundles.outbox:
                for task in [task for task in self.tasks if effect.names & task.need.units.keys()]:
                    self.end(task)
            self.bundles.outbox.clear()
        self.bundles.validate()

    def answer(self, message: Any, outcome: int) -> None:
        self.answers.append(m.BundlesAnswer(message.group, message.attempt, outcome, dict(self.ledger.free())))

    def run(self, need: Resources) -> bool:
        task = self.ledger.allocate(need)
        if task is not None:
            self.tasks.append(task)
        return task is not None

    def end(self, task: Allocation) -> None:
        self.tasks.remove(task)
        self.ledger.release(task)
        self.bundles.settle()

    def groups(self) -> set[bytes]:
        return {parsed[1] for name in self.ledger.total if (parsed := parse_name(name)) is not None}


class Cluster:
    """A manager, nodes, and links between them that deliver when told to."""

    def __init__(self, *cpu_counts: float) -> None:
        self.manager = PlacementGroupManager()
        self.now_s = 100.0
        self.nodes: dict[bytes, Node] = {}
        self.rows: dict[bytes, m.PlacementGroupRow] = {}
        self.told: list[tuple[bytes, Any]] = []
        self.last_node = 0
        self.last_group = 0
        for count in cpu_counts:
            self.add_node(count)

    def add_node(self, count: float) -> bytes:
        self.last_node += 1
        node = self.last_node.to_bytes(4, "big")
        self.nodes[node] = Node(count)
        self.report(node)
        return node

    def report(self, node: bytes) -> None:
        ledger = self.nodes[node].ledger
        self.manager.node_changed(node, ledger.total.units, dict(ledger.free()), {}, self.now_s)
        self.carry_out()

    def create(self, bundles: list[dict[str, int]], strategy: str = "PACK", **more: Any) -> bytes:
        self.last_group += 1
        group = DRIVER + self.last_group.to_bytes(8, "big")
        self.manager.create(DRIVER, JOB, m.CreatePlacementGroup(1, group, bundles, strategy, **more), self.now_s)
        self.manager.watch(DRIVER, group)
        self.carry_out()
        return group

    def remove(self, group: bytes) -> None:
        self.manager.remove(DRIVER, m.RemovePlacementGroup(2, group), self.now_s)
        self.carry_out()

    def carry_out(self) -> None:
        for effect in self.manager.outbox:
            if isinstance(effect, SendNode):
                if effect.node in self.nodes:
                    self.nodes[effect.node].inbox.append(effect.message)
            elif isinstance(effect, Send):
                self.told.append((effect.process, effect.message))
            elif isinstance(effect, SaveGroup):
                self.rows[effect.row.group] = effect.row
            elif isinstance(effect, ForgetGroup):
                del self.rows[effect.group]
        self.manager.outbox.clear()
        self.manager.validate()

    def answer(self, node: bytes) -> None:
        self.manager.answered(node, self.nodes[node].answers.popleft(), self.now_s)
        self.carry_out()

    def settle(self) -> None:
        """Deliver everything, and let pauses pass, until nothing happens any more."""
        for _ in range(1000):
            for node, one in list(self.nodes.items()):
                while one.inbox:
                    one.take()
                while one.answers:
                    self.answer(node)
            if not any(one.inbox or one.answers for one in self.nodes.values()):
                due_s = self.manager.next_due_s()
                if due_s is None:
                    return
                self.now_s = max(self.now_s, due_s)
                for node in list(self.nodes):
                    self.report(node)
                self.manager.tick(self.now_s)
                self.carry_out()
        raise AssertionError(f"{self.manager!r} does not come to rest")

    def kill(self, node: bytes) -> None:
        del self.nodes[node]
        self.manager.node_died(node, self.now_s)
        self.carry_out()

    def restart_manager(self) -> None:
        """What was told is told, what was stored is there, nothing else."""
        self.manager = PlacementGroupManager()
        self.manager.restore(list(self.rows.values()), self.now_s)
        self.carry_out()
        for node in list(self.nodes):
            self.report(node)

    def state(self, group: bytes) -> str:
        self.manager.find(DRIVER, m.FindPlacementGroups(9, group))
        answer = self.manager.outbox.pop().message  # type: ignore[union-attr]
        assert isinstance(answer, m.PlacementGroups)
        return m.STATE_NAMES[answer.groups[0].row.state]

    def nodes_of(self, group: bytes) -> list[bytes]:
        return [place.node for one in self.manager if one.id == group for place in one.places]

    def states_told(self, group: bytes) -> list[str]:
        told = [message for _, message in self.told if isinstance(message, m.PlacementGroupState)]
        return [m.STATE_NAMES[message.state] for message in told if message.group == group]


def test_a_group_is_created_when_every_node_holds_its_bundles() -> None:
    cluster = Cluster(1, 1)
    group = cluster.create(cpus(1, 1), "STRICT_SPREAD")
    first, second = cluster.nodes.values()
    first.take()
    cluster.answer(b"\0\0\0\1")
    assert cluster.state(group) == "PENDING"
    assert not first.groups(), "what is held cannot be used before all is held"
    cluster.settle()
    assert cluster.state(group) == "CREATED"
    assert cluster.states_told(group) == ["PENDING", "CREATED"]
    assert first.run(in_group(Resources.of(num_cpus=1), group, cluster.nodes_of(group).index(b"\0\0\0\1")))
    assert second.run(in_group(Resources.of(num_cpus=1), group))
    assert not second.run(in_group(Resources.of(num_cpus=1), group))
    assert not second.run(Resources.of(num_cpus=1)), "the node itself has nothing left"


def test_of_two_groups_that_need_everything_one_has_all_and_the_other_nothing() -> None:
    cluster = Cluster(1, 1)
    groups = [cluster.create(cpus(1, 1), "STRICT_SPREAD") for _ in range(2)]
    cluster.settle()
    assert [cluster.state(group) for group in groups] == ["CREATED", "PENDING"]
    assert [node.groups() for node in cluster.nodes.values()] == [{groups[0]}, {groups[0]}]
    cluster.remove(groups[0])
    cluster.settle()
    for node in list(cluster.nodes):
        cluster.report(node)
    cluster.settle()
    assert [cluster.state(group) for group in groups] == ["REMOVED", "CREATED"]


def test_what_other_groups_have_asked_for_is_left_out() -> None:
    cluster = Cluster(1, 1)
    groups = [cluster.create(cpus(1)) for _ in range(2)]
    cluster.settle()
    assert [cluster.state(group) for group in groups] == ["CREATED", "CREATED"]
    assert all(report.highest_retry_delay_s == 0 for report in cluster.manager.reports()), "no node had to refuse"


def test_a_manager_that_ended_before_it_said_commit_says_it_when_it_is_back() -> None:
    cluster = Cluster(1)
    (node,) = cluster.nodes.values()
    group = cluster.create(cpus(1))
    node.take()
    cluster.manager.answered(b"\0\0\0\1", node.answers.popleft(), cluster.now_s)
    (row,) = [effect.row for effect in cluster.manager.outbox if isinstance(effect, SaveGroup)]
    cluster.rows[group] = row
    cluster.restart_manager()
    cluster.settle()
    assert cluster.state(group) == "CREATED"
    assert node.groups() == {group}


def test_a_node_that_is_told_twice_does_it_once() -> None:
    ledger = ResourcesLedger(Resources.of(num_cpus=1))
    bundles = BundleLedger(ledger)
    wanted = {0: Resources.of(num_cpus=1)}
    for _ in range(2):
        assert bundles.reserve(DRIVER * 2, 1, wanted)
        assert not bundles.reserve(DRIVER * 2, 2, wanted), "the bundle is here in another attempt"
    for _ in range(2):
        assert bundles.commit(DRIVER * 2, 1)
        assert ledger.free()[name_in_group("CPU", DRIVER * 2)] == UNITS_PER_ONE
    assert not bundles.commit(DRIVER * 2, 2)
    for _ in range(2):
        bundles.give_back(DRIVER * 2)
        assert ledger.available() == {"CPU": 1.0}
    assert not bundles.commit(DRIVER * 2, 1), "it was returned"
    with pytest.raises(ValueError, match="no bundles"):
        bundles.reserve(DRIVER * 2, 3, {})


def test_a_bundle_whose_users_are_not_ended_yet_cannot_be_had_again() -> None:
    ledger = ResourcesLedger(Resources.of(num_cpus=2))
    bundles = BundleLedger(ledger)
    group = DRIVER * 2
    assert bundles.reserve(group, 1, {0: Resources.of(num_cpus=1)})
    assert bundles.commit(group, 1)
    task = ledger.allocate(in_group(Resources.of(num_cpus=1), group, 0))
    assert task is not None
    bundles.give_back(group)
    (effect,) = bundles.outbox
    assert effect.names >= set(task.need)
    assert bundles.is_draining
    assert not bundles.reserve(group, 2, {0: Resources.of(num_cpus=1)})
    ledger.release(task)
    assert bundles.settle()
    assert bundles.reserve(group, 2, {0: Resources.of(num_cpus=1)})
    bundles.validate()


def test_a_node_that_refuses_makes_the_others_give_back_and_the_group_is_tried_again() -> None:
    cluster = Cluster(1, 1)
    first, second = cluster.nodes.values()
    assert second.run(Resources.of(num_cpus=1)), "of which the manager knows nothing"
    group = cluster.create(cpus(1, 1), "STRICT_SPREAD")
    cluster.settle()
    assert cluster.state(group) == "PENDING"
    assert first.ledger.available() == {"CPU": 1.0}
    second.end(second.tasks[0])
    cluster.report(b"\0\0\0\2")
    cluster.settle()
    assert cluster.state(group) == "CREATED"


def test_what_uses_a_removed_group_is_ended_and_its_resources_are_free() -> None:
    cluster = Cluster(2)
    (node,) = cluster.nodes.values()
    group = cluster.create(cpus(1))
    cluster.settle()
    assert node.run(in_group(Resources.of(num_cpus=1), group, 0))
    assert node.run(Resources.of(num_cpus=1)), "not in the group"
    cluster.remove(group)
    cluster.settle()
    assert [task.need for task in node.tasks] == [Resources.of(num_cpus=1)]
    assert node.ledger.available() == {"CPU": 1.0}
    assert cluster.states_told(group)[-1] == "REMOVED"
    assert not cluster.rows


def test_a_group_that_is_removed_while_it_is_reserved_leaves_nothing() -> None:
    for step in range(4):
        cluster = Cluster(1, 1)
        group = cluster.create(cpus(1, 1), "STRICT_SPREAD")
        for node, one in list(cluster.nodes.items())[:step]:
            one.take()
            cluster.answer(node)
        if step == 3:
            cluster.nodes[b"\0\0\0\1"].take()
        cluster.remove(group)
        cluster.settle()
        assert all(node.ledger.available() == {"CPU": 1.0} for node in cluster.nodes.values())


def test_bundles_of_a_dead_node_are_placed_elsewhere() -> None:
    cluster = Cluster(2, 2, 2)
    group = cluster.create(cpus(1, 1), "STRICT_SPREAD")
    cluster.settle()
    lost, kept = cluster.nodes_of(group)
    cluster.kill(lost)
    assert cluster.state(group) == "RESCHEDULING"
    cluster.settle()
    assert cluster.state(group) == "CREATED"
    again, same = cluster.nodes_of(group)
    assert same == kept
    assert again not in (lost, kept)
    assert cluster.states_told(group) == ["PENDING", "CREATED", "RESCHEDULING", "CREATED"]


def test_a_group_waits_for_a_node_that_can_take_it_and_says_why() -> None:
    cluster = Cluster(1)
    group = cluster.create(cpus(4))
    cluster.settle()
    state = cluster.told[-1][1]
    assert state == m.PlacementGroupState(group, m.PENDING, "bundle 0: no node has CPU 4, the most is 1")
    cluster.add_node(4)
    cluster.settle()
    assert cluster.state(group) == "CREATED"


def test_a_name_belongs_to_one_living_group_of_a_namespace() -> None:
    cluster = Cluster(4)
    first = cluster.create(cpus(1), name="mine", namespace="one")
    cluster.create(cpus(1), name="mine", namespace="two")
    cluster.create(cpus(1), name="mine", namespace="one")
    assert "is taken in namespace 'one'" in [one.error for _, one in cluster.told if type(one) is m.PlacementGroups][-1]
    cluster.manager.find(DRIVER, m.FindPlacementGroups(5, name="mine", namespace="one"))
    (found,) = cluster.manager.outbox
    assert isinstance(found, Send)
    assert isinstance(found.message, m.PlacementGroups)
    assert found.message.groups[0].row.group == first
    cluster.manager.outbox.clear()
    cluster.remove(first)
    again = cluster.create(cpus(1), name="mine", namespace="one")
    cluster.settle()
    assert cluster.state(again) == "CREATED"


def test_groups_end_with_their_job_unless_they_are_detached() -> None:
    cluster = Cluster(4)
    mine, detached = cluster.create(cpus(1)), cluster.create(cpus(1), detached=True)
    cluster.settle()
    cluster.manager.job_ended(JOB)
    cluster.carry_out()
    cluster.settle()
    assert [cluster.state(group) for group in (mine, detached)] == ["REMOVED", "CREATED"]


def test_creating_and_removing_twice_is_as_once() -> None:
    cluster = Cluster(2)
    group = cluster.create(cpus(1))
    cluster.manager.create(DRIVER, JOB, m.CreatePlacementGroup(7, group, cpus(1)), cluster.now_s)
    cluster.carry_out()
    cluster.settle()
    assert cluster.nodes[b"\0\0\0\1"].ledger.available()["CPU"] == 1.0
    cluster.remove(group)
    cluster.remove(group)
    cluster.manager.create(DRIVER, JOB, m.CreatePlacementGroup(8, group, cpus(1)), cluster.now_s)
    cluster.carry_out()
    cluster.settle()
    assert cluster.state(group) == "REMOVED"
    assert cluster.nodes[b"\0\0\0\1"].ledger.available() == {"CPU": 2.0}


def test_watching_a_group_that_is_gone_says_so() -> None:
    cluster = Cluster(1)
    cluster.manager.watch(DRIVER, bytes(16))
    (sent,) = cluster.manager.outbox
    assert sent == Send(
        DRIVER, m.PlacementGroupState(bytes(16), m.REMOVED, "it was removed long ago, or belongs to another session")
    )


@pytest.mark.parametrize(
    "wrong",
    [{"bundles": []}, {"strategy": "TIGHT"}, {"selectors": ["", ""]}],
    ids=["no bundle", "no strategy", "selectors"],
)
def test_a_wrong_message_changes_nothing(wrong: dict[str, Any]) -> None:
    cluster = Cluster(1)
    message = m.CreatePlacementGroup(**{"request": 1, "group": bytes(16), "bundles": cpus(1), **wrong})
    with pytest.raises(ValueError, match=r"asks for|selectors"):
        cluster.manager.create(DRIVER, JOB, message, 0.0)
    assert not cluster.manager.reports()


class Groups(RuleBasedStateMachine):
    """Anything at once: creating, removing, deaths of nodes, tasks that come and go, restarts of the manager."""

    @initialize(counts=st.lists(st.integers(1, 4), min_size=1, max_size=3))
    def begin(self, counts: list[int]) -> None:
        self.cluster = Cluster(*counts)
        self.groups: list[bytes] = []

    @rule(amounts=st.lists(st.sampled_from([1, 1, 2, 3]), min_size=1, max_size=3), strategy=st.sampled_from(STRATEGIES))
    def create(self, amounts: list[int], strategy: str) -> None:
        self.groups.append(self.cluster.create(cpus(*amounts), strategy))

    @precondition(lambda self: self.groups)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        self.cluster.remove(data.draw(st.sampled_from(self.groups)))

    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        ready = [node for node, one in self.cluster.nodes.items() if one.inbox]
        if ready:
            self.cluster.nodes[data.draw(st.sampled_from(ready))].take()

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        ready = [node for node, one in self.cluster.nodes.items() if one.answers]
        if ready:
            self.cluster.answer(data.draw(st.sampled_from(ready)))

    @rule(data=st.data(), index=st.integers(-1, 2))
    def run_task(self, data: st.DataObject, index: int) -> None:
        if self.cluster.nodes:
            node = self.cluster.nodes[data.draw(st.sampled_from(sorted(self.cluster.nodes)))]
            need = Resources.of(num_cpus=1)
            groups = sorted(node.groups())
            if groups and data.draw(st.booleans()):
                need = in_group(need, data.draw(st.sampled_from(groups)), index)
            node.run(need)

    @rule(data=st.data())
    def end_task(self, data: st.DataObject) -> None:
        busy = [node for node, one in self.cluster.nodes.items() if one.tasks]
        if busy:
            node = self.cluster.nodes[data.draw(st.sampled_from(busy))]
            node.end(data.draw(st.sampled_from(node.tasks)))

    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        if self.cluster.nodes:
            self.cluster.report(data.draw(st.sampled_from(sorted(self.cluster.nodes))))

    @precondition(lambda self: self.cluster.last_node < 5)
    @rule(count=st.integers(1, 4))
    def join(self, count: int) -> None:
        self.cluster.add_node(count)

    @precondition(lambda self: len(self.cluster.nodes) > 1)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        self.cluster.kill(data.draw(st.sampled_from(sorted(self.cluster.nodes))))

    @rule()
    def restart(self) -> None:
        self.cluster.restart_manager()

    @rule()
    def rest(self) -> None:
        """When nothing is under way, nodes hold the bundles of the groups that are created, and of no others."""
        cluster = self.cluster
        for node in list(cluster.nodes):
            cluster.report(node)
        cluster.settle()
        for node, one in cluster.nodes.items():
            expected = {
                name_in_group("CPU", group.id, index)
                for group in cluster.manager
                for index, place in enumerate(group.places)
                if place.node == node
            }
            names = {name for name in one.ledger.total if name.startswith("CPU_group_") and parse_name(name)[2] >= 0}  # type: ignore[index]
            assert names == expected
            assert not one.bundles.is_draining
        for group in cluster.manager:
            assert not group.has_attempt
            if group.state == m.CREATED:
                assert not group.unplaced()
                continue
            occupied = [place.node for place in group.places if place.node]
            found = choose_nodes(group.unplaced(), group.strategy, cluster.manager._rooms(), occupied)
            assert isinstance(found, NoRoom), f"{group!r} could be placed"

    @invariant()
    def it_adds_up(self) -> None:
        if hasattr(self, "cluster"):
            self.cluster.manager.validate()
            for node in self.cluster.nodes.values():
                node.bundles.validate()

    def teardown(self) -> None:
        if hasattr(self, "cluster"):
            self.rest()
            for group in self.groups:
                self.cluster.remove(group)
            self.rest()
            for node in self.cluster.nodes.values():
                for task in list(node.tasks):
                    node.end(task)
                assert node.ledger.available() == node.ledger.total.to_floats()
                assert set(node.ledger.free()) == {"CPU"}


Groups.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestGroups = Groups.TestCase
