"""The reading end of a data connection: one thread that asks a node for chunks and writes them into the arena."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from enum import IntEnum
from queue import SimpleQueue
from typing import NamedTuple, Protocol

from remora.base.ids import NodeId, short
from remora.core.pull_records import Chunk
from remora.core.served_chunks import Arrival
from remora.messages.transfer import (
    ANSWER_HEADER,
    CHUNK_FOLLOWS,
    CHUNK_NOT_HERE,
    CHUNK_TIMED_OUT,
    CHUNK_WAITS,
    MAX_REQUEST_NUMBER,
    DataHello,
    ReadChunks,
    WantedChunk,
)
from remora.messages.wire import encode_frame
from remora.processes.daemon.transfer_arrivals import Arrivals
from remora.system.transfer_io import (
    SCRATCH_BYTES,
    ArenaWindow,
    end_connection,
    receive_block,
    receive_block_to_new_pages,
    receive_exactly,
    send_bytes,
)

REASONS = {
    CHUNK_NOT_HERE: "the object is not there",
    CHUNK_TIMED_OUT: "it did not receive the object itself in time",
}


class Pages(IntEnum):
    """What is known of the pages that a chunk is written to."""

    MAPPED = 0
    UNMAPPED = 1
    NEW = 2


class ChunkToRead(NamedTuple):
    """A chunk and where it goes: ``offset`` is that in the arena."""

    chunk: Chunk
    wanted: WantedChunk
    offset: int
    pages: Pages
    arrival: Arrival


class StreamEvents(Protocol):
    """What a stream tells, in its own thread."""

    def chunk_received(self, stream: SourceStream, chunk: Chunk) -> None:
        """The chunk is in the arena."""

    def chunk_refused(self, stream: SourceStream, chunk: Chunk, reason: str, is_final: bool) -> None:
        """The source does not have it."""

    def stream_closed(self, stream: SourceStream, reason: str) -> None:
        """The last word: the connection has ended, and nothing is written any more."""


class SourceStream:
    """One connection to a source. The loop calls :meth:`ask` and :meth:`close`, and reads the counters."""

    def __init__(
        self,
        source: NodeId,
        number: int,
        own_node: NodeId,
        connect: Callable[[], socket.socket],
        window: ArenaWindow,
        arrivals: Arrivals,
        events: StreamEvents,
    ) -> None:
        self.source = source
        self.number = number
        self.received_bytes = 0
        self.signs_of_life = 0
        """Counts everything that came which is not payload."""
        self._own_node = own_node
        self._connect = connect
        self._window = window
        self._arrivals = arrivals
        self._events = events
        self._asked: SimpleQueue[list[ChunkToRead] | None] = SimpleQueue()
        self._outstanding: dict[int, ChunkToRead] = {}
        self._requested = 0
        self._answers = 0
        self._answers_told = 0
        self._socket: socket.socket | None = None
        self._close_reason = ""
        self._scratch: memoryview | None = None
        self._header = bytearray(ANSWER_HEADER.size)
        self.thread = threading.Thread(target=self._run, name=f"read-{short(source)}-{number}", daemon=True)
        self.thread.start()

    def __repr__(self) -> str:
        return f"<SourceStream {self.number} to node {short(self.source)}, {self.received_bytes} bytes came>"

    def ask(self, chunks: list[ChunkToRead]) -> None:
        """Ask for these, behind what was asked before."""
        self._asked.put(chunks)

    def close(self, reason: str) -> None:
        """End it; ``stream_closed`` tells when it has ended."""
        self._close_reason = reason
        self._asked.put(None)
        if self._socket is not None:
            end_connection(self._socket)

    def _run(self) -> None:
        reason = ""
        try:
            self._socket = sock = self._connect()
            try:
                self._read_until_closed(sock)
            finally:
                sock.close()
        except OSError as error:
            reason = str(error) or type(error).__name__
        self._events.stream_closed(self, self._close_reason or reason)

    def _read_until_closed(self, sock: socket.socket) -> None:
        sock.settimeout(None)
        self.signs_of_life += 1
        send_bytes(sock, encode_frame([DataHello(self._own_node)]))
        while not self._close_reason:
            if not self._outstanding and self._asked.empty() and self._answers_told != self._answers:
                self._send_request(sock, [])
            if not self._outstanding or not self._asked.empty():
                self._send_asked(sock)
            if self._outstanding:
                self._receive_answer(sock)

    def _send_asked(self, sock: socket.socket) -> None:
        """Wait for something to ask for, and ask for all there is."""
        chunks: list[ChunkToRead] = []
        while not chunks or not self._asked.empty():
            more = self._asked.get()
            if more is None:
                return
            chunks += more
        for chunk in chunks:
            self._outstanding[self._requested] = chunk
            self._requested = (self._requested + 1) & MAX_REQUEST_NUMBER
        self._send_request(sock, [chunk.wanted for chunk in chunks])

    def _send_request(self, sock: socket.socket, wanted: list[WantedChunk]) -> None:
        send_bytes(sock, encode_frame([ReadChunks(wanted, self._answers)]))
        self._answers_told = self._answers

    def _receive_answer(self, sock: socket.socket) -> None:
        receive_exactly(sock, memoryview(self._header))
        status, size_bytes, number = ANSWER_HEADER.unpack(self._header)
        self.signs_of_life += 1
        if status == CHUNK_WAITS:
            return
        to_read = self._outstanding.get(number)
        if to_read is None:
            raise OSError(f"it answered request {number}, which there is not")
        if status == CHUNK_FOLLOWS:
            if size_bytes != to_read.chunk.size_bytes:
                raise OSError(f"{size_bytes} bytes were sent for {to_read.chunk}")
            self._receive_chunk(sock, to_read)
        elif status not in REASONS:
            raise OSError(f"it sent the status {status}, which there is not")
        del self._outstanding[number]
        self._answers += 1
        if status == CHUNK_FOLLOWS:
            self._arrivals.chunk_came(to_read.arrival, to_read.chunk.offset)
            self._events.chunk_received(self, to_read.chunk)
        else:
            self._events.chunk_refused(self, to_read.chunk, REASONS[status], status == CHUNK_NOT_HERE)

    def _receive_chunk(self, sock: socket.socket, to_read: ChunkToRead) -> None:
        offset, size_bytes = to_read.offset, to_read.chunk.size_bytes

        def on_bytes(count: int) -> None:
            self.received_bytes += count
            if not self._asked.empty():  # ask before the source runs out of work
                self._send_asked(sock)

        if to_read.pages is Pages.NEW:
            if self._scratch is None:
                self._scratch = memoryview(bytearray(SCRATCH_BYTES))
            receive_block_to_new_pages(sock, self._window, offset, size_bytes, self._scratch, on_bytes)
            return
        if to_read.pages is Pages.UNMAPPED:
            self._window.populate(offset, size_bytes)
        receive_block(sock, self._window, offset, size_bytes, on_bytes)
