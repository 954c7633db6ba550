"""A bad line, decided by a seed: packets go in with a time, and come out late, in another order, twice or never.

Pure: told the time, no clock, no I/O. :mod:`remora.testing.network_relay` puts it between two hosts. Every packet draws
the same number of random values whatever the conditions are, so the fate of the n-th packet follows from the seed
and the conditions at its arrival, and a change of one condition leaves the decisions on the others as they were.

Example:
    >>> line = BadLine(seed=7, conditions=LineConditions(delay_s=0.1))
    >>> line.put(b"packet", now_s=5.0)
    >>> line.next_due_s
    5.1
    >>> line.take_due(now_s=5.1)
    [b'packet']
"""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass

HELD_BACK_S = 0.01
"""How much later a packet leaves that is to be overtaken: long beside the gaps within a burst, short beside the
shortest retransmission timeout of TCP (0.2 s)."""


@dataclass(frozen=True)
class LineConditions:
    """What happens to packets that go one way.

    Args:
        delay_s: how long every packet is under way.
        jitter_s: up to so much longer, evenly spread. Packets do not overtake each other by this.
        loss: the share of packets that never arrive, 0 to 1.
        reorder: the share of packets that the following ones overtake, if they come within 10 ms.
        duplicate: the share of packets that arrive twice.

    Raises:
        ValueError: a share is not within 0 and 1, or a time is negative.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0

    def __post_init__(self) -> None:
        for name in ("loss", "reorder", "duplicate"):
            share = getattr(self, name)
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is a share of all packets, within 0 and 1, not {share}")
        for name in ("delay_s", "jitter_s"):
            duration_s = getattr(self, name)
            if not duration_s >= 0:
                raise ValueError(f"{name} is a time in seconds, 0 or more, not {duration_s}")


@dataclass
class LineCounts:
    """What became of the packets so far; a packet may be counted under several headings."""

    arrived: int = 0
    lost: int = 0
    held_back: int = 0
    duplicated: int = 0
    left: int = 0


class BadLine:
    """One way of a line. ``conditions`` may be replaced at any time, and hold for packets that arrive afterwards."""

    def __init__(self, seed: int | str, conditions: LineConditions) -> None:
        self.conditions = conditions
        self.counts = LineCounts()
        self._random = random.Random(seed)
        self._under_way: list[tuple[float, int, bytes]] = []
        self._last_in_order_s = 0.0
        self._puts = 0

    def __repr__(self) -> str:
        return f"<BadLine {self.conditions}, {self.counts}, {len(self._under_way)} under way>"

    def put(self, packet: bytes, now_s: float) -> None:
        """A packet enters the line."""
        lost, held_back, duplicated, jitter = (self._random.random() for _ in range(4))
        conditions, counts = self.conditions, self.counts
        counts.arrived += 1
        if lost < conditions.loss:
            counts.lost += 1
            return
        due_s = now_s + conditions.delay_s + jitter * conditions.jitter_s
        if held_back < conditions.reorder:
            counts.held_back += 1
            due_s = max(due_s, self._last_in_order_s) + HELD_BACK_S
        else:
            due_s = self._last_in_order_s = max(due_s, self._last_in_order_s)
        self._add(due_s, packet)
        if duplicated < conditions.duplicate:
            counts.duplicated += 1
            self._add(due_s, packet)

    def _add(self, due_s: float, packet: bytes) -> None:
        # The number keeps packets that are due at the same time in their order.
        heapq.heappush(self._under_way, (due_s, self._puts, packet))
        self._puts += 1

    @property
    def next_due_s(self) -> float | None:
        """When the next packet leaves the line; None when it is empty."""
        return self._under_way[0][0] if self._under_way else None

    def take_due(self, now_s: float) -> list[bytes]:
        """The packets that leave the line up to now, in the order in which they leave."""
        due = []
        while self._under_way and self._under_way[0][0] <= now_s:
            due.append(heapq.heappop(self._under_way)[2])
        self.counts.left += len(due)
        return due
