"""What the arena's allocator keeps, and the effects that it asks for."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from remora.base.ids import ProcessId


class ArenaError(ValueError):
    """A process, or our own code, told the arena something that cannot be so. Nothing was changed."""


class Send(NamedTuple):
    """Effect: send the message to the process."""

    process: ProcessId
    message: Any


class PunchHoles(NamedTuple):
    """Effect: take the memory of these ``(offset, size)`` away, then call ``punched``."""

    ranges: list[tuple[int, int]]


class ReadMemory(NamedTuple):
    """Effect: read what the machine has left, then call ``memory_read``."""


class ArenaBlock(msgspec.Struct, gc=False):
    """One object's bytes. ``extent`` is the offset of the extent that it was cut from and that is still owned."""

    offset: int
    size_bytes: int
    writer: ProcessId
    published: bool
    extent: int | None = None


class Extent(msgspec.Struct):
    """A range that a process cuts objects from; ``blocks`` are the offsets of those published."""

    offset: int
    size_bytes: int
    owner: ProcessId
    blocks: set[int] = msgspec.field(default_factory=set)
    published_bytes: int = 0

    @property
    def reserved_bytes(self) -> int:
        """What the owner may write to without telling."""
        return self.size_bytes - self.published_bytes


class Tenant(msgspec.Struct):
    """A live process that asked for space."""

    process: ProcessId
    extents: dict[int, Extent] = msgspec.field(default_factory=dict)
    unpublished: set[int] = msgspec.field(default_factory=set)
    asked_to_return: bool = False

    def extent_of(self, offset: int) -> Extent | None:
        """The extent of this process that *offset* lies in; it holds one or two."""
        for extent in self.extents.values():
            if extent.offset <= offset < extent.offset + extent.size_bytes:
                return extent
        return None


class SpaceRequest(msgspec.Struct):
    """Somebody waits for space. An extent may come as small as ``minimum_bytes``."""

    process: ProcessId
    request: int
    asked_bytes: int
    size_bytes: int
    minimum_bytes: int
    is_extent: bool
    since_s: float
    deadline_s: float
    short_of_memory: bool = False


class ArenaUsage(msgspec.Struct, frozen=True):
    """The store in numbers, all in bytes.

    ``used`` by published objects; ``reserved`` for processes to write into; ``warm``: free, with memory; ``lost``
    to the rounding of small objects to pages. ``free`` is what one new object could have: the limit less all but warm.
    """

    limit_bytes: int
    used_bytes: int
    reserved_bytes: int
    warm_bytes: int
    lost_bytes: int
    free_bytes: int
    committed_bytes: int
