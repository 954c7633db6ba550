"""What nodes are asked to hold for placement groups is summed up as it is asked and answered, not anew each time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from remora.core.asked_amounts import AskedAmounts
from remora.core.bundle_placement import NodeRoom
from remora.core.placement_group import Place
from remora.core.placement_groups import PlacementGroupManager, SendNode
from remora.messages import placement_groups as m

ONE, TWO = b"\0\0\0\1", b"\0\0\0\2"
DRIVER, JOB = b"\0\0\0\1driv", b"job-one."
CPU = {"CPU": 10_000}


def test_amounts_are_left_out_until_they_are_taken_back() -> None:
    asked = AskedAmounts()
    room = NodeRoom({"CPU": 40_000}, {"CPU": 30_000, "GPU": 10_000})
    asked.add(ONE, {"CPU": 10_000, "memory": 5})
    asked.add(ONE, CPU)
    assert asked.without(ONE, room).available == {"CPU": 10_000, "GPU": 10_000}
    assert room.available == {"CPU": 30_000, "GPU": 10_000}, "what was reported stays"
    assert asked.without(TWO, room) is room
    asked.take_back(ONE, CPU)
    asked.take_back(ONE, {"CPU": 10_000, "memory": 5})
    assert asked.without(ONE, room) is room
    assert asked == AskedAmounts()


class NotWalkedOver(list[Place]):
    def __iter__(self) -> Iterator[Place]:
        pytest.fail("the places of a group are walked over while another one is placed")


def manager_with(cpus: int) -> PlacementGroupManager:
    manager = PlacementGroupManager()
    manager.node_changed(ONE, {"CPU": cpus * 10_000}, {"CPU": cpus * 10_000}, {}, 0.0)
    return manager


def create(manager: PlacementGroupManager, number: int) -> bytes:
    group = b"%016d" % number
    manager.create(DRIVER, JOB, m.CreatePlacementGroup(number, group, [CPU, CPU], "PACK"), 0.0)
    return group


def test_a_group_is_placed_without_a_look_at_the_others() -> None:
    manager = manager_with(5)
    create(manager, 1)
    (other,) = manager
    places = other.places
    other.places = NotWalkedOver(places)
    create(manager, 2)
    create(manager, 3)
    other.places = places
    manager.validate()
    asked = [each for each in manager.outbox if isinstance(each, SendNode)]
    assert [each.message.group for each in asked] == [b"%016d" % 1, b"%016d" % 2], "the third one finds no room"


@pytest.mark.parametrize("end", ["held", "refused", "removed", "node died", "restored"])
def test_what_was_asked_for_is_free_again_when_the_question_is_over(end: str) -> None:
    manager = manager_with(2)
    group = create(manager, 1)
    assert manager._asked != AskedAmounts()
    if end in ("held", "refused"):
        outcome = m.RESERVED if end == "held" else m.REFUSED
        manager.answered(ONE, m.BundlesAnswer(group, 1, outcome, {"CPU": 0}), 0.0)
    elif end == "removed":
        manager.remove(DRIVER, m.RemovePlacementGroup(2, group), 0.0)
    elif end == "node died":
        manager.node_died(ONE, 0.0)
    else:
        rows = manager.rows()
        manager = PlacementGroupManager()
        manager.restore(rows, 0.0)
    manager.validate()
    assert manager._asked == AskedAmounts()
