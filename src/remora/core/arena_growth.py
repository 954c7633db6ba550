"""How much more memory the store may take from the machine.

``fallocate`` and page faults in a memory cgroup do not fail when the memory is used up: the kernel kills. So no
memory is granted that was not seen free just before. **Room** is what the machine has left less what is promised,
that is, committed but not touched yet. One reading is good for one growth step, or for one larger block, and for a
second.
"""

from __future__ import annotations

import enum

from remora.core.arena_layout import GROWTH_STEP_BYTES

READING_LASTS_S = 1.0


class Growth(enum.Enum):
    """Whether the store may grow now."""

    ALLOWED = "allowed"
    READ_FIRST = "read first"
    NO_ROOM = "no room"


class GrowthMeter:
    """The last reading of the machine's memory and what was taken since."""

    def __init__(self) -> None:
        self.room_bytes = 0
        self.read_at_s = -READING_LASTS_S
        self._step_left_bytes = 0

    def __repr__(self) -> str:
        return f"<GrowthMeter room {self.room_bytes}, {self._step_left_bytes} bytes until the next reading>"

    def memory_read(self, now_s: float, available_bytes: int, promised_bytes: int) -> None:
        """The machine has *available_bytes* left, of which the store has granted *promised_bytes* already."""
        self.room_bytes = available_bytes - promised_bytes
        self.read_at_s = now_s
        self._step_left_bytes = GROWTH_STEP_BYTES

    def may_grow(self, size_bytes: int, now_s: float) -> Growth:
        """Whether *size_bytes* more may be granted on the last reading."""
        is_new = self._step_left_bytes == GROWTH_STEP_BYTES
        if now_s - self.read_at_s >= READING_LASTS_S or (size_bytes > self._step_left_bytes and not is_new):
            return Growth.READ_FIRST
        return Growth.ALLOWED if size_bytes <= self.room_bytes else Growth.NO_ROOM

    def grew(self, size_bytes: int) -> None:
        """*size_bytes* more were granted."""
        self.room_bytes -= size_bytes
        self._step_left_bytes = max(0, self._step_left_bytes - size_bytes)

    def shrank(self, size_bytes: int) -> None:
        """*size_bytes* of granted memory were given back to the machine."""
        self.room_bytes += size_bytes
