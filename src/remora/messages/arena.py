"""Space in a node's arena: how a process gets it from its daemon, and how it goes back.

Offsets and sizes are bytes in the arena's memory file; docs/store-layout.md says how they are rounded. A *request*
is a number that the asking process chooses; the answer carries it. A block is told to the daemon as published by
``Publish`` with its location, on the same connection: **everything here relies on the order of that connection.**
Tag 49 is kept for spilling.
"""

from __future__ import annotations

import msgspec


class Block(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A range of the arena that one object has for itself."""

    offset: int
    size_bytes: int


class ReturnedExtent(msgspec.Struct, array_like=True, frozen=True):
    """An extent that its process gives up, except for ``kept``: blocks cut from it that are not published yet."""

    offset: int
    kept: list[Block] = []


class AllocateBlock(msgspec.Struct, array_like=True, tag=40, frozen=True):
    """Process to daemon: space for one object. ``timeout_s`` is how long it waits when the store is full."""

    request: int
    size_bytes: int
    timeout_s: float = 10.0


class AllocateExtent(msgspec.Struct, array_like=True, tag=41, frozen=True):
    """Process to daemon: space to cut small objects from, of at least ``minimum_bytes``.

    ``returned`` are the extents that became too full; their objects stay, the rest goes back to the daemon.
    """

    request: int
    minimum_bytes: int
    returned: list[ReturnedExtent] = []
    timeout_s: float = 10.0


class BlockGranted(msgspec.Struct, array_like=True, tag=42, frozen=True):
    """Daemon to process: the block. ``fresh`` means that no page of it exists yet, so writing it takes memory."""

    request: int
    block: Block
    fresh: bool


class ExtentGranted(msgspec.Struct, array_like=True, tag=43, frozen=True):
    """Daemon to process: the extent is this process's until it returns it or dies."""

    request: int
    extent: Block
    fresh: bool


class Writer(msgspec.Struct, array_like=True, frozen=True):
    """A process and what the objects that it wrote take of the store."""

    process: bytes
    used_bytes: int


class AllocationRefused(msgspec.Struct, array_like=True, tag=44, frozen=True):
    """Daemon to process: no space, and why.

    ``reason`` is ``too large`` (larger than the whole store), ``full`` (the limit) or ``machine`` (the machine or a
    memory cgroup has no memory left to grow into: ``room_bytes`` is what it still gives, negative when it is short).
    ``free_bytes`` of the store are free, ``reserved_bytes`` are held by processes to write into. ``writers`` are
    the processes whose objects take most, the largest first.
    """

    request: int
    reason: str
    size_bytes: int
    limit_bytes: int
    used_bytes: int
    reserved_bytes: int
    free_bytes: int
    room_bytes: int
    waited_s: float
    writers: list[Writer] = []


class BlocksFreed(msgspec.Struct, array_like=True, tag=45, frozen=True):
    """Daemon to process: objects in your extents were freed, cut their space again."""

    offsets: list[int]


class ReturnExtents(msgspec.Struct, array_like=True, tag=46, frozen=True):
    """Daemon to process: the store is full; answer with ``ExtentsReturned``, also when you have none."""


class ExtentsReturned(msgspec.Struct, array_like=True, tag=47, frozen=True):
    """Process to daemon: all extents that it holds, with what must stay of them."""

    extents: list[ReturnedExtent]


class ReleaseBlocks(msgspec.Struct, array_like=True, tag=48, frozen=True):
    """Process to daemon: blocks of mine that were never published and will not be."""

    offsets: list[int]


MESSAGES = (
    AllocateBlock,
    AllocateExtent,
    BlockGranted,
    ExtentGranted,
    AllocationRefused,
    BlocksFreed,
    ReturnExtents,
    ExtentsReturned,
    ReleaseBlocks,
)
