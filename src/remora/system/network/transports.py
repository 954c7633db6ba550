"""The byte streams below a :class:`~remora.system.network.stream_link.StreamLink`, in the clear.

A transport looks like the non-blocking socket that a ``Connection`` expects, and keeps what a stream has to know: how
many bytes came, and the first error of a write. Linux reports a reset once: if a write has got the error, the next read
returns an end of file, as after an orderly end.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any, Protocol

from remora.system.network.sockets import round_trip_s

_LINGER_NO_TIME = struct.pack("ii", 1, 0)


def set_reset_on_close(sock: socket.socket) -> None:
    """Have the kernel send a reset when *sock* is closed."""
    with contextlib.suppress(OSError):  # it is closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NO_TIME)


class Transport(Protocol):
    """What a handshake ends with."""

    failure: OSError | None
    received_bytes: int

    def fileno(self) -> int: ...
    def setblocking(self, flag: bool) -> None: ...
    def send(self, data: Any) -> int: ...
    def recv_into(self, view: memoryview) -> int: ...
    def pending(self) -> int: ...
    def round_trip_s(self) -> float: ...
    def close(self) -> None: ...
    def reset_on_close(self) -> None: ...
    def abandon_in_child(self) -> None: ...


class ClearTransport:
    """A plain TCP socket."""

    __slots__ = ("_socket", "failure", "received_bytes")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self.failure: OSError | None = None
        self.received_bytes = 0

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:
        """Part of the interface; a transport never blocks."""
        assert not flag

    def send(self, data: Any) -> int:
        """How much of *data* the kernel took.

        Raises:
            BlockingIOError: nothing.
            OSError: the connection is broken, or the peer has closed.
        """
        try:
            return self._socket.send(data)
        except BlockingIOError:
            raise
        except OSError as error:
            self.failure = self.failure or error
            raise

    def recv_into(self, view: memoryview) -> int:
        """How many bytes came; 0 is an end of file.

        Raises:
            BlockingIOError: none.
            OSError: the connection is broken.
        """
        received = self._socket.recv_into(view)
        self.received_bytes += received
        return received

    def pending(self) -> int:
        """How many bytes are here that no descriptor tells of."""
        return 0

    def round_trip_s(self) -> float:
        """What a packet and its acknowledgement took at least so far."""
        return round_trip_s(self._socket)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def abandon_in_child(self) -> None:
        """In a forked child: close its copy of the socket."""
        self._socket.close()

    def reset_on_close(self) -> None:
        """From now on the peer will take a close for a broken connection, not for an end."""
        set_reset_on_close(self._socket)
