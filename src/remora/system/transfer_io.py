"""Bytes between a blocking socket and the arena, in threads that may wait.

Measured over loopback on Linux 6.18, GB/s: receiving into pages that this process has mapped 3-4; into pages that
exist and are mapped first by one call 2.7; into new pages by faults 1.4, through a small buffer and ``pwrite`` 2.3.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Callable

from remora.system.memory_mapping import Mapping, populate
from remora.system.shared_memory import SharedMemory

SCRATCH_BYTES = 256 << 10
"""What new pages are written through; it stays in the processor's cache."""
PIECE_BYTES = 1 << 20
"""So much is sent or received by one call at most, without the GIL."""
_PAGE_SIZE_BYTES = os.sysconf("SC_PAGE_SIZE")


class StreamEnded(OSError):
    """The peer has closed the connection."""


class ArenaWindow:
    """The arena as the threads of transfers see it, mapped for reading and for writing. The loop uses neither."""

    def __init__(self, memory: SharedMemory) -> None:
        self.memory = memory
        self._read_only_fd = memory.open_read_only()
        self._read_only = memory.map_whole(self._read_only_fd, writable=False)
        self._writable = memory.map_whole(memory.fd, writable=True)
        self.readable = _view(self._read_only).toreadonly()
        self.writable = _view(self._writable)

    def populate(self, offset: int, size_bytes: int) -> None:
        """Map pages that exist; *offset* is that of a page."""
        populate(self._writable, offset, -(-size_bytes // _PAGE_SIZE_BYTES) * _PAGE_SIZE_BYTES)

    def close(self) -> None:
        """Unmap; no thread may be using it."""
        self.readable.release()
        self.writable.release()
        self._read_only.close()
        self._writable.close()
        os.close(self._read_only_fd)


def send_bytes(sock: socket.socket, data: bytes | bytearray | memoryview) -> None:
    """Send all of it.

    Raises:
        OSError: the connection broke.
    """
    sock.sendall(data)


class BlockSender:
    """Sends pieces of the arena on one connection, in the way that is the fastest there.

    In the clear the pages themselves go to the network (``sendfile``), so they must not change until the peer has them.
    Between processes of one machine that is only half as fast as a copy: 1.8 GB/s, where sending from the mapping has
    3.6; over an Ethernet device (veth) both have 2.0. TLS encrypts from the mapping.
    """

    __slots__ = ("_more", "_sendfile", "_socket", "_window")

    def __init__(self, sock: socket.socket, window: ArenaWindow) -> None:
        is_clear = type(sock) is socket.socket
        self._socket = sock
        self._window = window
        self._sendfile = is_clear and not _is_loopback(sock)
        self._more = socket.MSG_MORE if is_clear else 0

    def __repr__(self) -> str:
        return f"<BlockSender {'by sendfile' if self._sendfile else 'from the mapping'}>"

    def send(self, header: bytes, offset: int, size_bytes: int) -> None:
        """Send *header*, then so many bytes from *offset* of the arena.

        Raises:
            OSError: the connection broke.
        """
        sock, window = self._socket, self._window
        sock.sendall(header, self._more if size_bytes else 0)
        end = offset + size_bytes
        while offset < end:
            if self._sendfile:
                offset += os.sendfile(sock.fileno(), window.memory.fd, offset, end - offset)
            else:
                offset += sock.send(window.readable[offset : min(end, offset + PIECE_BYTES)])


def receive_exactly(sock: socket.socket, view: memoryview) -> None:
    """Fill the view.

    Raises:
        StreamEnded: the peer closed the connection.
        OSError: the connection broke.
    """
    received = 0
    while received < len(view):
        received += _receive_some(sock, view[received:])


def receive_block(
    sock: socket.socket, window: ArenaWindow, offset: int, size_bytes: int, on_bytes: Callable[[int], None]
) -> None:
    """Receive into pages that exist, straight to their place; *on_bytes* is told of each piece.

    Raises:
        StreamEnded, OSError: as :func:`receive_exactly`.
    """
    end = offset + size_bytes
    while offset < end:
        count = _receive_some(sock, window.writable[offset : min(end, offset + PIECE_BYTES)])
        offset += count
        on_bytes(count)


def receive_block_to_new_pages(
    sock: socket.socket,
    window: ArenaWindow,
    offset: int,
    size_bytes: int,
    scratch: memoryview,
    on_bytes: Callable[[int], None],
) -> None:
    """Receive to a place that has no memory yet: writing whole pages by call saves the kernel zeroing them.

    Raises:
        StreamEnded, OSError: as :func:`receive_exactly`; OSError, too, when the machine has no memory left.
    """
    end = offset + size_bytes
    while offset < end:
        wanted = min(len(scratch), end - offset)
        filled = 0
        while filled < wanted:
            count = _receive_some(sock, scratch[filled:wanted])
            filled += count
            on_bytes(count)
        window.memory.write(offset, scratch[:wanted])
        offset += wanted


def end_connection(sock: socket.socket) -> None:
    """Make every call on the socket return, in whichever thread; close it there."""
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # that of an SSLSocket would take the TLS state away first
    except OSError:  # it is not connected any more
        return


def _receive_some(sock: socket.socket, view: memoryview) -> int:
    count = sock.recv_into(view)
    if not count:
        raise StreamEnded("the peer has closed the connection")
    return count


def _is_loopback(sock: socket.socket) -> bool:
    """Whether both ends are on this machine, and in the same network namespace."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return True
    return bool(sock.getsockname()[0] == sock.getpeername()[0])


def _view(mapping: Mapping) -> memoryview:
    return memoryview((ctypes.c_char * mapping.size_bytes).from_address(mapping.address)).cast("B")
