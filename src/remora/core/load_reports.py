"""When a node tells the head what it has: soon after it changed, and not more often than a head of many can take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from remora.messages.head import NodeLoad

LOAD_INTERVAL_S = 0.05
STORE_STEPS = 16
"""The free part of the store changes with every object: alone it is news when it changed by one in so many of all."""


class LoadReports:
    """What one node has, and what of it the head was told.

    Example:
        >>> reports = LoadReports(store_limit_bytes=1 << 30)
        >>> reports.update({"CPU": 10_000}, {"CPU": 0})
        >>> reports.take(now_s=7.0)
        NodeLoad(total={'CPU': 10000}, available={'CPU': 0}, queue_length=0, demand=[], store_free_bytes=0)
        >>> reports.take(now_s=8.0) is None
        True
    """

    def __init__(self, store_limit_bytes: int) -> None:
        self._store_step_bytes = max(1, store_limit_bytes // STORE_STEPS)
        self._load: NodeLoad | None = None
        self._told: NodeLoad | None = None
        self._is_due = False
        self._earliest_s = 0.0

    def __repr__(self) -> str:
        return f"<LoadReports {self._load!r}{', to be told' if self._is_due else ''}>"

    def update(
        self,
        total: Mapping[str, int],
        available: Mapping[str, int],
        queue_length: int = 0,
        demand: Sequence[tuple[dict[str, int], int]] = (),
        store_free_bytes: int = 0,
    ) -> None:
        """This is what the node has now: may be said in every turn, and is copied only when it is to be told."""
        told = self._told
        is_news = (
            told is None
            or abs(told.store_free_bytes - store_free_bytes) >= self._store_step_bytes
            or (told.total, told.available, told.queue_length) != (total, available, queue_length)
            or told.demand != list(demand)
        )
        if is_news or self._is_due:
            self._is_due = True
            self._load = NodeLoad(dict(total), dict(available), queue_length, list(demand), store_free_bytes)

    def repeat(self) -> None:
        """The head may have made something else of what it was told: it is told again."""
        self._is_due = self._load is not None

    def hasten(self) -> None:
        """What the node is about to have is what the head waits for: the next report is not held back."""
        self._earliest_s = 0.0

    def due_s(self) -> float | None:
        """When :meth:`take` has something to tell; None when there is no news."""
        return self._earliest_s if self._is_due else None

    def take(self, now_s: float) -> NodeLoad | None:
        """What the head is to be told now."""
        if not self._is_due or now_s < self._earliest_s:
            return None
        self._is_due = False
        self._told = self._load
        self._earliest_s = now_s + LOAD_INTERVAL_S
        return self._told
