"""The serving end of a data connection: one thread that answers a reader's requests from the arena."""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from time import monotonic
from typing import Any, Protocol

import msgspec

from remora.base.ids import short
from remora.messages.transfer import (
    CHUNK_FOLLOWS,
    CHUNK_NOT_HERE,
    CHUNK_TIMED_OUT,
    CHUNK_WAITS,
    DataHello,
    ReadChunks,
    WantedChunk,
)
from remora.messages.wire import HEADER_SIZE_BYTES, decode_body, unpack_length
from remora.processes.daemon.transfer_arrivals import Arrival, Arrivals, ObjectKey
from remora.system.transfer_io import (
    ArenaWindow,
    BlockSender,
    StreamEnded,
    end_connection,
    receive_exactly,
    send_bytes,
)

ANSWER_HEADER = struct.Struct("<II")
MAX_REQUEST_BYTES = 1 << 20
MAX_CHUNK_BYTES = 1 << 30
BEAT_S = 0.5
"""A reader hears so often that this node waits for the chunk itself."""
ARRIVAL_WAIT_S = 10.0
"""A chunk that has not come here after so long is asked for elsewhere."""
UNKNOWN_WAIT_S = 1.0
"""A reader may have heard that this node receives an object before this node has."""


class Found(msgspec.Struct, frozen=True):
    """Where an object lies here. It stays while the loop counts this reader, that is until ``reader_done``."""

    offset: int
    size_bytes: int
    arrival: Arrival | None = None


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

    __slots__ = ("found", "key", "unread")

    def __init__(self, key: ObjectKey, found: Found) -> None:
        self.key = key
        self.found = found
        self.unread = 0


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
        self._since_s = 0.0
        """When the reader asked, or got bytes last. It is kept waiting from then on, not from each of its chunks on."""
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
        except (OSError, msgspec.DecodeError, ValueError) as error:
            if not self._is_closing:
                print(f"{self!r} broke: {error}", flush=True)
        self._lookup.reader_done([held.found.offset for held in self._held.values()])
        self._lookup.connection_ended(self)

    def _serve(self, sock: socket.socket) -> None:
        sender = BlockSender(sock, self._window)
        while not self._is_closing:
            for message in _read_frame(sock):
                if isinstance(message, ReadChunks):
                    self._since_s = monotonic()
                    self._acknowledge(message.received)
                    self._find_all(message.chunks)
                    for chunk in message.chunks:
                        self._answer(sock, sender, chunk)
                elif isinstance(message, DataHello):
                    self.reader = message.node
                else:
                    raise ValueError(f"{message!r} is nothing that a reader says")

    # ------------------------------------------------------------------ which objects, and for how long

    def _acknowledge(self, received: int) -> None:
        if received - self._acknowledged > len(self._unread):
            raise ValueError(f"{received} answers were acknowledged that were not given")
        while self._acknowledged < received:
            self._acknowledged += 1
            held = self._unread.popleft()
            if held is not None:
                held.unread -= 1

    def _find_all(self, chunks: list[WantedChunk]) -> None:
        """Let go what was read and is not wanted now, have the rest found, with one question to the loop."""
        wanted = dict.fromkeys((chunk.id, chunk.writer) for chunk in chunks)
        read = [held for held in self._held.values() if not held.unread and held.key not in wanted]
        for held in read:
            del self._held[held.key]
        if read:
            self._lookup.reader_done([held.found.offset for held in read])
        self._find([key for key in wanted if key not in self._held])

    def _find(self, keys: list[ObjectKey]) -> None:
        if not keys:
            return
        self._lookup.find(keys, self._answers)
        for key, found in zip(keys, self._answers.get() or ()):
            if found is not None:
                self._held[key] = _Held(key, found)

    def _find_late(self, sock: socket.socket, key: ObjectKey) -> _Held | None:
        """The object was not here when it was asked for: it may be about to be pulled, or wait for space."""
        while not self._is_closing:
            if key in self._held:
                return self._held[key]
            is_coming = self._arrivals.get(key) is not None
            if monotonic() - self._since_s > (ARRIVAL_WAIT_S if is_coming else UNKNOWN_WAIT_S):
                return None
            if not self._arrivals.wait_for_place(key, BEAT_S / 2):
                send_bytes(sock, ANSWER_HEADER.pack(CHUNK_WAITS, 0))
            self._find([key])
        return None

    # ------------------------------------------------------------------ answering

    def _answer(self, sock: socket.socket, sender: BlockSender, chunk: WantedChunk) -> None:
        key = (chunk.id, chunk.writer)
        held = self._held.get(key) or self._find_late(sock, key)
        if held is None:
            self._refuse(sock, CHUNK_TIMED_OUT if self._arrivals.get(key) is not None else CHUNK_NOT_HERE)
            return
        found = held.found
        if not 0 <= chunk.size_bytes <= MAX_CHUNK_BYTES or not 0 <= chunk.offset <= found.size_bytes - chunk.size_bytes:
            self._refuse(sock, CHUNK_NOT_HERE)
        elif found.arrival is not None and not self._wait_for_chunk(sock, found.arrival, chunk):
            self._refuse(sock, CHUNK_NOT_HERE if found.arrival.has_failed else CHUNK_TIMED_OUT)
        else:
            held.unread += 1
            self._unread.append(held)
            header = ANSWER_HEADER.pack(CHUNK_FOLLOWS, chunk.size_bytes)
            sender.send(header, found.offset + chunk.offset, chunk.size_bytes)
            self.sent_bytes += chunk.size_bytes
            self._since_s = monotonic()

    def _refuse(self, sock: socket.socket, status: int) -> None:
        self._unread.append(None)
        send_bytes(sock, ANSWER_HEADER.pack(status, 0))

    def _wait_for_chunk(self, sock: socket.socket, arrival: Arrival, chunk: WantedChunk) -> bool:
        if arrival.covers(chunk.offset, chunk.size_bytes):
            return True
        deadline_s = self._since_s + ARRIVAL_WAIT_S
        while not self._arrivals.wait_for_chunk(arrival, chunk.offset, chunk.size_bytes, BEAT_S):
            if arrival.has_failed or self._is_closing or monotonic() >= deadline_s:
                return False
            send_bytes(sock, ANSWER_HEADER.pack(CHUNK_WAITS, 0))
        return True


def _read_frame(sock: socket.socket) -> list[Any]:
    header = bytearray(HEADER_SIZE_BYTES)
    receive_exactly(sock, memoryview(header))
    (size_bytes,) = unpack_length(header)
    if size_bytes > MAX_REQUEST_BYTES:
        raise ValueError(f"a request has {size_bytes} bytes")
    body = bytearray(size_bytes)
    receive_exactly(sock, memoryview(body))
    return decode_body(body)
