"""Which chunks of objects that are on their way here have come, for the threads that serve them to others already."""

from __future__ import annotations

import threading

from remora.core.pull_sources import CHUNK_BYTES
from remora.core.served_chunks import Arrival, ObjectKey


class Arrivals:
    """All of them. The loop starts, places and ends them, receiving threads add chunks, serving threads wait."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._arrivals: dict[ObjectKey, Arrival] = {}
        self._waiting = 0
        self.changes = 0
        """Counts what a serving thread may have been waiting for."""

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

    def wait_for_change(self, changes: int, timeout_s: float) -> None:
        """Wait so long, or until ``changes`` is not what it was."""
        with self._changed:
            if self.changes == changes:
                self._waiting += 1
                self._changed.wait(timeout_s)
                self._waiting -= 1

    def _notify(self) -> None:
        self.changes += 1
        if self._waiting:
            self._changed.notify_all()
