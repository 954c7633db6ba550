"""The arena as a process that writes to it sees it.

Small objects are cut from an extent without a message; for the rest, and for new extents, the caller sends the
message that :meth:`ArenaWriter.ask` makes and gives the answer to :meth:`ArenaWriter.granted`. All methods of the
writer are called under the client's lock, and what they return is sent in that order with everything else that goes
to the daemon. :meth:`Reservation.write` runs outside of the lock: it takes as long as the memory is fast.

**How bytes get to their pages.** Into pages that are in this process's page table they are copied. Pages that exist
but are not mapped here are mapped with one call first, which with the copy costs what a system call that writes them
does, and the next time only the copy is left. New pages are written by system call, which saves the kernel zeroing
them; in steps, before each of which the machine is asked whether it has the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pickle import PickleBuffer
from typing import TYPE_CHECKING

from remora.base.errors import ObjectStoreFullError
from remora.core.arena_cutter import ExtentCutter
from remora.core.arena_layout import GROWTH_STEP_BYTES, footprint_of, largest_cut_of, round_up_to_pages
from remora.core.arena_ranges import RangeSet
from remora.messages.arena import (
    AllocateBlock,
    AllocateExtent,
    AllocationRefused,
    Block,
    BlockGranted,
    BlocksFreed,
    ExtentGranted,
    ExtentsReturned,
    ReleaseBlocks,
    ReturnedExtent,
)
from remora.system.memory_limits import MemoryLimits, MemoryReading
from remora.system.shared_memory import SharedMemory

if TYPE_CHECKING:
    from remora.system.writable_map import WritableMap

Buffer = bytes | bytearray | memoryview

MAX_MAPPED_RANGES = 64
"""So many ranges outside extents stay in the page table, the largest ones."""
DEFAULT_TIMEOUT_S = 10.0


class Reservation:
    """Space for one object, until it is published or released.

    The object lies at ``offset`` and may take up to ``size_bytes``.
    """

    __slots__ = ("_map", "_populate", "_unchecked_bytes", "_writer", "footprint_bytes", "offset", "size_bytes")

    def __init__(
        self,
        writer: ArenaWriter,
        offset: int,
        size_bytes: int,
        footprint_bytes: int,
        *,
        writable_map: WritableMap | None,
        populate: Block | None = None,
    ) -> None:
        self.offset = offset
        self.size_bytes = size_bytes
        self.footprint_bytes = footprint_bytes
        self._writer = writer
        self._map = writable_map
        self._populate = populate
        self._unchecked_bytes = 0

    def __repr__(self) -> str:
        return f"<Reservation {self.offset}+{self.size_bytes}{' mapped' if self._map is not None else ''}>"

    def write(self, parts: Iterable[Buffer], offsets: Iterable[int]) -> None:
        """Write each part, a C-contiguous buffer, at its offset (bytes from the object's start).

        Other threads run meanwhile. May be called again, for other parts.

        Raises:
            ValueError: a part does not lie in the reservation.
            ObjectStoreFullError: the machine has no memory left for the next step; release the reservation.
        """
        if self._map is not None and self._populate is not None:
            self._map.populate(self._populate.offset, self._populate.size_bytes)
            self._populate = None
        for part, offset in zip(parts, offsets, strict=True):
            nbytes = len(part) if type(part) is bytes else memoryview(part).nbytes
            if not 0 <= offset <= self.size_bytes - nbytes:
                raise ValueError(f"a part of {nbytes} bytes at {offset} does not lie in {self!r}")
            if not nbytes:
                continue
            if self._map is not None:
                self._map.copy_in(self.offset + offset, part)
            else:
                self._write_by_call(part, nbytes, self.offset + offset)

    def _write_by_call(self, part: Buffer, nbytes: int, offset: int) -> None:
        """The pages are new: before each step of growth but the first one, which the daemon looked at, look."""
        if self._unchecked_bytes + nbytes <= GROWTH_STEP_BYTES:
            self._unchecked_bytes += nbytes
            self._writer.memory.write(offset, part)
            return
        flat = PickleBuffer(part).raw()
        for start in range(0, nbytes, GROWTH_STEP_BYTES):
            step = flat[start : start + GROWTH_STEP_BYTES]
            if self._unchecked_bytes + step.nbytes > GROWTH_STEP_BYTES:
                self._writer.check_machine(GROWTH_STEP_BYTES, self.size_bytes)
                self._unchecked_bytes = 0
            self._unchecked_bytes += step.nbytes
            self._writer.memory.write(offset + start, step)


class ArenaWriter:
    """What this process has of the arena to write to.

    Example, with the client's lock held except around ``write``:
        >>> reservation = writer.reserve(len(data))
        >>> if reservation is None:
        ...     answer = send_and_wait(writer.ask(len(data)))
        ...     reservation = writer.granted(answer)
        >>> reservation.write([data], [0])
        >>> writer.published(reservation.offset)  # and Publish goes out after whatever the writer returned before
    """

    def __init__(
        self, memory: SharedMemory, limit_bytes: int, read_memory: Callable[[], MemoryReading] | None = None
    ) -> None:
        self.memory = memory
        self.limit_bytes = limit_bytes
        self._largest_cut_bytes = largest_cut_of(limit_bytes)
        self._read_memory = read_memory or MemoryLimits().read
        self._extents: list[ExtentCutter] = []
        self._asked: dict[int, tuple[int, bool]] = {}
        self._requests = 0
        self._unpublished: dict[int, int] = {}
        self._in_page_table = RangeSet()
        self._map: WritableMap | None = None

    def __repr__(self) -> str:
        return f"<ArenaWriter {self._extents}, {len(self._unpublished)} unpublished, {len(self._asked)} asked for>"

    @property
    def map(self) -> WritableMap:
        """The writable mapping, made at the first need: a process that only reads imports no numpy for it."""
        if self._map is None:
            from remora.system.writable_map import WritableMap

            self._map = WritableMap(self.memory)
        return self._map

    def reserve(self, size_bytes: int, *, own_pages: bool = False) -> Reservation | None:
        """Space from an extent that is here, or None: then :meth:`ask`. About 2 us.

        With *own_pages* the object shares no page with others, as all objects from 64 KB do anyway.
        """
        for extent in self._extents:
            cut = extent.cut(size_bytes, own_pages=own_pages)
            if cut is not None:
                return self._reserve_cut(extent, size_bytes, *cut)
        return None

    def ask(
        self, size_bytes: int, *, own_pages: bool = False, timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> AllocateBlock | AllocateExtent:
        """The message that gets space for *size_bytes* from the daemon; its ``request`` names it in the answer."""
        self._requests += 1
        self._asked[self._requests] = (size_bytes, own_pages)
        footprint = round_up_to_pages(max(size_bytes, 1)) if own_pages else footprint_of(size_bytes)
        if footprint > self._largest_cut_bytes:
            return AllocateBlock(self._requests, size_bytes, timeout_s)
        return AllocateExtent(self._requests, footprint, self._give_up_extents(), timeout_s)

    def granted(self, message: BlockGranted | ExtentGranted) -> Reservation:
        """The daemon's answer: the space that was asked for. Whoever does not want it any more releases it.

        Raises:
            KeyError: nothing was asked with this request number.
        """
        size_bytes, own_pages = self._asked.pop(message.request)
        if isinstance(message, BlockGranted):
            return self._reserve_block(message, size_bytes)
        where = message.extent
        mapped = self._is_mapped(where, fresh=message.fresh)
        extent = ExtentCutter(where.offset, where.size_bytes, mapped=mapped, fresh=message.fresh)
        cut = extent.cut(size_bytes, own_pages=own_pages)
        if cut is None:
            raise ValueError(f"{extent!r} was granted for an object of {size_bytes} bytes, which does not fit")
        self._extents.append(extent)
        return self._reserve_cut(extent, size_bytes, *cut)

    def refused(self, message: AllocationRefused) -> None:
        """The daemon's other answer: there is no space; :func:`full_error` words it."""
        del self._asked[message.request]

    def published(self, offset: int) -> None:
        """``Publish`` with this offset is in the queue to the daemon: the object is not this process's any more.

        Raises:
            KeyError: nothing unpublished is there.
        """
        del self._unpublished[offset]

    def release(self, offset: int) -> ReleaseBlocks | None:
        """The reservation will not be published. A message that comes back is to be sent.

        Raises:
            KeyError: nothing unpublished is there.
        """
        del self._unpublished[offset]
        extent = self._extent_with(offset)
        if extent is None:
            return ReleaseBlocks([offset])
        extent.give_back(offset)
        return None

    def blocks_freed(self, message: BlocksFreed) -> None:
        """The daemon freed objects that were cut here; those of extents that were given up are the daemon's."""
        for offset in message.offsets:
            self._unpublished.pop(offset, None)  # when somebody else published it, as for the result of a task
            extent = self._extent_with(offset)
            if extent is not None:
                extent.give_back(offset)

    def return_extents(self) -> ExtentsReturned:
        """The answer to ``ReturnExtents``."""
        return ExtentsReturned(self._give_up_extents())

    def close(self) -> None:
        """Unmap; no thread may be writing."""
        if self._map is not None:
            self._map.close()
            self._map = None

    def check_machine(self, step_bytes: int, size_bytes: int) -> None:
        """Refuse to write *step_bytes* more when the machine has no memory for them.

        Raises:
            ObjectStoreFullError: so it is.
        """
        reading = self._read_memory()
        if reading.available_bytes < step_bytes:
            raise ObjectStoreFullError(
                size_bytes=size_bytes,
                limit_bytes=self.limit_bytes,
                used_bytes=self.memory.resident_bytes(),
                reason=f"{reading.limited_by} has no memory left to write it: something else took it meanwhile",
            )

    def _reserve_cut(self, extent: ExtentCutter, size_bytes: int, offset: int, used_before: bool) -> Reservation:
        footprint = self._unpublished[offset] = extent.cuts[offset]
        populate = None
        if used_before and not extent.mapped:
            extent.mapped = True
            populate = Block(extent.offset, extent.size_bytes)
        writable_map = self.map if extent.mapped else None
        return Reservation(self, offset, size_bytes, footprint, writable_map=writable_map, populate=populate)

    def _reserve_block(self, message: BlockGranted, size_bytes: int) -> Reservation:
        where = message.block
        self._unpublished[where.offset] = where.size_bytes
        populate = None
        if not self._is_mapped(where, fresh=message.fresh) and not message.fresh:
            self._remember_mapped(where)
            populate = where
        writable_map = None if message.fresh else self.map
        return Reservation(
            self, where.offset, size_bytes, where.size_bytes, writable_map=writable_map, populate=populate
        )

    def _is_mapped(self, where: Block, *, fresh: bool) -> bool:
        if fresh:
            self._in_page_table.discard(where.offset, where.size_bytes)
            return False
        return self._in_page_table.covers(where.offset, where.size_bytes)

    def _remember_mapped(self, where: Block) -> None:
        self._in_page_table.discard(where.offset, where.size_bytes)
        self._in_page_table.add(where.offset, where.size_bytes)
        while len(self._in_page_table) > MAX_MAPPED_RANGES:
            self.map.forget(*self._in_page_table.take_smallest(self.memory.size_bytes))

    def _extent_with(self, offset: int) -> ExtentCutter | None:
        for extent in self._extents:
            if offset in extent.cuts:
                return extent
        return None

    def _give_up_extents(self) -> list[ReturnedExtent]:
        extents, self._extents = self._extents, []
        returned = []
        for extent in extents:
            kept = [Block(at, size) for at, size in extent.cuts.items() if at in self._unpublished]
            returned.append(ReturnedExtent(extent.offset, kept))
            if extent.mapped:
                self._remember_mapped(Block(extent.offset, extent.size_bytes))
        return returned


def full_error(message: AllocationRefused, largest_holders: str = "") -> ObjectStoreFullError:
    """What the user gets for a refusal; *largest_holders* is worded by whoever knows the objects."""
    reasons = {
        "too large": "it is larger than the whole store",
        "machine": "the machine, or a memory cgroup of this process, has no memory left for the store to grow",
        "full": f"{message.free_bytes} bytes are free and {message.reserved_bytes} reserved by processes that write",
    }
    waited = f" (waited {message.waited_s:.1f} s)" if message.waited_s >= 0.05 else ""
    return ObjectStoreFullError(
        size_bytes=message.size_bytes,
        used_bytes=message.used_bytes,
        limit_bytes=message.limit_bytes,
        reason=reasons[message.reason] + waited,
        largest_holders=largest_holders,
    )
