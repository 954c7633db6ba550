"""The arena as a process that reads from it sees it: one read-only mapping, and views that hold what they show."""

from __future__ import annotations

import os
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any

from remora.core.arena_layout import PAGE_SIZE_BYTES, round_up_to_pages
from remora.system.memory_mapping import Mapping
from remora.system.pinned_memory import Pin, PinnedMemory
from remora.system.shared_memory import SharedMemory

if TYPE_CHECKING:
    from remora.system.store_array import StoreArray


class ArenaReader:
    """Views of the arena, each of which keeps an object (the ref) alive until the last thing built on it is gone.

    All methods are called under the client's lock. The views themselves live in any thread.

    Example:
        >>> view = reader.view(location.offset, location.size_bytes, keep=ref)
        >>> for ref in reader.drain():  # of views that are gone
        ...     ...  # drop it after the lock
    """

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._read_only_fd = memory.open_read_only()
        self._mapping = memory.map_whole(self._read_only_fd, writable=False)
        self._pins = PinnedMemory()

    def __repr__(self) -> str:
        return f"<ArenaReader of {self._memory!r}, {len(self._pins)} pins>"

    def view(self, offset: int, size_bytes: int, keep: Any) -> memoryview:
        """The bytes of an object, which nothing in this process can change. Slices of it may be given to users."""
        self._check(offset, size_bytes)
        return self._pins.view(self._mapping.address + offset, size_bytes, keep)

    def private_view(self, offset: int, size_bytes: int, keep: Any) -> memoryview:
        """The bytes of an object in a mapping of their own: a write copies the page and is seen here only.

        For types that have no read-only form. The object has its own pages (64 KB or more).

        Raises:
            ValueError: it does not start on a page.
            OSError: the machine cannot map it.
        """
        self._check(offset, size_bytes)
        if offset % PAGE_SIZE_BYTES:
            raise ValueError(f"an object at {offset} shares its page with others: copy it")
        mapping = Mapping(self._read_only_fd, offset, round_up_to_pages(size_bytes), writable=True, private=True)
        carrier, _ = self._pins.pin_mapping(mapping, size_bytes, keep)
        return PickleBuffer(carrier).raw()

    def array_in_store(self, offset: int, size_bytes: int, keep: Any) -> StoreArray:
        """A reserved object's pages, writable until they are sealed; *keep* is what holds the reservation."""
        from remora.system.store_array import StoreArray  # it imports numpy, which not every process needs

        self._check(offset, size_bytes)
        return StoreArray(self._memory.fd, self._read_only_fd, offset, size_bytes, self._pins, keep)

    def drain(self) -> list[Any]:
        """What was kept by views that are gone, to be dropped by the caller when it has left its lock."""
        return self._pins.drain()

    def pins(self) -> list[Pin]:
        """One for each object and each time that it was viewed: what it keeps, and its size."""
        return self._pins.pins()

    def pin_count(self) -> int:
        """How many pins there are."""
        return len(self._pins)

    def close(self) -> None:
        """Stop reading. Views that are still there stay readable, and the mapping with them."""
        if self._read_only_fd >= 0:
            os.close(self._read_only_fd)
            self._read_only_fd = -1
        if not self._pins:
            self._mapping.close()

    def _check(self, offset: int, size_bytes: int) -> None:
        if offset < 0 or size_bytes < 0 or offset + size_bytes > self._memory.size_bytes:
            raise ValueError(f"{size_bytes} bytes at {offset} do not lie in {self._memory!r}")
