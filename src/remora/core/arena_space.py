"""The pages of the memory file: which are free and warm, which are free and cold, which are held.

*Committed* pages exist or may come to exist at any moment: those that are held, and the **warm** free ones, which
keep their memory because writing to them again is several times faster than to new ones. The limit counts committed
pages. **Cold** offsets have no memory: never used, or punched out. There are many times more of them than the limit
allows pages, so a range of any size that fits the limit is found among them, however scattered the free pages are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from remora.base.ids import ProcessId
from remora.core.arena_layout import PAGE_SIZE_BYTES, round_up_to_pages
from remora.core.arena_ranges import RangeSet

NOBODY = ProcessId(b"")
"""The writer of warm pages whose process is gone."""

_PAGE_MASK = ~(PAGE_SIZE_BYTES - 1)


class ArenaSpace:
    """Pages held, warm and cold of a store of ``limit_bytes`` in a file of ``offset_space_bytes``."""

    def __init__(self, limit_bytes: int, offset_space_bytes: int) -> None:
        self.limit_bytes = limit_bytes // PAGE_SIZE_BYTES * PAGE_SIZE_BYTES
        self.offset_space_bytes = offset_space_bytes
        self.held_bytes = 0
        self.warm_bytes = 0
        self.punching: list[tuple[int, int]] = []
        self.punching_bytes = 0
        self._warm: dict[ProcessId, RangeSet] = {NOBODY: RangeSet()}
        self._cold = RangeSet()
        self._cold.add(0, offset_space_bytes)
        self._small_blocks_on_page: Counter[int] = Counter()

    def __repr__(self) -> str:
        return (
            f"<ArenaSpace held {self.held_bytes}, warm {self.warm_bytes}, punching {self.punching_bytes} "
            f"of {self.limit_bytes} bytes>"
        )

    @property
    def committed_bytes(self) -> int:
        """Bytes of memory that exist or that somebody may write to at any moment."""
        return self.held_bytes + self.warm_bytes + self.punching_bytes

    @property
    def free_bytes(self) -> int:
        """The largest range that could be taken, warm or after punching."""
        return self.limit_bytes - self.held_bytes

    def take_warm(self, process: ProcessId, size_bytes: int) -> int | None:
        """Take a range that has its memory, best one that *process* wrote, and return its offset."""
        for writer in (process, NOBODY, *self._warm):
            ranges = self._warm.get(writer)
            offset = ranges.take(size_bytes) if ranges is not None else None
            if offset is not None:
                self.warm_bytes -= size_bytes
                self.held_bytes += size_bytes
                return offset
        return None

    def has_cold(self, size_bytes: int) -> bool:
        """Whether there is a cold range of this size; there is one unless a factor of offsets is scattered."""
        return self._cold.best_fit(size_bytes) is not None

    def take_cold(self, size_bytes: int) -> int:
        """Take a range that has no memory yet.

        Raises:
            ValueError: that would exceed the limit, or no cold range is large enough.
        """
        if self.committed_bytes + size_bytes > self.limit_bytes:
            raise ValueError(f"{size_bytes} more bytes would exceed the limit of {self.limit_bytes}")
        offset = self._cold.take(size_bytes)
        if offset is None:
            raise ValueError(f"no cold range of {size_bytes} bytes")
        self.held_bytes += size_bytes
        return offset

    def give_back(self, writer: ProcessId, offset: int, size_bytes: int) -> None:
        """Whole pages that were held are free; their memory stays warm for *writer*."""
        self._warm.setdefault(writer, RangeSet()).add(offset, size_bytes)
        self.warm_bytes += size_bytes
        self.held_bytes -= size_bytes

    def give_back_around(self, writer: ProcessId, offset: int, size_bytes: int, blocks: list[tuple[int, int]]) -> None:
        """A held range is broken up: the pages of *blocks* (offset, size) in it stay held, the rest is free.

        Blocks that do not fill their pages are remembered, so that :meth:`give_back_block` knows when a page that
        several of them share is free.
        """
        cursor = offset
        for block_offset, block_size in sorted(blocks):
            first_page = block_offset & _PAGE_MASK
            if first_page > cursor:
                self.give_back(writer, cursor, first_page - cursor)
            cursor = max(cursor, round_up_to_pages(block_offset + block_size))
            if not _fills_its_pages(block_offset, block_size):
                self._small_blocks_on_page.update(_pages_of(block_offset, block_size))
        if cursor < offset + size_bytes:
            self.give_back(writer, cursor, offset + size_bytes - cursor)

    def give_back_block(self, writer: ProcessId, offset: int, size_bytes: int) -> None:
        """A block outside extents is free: the pages that it has alone, or had last."""
        if _fills_its_pages(offset, size_bytes):
            self.give_back(writer, offset, size_bytes)
            return
        for page in _pages_of(offset, size_bytes):
            self._small_blocks_on_page[page] -= 1
            if not self._small_blocks_on_page[page]:
                del self._small_blocks_on_page[page]
                self.give_back(writer, page, PAGE_SIZE_BYTES)

    def punch(self, size_bytes: int, spare: ProcessId) -> list[tuple[int, int]]:
        """Start to take the memory of warm ranges away, small ones first and those that *spare* wrote last.

        Returns the ranges; they are neither warm nor cold until :meth:`punched`.
        """
        missing = round_up_to_pages(size_bytes)
        ranges: list[tuple[int, int]] = []
        writers = sorted(self._warm, key=lambda writer: (writer == spare, writer))
        for warm in (self._warm[writer] for writer in writers):
            while missing > 0 and warm:
                offset, size = warm.take_smallest(missing)
                ranges.append((offset, size))
                missing -= size
        taken = sum(size for _, size in ranges)
        self.warm_bytes -= taken
        self.punching_bytes += taken
        self.punching.extend(ranges)
        return ranges

    def punched(self) -> int:
        """The memory of every range that :meth:`punch` gave out is gone; returns how many bytes that were."""
        for offset, size in self.punching:
            self._cold.add(offset, size)
        taken = self.punching_bytes
        self.punching = []
        self.punching_bytes = 0
        return taken

    def forget_writer(self, process: ProcessId) -> None:
        """The process is gone: what it wrote is warm for nobody in particular."""
        nobody = self._warm[NOBODY]
        for offset, size in self._warm.pop(process, ()):
            nobody.add(offset, size)

    def validate(self, held: Iterable[tuple[int, int]]) -> None:
        """Raise unless held ranges, warm, punching and cold ones are the offset space, each byte once.

        *held* are the extents and the blocks outside them.
        """
        pages: Counter[int] = Counter()
        whole: list[tuple[int, int]] = []
        for offset, size in held:
            if _fills_its_pages(offset, size):
                whole.append((offset, size))
            else:
                pages.update(_pages_of(offset, size))
        if pages != self._small_blocks_on_page:
            raise AssertionError("the count of small blocks on a page is wrong")
        whole += [(page, PAGE_SIZE_BYTES) for page in pages]
        if sum(size for _, size in whole) != self.held_bytes:
            raise AssertionError(f"{self!r}: held ranges have {sum(size for _, size in whole)} bytes")
        warm = [entry for ranges in self._warm.values() for entry in ranges]
        if sum(size for _, size in warm) != self.warm_bytes:
            raise AssertionError(f"{self!r}: warm ranges have {sum(size for _, size in warm)} bytes")
        if self.committed_bytes > self.limit_bytes:
            raise AssertionError(f"{self!r}: more is committed than the limit allows")
        cursor = 0
        for offset, size in sorted([*whole, *warm, *self.punching, *self._cold]):
            if offset != cursor:
                raise AssertionError(
                    f"bytes from {min(offset, cursor)} to {max(offset, cursor)} are lost or in use twice"
                )
            cursor = offset + size
        if cursor != self.offset_space_bytes:
            raise AssertionError(f"the offset space ends at {cursor}")
        for ranges in (*self._warm.values(), self._cold):
            ranges.validate()


def _fills_its_pages(offset: int, size_bytes: int) -> bool:
    return not (offset | size_bytes) & (PAGE_SIZE_BYTES - 1)


def _pages_of(offset: int, size_bytes: int) -> range:
    return range(offset & _PAGE_MASK, round_up_to_pages(offset + size_bytes), PAGE_SIZE_BYTES)
