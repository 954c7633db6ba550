"""All rows that are rates, in the order shown."""

from __future__ import annotations

from .limits import LIMITS
from .microbenchmark import MICROBENCHMARK
from .objects import OBJECTS
from .pool_rows import POOL_ROWS
from .row import Row

ROWS: list[Row] = [*MICROBENCHMARK.rows, *OBJECTS.rows, *POOL_ROWS.rows]
LIMIT_ROWS: list[Row] = LIMITS.rows


def find_row(name: str) -> Row:
    """The row or limit of that name."""
    for row in (*ROWS, *LIMIT_ROWS):
        if row.name == name:
            return row
    raise KeyError(f"there is no row named {name!r}; `remora bench --list` shows all")
