"""How sizes in the arena are rounded; docs/store-layout.md says the same for other languages."""

from __future__ import annotations

import mmap

PAGE_SIZE_BYTES = mmap.PAGESIZE
BUFFER_ALIGNMENT_BYTES = 64
"""Every object, and every buffer inside one, starts at a multiple of this."""
OWN_PAGES_FROM_BYTES = 64 << 10
"""Objects from this size start on a page and share none, so that a private mapping shows nothing else."""
MAX_EXTENT_BYTES = 4 << 20
EXTENTS_PER_STORE = 64
CUTS_PER_EXTENT = 3
"""An object is cut from an extent when at least this many of its size fit into one."""
GROWTH_STEP_BYTES = 64 << 20
"""At most this much new memory is taken between two looks at what the machine has left."""
OFFSET_SPACE_FACTOR = 64
"""Offsets cost nothing, so the memory file is this many times as long as the store may be large."""
MIN_OFFSET_SPACE_BYTES = 1 << 36


def round_up_to_pages(size_bytes: int) -> int:
    """*size_bytes* in whole pages."""
    return -(-size_bytes // PAGE_SIZE_BYTES) * PAGE_SIZE_BYTES


def footprint_of(size_bytes: int) -> int:
    """What an object of *size_bytes* takes of the store, and at least 64 bytes.

    Example:
        >>> footprint_of(65), footprint_of(70_000)
        (128, 73728)
    """
    if size_bytes >= OWN_PAGES_FROM_BYTES:
        return round_up_to_pages(size_bytes)
    return -(-max(size_bytes, 1) // BUFFER_ALIGNMENT_BYTES) * BUFFER_ALIGNMENT_BYTES


def extent_size_of(limit_bytes: int) -> int:
    """The size of the extents of a store with this limit: at most 4 MB and 1/64 of it, at least a page."""
    share = limit_bytes // EXTENTS_PER_STORE // PAGE_SIZE_BYTES * PAGE_SIZE_BYTES
    return max(PAGE_SIZE_BYTES, min(MAX_EXTENT_BYTES, share))


def largest_cut_of(limit_bytes: int) -> int:
    """The largest footprint that a process cuts from its extent; more is asked of the daemon."""
    return extent_size_of(limit_bytes) // CUTS_PER_EXTENT


def offset_space_of(limit_bytes: int) -> int:
    """The length of the memory file of a store with this limit."""
    return max(MIN_OFFSET_SPACE_BYTES, round_up_to_pages(limit_bytes) * OFFSET_SPACE_FACTOR)
