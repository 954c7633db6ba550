"""Rows that run on every process pool.

The work of a call is next to nothing, so what is measured is the way there and back. The functions are builtins, which
every pool can pickle by name.
"""

from __future__ import annotations

import numpy as np

from .pools import Pool
from .row import Body, RowList

POOL_ROWS = RowList("pool")
row = POOL_ROWS.row

BATCH = 1000


@row("pool: one call at a time")
def one_at_a_time(pool: Pool) -> Body:
    return Body(lambda: pool.call_each(abs, (-1,)))


@row("pool: 1,000 calls, one per item")
def one_call_per_item(pool: Pool) -> Body:
    return Body(lambda: pool.call_each(abs, range(BATCH)), BATCH)


@row("pool: 100 calls with a 160 KB array each")
def array_arguments(pool: Pool) -> Body:
    array = np.full(160_000, 7, dtype=np.uint8)
    return Body(lambda: pool.call_each(len, [array] * 100), 100)


@row("pool: 100 calls returning 160 KB each")
def large_results(pool: Pool) -> Body:
    return Body(lambda: pool.call_each(bytes, [160_000] * 100), 100)


@row("pool: 10 calls with the same 10 MB array")
def same_large_argument(pool: Pool) -> Body:
    array = np.full(10_000_000, 7, dtype=np.uint8)
    return Body(lambda: pool.call_each(len, [array] * 10), 10)


@row("pool: chunked map of 10,000 items (shown only)", unit="items")
def chunked_map(pool: Pool) -> Body:
    items: list[object] = list(range(10_000))
    return Body(lambda: pool.map_chunked(abs, items), len(items))
