"""Messages in order, exactly once, over as many TCP connections as that takes.

Both sides count the frames of the stream, and keep those that they wrote until the other side has acknowledged them.
When a connection breaks, the opener makes a new one. There each side first says how many frames it has handled
(``StreamHello``), and the other writes again what follows. So no frame carries a number, and none comes twice.

The end: an end of file says that the other process has ended or closed, for a kernel writes it only then. A reset can
mean anything, so the opener tries again, and the acceptor waits for it. Who is refused was given up by the other side.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from remora.base.ids import short
from remora.messages.links import StreamAck, StreamEnd, StreamHello
from remora.messages.wire import encode_batch, encode_frame
from remora.system.connection import Connection, ForeignFrameError
from remora.system.network.refusals import StreamRefused
from remora.system.network.stream_link import StreamLink
from remora.system.reactor import Reactor

ACK_FRAMES = 64
ACK_BYTES = 256 * 1024
ACK_DELAY_S = 0.05
"""An acknowledgement is written after so many frames or bytes, and at the latest after this time."""

_CONTROL = frozenset((StreamHello, StreamAck, StreamEnd))
"""Alone in their frames, which are not counted."""


class Keeper(Protocol):
    """Who makes and accepts the connections of a stream."""

    def link_broken(self, stream: Stream, error: Exception) -> None:
        """The connection broke; another may follow."""

    def stream_ended(self, stream: Stream) -> None:
        """No other connection is wanted."""

    def abandon_in_child(self) -> None:
        """In a forked child: close copies of what is under way."""


class Stream:
    """One side of a stream; used as :class:`~remora.system.connection.Connection` is.

    ``on_messages(stream, messages)`` gets each frame's messages. ``on_closed(stream, error)`` is called once, after
    everything that came was handed out: *error* is None at an orderly end, a ``StreamRefused`` when the other side does
    not want the stream (any more), or an OSError when it could not be reached for too long. Neither is called after
    :meth:`close`. Both are called by the thread that polls the reactor; any thread may send and flush.
    """

    __slots__ = (
        "_acknowledged",
        "_acknowledged_bytes",
        "_has_ack_timer",
        "_keeper",
        "_kept",
        "_kept_bytes",
        "_link",
        "_peer_has",
        "_reactor",
        "_received",
        "_write_lock",
        "address",
        "closed",
        "latency_s",
        "on_closed",
        "on_messages",
        "outgoing",
        "peer",
        "purpose",
        "remote",
        "stream_id",
    )

    def __init__(
        self,
        reactor: Reactor,
        keeper: Keeper,
        stream_id: bytes,
        remote: bytes,
        purpose: int,
        address: str,
        on_messages: Callable[[Stream, list[Any]], None],
        on_closed: Callable[[Stream, Exception | None], None],
        peer: Any = None,
    ) -> None:
        self._reactor = reactor
        self._keeper = keeper
        self.stream_id = stream_id
        self.remote = remote
        """The process id of the other side."""
        self.purpose = purpose
        self.address = address
        self.on_messages = on_messages
        self.on_closed = on_closed
        self.peer = peer
        self.outgoing: list[Any] = []
        self.closed = False
        self.latency_s = 0.0
        """What a round trip takes on the network, as known when the connection was made."""
        self._link: StreamLink | None = None
        self._write_lock = threading.Lock()
        self._kept: deque[bytearray] = deque()
        self._kept_bytes = 0
        self._peer_has = 0
        self._received = 0
        self._acknowledged = 0
        self._acknowledged_bytes = 0
        self._has_ack_timer = False

    def __repr__(self) -> str:
        state = "closed" if self.closed else "connected" if self._link is not None else "not connected"
        return (
            f"<Stream {self.stream_id[:4].hex()} with {short(self.remote)} at {self.address} {state} "
            f"received={self._received} kept={len(self._kept)} peer={self.peer!r}>"
        )

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._link is not None

    @property
    def received(self) -> int:
        """How many frames came."""
        return self._received

    @property
    def unsent_bytes(self) -> int:
        """What is encoded and not acknowledged yet: a process that ends before it is 0 may take it with it."""
        return self._kept_bytes

    @property
    def is_blocked(self) -> bool:
        """Whether nothing more can be written for now; what is flushed meanwhile stays in ``outgoing``."""
        return not self._is_writable()

    # ------------------------------------------------------------------ sending

    def send(self, message: Any) -> None:
        """Put *message* into the next frame; :meth:`flush` makes it leave."""
        self.outgoing.append(message)

    def flush(self) -> None:
        """Write everything that was sent, as far as the socket takes it; the rest follows when it can."""
        outgoing = self.outgoing
        # As in Connection.flush: whoever holds the lock looks again after it let go.
        while outgoing and self._is_writable() and self._write_lock.acquire(False):
            try:
                if self.closed:
                    outgoing.clear()
                    return
                frame, count = encode_batch(outgoing)
                del outgoing[:count]
                self._kept.append(frame)
                self._kept_bytes += len(frame)
                link = self._link
                if link is not None:  # else it goes with the next one
                    link.write(frame)
            finally:
                self._write_lock.release()

    def _is_writable(self) -> bool:
        link = self._link
        return self.closed or (link is not None and not link.is_blocked)

    # ------------------------------------------------------------------ connections, told by the keeper

    def attach(self, link: StreamLink, peer_received: int) -> None:
        """Go on over *link*, on which both have said hello: the other side has *peer_received* frames.

        Raises:
            ForeignFrameError: it cannot have so many, or has acknowledged more before; nothing is changed then.
        """
        with self._write_lock:
            if self.closed:
                link.close()
                return
            self._drop_acknowledged(peer_received)
            self._acknowledged = self._received
            self._acknowledged_bytes = link.transport.received_bytes
            link.on_messages = self._on_frame
            link._on_closed = self._on_link_closed
            link.peer = self
            self._link = link
            self.latency_s = link.transport.round_trip_s()
            for frame in self._kept:
                link.write(frame)
        self.flush()

    def detach(self) -> None:
        """Drop the connection, of which the other side knows already that it is broken."""
        with self._write_lock:
            link, self._link = self._link, None
        if link is not None:
            link.close()

    def end(self, error: Exception | None) -> None:
        """The stream is over: tell its user."""
        if self._finish(None):
            self.on_closed(self, error)

    # ------------------------------------------------------------------ receiving

    def read_to_end(self) -> None:
        """Hand out all that has arrived. For a peer that is known to be dead, whatever still has its socket open."""
        link = self._link
        if link is not None:
            link.read_to_end()

    def _on_frame(self, link: Connection, messages: list[Any]) -> None:
        current = self._link
        if current is None or current is not link:
            return  # a handler further out still reads from a connection that was replaced
        if messages and type(messages[0]) in _CONTROL:
            self._on_control(messages[0])
            return
        # Counted before it is handled: the handler may wait, and so read on, itself.
        self._received = received = self._received + 1
        received_bytes = current.transport.received_bytes
        if received - self._acknowledged >= ACK_FRAMES or received_bytes - self._acknowledged_bytes >= ACK_BYTES:
            self._acknowledge()
        elif not self._has_ack_timer:
            self._has_ack_timer = True
            self._reactor.call_after(ACK_DELAY_S, self._on_ack_timer)
        self.on_messages(self, messages)

    def _on_control(self, message: StreamHello | StreamAck | StreamEnd) -> None:
        if type(message) is StreamAck:
            try:
                with self._write_lock:
                    self._drop_acknowledged(message.received)
            except ForeignFrameError as error:
                self.end(error)
                return
            self.flush()
        elif type(message) is StreamEnd:
            self.end(StreamRefused(message.code, self.address) if message.code else None)
        else:
            self.end(ForeignFrameError("a second StreamHello came on one connection"))

    def _drop_acknowledged(self, peer_received: int) -> None:
        count = peer_received - self._peer_has
        if not 0 <= count <= len(self._kept):
            raise ForeignFrameError(
                f"{self!r}: the other side says that it has {peer_received} frames; it had {self._peer_has} before, "
                f"and {len(self._kept)} were written since"
            )
        for _ in range(count):
            self._kept_bytes -= len(self._kept.popleft())
        self._peer_has = peer_received

    def _acknowledge(self) -> None:
        link = self._link
        if link is not None:
            self._acknowledged = self._received
            self._acknowledged_bytes = link.transport.received_bytes
            link.write(encode_frame([StreamAck(self._received)]))

    def _on_ack_timer(self) -> None:
        self._has_ack_timer = False
        if self._received > self._acknowledged:
            self._acknowledge()

    def _on_link_closed(self, link: Connection, error: Exception | None) -> None:
        with self._write_lock:
            if link is not self._link:
                return
            self._link = None
        if error is None or isinstance(error, ForeignFrameError):
            self.end(error)
        else:
            self._keeper.link_broken(self, error)

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        """End the stream now; what the other side has not got is dropped, and ``on_closed`` is not called."""
        self._finish(StreamEnd())

    def refuse(self, code: int) -> None:
        """End the stream; the opener hears of a ``StreamRefused`` with *code*. For the one who accepted it."""
        self._finish(StreamEnd(int(code)))

    def abandon_in_child(self) -> None:
        """In a forked child: close its copies of sockets. The parent's go on, and the reactor is the parent's."""
        self.closed = True
        if self._link is not None:
            self._link.abandon_in_child()
        self._keeper.abandon_in_child()

    def _finish(self, farewell: StreamEnd | None) -> bool:
        """Whether it was this call that ended the stream."""
        with self._write_lock:
            if self.closed:
                return False
            self.closed = True
            link, self._link = self._link, None
            self._kept.clear()
            self._kept_bytes = 0
            self.outgoing.clear()
        if link is not None:
            if farewell is not None:
                link.write(encode_frame([farewell]))
            link.close()
        self._keeper.stream_ended(self)
        return True
