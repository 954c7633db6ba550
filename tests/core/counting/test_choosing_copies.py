"""Which copies go when the store is short of space: all are looked at only when that can make a difference."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remora.base.ids import ObjectId, ProcessId, make_object_id, make_process_id
from remora.base.object_ref import STORED
from remora.core.counting.local_copies import LocalCopies, LocalCopy, Use
from remora.messages.objects import Location, Value

SIZE_BYTES = 1000
PROCESSES = [make_process_id(1, number) for number in (1, 2)]
WRITER = make_process_id(2, 1)
IDS = [make_object_id(WRITER, number) for number in range(1, 5)]
PLACE = Location(b"\0\0\0\1", 64, SIZE_BYTES)
STORED_THERE = Value(STORED, b"", Location(b"\0\0\0\2", 64, SIZE_BYTES))

Choice = tuple[list[ObjectId], dict[ProcessId, list[ObjectId]]]


class LooksAlways(LocalCopies):
    """What is the same, and slow."""

    def choose(self, size_bytes: int) -> Choice:
        self._settled_bytes = 0
        return super().choose(size_bytes)


class Rig:
    def __init__(self, local: LocalCopies) -> None:
        self.local = local
        self.asked: dict[ProcessId, deque[list[ObjectId]]] = {process: deque() for process in PROCESSES}

    def add(self, object_id: ObjectId, *told: ProcessId) -> None:
        self.local.add(object_id, LocalCopy(STORED_THERE, WRITER, 2))
        self.local.arrived(object_id, PLACE)
        for process in told:
            self.local.told(object_id, process)

    def choose(self, copies: int) -> Choice:
        unused, questions = self.local.choose(copies * SIZE_BYTES)
        for object_id in unused:
            self.local.remove(object_id)
        for process, ids in questions.items():
            self.asked[process].append(ids)
        return unused, questions

    def do(self, kind: str, one: int, two: int) -> object:
        """One step, and what can be seen of it."""
        local, object_id, process = self.local, IDS[one % len(IDS)], PROCESSES[two % len(PROCESSES)]
        copy = local.get(object_id)
        if kind == "choose":
            return self.choose(two)
        if kind == "pull" and copy is None:
            local.add(object_id, LocalCopy(STORED_THERE, WRITER, 2))
        elif kind == "arrived" and copy is not None and copy.location is None:
            local.arrived(object_id, PLACE)
        elif kind == "told" and copy is not None and copy.location is not None:
            local.told(object_id, process)
        elif kind == "removed" and copy is not None:
            local.remove(object_id)
        elif kind == "answered" and self.asked[process]:
            ids = self.asked[process].popleft()
            return self.free(local.answered(process, [each for index, each in enumerate(ids) if one >> index & 1]))
        elif kind == "forgiven":
            local.ask_again()
        elif kind == "ended":
            self.asked[process].clear()
            return self.free(local.forget_process(process))
        return None

    def free(self, ids: list[ObjectId]) -> list[ObjectId]:
        for object_id in ids:
            self.local.remove(object_id)
        return ids

    def state(self) -> list[tuple[ObjectId, dict[ProcessId, Use], bool]]:
        return [(object_id, copy.users, copy.is_doomed) for object_id, copy in self.local]


STEPS = st.tuples(
    st.sampled_from(["choose", "choose", "choose", "pull", "arrived", "arrived", "told", "told", "told", "answered"])
    | st.sampled_from(["answered", "answered", "removed", "forgiven", "ended"]),
    st.integers(0, 63),
    st.integers(0, 6),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(STEPS, max_size=50))
def test_the_choice_is_as_if_all_copies_were_looked_at_each_time(steps: list[tuple[str, int, int]]) -> None:
    rig, plain = Rig(LocalCopies()), Rig(LooksAlways())
    for each in (rig, plain):
        for object_id in IDS:
            each.add(object_id, PROCESSES[0])
    for step in steps:
        assert rig.do(*step) == plain.do(*step)
        assert rig.state() == plain.state()


class CountsLooks(dict[ObjectId, LocalCopy]):
    looks = 0

    def items(self):  # type: ignore[no-untyped-def]
        self.looks += 1
        return super().items()


@pytest.fixture
def rig() -> Rig:
    rig = Rig(LocalCopies())
    rig.local._copies = CountsLooks()
    for object_id in IDS[:3]:
        rig.add(object_id, PROCESSES[0])
    return rig


def looks(rig: Rig) -> int:
    """How often all copies are looked at for room for two, which is asked five times."""
    copies = rig.local._copies
    assert isinstance(copies, CountsLooks)
    before = copies.looks
    for _ in range(5):
        rig.choose(2)
    return copies.looks - before


def test_who_was_asked_is_not_looked_for_again_while_nothing_happens(rig: Rig) -> None:
    assert looks(rig) == 1
    assert looks(rig) == 0
    assert rig.choose(1) == ([], {})
    assert rig.choose(3) == ([], {PROCESSES[0]: [IDS[2]]}), "more is lacking"


def test_there_is_a_look_when_a_copy_comes_or_goes_or_was_answered_for(rig: Rig) -> None:
    looks(rig)
    rig.add(IDS[3], PROCESSES[1])
    assert looks(rig) == 1
    rig.local.remove(IDS[3])
    assert looks(rig) == 1
    rig.local.answered(PROCESSES[0], [])
    assert looks(rig) == 1
    rig.local.ask_again()
    assert looks(rig) == 1
    rig.local.forget_process(PROCESSES[0])
    assert rig.choose(2) == (IDS[:2], {})


def test_who_reads_a_copy_that_nobody_was_asked_for_makes_no_look(rig: Rig) -> None:
    looks(rig)
    rig.local.told(IDS[2], PROCESSES[0])
    rig.local.told(IDS[2], PROCESSES[1])
    assert looks(rig) == 0
    rig.local.told(IDS[0], PROCESSES[1])
    assert looks(rig) == 1, "it was to be freed, and is not"


def test_who_used_a_copy_and_is_told_of_it_again_may_be_asked_at_once(rig: Rig) -> None:
    rig.choose(3)
    rig.local.answered(PROCESSES[0], [])
    assert rig.choose(3) == ([], {}), "all are in use"
    rig.local.told(IDS[1], PROCESSES[0])
    assert rig.choose(3) == ([], {PROCESSES[0]: [IDS[1]]})
