"""Who is in the cluster: numbers that are never used twice, deaths that are declared once."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from remora.core.journal import Journal
from remora.core.membership import (
    FRESH_S,
    RESTART_SILENCE_S,
    RETURN_S,
    SILENCE_S,
    STALL_S,
    UNREACHABLE_S,
    Member,
    Membership,
    NodeDeparted,
    ViewChanged,
)
from remora.messages.head import Departure, JoinCluster, NodeLoad


class Rig:
    def __init__(self) -> None:
        self.membership = Membership(Journal(), first_number=5)
        self.now_s = 1000.0
        self.boots = 0

    def join(self, boot: bytes = b"", is_head_node: bool = False) -> bytes:
        self.boots += 1
        message = JoinCluster(
            boot or b"boot%d" % self.boots, 1, (3, 11), f"h:{self.boots}", "h", 1, {"CPU": 1}, is_head_node=is_head_node
        )
        member = self.membership.join(message, self.now_s)
        assert isinstance(member, Member)
        self.membership.connected(member.node, self.now_s)
        return member.node

    def run(self, seconds: float, beating: list[bytes], stalled_s: float = 0.0) -> None:
        """Time goes by while these nodes send heartbeats."""
        for _ in range(round(seconds * 10)):
            self.now_s += 0.1
            for node in beating:
                self.membership.heartbeat(node, stalled_s, self.now_s)
            self.membership.tick(self.now_s)
            self.membership.validate()

    def departures(self) -> list[Departure]:
        return [effect.departure for effect in self.membership.outbox if isinstance(effect, NodeDeparted)]


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.membership.tick(rig.now_s)
    return rig


def test_numbers_begin_where_the_cluster_begins_and_are_given_in_order(rig: Rig) -> None:
    assert [rig.join(), rig.join()] == [(5).to_bytes(4, "big"), (6).to_bytes(4, "big")]


def test_a_daemon_that_asks_twice_joins_once(rig: Rig) -> None:
    assert rig.join(b"same") == rig.join(b"same")


def test_a_connection_that_ends_is_a_death_within_a_second(rig: Rig) -> None:
    head, node = rig.join(is_head_node=True), rig.join()
    rig.membership.disconnected(node, rig.now_s)
    rig.run(0.5, [head])
    assert rig.departures() == []
    rig.run(RETURN_S - 0.5 + 0.1, [head])
    (departure,) = rig.departures()
    assert (departure.node, departure.heir, departure.is_orderly) == (node, head, False)
    assert "killed" in departure.cause


def test_a_connection_that_comes_back_in_time_is_no_death(rig: Rig) -> None:
    node = rig.join()
    rig.membership.disconnected(node, rig.now_s)
    rig.run(0.5, [])
    rig.membership.connected(node, rig.now_s)
    rig.run(10, [node])
    assert rig.departures() == []


def test_a_connection_that_ends_after_a_silence_has_until_the_silence_is_too_long(rig: Rig) -> None:
    node = rig.join()
    rig.run(FRESH_S + 0.2, [])
    rig.membership.disconnected(node, rig.now_s)
    rig.run(SILENCE_S - FRESH_S - 0.4, [])
    assert rig.departures() == []
    rig.membership.connected(node, rig.now_s)
    rig.run(10, [node])
    assert rig.departures() == []


def test_silence_is_a_death_within_five_seconds(rig: Rig) -> None:
    rig.join()
    rig.run(SILENCE_S - 0.2, [])
    assert rig.departures() == []
    rig.run(0.4, [])
    assert "silent" in rig.departures()[0].cause


def test_a_stream_that_ends_before_the_first_heartbeat_is_a_death(rig: Rig) -> None:
    member = rig.membership.join(JoinCluster(b"b", 1, (3, 11), "h:1", "h", 1, {}), rig.now_s)
    assert isinstance(member, Member)
    rig.membership.link_ended(member.node, rig.now_s)
    rig.run(RETURN_S + 0.1, [])
    assert [departure.node for departure in rig.departures()] == [member.node]


def test_a_stream_that_ends_while_heartbeats_come_is_no_death(rig: Rig) -> None:
    node = rig.join()
    rig.membership.link_ended(node, rig.now_s)
    rig.run(10, [node])
    assert rig.departures() == []


def test_time_that_the_head_did_not_run_is_nobodys_silence(rig: Rig) -> None:
    node = rig.join()
    rig.run(1, [node])
    rig.now_s += 60
    rig.membership.tick(rig.now_s)
    assert rig.departures() == []
    rig.run(SILENCE_S + 0.2, [])
    assert len(rig.departures()) == 1


def test_a_daemon_whose_loop_hangs_is_dead_though_its_heartbeats_come(rig: Rig) -> None:
    node = rig.join()
    rig.run(1, [node], STALL_S - 1)
    assert rig.departures() == []
    rig.run(0.1, [node], STALL_S)
    assert "loop has not turned for 30 s" in rig.departures()[0].cause


def test_the_heads_node_is_never_declared_dead(rig: Rig) -> None:
    head, node = rig.join(is_head_node=True), rig.join()
    rig.membership.disconnected(head, rig.now_s)
    rig.membership.reachability(node, head, False, rig.now_s)
    rig.run(1, [node], 0)
    assert rig.departures() == []
    rig.run(UNREACHABLE_S, [node])
    assert [departure.node for departure in rig.departures()] == [node], "the one that cannot reach it, instead"


def test_a_head_node_that_was_started_again_takes_the_place_of_the_one_before(rig: Rig) -> None:
    old, node = rig.join(is_head_node=True), rig.join()
    new = rig.join(is_head_node=True)
    assert [(departure.node, departure.heir) for departure in rig.departures()] == [(old, node)]
    assert rig.membership.head_node == new


def test_of_two_that_cannot_reach_each_other_the_younger_one_goes(rig: Rig) -> None:
    nodes = [rig.join(is_head_node=True), rig.join(), rig.join()]
    rig.membership.reachability(nodes[1], nodes[2], False, rig.now_s)
    rig.run(UNREACHABLE_S - 0.2, nodes)
    assert rig.departures() == []
    rig.run(0.4, nodes)
    (departure,) = rig.departures()
    assert departure.node == nodes[2]
    assert "could not reach each other" in departure.cause


def test_the_one_that_nobody_can_reach_goes_though_it_is_older(rig: Rig) -> None:
    head, old, young, younger = rig.join(is_head_node=True), rig.join(), rig.join(), rig.join()
    for other in (young, younger):
        rig.membership.reachability(other, old, False, rig.now_s)
    rig.run(UNREACHABLE_S + 0.2, [head, old, young, younger])
    assert [departure.node for departure in rig.departures()] == [old]


def test_trouble_that_is_over_in_time_kills_nobody(rig: Rig) -> None:
    one, two = rig.join(), rig.join()
    rig.membership.reachability(one, two, False, rig.now_s)
    rig.run(UNREACHABLE_S / 2, [one, two])
    rig.membership.reachability(one, two, True, rig.now_s)
    rig.run(UNREACHABLE_S, [one, two])
    assert rig.departures() == []


def test_a_dead_node_that_comes_back_is_refused_with_its_cause(rig: Rig) -> None:
    node = rig.join(b"its boot")
    rig.run(5, [])
    assert "silent" in rig.membership.refusal(node, b"its boot")
    rig.membership.heartbeat(node, 0, rig.now_s)
    rig.membership.connected(node, rig.now_s)
    assert not rig.membership.is_member(node)
    assert isinstance(rig.membership.join(JoinCluster(b"its boot", 1, (3, 11), "", "", 1, {}), 0), Departure)


def test_a_daemon_of_another_cluster_is_refused(rig: Rig) -> None:
    node = rig.join(b"its boot")
    assert "has no node" in rig.membership.refusal(node, b"another boot")
    assert "has no node" in rig.membership.refusal(b"\0\0\0\1", b"its boot")


def test_every_load_replaces_what_is_known_of_the_node(rig: Rig) -> None:
    node = rig.join()
    rig.membership.outbox.clear()
    load = NodeLoad({"CPU": 1}, {"CPU": 0}, 2, [({"CPU": 1}, 2)])
    rig.membership.load(node, load)
    rig.membership.load(node, load)
    changed, again = rig.membership.outbox  # what others have made of it in between was a guess
    assert isinstance(changed, ViewChanged)
    assert changed == again
    assert (changed.view.available, changed.view.queue_length) == ({"CPU": 0}, 2)


def test_members_have_time_to_come_back_to_a_head_that_was_started_again(rig: Rig) -> None:
    node, gone = rig.join(), rig.join()
    rig.membership.leave(gone, "done")
    records = [rig.membership.record(each) for each in (gone, node)]
    again = Membership(Journal(), first_number=5)
    again.restore([record for record in records if record], rig.membership.last_number, rig.now_s)
    again.tick(rig.now_s + 0.1)
    assert again.is_member(node)
    assert [departure.node for departure in again.departures()] == [gone]
    for step in range(1, 120):
        again.tick(rig.now_s + 0.1 * step)
        assert again.is_member(node) == (0.1 * step < RESTART_SILENCE_S)


class MembershipMachine(RuleBasedStateMachine):
    """Whatever happens, in any order: numbers are new, and each death is declared once, with a living heir."""

    nodes: Bundle[bytes] = Bundle("nodes")

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig()
        self.rig.membership.tick(self.rig.now_s)
        self.given: list[bytes] = []
        self.dead: dict[bytes, Departure] = {}
        self.head_nodes: list[bytes] = []

    @rule(target=nodes, is_head_node=st.booleans())
    def join(self, is_head_node: bool) -> bytes:
        node = self.rig.join(is_head_node=is_head_node)
        assert node not in self.given
        self.given.append(node)
        if is_head_node:
            self.head_nodes.append(node)
        return node

    @rule(node=nodes)
    def disconnect(self, node: bytes) -> None:
        self.rig.membership.disconnected(node, self.rig.now_s)

    @rule(node=nodes)
    def connect(self, node: bytes) -> None:
        self.rig.membership.connected(node, self.rig.now_s)

    @rule(node=nodes, peer=nodes, is_reachable=st.booleans())
    def reach(self, node: bytes, peer: bytes, is_reachable: bool) -> None:
        self.rig.membership.reachability(node, peer, is_reachable, self.rig.now_s)

    @rule(node=nodes)
    def leave(self, node: bytes) -> None:
        self.rig.membership.leave(node, "asked to")

    @rule(seconds=st.floats(0.1, 12), beating=st.lists(nodes, max_size=4), stalled_s=st.sampled_from([0.0, 31.0]))
    def wait(self, seconds: float, beating: list[bytes], stalled_s: float) -> None:
        self.rig.run(min(seconds, 12), beating, stalled_s)

    @rule()
    def restart(self) -> None:
        old = self.rig.membership
        self.take()
        records = [record for record in map(old.record, self.given) if record is not None]
        self.rig.membership = Membership(Journal(), first_number=5)
        self.rig.membership.restore(records, old.last_number, self.rig.now_s)
        departures = self.rig.membership.departures()
        before = sorted(old.departures(), key=lambda departure: departure.node)
        assert departures[: len(before)] == before
        has_ended = (
            bool(self.head_nodes) and self.head_nodes[-1] in self.dead and self.dead[self.head_nodes[-1]].is_orderly
        )
        ended = [view.node for view in old.views()] if has_ended else []
        assert [departure.node for departure in departures[len(before) :]] == ended

    def take(self) -> None:
        for departure in self.rig.departures():
            assert departure.node not in self.dead, "declared twice"
            assert departure.heir not in self.dead, "the heir was dead before"
            self.dead[departure.node] = departure
        self.rig.membership.outbox.clear()

    @invariant()
    def the_dead_stay_dead(self) -> None:
        self.take()
        membership = self.rig.membership
        membership.validate()
        assert {node for node in self.given if not membership.is_member(node)} == set(self.dead)


MembershipMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestMembershipMachine = MembershipMachine.TestCase
