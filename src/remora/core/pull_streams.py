"""Streams to the nodes that are read from: when they open and close, and which chunks are asked on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from remora.base.ids import NodeId
from remora.core.pull_records import Chunk, CloseStream, Effect, OpenStream, Pull, RequestChunks
from remora.core.pull_sources import CHUNK_BYTES, PullSource, PullStream

STALL_S = 2.0
"""A stream that was asked for something and has brought no byte for so long is closed."""
IDLE_S = 10.0
"""A stream that nothing was asked on for so long is closed."""


class PullStreams:
    """All sources with their streams, and the pulls that have chunks to ask of each."""

    __slots__ = ("_dead", "_emit", "_hungry", "_last_stream", "_sources")

    def __init__(self, emit: Callable[[Effect], None]) -> None:
        self._emit = emit
        self._sources: dict[NodeId, PullSource] = {}
        self._dead: set[NodeId] = set()
        """For ever. What else is known of a dead node is forgotten when its streams are closed: all sources are looked
        at in every tick."""
        self._hungry: dict[NodeId, None] = {}
        self._last_stream = 0

    def __repr__(self) -> str:
        return f"<PullStreams {list(self._sources.values())}>"

    def __getitem__(self, node: NodeId) -> PullSource:
        """The source, which has streams.

        Raises:
            KeyError: it is not known.
        """
        return self._sources[node]

    def __iter__(self) -> Iterator[PullSource]:
        return iter(list(self._sources.values()))

    def get(self, node: NodeId | None) -> PullSource | None:
        """The source, if anything is known of it."""
        return None if node is None else self._sources.get(node)

    def source(self, node: NodeId) -> PullSource:
        """The source, new if need be."""
        found = self._sources.get(node)
        if found is None:
            found = self._sources[node] = PullSource(node)
        return found

    def is_dead(self, node: NodeId) -> bool:
        """Whether the node was declared dead."""
        return node in self._dead

    def node_dead(self, node: NodeId) -> None:
        """The node was declared dead."""
        self._dead.add(node)
        source = self._sources.get(node)
        if source is not None:
            for stream in source.streams.values():
                self.close_stream(source, stream, "the node is dead")

    def has_streams(self) -> bool:
        """Whether any stream is open."""
        return any(source.streams for source in self._sources.values())

    def make_ready(self, pull: Pull) -> None:
        """Ask its source for the pull's chunks, if any are left to ask for."""
        if pull.source is not None and pull.has_unasked():
            self.source(pull.source).ready[pull.purpose][pull.number] = pull
            self._hungry[pull.source] = None

    def unready(self, pull: Pull) -> None:
        """Ask its source for no more chunks of the pull."""
        source = self.get(pull.source)
        if source is not None:
            source.ready[pull.purpose].pop(pull.number, None)

    def wake(self, source: PullSource) -> None:
        """A stream of the source may have room again, or the source has rested; or nothing is left of it."""
        if source.first_ready() is not None:
            self._hungry[source.node] = None
        elif not source.streams and (not source.breaks or source.node in self._dead):
            self._sources.pop(source.node, None)

    def close_stream(self, source: PullSource, stream: PullStream, reason: str) -> None:
        """Have it closed; it counts as in use until it is."""
        if not stream.closing:
            stream.closing = True
            self._emit(CloseStream(source.node, stream.number, reason))

    def close_silent(self, now_s: float) -> None:
        """Close streams that stall or that nobody uses."""
        for source in self:
            for stream in source.streams.values():
                silent_s = now_s - stream.progress_s
                if stream.outstanding and silent_s >= STALL_S:
                    self.close_stream(source, stream, f"it sent no byte for {silent_s:.1f} s")
                elif not stream.outstanding and silent_s >= IDLE_S:
                    self.close_stream(source, stream, "it was not used")
            self.wake(source)

    def assign(self, now_s: float) -> None:
        """Ask for as many chunks as the streams have room for."""
        hungry, self._hungry = self._hungry, {}
        for node in hungry:
            source = self._sources.get(node)
            if source is None or node in self._dead or source.rests_until_s > now_s:
                continue
            for stream in source.low_streams():
                self._fill(source, stream, now_s)
            while source.first_ready() is not None and source.wants_stream():
                self._last_stream += 1
                stream = source.streams[self._last_stream] = PullStream(self._last_stream, now_s)
                self._emit(OpenStream(node, stream.number))
                self._fill(source, stream, now_s)

    def _fill(self, source: PullSource, stream: PullStream, now_s: float) -> None:
        chunks: list[Chunk] = []
        if not stream.outstanding:
            stream.progress_s = now_s
        while (pull := source.first_ready()) is not None:
            chunk = _next_chunk(pull)
            if not stream.has_room(chunk.size_bytes):
                break
            _take(pull, chunk)
            pull.outstanding += 1
            stream.asked(chunk)
            chunks.append(chunk)
            if not pull.has_unasked():
                del source.ready[pull.purpose][pull.number]
        if chunks:
            self._emit(RequestChunks(source.node, stream.number, chunks))


def _next_chunk(pull: Pull) -> Chunk:
    offset = pull.returned[-1] if pull.returned else pull.next_offset
    return Chunk(pull.number, offset, min(CHUNK_BYTES, pull.size_bytes - offset))


def _take(pull: Pull, chunk: Chunk) -> None:
    """The chunk is asked for; an empty object is one chunk of nothing."""
    if pull.returned:
        pull.returned.pop()
    else:
        pull.next_offset += max(1, chunk.size_bytes)
