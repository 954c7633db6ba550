"""The arena as transfers use it: mappings for the threads, and what the loop knows of the pages."""

from __future__ import annotations

from remora.core.arena_layout import GROWTH_STEP_BYTES
from remora.core.arena_ranges import RangeSet
from remora.messages.arena import Block
from remora.processes.daemon.transfer_client import Pages
from remora.system.memory_limits import MemoryLimits
from remora.system.shared_memory import SharedMemory
from remora.system.transfer_io import ArenaWindow


class TransferMemory:
    """Used by the loop; threads get the window."""

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._window: ArenaWindow | None = None
        self._in_page_table = RangeSet()
        self._limits = MemoryLimits()
        self._unchecked_bytes = 0

    def __repr__(self) -> str:
        return f"<TransferMemory {self._in_page_table!r} in the page table>"

    @property
    def window(self) -> ArenaWindow:
        """Made at the first transfer: a node that is alone needs no mapping."""
        if self._window is None:
            self._window = ArenaWindow(self._memory)
        return self._window

    def pages_of(self, block: Block, fresh: bool) -> Pages:
        """How to write to a block that is about to be written; *fresh* pages have no memory yet."""
        if not fresh and self._in_page_table.covers(block.offset, block.size_bytes):
            return Pages.MAPPED
        self._in_page_table.discard(block.offset, block.size_bytes)
        if fresh:
            return Pages.NEW
        self._in_page_table.add(block.offset, block.size_bytes)
        return Pages.UNMAPPED

    def may_grow(self, size_bytes: int) -> bool:
        """Whether so many bytes of new pages may be written.

        Before each step of growth it is seen what the machine has left: the kernel kills where it should refuse.
        """
        self._unchecked_bytes += size_bytes
        if self._unchecked_bytes > GROWTH_STEP_BYTES:
            if self._limits.read().available_bytes < GROWTH_STEP_BYTES:
                return False
            self._unchecked_bytes = size_bytes
        return True

    def close(self) -> None:
        """Unmap; no thread may be using the window."""
        if self._window is not None:
            self._window.close()
