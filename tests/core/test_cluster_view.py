"""What is known of nodes: reports, what is on the way to them, deaths."""

from __future__ import annotations

import pytest

from remora.base.resources import Resources
from remora.core.cluster_view import ClusterView, NodeView

FIRST, SECOND = b"\0\0\0\1", b"\0\0\0\2"
ONE = Resources.of(num_cpus=1)


def view_of(cpus: int, free: int | None = None, **more: object) -> tuple[ClusterView, NodeView]:
    view = ClusterView()
    total = Resources.of(num_cpus=cpus).units
    available = Resources.of(num_cpus=cpus if free is None else free).units
    view.report(FIRST, total=total, available=available, now_s=1.0, **more)  # type: ignore[arg-type]
    node = view.get(FIRST)
    assert node is not None
    return view, node


def test_what_was_asked_for_counts_as_taken_until_it_is_answered() -> None:
    view, node = view_of(2)
    view.ask(FIRST, ONE, 2)
    assert not node.has_room(ONE)
    view.ask(FIRST, ONE, -1)
    assert node.has_room(ONE)
    view.validate()


def test_what_was_granted_is_taken_until_it_is_returned_or_reported() -> None:
    view, node = view_of(1)
    view.ask(FIRST, ONE)
    view.ask(FIRST, ONE, -1)
    view.take(FIRST, ONE)
    assert not node.has_room(ONE)
    view.take(FIRST, ONE, -1)
    assert node.has_room(ONE)
    view.take(FIRST, ONE, -1)
    assert not node.has_room(Resources.of(num_cpus=2)), "a node never has more free than there is"


def test_a_report_is_news_and_replaces_what_was_guessed() -> None:
    view, node = view_of(1)
    view.take(FIRST, ONE)
    before = node.revision
    view.report(FIRST, total=ONE.units, available=ONE.units, queue_length=3, now_s=2.0)
    assert node.revision > before
    assert node.has_room(ONE)
    assert (node.queue_length, node.heard_s) == (3, 2.0)


def test_a_report_does_not_answer_what_was_asked() -> None:
    view, node = view_of(1)
    view.ask(FIRST, ONE)
    view.report(FIRST, total=ONE.units, available=ONE.units, now_s=2.0)
    assert not node.has_room(ONE)


def test_room_that_is_taken_is_no_news_and_room_that_is_freed_is() -> None:
    view, node = view_of(1)
    before = node.revision
    view.take(FIRST, ONE)
    assert node.revision == before
    view.take(FIRST, ONE, -1)
    assert node.revision > before


def test_address_and_labels_stay_when_a_report_leaves_them_out() -> None:
    view, node = view_of(1, address="10.0.0.2:7000", labels={"region": "eu"})
    view.report(FIRST, total=ONE.units, available={}, now_s=2.0)
    assert (node.address, node.labels) == ("10.0.0.2:7000", {"region": "eu"})
    assert str(node) == "node 00000001 (10.0.0.2:7000)"


def test_a_dead_node_stays_dead_whatever_is_heard_of_it() -> None:
    view, node = view_of(1)
    view.ask(FIRST, ONE)
    view.died(FIRST, "silent for 5 s")
    view.report(FIRST, total=ONE.units, available=ONE.units, now_s=2.0)
    view.ask(FIRST, ONE, -1)
    view.take(FIRST, ONE, -1)
    assert view.is_dead(FIRST)
    assert not view.alive()
    assert node.death_cause == "silent for 5 s"
    view.validate()


def test_a_node_may_die_before_it_was_heard_of() -> None:
    view = ClusterView()
    view.died(SECOND, "")
    assert view.is_dead(SECOND)
    assert not view.is_dead(FIRST), "that one is unknown"


def test_of_nodes_that_died_long_ago_only_the_death_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("remora.core.cluster_view.REMEMBERED_DEAD", 2)
    view = ClusterView()
    nodes = [number.to_bytes(4, "big") for number in range(1, 5)]
    for node in nodes:
        view.report(node, address="h:1", total=ONE.units, available={}, labels={"zone": "a"}, now_s=1.0)
        view.died(node, "it was killed")
    view.died(nodes[3], "it was killed")
    for node in nodes:
        assert view.is_dead(node)
        view.report(node, total=ONE.units, available=ONE.units, now_s=2.0)
    assert not view.alive()
    known = [(one.address, one.total, one.labels, one.death_cause) for one in map(view.get, nodes) if one is not None]
    whole = ("h:1", ONE.units, {"zone": "a"}, "it was killed")
    assert known == [("", {}, {}, "")] * 2 + [whole] * 2
    view.validate()


def test_living_nodes_are_in_the_order_of_their_numbers() -> None:
    view, _ = view_of(1)
    view.report(b"\0\0\0\3", total={}, available={}, now_s=1.0)
    view.report(SECOND, total={}, available={}, now_s=1.0)
    assert [node.node[-1] for node in view.alive()] == [1, 2, 3]


def test_use_is_that_of_the_fullest_resource_that_is_asked_for() -> None:
    view = ClusterView()
    view.report(FIRST, total={"CPU": 40_000, "GPU": 20_000}, available={"CPU": 20_000, "GPU": 0}, now_s=1.0)
    node = view.get(FIRST)
    assert node is not None
    assert node.use_with(ONE) == 0.75
    assert node.use_with(Resources()) == 0.0
