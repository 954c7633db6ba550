"""A stream of messages over a connected, non-blocking socket.

Sending has two steps, so that a burst of small messages costs one system call: :meth:`Connection.send` only
appends to a list (one C call: a signal handler that raises cannot lose or split it), :meth:`Connection.flush`
encodes what is there and writes. Any thread may do either; frames leave in the order of ``send``.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from remora.messages.wire import HEADER_SIZE_BYTES, MAX_FRAME_BYTES, decode_body, encode_batch, unpack_length
from remora.system.reactor import WRITABLE, Reactor

RECEIVE_BUFFER_BYTES = 256 * 1024


class ForeignFrameError(Exception):
    """The peer sent bytes that are no frame of ours."""


class Connection:
    """One peer.

    ``on_messages(connection, messages)`` gets each frame's messages; ``on_closed(connection, error)`` is called once,
    after everything that the peer wrote was handed out. ``error`` is None at an orderly end of file.
    """

    __slots__ = (
        "_backlog",
        "_blocked",
        "_buffer",
        "_end",
        "_fd",
        "_on_closed",
        "_reactor",
        "_socket",
        "_start",
        "_view",
        "_write_lock",
        "closed",
        "frame_limit_bytes",
        "on_messages",
        "outgoing",
        "peer",
        "unsent_bytes",
    )

    decode = staticmethod(decode_body)
    """What makes messages of a frame's body."""
    latency_s = 0.0
    """What a round trip takes on the network: none, between processes of one machine."""

    def __init__(
        self,
        sock: socket.socket,
        reactor: Reactor,
        on_messages: Callable[[Connection, list[Any]], None],
        on_closed: Callable[[Connection, Exception | None], None],
        peer: Any = None,
    ) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._fd = sock.fileno()
        self._reactor = reactor
        self.on_messages = on_messages
        self._on_closed = on_closed
        self.peer = peer
        self.outgoing: list[Any] = []
        self._backlog: deque[memoryview] = deque()
        self.unsent_bytes = 0
        self._blocked = False
        self._write_lock = threading.Lock()
        self._buffer = bytearray(RECEIVE_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self.closed = False
        self.frame_limit_bytes = MAX_FRAME_BYTES
        """A longer frame ends the connection; lower until the peer has said who it is."""
        reactor.register(self._fd, self._on_event)

    def __repr__(self) -> str:
        return f"<Connection fd={self._fd} peer={self.peer!r} closed={self.closed} unsent={self.unsent_bytes}>"

    @property
    def socket(self) -> socket.socket:
        """The raw socket, for what goes before the first frame."""
        return self._socket

    def send(self, message: Any) -> None:
        """Put *message* into the next frame; :meth:`flush` makes it leave."""
        self.outgoing.append(message)

    def flush(self) -> None:
        """Write everything that was sent, as far as the socket takes it; the rest follows when it can."""
        outgoing = self.outgoing
        # Whoever holds the lock looks again after it let go, so nothing that was appended meanwhile stays.
        while outgoing and not self._blocked and self._write_lock.acquire(False):
            try:
                if self.closed:
                    outgoing.clear()
                    return
                frame, count = encode_batch(outgoing)
                del outgoing[:count]
                if self._backlog:
                    self._enqueue(memoryview(frame))
                    self._write_backlog()
                else:
                    self._write(frame)
            finally:
                self._write_lock.release()

    def write(self, frame: bytearray) -> None:
        """Write a frame that was encoded elsewhere, after all that was flushed before. For streams that keep frames."""
        with self._write_lock:
            if self.closed:
                return
            if self._backlog:
                self._enqueue(memoryview(frame))
            else:
                self._write(frame)

    @property
    def is_blocked(self) -> bool:
        """Whether the socket takes nothing more for now; what is flushed meanwhile stays in ``outgoing``."""
        return self._blocked

    def _write(self, frame: bytearray) -> None:
        try:
            written = self._socket.send(frame)
        except BlockingIOError:
            written = 0
        except OSError:
            # The peer is gone; reading to the end reports it, after what it still said.
            return
        if written < len(frame):
            self._enqueue(memoryview(frame)[written:])
            self._set_blocked(True)

    def _enqueue(self, rest: memoryview) -> None:
        self._backlog.append(rest)
        self.unsent_bytes += len(rest)

    def _set_blocked(self, blocked: bool) -> None:
        if blocked is not self._blocked and not self.closed:
            self._blocked = blocked
            self._reactor.watch_writable(self._fd, blocked)

    def _write_backlog(self) -> None:
        backlog = self._backlog
        while backlog:
            part = backlog[0]
            try:
                written = self._socket.send(part)
            except BlockingIOError:
                self._set_blocked(True)
                return
            except OSError:
                backlog.clear()
                self.unsent_bytes = 0
                break
            self.unsent_bytes -= written
            if written < len(part):
                backlog[0] = part[written:]
                self._set_blocked(True)
                return
            backlog.popleft()
        self._set_blocked(False)

    def _on_event(self, mask: int) -> None:
        if mask & WRITABLE:
            with self._write_lock:
                self._write_backlog()
            self.flush()
        if mask & ~WRITABLE:
            self._receive()

    def read_to_end(self) -> None:
        """Hand out all that has arrived. For a peer that is known to be dead, whatever still has its socket open."""
        while not self.closed and self._receive():
            pass

    def _receive(self) -> bool:
        """One read, and the frames that it completes; whether there may be more."""
        if self._end == len(self._buffer):
            self._make_room(self._start, self._end)  # a handler reads, in the middle of a full buffer
        try:
            received = self._socket.recv_into(self._view[self._end :])
        except BlockingIOError:
            return False
        except OSError as error:
            self._end_of_file(error)
            return False
        if not received:
            self._end_of_file(None)
            return False
        self._end += received
        # All state is in the object when the handler is called: a callback of the user's may wait, and so read, itself.
        while self._end - self._start >= HEADER_SIZE_BYTES:
            view, start = self._view, self._start
            (length,) = unpack_length(view, start)
            body = start + HEADER_SIZE_BYTES
            if self._end - body < length:
                if length > self.frame_limit_bytes:
                    self._end_of_file(ForeignFrameError(f"a frame of {length} bytes was announced"))
                    return False
                break
            try:
                messages = self.decode(view[body : body + length])
            except msgspec.MsgspecError as error:
                self._end_of_file(ForeignFrameError(f"a frame of {length} bytes is no message of ours: {error}"))
                return False
            self._start = body + length
            self.on_messages(self, messages)
            if self.closed:
                return False
        self._make_room(self._start, self._end)
        return True

    def _make_room(self, start: int, end: int) -> None:
        """Move what is left of a frame to the front, and grow the buffer when its frame does not fit."""
        rest = end - start
        if not rest:
            self._start = self._end = 0
            if len(self._buffer) > RECEIVE_BUFFER_BYTES:
                self._replace_buffer(RECEIVE_BUFFER_BYTES, b"")
            return
        wanted = RECEIVE_BUFFER_BYTES
        if rest >= HEADER_SIZE_BYTES:
            wanted = max(wanted, HEADER_SIZE_BYTES + unpack_length(self._view, start)[0])
        if wanted > len(self._buffer):
            self._replace_buffer(wanted, self._view[start:end])
        elif start and len(self._buffer) - end < len(self._buffer) // 2:
            self._buffer[:rest] = self._buffer[start:end]
        else:
            return
        self._start, self._end = 0, rest

    def _replace_buffer(self, size_bytes: int, rest: memoryview | bytes) -> None:
        buffer = bytearray(size_bytes)
        buffer[: len(rest)] = rest
        self._buffer = buffer
        self._view = memoryview(buffer)

    def _end_of_file(self, error: Exception | None) -> None:
        if not self.closed:
            self.close()
            self._on_closed(self, error)

    def abandon_in_child(self) -> None:
        """In a forked child: close its copy of the socket. The parent's goes on, and the reactor is the parent's."""
        self.closed = True
        self._socket.close()

    def close(self) -> None:
        """Close the socket now; unsent messages are dropped and ``on_closed`` is not called."""
        with self._write_lock:
            if self.closed:
                return
            self.closed = True
            self._reactor.unregister(self._fd)
            self._socket.close()
            self._backlog.clear()
            self.unsent_bytes = 0
