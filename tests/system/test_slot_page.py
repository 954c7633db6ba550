"""The page of slots: what another process reads there of a worker that is dead."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from remora.system.slot_page import NAME_SIZE_BYTES, SLOT_COUNT, SlotPage, create_slot_page

SUBMITTER = b"submit01"


@pytest.fixture
def pages() -> Iterator[tuple[SlotPage, SlotPage]]:
    fd = create_slot_page()
    mine, theirs = SlotPage(os.dup(fd)), SlotPage(fd)
    yield mine, theirs
    mine.close()
    theirs.close()


def test_a_new_page_shows_no_call_and_no_name(pages: tuple[SlotPage, SlotPage]) -> None:
    page, _ = pages
    assert page.running_call(0, SUBMITTER) is None
    assert page.name(SLOT_COUNT - 1) == ""


def test_the_call_that_was_begun_last_is_seen_through_every_mapping_by_its_submitter_only(
    pages: tuple[SlotPage, SlotPage],
) -> None:
    mine, theirs = pages
    mine.begin(3, SUBMITTER, 7)
    mine.begin(3, SUBMITTER, (1 << 32) - 1)
    assert theirs.running_call(3, SUBMITTER) == (1 << 32) - 1
    assert theirs.running_call(3, b"another1") is None
    assert theirs.running_call(2, SUBMITTER) is None
    assert theirs.running_call(4, SUBMITTER) is None


def test_what_a_killed_process_began_is_still_there(pages: tuple[SlotPage, SlotPage]) -> None:
    mine, theirs = pages
    child = os.fork()
    if not child:
        theirs.begin(5, SUBMITTER, 42)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert mine.running_call(5, SUBMITTER) == 42


@pytest.mark.parametrize("name", ["add", "x" * 100, "ü" * 100, "a" + "ü" * 100, ""])
def test_names_are_cut_to_what_fits_and_stay_readable(pages: tuple[SlotPage, SlotPage], name: str) -> None:
    mine, theirs = pages
    mine.set_name(1, "an earlier and longer name")
    mine.set_name(1, name)
    seen = theirs.name(1)
    assert name.startswith(seen)
    assert len(seen.encode()) in (len(name.encode()), NAME_SIZE_BYTES, NAME_SIZE_BYTES - 1)


def test_neither_name_nor_call_touches_the_other_or_the_neighbours(pages: tuple[SlotPage, SlotPage]) -> None:
    page, _ = pages
    for slot in range(3):
        page.set_name(slot, f"name {slot}" + "y" * 60)
        page.begin(slot, SUBMITTER, slot)
    assert [page.running_call(slot, SUBMITTER) for slot in range(3)] == [0, 1, 2]
    assert [page.name(slot)[:6] for slot in range(3)] == ["name 0", "name 1", "name 2"]


def test_a_cleared_slot_is_as_new(pages: tuple[SlotPage, SlotPage]) -> None:
    page, _ = pages
    page.begin(9, SUBMITTER, 1)
    page.set_name(9, "old")
    page.clear(9)
    assert page.running_call(9, SUBMITTER) is None
    assert page.name(9) == ""
