"""A row: one named thing to measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: A module with Ray Core's API (``ray`` or ``remora``), a `rows.pools.Pool`, or None: what a row is prepared with.
Peer = Any


@dataclass
class Body:
    """A prepared row.

    Attributes:
        call: What is timed. It is called again and again.
        operations: How many operations (in the row's unit) one call does.
        keep: Whatever must stay alive while the row is measured.
        clean_up: Called once after the last measurement.
    """

    call: Callable[[], object]
    operations: float = 1.0
    keep: object = None
    clean_up: Callable[[], object] | None = None


@dataclass(frozen=True)
class Row:
    """A rate that is measured in a process that is already running.

    Attributes:
        name: As shown, and as matched by ``--rows``.
        kind: Which sides can run it: "ray" (needs Ray Core's API), "pool" (process pools too) or "limit".
        unit: What one operation is: "calls", "GB", ...
        prepare: Makes the `Body` from the side's peer.
        limit: The name of the limit row that bounds this row, or "".
        warm_up_s: How long the row is at least called before it is measured.
    """

    name: str
    kind: str
    unit: str
    prepare: Callable[[Peer], Body]
    limit: str = ""
    warm_up_s: float = 0.0


class RowList:
    """Rows of one kind, in the order of their definition."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.rows: list[Row] = []

    def row(
        self, name: str, *, unit: str = "calls", limit: str = "", warm_up_s: float = 0.0
    ) -> Callable[[Callable[[Peer], Body]], Callable[[Peer], Body]]:
        """Adds the decorated function as a row."""

        def add(prepare: Callable[[Peer], Body]) -> Callable[[Peer], Body]:
            self.rows.append(Row(name, self.kind, unit, prepare, limit, warm_up_s))
            return prepare

        return add
