"""Sizes at which things are done differently; the figures behind them are in docs/performance.md."""

from __future__ import annotations

INLINE_LIMIT_BYTES = 100 * 1024
"""Values up to this size travel inside messages and are kept by the process; larger ones lie in the arena."""
