from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remora.core.arena_cutter import ExtentCutter
from remora.core.arena_layout import PAGE_SIZE_BYTES as PAGE

START = 1 << 30
SIZE = 1 << 20


def cut(extent: ExtentCutter, size_bytes: int, *, own_pages: bool = False) -> int:
    found = extent.cut(size_bytes, own_pages=own_pages)
    assert found is not None
    return found[0]


def test_large_objects_have_pages_of_their_own_and_small_ones_share() -> None:
    extent = ExtentCutter(START, SIZE)
    small, large, other = cut(extent, 100), cut(extent, 70_000), cut(extent, 100)
    assert other == small + 128
    assert large % PAGE == 0
    assert extent.cuts[large] == 18 * PAGE
    assert not any(large <= offset < large + 18 * PAGE for offset in (small, other))


def test_a_small_object_gets_its_own_pages_when_asked_for() -> None:
    extent = ExtentCutter(START, SIZE)
    small, alone = cut(extent, 100), cut(extent, 100, own_pages=True)
    assert alone % PAGE == 0
    assert extent.cuts[alone] == PAGE
    assert alone // PAGE != small // PAGE


def test_freed_space_is_cut_again_for_the_same_size() -> None:
    extent = ExtentCutter(START, SIZE)
    first, _ = cut(extent, 80_000), cut(extent, 80_000)
    extent.give_back(first)
    assert extent.cut(80_000) == (first, True)


def test_an_extent_that_got_empty_starts_anew_for_any_size() -> None:
    extent = ExtentCutter(START, SIZE)
    for offset in [cut(extent, 256 << 10) for _ in range(4)]:
        extent.give_back(offset)
    assert extent.cut(SIZE) == (START, True)


def test_a_full_extent_says_so() -> None:
    extent = ExtentCutter(START, SIZE)
    cut(extent, SIZE)
    assert extent.cut(1) is None
    with pytest.raises(KeyError):
        extent.give_back(START + 64)


def test_fresh_pages_are_told_from_pages_used_before() -> None:
    assert ExtentCutter(START, SIZE).cut(70_000) == (START, False)
    assert ExtentCutter(START, SIZE, fresh=False).cut(70_000) == (START, True)


SIZES = st.one_of(st.integers(0, 9000), st.sampled_from([64, 4096, 8192, 65_535, 65_536, 70_000, 200_000, 500_000]))


@given(st.lists(st.tuples(SIZES, st.booleans(), st.integers(0, 1000)), max_size=60), st.integers(0, 3))
def test_no_two_cuts_overlap_and_no_large_one_shares_a_page(steps: list[tuple[int, bool, int]], drops: int) -> None:
    extent = ExtentCutter(START, SIZE)
    live: dict[int, tuple[int, bool]] = {}
    for size, own_pages, pick in steps:
        found = extent.cut(size, own_pages=own_pages)
        if found is not None:
            assert found[0] not in live
            live[found[0]] = (size, own_pages or size >= 65_536)
        for _ in range(drops if pick % 2 else 0):
            if live:
                offset = sorted(live)[pick % len(live)]
                extent.give_back(offset)
                del live[offset]
        extent.validate()
        cursor = START
        for offset, (size, alone) in sorted(live.items()):
            assert offset >= cursor
            cursor = offset + size
            if alone:
                assert offset % PAGE == 0
                cursor = -(-cursor // PAGE) * PAGE
        assert cursor <= START + SIZE
