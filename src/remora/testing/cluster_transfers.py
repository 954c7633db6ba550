"""Transfers between nodes of a simulated cluster: the real machine of pulls, and streams that are lanes of the network.

A reader asks its source for chunks; a source that is still receiving answers as soon as it has the chunk itself. A
lane keeps its order, so a seed decides how far each transfer has come when something else happens.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from remora.base.ids import NodeId, ObjectId
from remora.core.counting.vocabulary import CancelPull, RaisePull, StartPull
from remora.core.pull_records import (
    AskSpace,
    Chunk,
    CloseStream,
    Effect,
    Failed,
    Finished,
    OpenStream,
    PullPurpose,
    ReleasePull,
    RequestChunks,
    SourceFailed,
)
from remora.core.pulls import PullManager
from remora.messages.objects import Location
from remora.messages.transfer import (
    CHUNK_FOLLOWS,
    CHUNK_NOT_HERE,
    CHUNK_TIMED_OUT,
    ReadChunks,
    WantedChunk,
)
from remora.testing.cluster_network import End

if TYPE_CHECKING:
    from remora.testing.cluster_daemon import SimulatedDaemon

WAIT_S = 10.0
"""How long a source lets a reader wait for a chunk that it does not have yet."""
Key = tuple[bytes, bytes]
"""Object and writer."""


class ChunkAnswer(msgspec.Struct, frozen=True):
    """What the eight bytes before a chunk say."""

    status: int


class Arrival:
    """A value that comes here; other nodes may read what of it is here."""

    def __init__(self, key: Key, size_bytes: int) -> None:
        self.key = key
        self.size_bytes = size_bytes
        self.offset = -1
        self.chunks: set[int] = set()
        self.has_ended = False


class Reader:
    """A stream on which another node reads from this one."""

    def __init__(self) -> None:
        self.wanted: deque[WantedChunk] = deque()
        self.waits_since_s: float | None = None


class SimulatedTransfers:
    """All transfers of one node."""

    def __init__(self, daemon: SimulatedDaemon, machine: type[PullManager] = PullManager) -> None:
        self.pulls = machine()
        self._daemon = daemon
        self._network = daemon.world
        self.has_room = True
        self._arrivals: dict[Key, Arrival] = {}
        self._coming: dict[int, Arrival] = {}
        self._streams: dict[tuple[NodeId, int], deque[Chunk]] = {}
        self._readers: dict[tuple[NodeId, int], Reader] = {}
        self._closed: list[tuple[NodeId, int, str]] = []

    # ------------------------------------------------------------------ what the directory says

    def do(self, effect: StartPull | RaisePull | CancelPull) -> None:
        """Bring a value here, more urgently, or not at all."""
        key = (effect.id, effect.writer)
        if isinstance(effect, StartPull):
            self._start(key, effect.size_bytes, [NodeId(one) for one in effect.sources], effect.purpose)
        elif isinstance(effect, RaisePull):
            self.pulls.raise_priority(*key, _purpose(effect.purpose))
        elif key in self._arrivals:
            self._end(self._arrivals[key])
            self.pulls.cancel(*key)

    def _start(self, key: Key, size_bytes: int, sources: Sequence[NodeId], purpose: int) -> None:
        now_s = self._network.now_s
        nodes = [source for source in sources if source != self._daemon.node]
        if key in self._arrivals:
            self.pulls.raise_priority(*key, _purpose(purpose))
            self.pulls.sources_changed(*key, nodes, now_s)
        else:
            number = self.pulls.start(*key, size_bytes, nodes, _purpose(purpose))
            self._arrivals[key] = self._coming[number] = Arrival(key, size_bytes)

    def node_dead(self, node: NodeId) -> None:
        """The node was declared dead."""
        self.pulls.node_dead(node, self._network.now_s)
        for reader in [one for one in self._readers if one[0] == node]:
            del self._readers[reader]

    def tick(self) -> None:
        """Time has passed."""
        now_s = self._network.now_s
        self.pulls.tick(now_s)
        for at, reader in list(self._readers.items()):
            if reader.waits_since_s is not None and now_s - reader.waits_since_s >= WAIT_S:
                reader.waits_since_s = None
                reader.wanted.popleft()
                self._answer(at, CHUNK_TIMED_OUT)
                self._serve(at, reader)

    # ------------------------------------------------------------------ what arrives

    def receive(self, node: NodeId, lane: int, message: Any) -> None:
        """Something on a data stream with the node."""
        if isinstance(message, ReadChunks):
            reader = self._readers.setdefault((node, lane), Reader())
            reader.wanted.extend(message.chunks)
            self._serve((node, lane), reader)
        elif isinstance(message, End):
            self._readers.pop((node, lane), None)
            if (node, lane) in self._streams:
                self._close(node, lane, "the connection was closed")
        elif isinstance(message, ChunkAnswer) and (node, lane) in self._streams:
            self._chunk_answered(node, lane, message.status)

    def _chunk_answered(self, node: NodeId, lane: int, status: int) -> None:
        now_s = self._network.now_s
        chunk = self._streams[node, lane].popleft()
        at = (node, lane, chunk.pull, chunk.offset)
        self.pulls.stream_progress(node, lane, now_s, is_payload=status == CHUNK_FOLLOWS)
        if status == CHUNK_FOLLOWS:
            arrival = self._coming[chunk.pull]
            arrival.chunks.add(chunk.offset)
            self.pulls.chunk_received(*at, now_s)
        else:
            is_final = status == CHUNK_NOT_HERE
            self.pulls.chunk_refused(*at, "it is not here", now_s, is_final=is_final)

    # ------------------------------------------------------------------ serving

    def _serve(self, at: tuple[NodeId, int], reader: Reader) -> None:
        """Answer in order, as far as the chunks are here."""
        while reader.wanted:
            wanted = reader.wanted[0]
            arrival = self._arrivals.get((wanted.id, wanted.writer))
            if arrival is not None:
                if wanted.offset not in arrival.chunks:
                    if reader.waits_since_s is None:
                        reader.waits_since_s = self._network.now_s
                    return
                is_here = True
            else:
                located = self._daemon.directory.locate(ObjectId(wanted.id), wanted.writer)
                is_here = located is not None and located.is_whole
            reader.wanted.popleft()
            reader.waits_since_s = None
            self._answer(at, CHUNK_FOLLOWS if is_here else CHUNK_NOT_HERE)

    def _answer(self, at: tuple[NodeId, int], status: int) -> None:
        node, lane = at
        if node in self._network.alive:
            self._network.put_data(self._daemon.node, node, -lane, ChunkAnswer(status))

    # ------------------------------------------------------------------ doing what the machine says

    def carry_out(self) -> None:
        """The end of a turn."""
        while True:
            closed, self._closed = self._closed, []
            for node, lane, reason in closed:
                self.pulls.stream_closed(node, lane, reason, self._network.now_s)
            self.pulls.assign(self._network.now_s)
            effects, self.pulls.outbox = self.pulls.outbox, []
            for effect in effects:
                self._do(effect)
            for at, reader in list(self._readers.items()):
                self._serve(at, reader)
            if not effects and not self._closed:
                return

    def _do(self, effect: Effect) -> None:
        if isinstance(effect, AskSpace):
            self._ask_space(effect)
        elif isinstance(effect, OpenStream):
            self._open(effect.source, effect.stream)
        elif isinstance(effect, RequestChunks):
            self._request(effect)
        elif isinstance(effect, CloseStream):
            if (effect.source, effect.stream) in self._streams:
                self._network.put_end(self._daemon.node, effect.source, -effect.stream)
                self._close(effect.source, effect.stream, effect.reason)
        elif isinstance(effect, Finished):
            self._finished(self._coming.pop(effect.pull))
        elif isinstance(effect, SourceFailed):
            arrival = self._coming[effect.pull]
            if not arrival.has_ended:  # else it was cancelled after this was decided
                self._failed(arrival, effect.source, effect.reason)
        elif isinstance(effect, Failed):
            arrival = self._coming[effect.pull]
            if not arrival.has_ended:
                self._end(arrival)
                self._failed(arrival, b"", effect.reason)
        else:
            assert isinstance(effect, ReleasePull)
            offset = self._coming.pop(effect.pull).offset
            if offset >= 0:
                self._daemon.arena.free(offset)

    def _ask_space(self, effect: AskSpace) -> None:
        arrival = self._coming[effect.pull]
        if self.has_room:
            arrival.offset = self._daemon.arena.allocate(self._daemon.process)
            self.pulls.space_granted(effect.pull, self._network.now_s)
        else:
            self.pulls.space_refused(effect.pull, "the store of this node has no room")

    def _open(self, source: NodeId, lane: int) -> None:
        self._streams[source, lane] = deque()
        if source not in self._network.alive:
            self._close(source, lane, "the connection was refused")

    def _close(self, source: NodeId, lane: int, reason: str) -> None:
        del self._streams[source, lane]
        self._closed.append((source, lane, reason))

    def _request(self, effect: RequestChunks) -> None:
        if (effect.source, effect.stream) not in self._streams:
            return  # it is closed, which the machine is about to hear
        self._streams[effect.source, effect.stream].extend(effect.chunks)
        wanted = [WantedChunk(*self._coming[chunk.pull].key, chunk.offset, chunk.size_bytes) for chunk in effect.chunks]
        self._network.send(self._daemon.node, effect.source, ReadChunks(wanted, 0), lane=-effect.stream)

    def _finished(self, arrival: Arrival) -> None:
        object_id, writer = arrival.key
        self._end(arrival)
        self._daemon.arena.publish(arrival.offset)
        location = Location(self._daemon.node, arrival.offset, arrival.size_bytes)
        self._daemon.directory.copy_arrived(ObjectId(object_id), writer, location)

    def _failed(self, arrival: Arrival, source: bytes, reason: str) -> None:
        object_id, writer = arrival.key
        self._daemon.directory.copy_failed(ObjectId(object_id), writer, source, reason)

    def _end(self, arrival: Arrival) -> None:
        arrival.has_ended = True
        if self._arrivals.get(arrival.key) is arrival:
            del self._arrivals[arrival.key]

    # ------------------------------------------------------------------ looking

    def open_streams(self) -> list[tuple[NodeId, int]]:
        """Source and lane of each."""
        return list(self._streams)


def _purpose(number: int) -> PullPurpose:
    return PullPurpose(min(number, PullPurpose.PREFETCH))
