"""What a reader is answered that wants a chunk, by what is here of it and how long it has waited."""

from __future__ import annotations

import pytest

from remora.core.pull_sources import CHUNK_BYTES
from remora.core.served_chunks import ARRIVAL_WAIT_S, QUEUED_WAIT_S, UNKNOWN_WAIT_S, Arrival, Found, Wanted, answer_of
from remora.messages.transfer import CHUNK_FOLLOWS, CHUNK_NOT_HERE, CHUNK_TIMED_OUT, CHUNK_WAITS

SIZE_BYTES = 3 * CHUNK_BYTES
ASKED_S = 100.0


def wanted(offset: int = 0, size_bytes: int = CHUNK_BYTES) -> Wanted:
    return Wanted((b"object", b"writer"), offset, size_bytes, 0, ASKED_S)


def answer(
    one: Wanted, found: Found | None, after_s: float = 0.0, *, is_coming: bool = False, last_sent_s: float = 0.0
) -> int:
    return answer_of(one, found, is_coming=is_coming, last_sent_s=last_sent_s, now_s=ASKED_S + after_s)


@pytest.mark.parametrize(
    ("is_coming", "patience_s", "end"),
    [(False, UNKNOWN_WAIT_S, CHUNK_NOT_HERE), (True, QUEUED_WAIT_S, CHUNK_TIMED_OUT)],
)
def test_what_has_no_place_here_yet_is_waited_for_a_while(is_coming: bool, patience_s: float, end: int) -> None:
    assert answer(wanted(), None, patience_s - 0.01, is_coming=is_coming) == CHUNK_WAITS
    assert answer(wanted(), None, patience_s, is_coming=is_coming) == end


def test_chunks_that_have_come_are_served_and_the_others_are_waited_for() -> None:
    arrival = Arrival(SIZE_BYTES)
    found = Found(0, SIZE_BYTES, arrival)
    arrival.chunks.add(1)
    assert answer(wanted(CHUNK_BYTES), found) == CHUNK_FOLLOWS
    assert answer(wanted(0), found) == CHUNK_WAITS
    assert answer(wanted(CHUNK_BYTES, CHUNK_BYTES + 1), found) == CHUNK_WAITS
    assert answer(wanted(0), found, ARRIVAL_WAIT_S) == CHUNK_TIMED_OUT


def test_a_reader_waits_as_long_as_chunks_of_the_object_come() -> None:
    found = Found(0, SIZE_BYTES, Arrival(SIZE_BYTES))
    sent_s = ASKED_S + ARRIVAL_WAIT_S
    assert answer(wanted(), found, 2 * ARRIVAL_WAIT_S - 0.01, last_sent_s=sent_s) == CHUNK_WAITS
    assert answer(wanted(), found, 2 * ARRIVAL_WAIT_S, last_sent_s=sent_s) == CHUNK_TIMED_OUT


def test_of_an_object_that_will_not_come_only_what_is_here_is_served() -> None:
    arrival = Arrival(SIZE_BYTES)
    arrival.chunks.add(0)
    arrival.has_failed = True
    assert answer(wanted(0), Found(0, SIZE_BYTES, arrival)) == CHUNK_FOLLOWS
    assert answer(wanted(CHUNK_BYTES), Found(0, SIZE_BYTES, arrival)) == CHUNK_NOT_HERE


@pytest.mark.parametrize(("offset", "size_bytes"), [(0, SIZE_BYTES), (SIZE_BYTES, 0), (SIZE_BYTES - 1, 1)])
def test_all_of_a_whole_object_is_served(offset: int, size_bytes: int) -> None:
    arrival = Arrival(SIZE_BYTES)
    arrival.is_whole = True
    assert answer(wanted(offset, size_bytes), Found(0, SIZE_BYTES)) == CHUNK_FOLLOWS
    assert answer(wanted(offset, size_bytes), Found(0, SIZE_BYTES, arrival)) == CHUNK_FOLLOWS


@pytest.mark.parametrize(
    ("offset", "size_bytes"), [(-1, 1), (SIZE_BYTES, 1), (0, SIZE_BYTES + 1), (SIZE_BYTES + 1, -1), (0, -1)]
)
def test_nothing_outside_of_the_object_is_served(offset: int, size_bytes: int) -> None:
    assert answer(wanted(offset, size_bytes), Found(64, SIZE_BYTES)) == CHUNK_NOT_HERE
