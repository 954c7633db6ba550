"""Mappings of files at addresses, by the C library: what the ``mmap`` module cannot do.

That module maps where it wants, shows no address, and never replaces a mapping in place.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import NoReturn

PROT_READ = 1
PROT_WRITE = 2
MAP_SHARED = 0x01
MAP_PRIVATE = 0x02
MAP_FIXED = 0x10
MAP_NORESERVE = 0x4000
MADV_DONTNEED = 4
MADV_DONTFORK = 10
MADV_DONTDUMP = 16
MADV_POPULATE_WRITE = 23
FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02

_MAP_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)


class Mapping:
    """A mapped range of a file, at ``address`` until :meth:`close`.

    Whoever closes it must know that nothing points into it any more: it is not closed by the garbage collector,
    since Python objects over its memory do not hold it.
    """

    __slots__ = ("address", "size_bytes")

    def __init__(self, fd: int, offset: int, size_bytes: int, *, writable: bool, private: bool = False) -> None:
        protection = PROT_READ | PROT_WRITE if writable else PROT_READ
        flags = (MAP_PRIVATE if private else MAP_SHARED) | MAP_NORESERVE
        self.address = _mmap(None, size_bytes, protection, flags, fd, offset)
        self.size_bytes = size_bytes

    def __repr__(self) -> str:
        return f"<Mapping of {self.size_bytes} bytes at {self.address:#x}>"

    def replace_by_private_copy(self, fd: int, offset: int) -> None:
        """Make this a private mapping of the file, in place and at once: the first write to a page copies it."""
        flags = MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE
        _mmap(self.address, self.size_bytes, PROT_READ | PROT_WRITE, flags, fd, offset)

    def advise(self, advice: int, offset: int = 0, size_bytes: int | None = None) -> None:
        """``madvise`` a part of it.

        Raises:
            OSError: the kernel does not know the advice (EINVAL) or cannot follow it.
        """
        size_bytes = self.size_bytes - offset if size_bytes is None else size_bytes
        if _libc.madvise(self.address + offset, size_bytes, advice) != 0:
            _raise_errno(f"madvise({advice}) of {size_bytes} bytes")

    def close(self) -> None:
        """Unmap it. A second call does nothing."""
        if self.address:
            _libc.munmap(self.address, self.size_bytes)
            self.address = 0


def populate(mapping: Mapping, offset: int, size_bytes: int) -> None:
    """Have the pages of a part of a writable mapping there and mapped; without Linux 5.14 each waits for its use."""
    try:
        mapping.advise(MADV_POPULATE_WRITE, offset, size_bytes)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise


def punch_hole(fd: int, offset: int, size_bytes: int) -> None:
    """Give the memory of a range of a file back to the machine; it reads as zeros from then on.

    Raises:
        OSError: the kernel refused.
    """
    if _libc.fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size_bytes) != 0:
        _raise_errno(f"punching {size_bytes} bytes at {offset}")


def _mmap(address: int | None, size_bytes: int, protection: int, flags: int, fd: int, offset: int) -> int:
    mapped = _libc.mmap(address, size_bytes, protection, flags, fd, offset)
    if mapped is None or mapped == _MAP_FAILED:
        _raise_errno(f"mapping {size_bytes} bytes of the object store (is `ulimit -v` set?)")
    return int(mapped)


def _raise_errno(what: str) -> NoReturn:
    error = ctypes.get_errno()
    raise OSError(error, f"{what}: {os.strerror(error)}")
