"""Reading objects from other nodes, as the loop sees it: the connections to sources, and what has come on each."""

from __future__ import annotations

import socket
from collections.abc import Callable

from remora.base.ids import NodeId
from remora.core.pull_records import Chunk
from remora.core.pulls import PullManager
from remora.processes.daemon.transfer_arrivals import Arrivals
from remora.processes.daemon.transfer_client import ChunkToRead, SourceStream
from remora.system.loop_calls import LoopCalls
from remora.system.transfer_io import ArenaWindow

Connect = Callable[[], socket.socket]


class Reading:
    """All connections to sources. Its threads call :meth:`chunk_received`, `chunk_refused` and `stream_closed`."""

    def __init__(
        self, calls: LoopCalls, pulls: PullManager, arrivals: Arrivals, node: NodeId, clock: Callable[[], float]
    ) -> None:
        self._calls = calls
        self._pulls = pulls
        self._arrivals = arrivals
        self._node = node
        self._clock = clock
        self._streams: dict[tuple[NodeId, int], SourceStream] = {}
        self._seen: dict[SourceStream, tuple[int, int]] = {}
        self._received_bytes = 0

    def __len__(self) -> int:
        return len(self._streams)

    def __repr__(self) -> str:
        return f"<Reading {list(self._streams.values())}>"

    @property
    def streams(self) -> list[SourceStream]:
        """Those that have not ended."""
        return list(self._streams.values())

    @property
    def received_bytes(self) -> int:
        """From all sources since the start."""
        return self._received_bytes + sum(stream.received_bytes for stream in self._streams.values())

    def open(self, source: NodeId, number: int, connect: Connect, window: ArenaWindow) -> None:
        """Begin a connection, in a thread that begins with *connect*."""
        stream = SourceStream(source, number, self._node, connect, window, self._arrivals, self)
        self._streams[source, number] = stream
        self._seen[stream] = (0, 0)

    def ask(self, source: NodeId, number: int, chunks: list[ChunkToRead]) -> None:
        """Ask for these on the connection."""
        self._streams[source, number].ask(chunks)

    def close(self, source: NodeId, number: int, reason: str) -> None:
        """End the connection, if it has not ended by itself between the decision and now."""
        stream = self._streams.get((source, number))
        if stream is not None:
            stream.close(reason)

    def look(self, now_s: float) -> None:
        """Tell the machine on which connections something has come since the last time."""
        for (source, number), stream in self._streams.items():
            payload, life = self._seen[stream]
            if (stream.received_bytes, stream.signs_of_life) != (payload, life):
                is_payload = stream.received_bytes != payload
                self._seen[stream] = (stream.received_bytes, stream.signs_of_life)
                self._pulls.stream_progress(source, number, now_s, is_payload=is_payload)

    # ------------------------------------------------------------------ what threads tell; each posts to the loop

    def chunk_received(self, stream: SourceStream, chunk: Chunk) -> None:
        """A stream's thread has written a chunk."""
        self._calls.post(self._on_received, stream, chunk)

    def chunk_refused(self, stream: SourceStream, chunk: Chunk, reason: str, is_final: bool) -> None:
        """A source has said that it does not have a chunk."""
        self._calls.post(self._on_refused, stream, chunk, reason, is_final)

    def stream_closed(self, stream: SourceStream, reason: str) -> None:
        """A stream's thread ends."""
        self._calls.post(self._on_stream_closed, stream, reason)

    def _on_received(self, stream: SourceStream, chunk: Chunk) -> None:
        self._pulls.chunk_received(stream.source, stream.number, chunk.pull, chunk.offset, self._clock())

    def _on_refused(self, stream: SourceStream, chunk: Chunk, reason: str, is_final: bool) -> None:
        at = (stream.source, stream.number, chunk.pull, chunk.offset)
        self._pulls.chunk_refused(*at, reason, self._clock(), is_final=is_final)

    def _on_stream_closed(self, stream: SourceStream, reason: str) -> None:
        del self._streams[stream.source, stream.number], self._seen[stream]
        self._received_bytes += stream.received_bytes
        self._pulls.stream_closed(stream.source, stream.number, reason, self._clock())
