"""The serving end of a data connection: one thread that answers a reader's requests from the arena."""

from __future__ import annotations

import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from time import monotonic
from typing import Any, Protocol

from remora.base.ids import short
from remora.core.served_chunks import Found, ObjectKey, Wanted, answer_of
from remora.messages.node_wire import decode_node_body
from remora.messages.transfer import (
    ANSWER_HEADER,
    CHUNK_FOLLOWS,
    CHUNK_WAITS,
    MAX_REQUEST_NUMBER,
    DataHello,
    ReadChunks,
)
from remora.messages.wire import HEADER_SIZE_BYTES, unpack_length
from remora.processes.daemon.transfer_arrivals import Arrivals
from remora.system.transfer_io import (
    ArenaWindow,
    BlockSender,
    StreamEnded,
    end_connection,
    receive_exactly,
)

MAX_REQUEST_BYTES = 1 << 20
REQUEST_POLL_S = 0.05
"""While it waits for chunks it looks so often whether the reader wants others."""
BEAT_S = 0.5
"""A reader hears so often that this node waits for the chunk itself."""


class Lookup(Protocol):
    """What the loop does for serving threads; both return at once."""

    def find(self, keys: list[ObjectKey], answer: SimpleQueue[list[Found | None] | None]) -> None:
        """Put the answer for *keys* into the queue, and count a reader of each that is found."""

    def reader_done(self, offsets: list[int]) -> None:
        """The blocks at these offsets have one reader less."""

    def connection_ended(self, connection: ServedConnection) -> None:
        """The thread is about to end; it reads nothing any more."""


class _Held:
    """An object that this connection reads; ``unread`` answers with bytes of it were not acknowledged."""

    __slots__ = ("found", "key", "sent_s", "unread")

    def __init__(self, key: ObjectKey, found: Found) -> None:
        self.key = key
        self.found = found
        self.sent_s = 0.0
        self.unread = 0

    @property
    def is_stale(self) -> bool:
        """Whether the object was on its way and will not come."""
        return self.found.arrival is not None and self.found.arrival.has_failed


class ServedConnection:
    """One connection of one reader. The loop calls :meth:`close`, and reads the counters."""

    def __init__(
        self, accept: Callable[[], socket.socket], window: ArenaWindow, arrivals: Arrivals, lookup: Lookup
    ) -> None:
        self.sent_bytes = 0
        self.reader = b""
        """The node that reads, once it has said so."""
        self._accept = accept
        self._window = window
        self._arrivals = arrivals
        self._lookup = lookup
        self._answers: SimpleQueue[list[Found | None] | None] = SimpleQueue()
        self._held: dict[ObjectKey, _Held] = {}
        self._unread: deque[_Held | None] = deque()
        self._acknowledged = 0
        self._wanted: list[Wanted] = []
        self._requested = 0
        self._look_again_s = 0.0
        self._said_s = 0.0
        self._socket: socket.socket | None = None
        self._is_closing = False
        self.thread = threading.Thread(target=self._run, name="serve", daemon=True)
        self.thread.start()

    def __repr__(self) -> str:
        return f"<ServedConnection of node {short(self.reader)}, {self.sent_bytes} bytes sent>"

    def close(self, *, will_be_answered: bool = True) -> None:
        """End it; ``connection_ended`` tells when it has ended. *will_be_answered*: the loop goes on running."""
        self._is_closing = True
        if not will_be_answered:
            self._answers.put(None)
        if self._socket is not None:
            end_connection(self._socket)

    def _run(self) -> None:
        try:
            self._socket = sock = self._accept()
            try:
                sock.settimeout(None)
                self._serve(sock)
            finally:
                sock.close()
        except StreamEnded:
            pass
        except (OSError, ValueError) as error:  # also what cannot be decoded
            if not self._is_closing:
                print(f"{self!r} broke: {error}", flush=True)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        held = {id(one): one for one in (*self._held.values(), *self._unread) if one is not None}
        self._lookup.reader_done([one.found.offset for one in held.values()])
        self._lookup.connection_ended(self)

    def _serve(self, sock: socket.socket) -> None:
        sender = BlockSender(sock, self._window)
        readable = select.poll()
        readable.register(sock.fileno(), select.POLLIN)
        while not self._is_closing:
            if not self._wanted or readable.poll(0) or _has_decrypted(sock):
                self._take_requests(sock)
            changes = self._arrivals.changes
            if not self._answer_what_can_be(sender) and self._wanted:
                self._arrivals.wait_for_change(changes, REQUEST_POLL_S)
                if monotonic() - self._said_s >= BEAT_S:
                    self._say(sender, CHUNK_WAITS, 0)

    def _take_requests(self, sock: socket.socket) -> None:
        for message in _read_frame(sock):
            if isinstance(message, ReadChunks):
                now_s = self._said_s = monotonic()
                self._acknowledge(message.received)
                for chunk in message.chunks:
                    key = (chunk.id, chunk.writer)
                    self._wanted.append(Wanted(key, chunk.offset, chunk.size_bytes, self._requested, now_s))
                    self._requested = (self._requested + 1) & MAX_REQUEST_NUMBER
                self._find_all(now_s)
            elif isinstance(message, DataHello):
                self.reader = message.node
            else:
                raise ValueError(f"{type(message).__name__} is nothing that a reader says")

    # ------------------------------------------------------------------ which objects, and for how long

    def _acknowledge(self, received: int) -> None:
        if received - self._acknowledged > len(self._unread):
            raise ValueError(f"{received} answers were acknowledged that were not given")
        while self._acknowledged < received:
            self._acknowledged += 1
            held = self._unread.popleft()
            if held is not None:
                held.unread -= 1
                if not held.unread and self._held.get(held.key) is not held:
                    self._lookup.reader_done([held.found.offset])

    def _find_all(self, now_s: float) -> None:
        """Let go what was read and is not wanted now, have the rest found, with one question to the loop."""
        wanted = dict.fromkeys(one.key for one in self._wanted)
        gone = [held for held in self._held.values() if held.is_stale or not (held.unread or held.key in wanted)]
        for held in gone:
            del self._held[held.key]
        unread = [held.found.offset for held in gone if not held.unread]
        if unread:
            self._lookup.reader_done(unread)
        missing = [key for key in wanted if key not in self._held]
        if missing:
            self._lookup.find(missing, self._answers)
            for key, found in zip(missing, self._answers.get() or ()):
                if found is not None:
                    self._held[key] = _Held(key, found)
        self._look_again_s = now_s + BEAT_S / 2

    # ------------------------------------------------------------------ answering

    def _answer_what_can_be(self, sender: BlockSender) -> bool:
        """Answer in the order of the requests, but nothing waits for a chunk that is not here yet."""
        now_s = monotonic()
        if self._wanted and self._must_look_again(now_s):
            self._find_all(now_s)
        wanted, self._wanted = self._wanted, []
        for position, one in enumerate(wanted):
            held = self._held.get(one.key)
            status = self._status_of(one, held, now_s)
            if status == CHUNK_WAITS:
                self._wanted.append(one)
            elif status == CHUNK_FOLLOWS:
                assert held is not None
                self._send_chunk(sender, one, held)
            else:
                self._unread.append(None)
                self._say(sender, status, one.number)
            if self._is_closing:
                self._wanted += wanted[position + 1 :]
                break
        return len(self._wanted) < len(wanted)

    def _must_look_again(self, now_s: float) -> bool:
        missing = [one.key for one in self._wanted if one.key not in self._held]
        arrivals = (self._arrivals.get(key) for key in missing)
        return bool(missing) and (now_s >= self._look_again_s or any(one and one.offset >= 0 for one in arrivals))

    def _status_of(self, wanted: Wanted, held: _Held | None, now_s: float) -> int:
        if held is None:
            is_coming = self._arrivals.get(wanted.key) is not None
            return answer_of(wanted, None, is_coming=is_coming, last_sent_s=0.0, now_s=now_s)
        return answer_of(wanted, held.found, is_coming=True, last_sent_s=held.sent_s, now_s=now_s)

    def _send_chunk(self, sender: BlockSender, wanted: Wanted, held: _Held) -> None:
        held.unread += 1
        self._unread.append(held)
        header = ANSWER_HEADER.pack(CHUNK_FOLLOWS, wanted.size_bytes, wanted.number)
        sender.send(header, held.found.offset + wanted.offset, wanted.size_bytes)
        self.sent_bytes += wanted.size_bytes
        held.sent_s = self._said_s = monotonic()

    def _say(self, sender: BlockSender, status: int, number: int) -> None:
        sender.send(ANSWER_HEADER.pack(status, 0, number), 0, 0)
        self._said_s = monotonic()


def _has_decrypted(sock: socket.socket) -> bool:
    """Whether TLS has read more than was taken from it."""
    return type(sock) is not socket.socket and bool(sock.pending())  # type: ignore[attr-defined]


def _read_frame(sock: socket.socket) -> list[Any]:
    header = bytearray(HEADER_SIZE_BYTES)
    receive_exactly(sock, memoryview(header))
    (size_bytes,) = unpack_length(header)
    if size_bytes > MAX_REQUEST_BYTES:
        raise ValueError(f"a request has {size_bytes} bytes")
    body = bytearray(size_bytes)
    receive_exactly(sock, memoryview(body))
    return decode_node_body(body)
