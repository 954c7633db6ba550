"""Which rows a run measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from remora.cli.bench.fresh import FRESH_GROUPS, FreshGroup
from remora.cli.bench.needs import POOL_PEERS
from remora.cli.bench.rows.catalogue import LIMIT_ROWS, ROWS
from remora.cli.bench.rows.row import Row


@dataclass(frozen=True)
class Selection:
    """The rows of one run."""

    fresh: list[FreshGroup]
    rates: list[Row]
    limits: list[Row]

    def names(self) -> list[str]:
        """All row names in the order measured."""
        fresh = [row.name for group in self.fresh for row in group.rows]
        return [*fresh, *(row.name for row in self.rates), *(row.name for row in self.limits)]


def select(peer: str, patterns: Sequence[str] = ()) -> Selection:
    """The rows that a run against `peer` ("" without one) measures.

    Args:
        peer: Process pools run the pool rows and the start-up; Ray and Remora alone run everything else, and the
            pool rows when a pattern asks for them.
        patterns: Shell patterns, or parts of names; a row that matches any is taken. Empty means all.

    Raises:
        ValueError: No row matches.
    """
    is_pool = peer in POOL_PEERS
    fresh = [_matching_part(group, patterns) for group in FRESH_GROUPS if group.for_pools or not is_pool]
    rates = [row for row in ROWS if _fits(row, is_pool, bool(patterns)) and matches(row.name, patterns)]
    limits = [row for row in LIMIT_ROWS if matches(row.name, patterns)]
    chosen = Selection([group for group in fresh if group.rows], rates, limits)
    if not chosen.names():
        raise ValueError(f"no row matches {', '.join(patterns)}; `remora bench --list` shows all names")
    return chosen


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a row's name matches one of the patterns, or there are none; case does not matter."""
    lowered = name.lower()
    return not patterns or any(
        pattern.lower() in lowered or fnmatchcase(lowered, pattern.lower()) for pattern in patterns
    )


def _fits(row: Row, is_pool: bool, asked_by_pattern: bool) -> bool:
    if row.kind == "pool":
        return is_pool or asked_by_pattern
    return not is_pool


def _matching_part(group: FreshGroup, patterns: Sequence[str]) -> FreshGroup:
    return replace(group, rows=tuple(row for row in group.rows if matches(row.name, patterns)))
