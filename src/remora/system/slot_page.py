"""A few bytes per worker, shared by all processes of a node: which call a worker has begun.

A worker writes its slot before it starts a call. When it is killed, its submitter reads there which of the calls
that it had sent was the one that ran; only that one is charged a retry. A store into a page that is mapped already
costs 40 ns, so this can be done for every call, and it survives SIGKILL.

A slot is 64 bytes: submitter's process id (8), call number (4, big-endian), zero (4), and the name of the function
in UTF-8 (48, padded with zeros), which is written only when it changes: the daemon puts it before what is printed.
"""

from __future__ import annotations

import mmap
import os
import struct

SLOT_SIZE_BYTES = 64
SLOT_COUNT = 1 << 16
NAME_SIZE_BYTES = 48
_NAME_OFFSET = 16

_slot = struct.Struct(">8sI")


def create_slot_page() -> int:
    """A descriptor of an empty page of slots."""
    fd = os.memfd_create("remora-slots", os.MFD_CLOEXEC)
    os.ftruncate(fd, SLOT_SIZE_BYTES * SLOT_COUNT)
    return fd


class SlotPage:
    """The mapped page; takes over the descriptor."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, SLOT_SIZE_BYTES * SLOT_COUNT)
        os.close(fd)

    def begin(self, slot: int, submitter: bytes, call: int) -> None:
        """The worker with this slot starts the call."""
        _slot.pack_into(self._map, slot * SLOT_SIZE_BYTES, submitter, call)

    def running_call(self, slot: int, submitter: bytes) -> int | None:
        """The call of *submitter* that the worker began last; None when it began one of somebody else, or none."""
        began_by, call = _slot.unpack_from(self._map, slot * SLOT_SIZE_BYTES)
        return call if began_by == submitter else None

    def last_task(self, slot: int) -> bytes:
        """The id of the task that the worker with this slot began last; 12 zero bytes when it began none."""
        submitter, call = _slot.unpack_from(self._map, slot * SLOT_SIZE_BYTES)
        return bytes(submitter) + int(call).to_bytes(4, "big")

    def set_name(self, slot: int, name: str) -> None:
        """The worker runs calls of this function now."""
        start = slot * SLOT_SIZE_BYTES + _NAME_OFFSET
        encoded = name.encode()[:NAME_SIZE_BYTES]
        self._map[start : start + NAME_SIZE_BYTES] = encoded.ljust(NAME_SIZE_BYTES, b"\0")

    def name(self, slot: int) -> str:
        """The function that the worker ran last; empty when it has run nothing."""
        start = slot * SLOT_SIZE_BYTES + _NAME_OFFSET
        return self._map[start : start + NAME_SIZE_BYTES].rstrip(b"\0").decode(errors="ignore")

    def clear(self, slot: int) -> None:
        """The slot has a new worker."""
        _slot.pack_into(self._map, slot * SLOT_SIZE_BYTES, b"", 0)
        self.set_name(slot, "")

    def close(self) -> None:
        """Unmap the page."""
        self._map.close()
