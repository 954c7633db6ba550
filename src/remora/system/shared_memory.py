"""The memory file of a node's arena.

It is a ``memfd``: no name that could be left behind, no limit by the size of /dev/shm, gone with the last process
that has it. It is far longer than it may have memory, and pages exist where something was written.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from pickle import PickleBuffer

from remora.system.memory_mapping import MADV_DONTDUMP, MADV_DONTFORK, Mapping, punch_hole

_F_ADD_SEALS = 1033
_F_SEAL_SEAL = 0x1
_F_SEAL_SHRINK = 0x2
_F_SEAL_GROW = 0x4
_BLOCK_SIZE_BYTES = 512
"""The unit of ``st_blocks``."""


class SharedMemory:
    """A memory file that this process may write to.

    Example:
        >>> memory = SharedMemory.create(1 << 36)
        >>> memory.write(4096, b"hello")
        >>> memory.resident_bytes()
        4096
    """

    __slots__ = ("fd", "size_bytes")

    def __init__(self, fd: int) -> None:
        """Take over the descriptor *fd*, which was received from the daemon."""
        self.fd = fd
        self.size_bytes = os.fstat(fd).st_size

    @classmethod
    def create(cls, size_bytes: int, name: str = "remora-arena") -> SharedMemory:
        """A new file of *size_bytes* without any memory yet. Its length is sealed, so nobody can truncate it.

        Raises:
            OSError: memfd is not there, or the length is above ``ulimit -f``.
        """
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size_bytes)
            fcntl.fcntl(fd, _F_ADD_SEALS, _F_SEAL_SHRINK | _F_SEAL_GROW | _F_SEAL_SEAL)
        except OSError as error:
            os.close(fd)
            error.add_note(f"the arena's memory file could not get its length of {size_bytes} bytes; see `ulimit -f`")
            raise
        return cls(fd)

    def __repr__(self) -> str:
        return f"<SharedMemory fd {self.fd}, {self.size_bytes} bytes long>"

    def open_read_only(self) -> int:
        """A new descriptor whose mappings the kernel never lets be written to."""
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDONLY | os.O_CLOEXEC)

    def map_whole(self, fd: int, *, writable: bool) -> Mapping:
        """Map the whole file through *fd*. Not in core dumps; a writable mapping is not in forked children either."""
        mapping = Mapping(fd, 0, self.size_bytes, writable=writable)
        mapping.advise(MADV_DONTDUMP)
        if writable:
            mapping.advise(MADV_DONTFORK)
        return mapping

    def resident_bytes(self) -> int:
        """The memory that the file has now."""
        return os.fstat(self.fd).st_blocks * _BLOCK_SIZE_BYTES

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write *data* by system call: the best way to pages that this process has not mapped.

        Raises:
            OSError: the machine has no memory for new pages.
        """
        view = PickleBuffer(data).raw()
        written = os.pwrite(self.fd, view, offset)
        while written < view.nbytes:
            written += os.pwrite(self.fd, view[written:], offset + written)

    def punch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Give the memory of each ``(offset, size)`` back to the machine."""
        for offset, size_bytes in ranges:
            punch_hole(self.fd, offset, size_bytes)

    def close(self) -> None:
        """Close the descriptor; mappings stay."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
