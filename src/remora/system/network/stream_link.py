"""One TCP connection of a stream, from the end of its handshake until it breaks."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, cast

from remora.messages.node_wire import decode_node_body
from remora.system.connection import Connection
from remora.system.network.transports import Transport
from remora.system.reactor import Reactor


class StreamLink(Connection):
    """A connection whose end of file can be told from a broken one. Its ``peer`` is the stream, once there is one."""

    __slots__ = ("transport",)

    decode = staticmethod(decode_node_body)

    def __init__(
        self,
        transport: Transport,
        reactor: Reactor,
        on_messages: Callable[[Connection, list[Any]], None],
        on_closed: Callable[[Connection, Exception | None], None],
    ) -> None:
        self.transport = transport
        super().__init__(cast(socket.socket, transport), reactor, on_messages, on_closed)

    def flush(self) -> None:
        """The socket takes more: the stream, which keeps what it writes, has it."""
        if self.peer is not None:
            self.peer.flush()

    def abandon_in_child(self) -> None:
        """In a forked child: close its copy of the socket. The parent's goes on, and the reactor is the parent's."""
        self.closed = True
        self.transport.abandon_in_child()

    def read_pending(self) -> None:
        """Hand out what TLS has decrypted already: no descriptor tells of it."""
        while not self.closed and self.transport.pending():
            self._receive()

    def break_off(self) -> None:
        """Close, so that the peer takes it for a broken connection and not for the end of the stream."""
        self.transport.reset_on_close()
        self.close()

    def _on_event(self, mask: int) -> None:
        super()._on_event(mask)
        self.read_pending()

    def _end_of_file(self, error: Exception | None) -> None:
        failure = self.transport.failure
        # A peer that had closed in order lets a write fail with EPIPE; any other failure is a broken connection.
        if error is None and failure is not None and not isinstance(failure, BrokenPipeError):
            error = failure
        if error is not None:
            self.transport.reset_on_close()
        super()._end_of_file(error)
