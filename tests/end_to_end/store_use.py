"""How much of the object store objects take, as the daemon sees it."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import remora

MB = 1 << 20
RESERVED_BYTES = 3 * 4 * MB
"""What the driver and two workers may keep to write to, which counts as used."""


def used_bytes() -> float:
    """Bytes of the store that are not free: objects, and what processes have reserved to write to."""
    return remora.cluster_resources()["object_store_memory"] - remora.available_resources()["object_store_memory"]


def eventually(condition: Callable[[], bool], within_s: float = 10.0) -> bool:
    """Whether the condition becomes true; asking the daemon is what paces the loop."""
    deadline_s = monotonic() + within_s
    while not condition():
        if monotonic() > deadline_s:
            return False
    return True


def is_given_back() -> bool:
    """Whether the store becomes empty, but for what processes keep to write to."""
    return eventually(lambda: used_bytes() <= RESERVED_BYTES)
