from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remora.core.arena_ranges import RangeSet

SPACE = 64
RANGE = st.tuples(st.integers(0, SPACE - 1), st.integers(1, 16)).map(lambda r: (r[0], min(r[1], SPACE - r[0])))


def bytes_of(ranges: RangeSet) -> set[int]:
    return {byte for start, size in ranges for byte in range(start, start + size)}


def test_ranges_that_touch_become_one() -> None:
    ranges = RangeSet()
    ranges.add(0, 10)
    ranges.add(20, 10)
    ranges.add(10, 10)
    assert list(ranges) == [(0, 30)]


def test_a_range_that_overlaps_is_refused_and_changes_nothing() -> None:
    ranges = RangeSet()
    ranges.add(10, 10)
    for start, size in ((10, 1), (5, 6), (19, 5), (0, 40), (12, 2), (0, 0)):
        with pytest.raises(ValueError, match=r"overlap|cannot be added"):
            ranges.add(start, size)
    assert list(ranges) == [(10, 10)]


def test_the_smallest_range_that_fits_is_taken_and_its_rest_stays() -> None:
    ranges = RangeSet()
    ranges.add(0, 100)
    ranges.add(200, 12)
    ranges.add(300, 50)
    assert ranges.take(10) == 200
    assert list(ranges) == [(0, 100), (210, 2), (300, 50)]
    assert ranges.take(101) is None


def test_taking_the_smallest_cuts_it_to_what_is_wanted() -> None:
    ranges = RangeSet()
    ranges.add(0, 100)
    ranges.add(200, 12)
    assert [ranges.take_smallest(20), ranges.take_smallest(20)] == [(200, 12), (0, 20)]
    assert list(ranges) == [(20, 80)]


def test_removing_what_is_not_all_there_is_refused() -> None:
    ranges = RangeSet()
    ranges.add(10, 10)
    for start, size in ((9, 2), (19, 2), (30, 1), (12, 0)):
        with pytest.raises(ValueError, match="not all in the set"):
            ranges.remove(start, size)
    assert ranges.total_bytes == 10


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "discard", "take"]), RANGE), max_size=40))
def test_it_agrees_with_a_set_of_single_bytes(steps: list[tuple[str, tuple[int, int]]]) -> None:
    ranges, model = RangeSet(), set[int]()
    for step, (start, size) in steps:
        wanted = set(range(start, start + size))
        if step == "add" and not wanted & model:
            ranges.add(start, size)
            model |= wanted
        elif step == "remove" and wanted <= model:
            ranges.remove(start, size)
            model -= wanted
        elif step == "discard":
            ranges.discard(start, size)
            model -= wanted
        elif step == "take":
            largest = max((size for _, size in ranges), default=0)
            found = ranges.take(size)
            assert (found is None) == (largest < size)
            if found is not None:
                taken = set(range(found, found + size))
                assert taken <= model
                model -= taken
        assert bytes_of(ranges) == model
        assert ranges.total_bytes == len(model)
        assert ranges.covers(start, size) == (wanted <= model)
        ranges.validate()
