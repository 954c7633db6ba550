"""Which chunks of objects that are on their way here have come, for the threads that serve them to others already."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

from remora.core.pull_sources import CHUNK_BYTES

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


class Arrivals:
    """All of them. The loop starts, places and ends them, receiving threads add chunks, serving threads wait."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._arrivals: dict[ObjectKey, Arrival] = {}
        self._waiting = 0

    def __repr__(self) -> str:
        return f"<Arrivals {self._arrivals}>"

    def start(self, key: ObjectKey, size_bytes: int) -> Arrival:
        """The object will come."""
        with self._changed:
            arrival = self._arrivals[key] = Arrival(size_bytes)
        return arrival

    def get(self, key: ObjectKey) -> Arrival | None:
        """The object's arrival, if it is on its way."""
        return self._arrivals.get(key)

    def place(self, arrival: Arrival, offset: int) -> None:
        """The object has space."""
        with self._changed:
            arrival.offset = offset
            self._notify()

    def chunk_came(self, arrival: Arrival, offset: int) -> None:
        """A chunk that starts at *offset* of the object can be read."""
        with self._changed:
            arrival.chunks.add(offset // CHUNK_BYTES)
            self._notify()

    def end(self, key: ObjectKey, arrival: Arrival, *, is_whole: bool) -> None:
        """Everything is here, or the rest will not come."""
        with self._changed:
            arrival.is_whole = is_whole
            arrival.has_failed = not is_whole
            if self._arrivals.get(key) is arrival:
                del self._arrivals[key]
            self._notify()

    def wait_for_chunk(self, arrival: Arrival, offset: int, size_bytes: int, timeout_s: float) -> bool:
        """Whether the bytes are here, after waiting for them so long; false at once if they will not come."""
        with self._changed:
            self._wait(lambda: arrival.has_failed or arrival.covers(offset, size_bytes), timeout_s)
            return arrival.covers(offset, size_bytes)

    def wait_for_place(self, key: ObjectKey, timeout_s: float) -> bool:
        """Whether the object is on its way and has space, after waiting for that so long."""
        with self._changed:
            return self._wait(lambda: (found := self._arrivals.get(key)) is not None and found.offset >= 0, timeout_s)

    def _wait(self, is_so: Callable[[], bool], timeout_s: float) -> bool:
        deadline_s = monotonic() + timeout_s
        self._waiting += 1
        try:
            while not is_so():
                left_s = deadline_s - monotonic()
                if left_s <= 0:
                    return False
                self._changed.wait(left_s)
            return True
        finally:
            self._waiting -= 1

    def _notify(self) -> None:
        if self._waiting:
            self._changed.notify_all()
