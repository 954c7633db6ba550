"""Which node each bundle goes to: by example, and against trying everything."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remora.base.resources import UNITS_PER_ONE
from remora.base.scheduling import IN, LabelCondition
from remora.core.bundle_placement import (
    PACK,
    SPREAD,
    STRATEGIES,
    STRICT_PACK,
    STRICT_SPREAD,
    BundleRequest,
    NodeRoom,
    NoRoom,
    choose_nodes,
)

A, B, C = b"aaaa", b"bbbb", b"cccc"


def units(**amounts: float) -> dict[str, int]:
    return {name: round(amount * UNITS_PER_ONE) for name, amount in amounts.items()}


def room(available: float, total: float | None = None, labels: Mapping[str, str] | None = None) -> NodeRoom:
    return NodeRoom(units(CPU=available if total is None else total), units(CPU=available), labels or {})


def bundles(*cpus: float) -> dict[int, BundleRequest]:
    return {index: BundleRequest(units(CPU=amount)) for index, amount in enumerate(cpus)}


def placed(found: dict[int, bytes] | NoRoom) -> list[bytes]:
    assert isinstance(found, dict), found
    return [found[index] for index in sorted(found)]


def test_pack_takes_the_fullest_node_that_has_room_for_all() -> None:
    nodes = {A: room(8), B: room(2, 8), C: room(1, 8)}
    assert placed(choose_nodes(bundles(1, 1), PACK, nodes)) == [B, B]


def test_pack_uses_more_nodes_only_when_it_must() -> None:
    nodes = {A: room(3), B: room(3), C: room(3)}
    assert len(set(placed(choose_nodes(bundles(1, 1, 1, 1, 1), PACK, nodes)))) == 2


def test_spread_uses_as_many_nodes_as_there_are() -> None:
    nodes = {A: room(8), B: room(8), C: room(8)}
    found = placed(choose_nodes(bundles(1, 1, 1, 1), SPREAD, nodes))
    assert set(found) == {A, B, C}


def test_strict_pack_needs_one_node_with_room_for_all() -> None:
    nodes = {A: room(1, 4), B: room(2, 4)}
    assert placed(choose_nodes(bundles(1, 1), STRICT_PACK, nodes)) == [B, B]
    refused = choose_nodes(bundles(2, 1), STRICT_PACK, nodes)
    assert isinstance(refused, NoRoom)
    assert not refused.is_never
    refused = choose_nodes(bundles(3, 3), STRICT_PACK, nodes)
    assert isinstance(refused, NoRoom)
    assert refused.is_never
    assert refused.reason == "2 bundles need CPU 6 on one node, and no node has so much that may be used"


def test_strict_spread_finds_the_one_way_that_works() -> None:
    nodes = {A: room(4), B: room(2), C: room(1)}
    assert placed(choose_nodes(bundles(1, 2, 3), STRICT_SPREAD, nodes)) == [C, B, A]
    refused = choose_nodes(bundles(1, 1, 1, 1), STRICT_SPREAD, nodes)
    assert isinstance(refused, NoRoom)
    assert refused.is_never
    assert "on 4 different nodes, and there are 3 nodes" in refused.reason


def test_a_bundle_that_no_node_has_is_named() -> None:
    needs_disk = {0: BundleRequest(units(CPU=1)), 1: BundleRequest(units(disk=1))}
    refused = choose_nodes(needs_disk, PACK, {A: room(4)})
    assert refused == NoRoom("bundle 1: no node has any 'disk'", is_never=True)
    assert choose_nodes(bundles(1), SPREAD, {}) == NoRoom("there is no node", is_never=True)


def test_a_bundle_goes_where_the_labels_are_as_it_wants_them() -> None:
    nodes = {A: room(4, labels={"region": "us"}), B: room(4, labels={"region": "eu"})}
    in_eu = BundleRequest(units(CPU=1), (LabelCondition("region", IN, ("eu",)),))
    assert placed(choose_nodes({0: in_eu}, PACK, nodes)) == [B]
    in_us = BundleRequest(units(CPU=1), (LabelCondition("region", IN, ("us",)),))
    assert placed(choose_nodes({0: in_eu, 1: in_us}, STRICT_SPREAD, nodes)) == [B, A]
    refused = choose_nodes({0: in_eu, 1: in_us}, STRICT_PACK, nodes)
    assert isinstance(refused, NoRoom)
    assert refused.is_never


def test_what_is_placed_again_suits_the_bundles_that_live() -> None:
    nodes = {A: room(4), B: room(4), C: room(4)}
    one = {1: BundleRequest(units(CPU=1))}
    assert placed(choose_nodes(one, PACK, nodes, [B])) == [B]
    assert placed(choose_nodes(one, STRICT_PACK, nodes, [C])) == [C]
    assert placed(choose_nodes(one, SPREAD, {A: room(1), B: room(4)}, [B])) == [A]
    assert choose_nodes(one, STRICT_SPREAD, {A: room(4)}, [A]) == NoRoom(
        "its bundle needs CPU 1 on a node of its own, and there are 1 nodes, 1 of which have other bundles of it", True
    )


def test_a_large_group_is_placed_although_the_first_guess_fails() -> None:
    # Taking the largest bundles first fills a node with 3 + 3 and leaves 2 + 2 + 2 for two nodes with 5 and 1.
    nodes = {A: room(6), B: room(6)}
    assert sorted(placed(choose_nodes(bundles(3, 3, 2, 2, 2), PACK, nodes))) in ([A, A, A, B, B], [A, A, B, B, B])


@pytest.mark.parametrize("strategy", ["", "PACKED"])
def test_there_are_four_strategies(strategy: str) -> None:
    with pytest.raises(ValueError, match="cannot be placed"):
        choose_nodes(bundles(1), strategy, {A: room(1)})


amount = st.sampled_from([0, 1, 2, 3])
need = st.builds(lambda cpu, gpu: {"CPU": cpu, "GPU": gpu}, st.sampled_from([1, 2, 3]), st.sampled_from([0, 0, 1, 2]))
having = st.builds(lambda cpu, gpu: {"CPU": cpu, "GPU": gpu}, amount, amount)


@settings(max_examples=300, deadline=None)
@given(
    needs=st.lists(need, min_size=1, max_size=4),
    free=st.lists(having, min_size=1, max_size=3),
    more=st.sampled_from([0, 1]),
    strategy=st.sampled_from(STRATEGIES),
)
def test_a_place_is_found_whenever_there_is_one(
    needs: list[dict[str, int]], free: list[dict[str, int]], more: int, strategy: str
) -> None:
    def possible(rooms: list[dict[str, int]]) -> list[tuple[int, ...]]:
        found = []
        for choice in product(range(len(rooms)), repeat=len(needs)):
            used = len(set(choice))
            if (strategy == STRICT_PACK and used > 1) or (strategy == STRICT_SPREAD and used < len(needs)):
                continue
            if all(
                sum(one[name] for one, at in zip(needs, choice, strict=True) if at == index) <= has[name]
                for index, has in enumerate(rooms)
                for name in has
            ):
                found.append(choice)
        return found

    total = [{name: amount + more for name, amount in has.items()} for has in free]
    nodes = {bytes([65 + index]) * 4: NodeRoom(total[index], has) for index, has in enumerate(free)}
    found = choose_nodes({index: BundleRequest(one) for index, one in enumerate(needs)}, strategy, nodes)
    ways = possible(free)
    if isinstance(found, NoRoom):
        assert not ways
        assert found.is_never == (not possible(total))
        return
    choice = tuple(found[index][0] - 65 for index in range(len(needs)))
    assert choice in ways
    counts = [len(set(way)) for way in ways]
    if strategy == PACK and min(counts) == 1:
        assert len(set(choice)) == 1, "all fit on one node"
    if strategy == SPREAD and max(counts) == len(needs):
        assert len(set(choice)) == len(needs), "each can have a node of its own"
