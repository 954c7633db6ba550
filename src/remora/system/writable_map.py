"""The arena mapped for writing, for pages that are worth it.

Pages that a process has in its page table take a copy at memory speed; a fault for each costs more than the copy.
So the writer decides range by range (:mod:`remora.processes.arena_client`), and this does it.
"""

from __future__ import annotations

import ctypes

import numpy as np

from remora.system.memory_mapping import MADV_DONTNEED, populate
from remora.system.shared_memory import SharedMemory


class WritableMap:
    """The whole memory file, writable. Nothing that points into it may be given to a user."""

    __slots__ = ("_bytes", "_mapping")

    def __init__(self, memory: SharedMemory) -> None:
        self._mapping = memory.map_whole(memory.fd, writable=True)
        carrier = (ctypes.c_char * memory.size_bytes).from_address(self._mapping.address)
        self._bytes = np.frombuffer(memoryview(carrier), np.uint8)

    def copy_in(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Copy *data*, any contiguous buffer that is not empty, to *offset*.

        numpy lets other threads run meanwhile; assignment to a memoryview does not.
        """
        source = np.frombuffer(data, np.uint8)
        np.copyto(self._bytes[offset : offset + source.size], source)

    def populate(self, offset: int, size_bytes: int) -> None:
        """Bring these pages into the page table with one call, if the kernel has it (5.14)."""
        populate(self._mapping, offset, size_bytes)

    def forget(self, offset: int, size_bytes: int) -> None:
        """Take these pages out of the page table; their contents stay in the file."""
        self._mapping.advise(MADV_DONTNEED, offset, size_bytes)

    def close(self) -> None:
        """Unmap; no other thread may be copying."""
        self._bytes = np.empty(0, np.uint8)
        self._mapping.close()
