"""What a node answers a reader that wants a chunk: its bytes, to wait, or to look elsewhere.

A node serves chunks of objects that it is still receiving itself. How long a reader waits for one depends on why it is
not here yet.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from remora.core.pull_sources import CHUNK_BYTES
from remora.messages.transfer import CHUNK_FOLLOWS, CHUNK_NOT_HERE, CHUNK_TIMED_OUT, CHUNK_WAITS

MAX_CHUNK_BYTES = 1 << 30
ARRIVAL_WAIT_S = 10.0
"""A chunk that has not come here after so long is asked for elsewhere."""
QUEUED_WAIT_S = 2.0
"""So long for one that waits for its turn here. Not longer: it may be waiting for something that its reader has, whose
turn there comes after the reader's pull."""
UNKNOWN_WAIT_S = 1.0
"""A reader may have heard that this node receives an object before this node has."""

ObjectKey = tuple[bytes, bytes]
"""Object and writer."""


class Arrival:
    """One object on its way. ``offset`` is where it lies in the arena, -1 until it has space."""

    __slots__ = ("chunks", "has_failed", "is_whole", "offset", "size_bytes")

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.offset = -1
        self.is_whole = False
        self.has_failed = False
        self.chunks: set[int] = set()

    def __repr__(self) -> str:
        return f"<Arrival of {self.size_bytes} bytes, {len(self.chunks)} chunks are here>"

    def covers(self, offset: int, size_bytes: int) -> bool:
        """Whether all these bytes are here."""
        if self.is_whole:
            return True
        last = offset + max(1, size_bytes) - 1
        return all(chunk in self.chunks for chunk in range(offset // CHUNK_BYTES, last // CHUNK_BYTES + 1))


class Found(msgspec.Struct, frozen=True):
    """Where an object lies here. It stays while the loop counts this reader, that is until ``reader_done``."""

    offset: int
    size_bytes: int
    arrival: Arrival | None = None


class Wanted(NamedTuple):
    """A chunk that was asked for, as which one on this connection, and when."""

    key: ObjectKey
    offset: int
    size_bytes: int
    number: int
    since_s: float


def answer_of(wanted: Wanted, found: Found | None, *, is_coming: bool, last_sent_s: float, now_s: float) -> int:
    """The status of the answer; ``CHUNK_WAITS`` when there is none to give yet.

    Parameters:
        found: where the object lies, if that is known.
        is_coming: whether the object is on its way here, for one that was not found.
        last_sent_s: when the same reader was last sent a chunk of the object; it is waited for while some come.
    """
    if found is None:
        # It may be about to be pulled here, or wait for its turn.
        if is_coming:
            return CHUNK_WAITS if now_s - wanted.since_s < QUEUED_WAIT_S else CHUNK_TIMED_OUT
        return CHUNK_WAITS if now_s - wanted.since_s < UNKNOWN_WAIT_S else CHUNK_NOT_HERE
    is_inside = 0 <= wanted.offset <= found.size_bytes - wanted.size_bytes
    if not 0 <= wanted.size_bytes <= MAX_CHUNK_BYTES or not is_inside:
        return CHUNK_NOT_HERE
    if found.arrival is None or found.arrival.covers(wanted.offset, wanted.size_bytes):
        return CHUNK_FOLLOWS
    if found.arrival.has_failed:
        return CHUNK_NOT_HERE
    is_patient = now_s - max(wanted.since_s, last_sent_s) < ARRIVAL_WAIT_S
    return CHUNK_WAITS if is_patient else CHUNK_TIMED_OUT
