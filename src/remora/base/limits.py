"""Sizes at which things are done differently; the figures behind them are in docs/performance.md."""

from __future__ import annotations

INLINE_LIMIT_BYTES = 100 * 1024
"""Values up to this size travel inside messages and are kept by the process; larger ones lie in the arena."""
MAX_INLINE_BYTES = 10 << 20
"""All values that travel inside one message come to no more; the others are fetched by who needs them, or lie in the
arena. As much as Ray lets travel in a task (``task_rpc_inlined_bytes_limit``)."""
