"""Pulls between the nodes of a simulated cluster: what daemons do when the directory says ``StartPull``.

A value has a few chunks. The reader asks its source for one after the other; a source that is still receiving answers
when it has the chunk itself. Requests travel in the world's channels like everything else, so a seed decides how far
each pull has come when something else happens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from remora.base.ids import NodeId, ObjectId
from remora.core.counting.directory import Directory
from remora.core.counting.vocabulary import CancelPull, StartPull
from remora.messages.objects import Location

CHUNKS = 3


class ReadChunk(msgspec.Struct, array_like=True, frozen=True):
    """Send me this chunk when you have it."""

    id: bytes
    writer: bytes
    chunk: int


class Chunk(msgspec.Struct, array_like=True, frozen=True):
    """The chunk; not *found*: the value is not here."""

    id: bytes
    writer: bytes
    chunk: int
    found: bool


@dataclass
class Pull:
    """A value on its way to a node."""

    location: Location
    sources: list[NodeId]
    chunks: int = 0
    asking: list[tuple[NodeId, int]] = field(default_factory=list)
    """Nodes that wait for chunks which are not here yet."""


Key = tuple[ObjectId, bytes]
"""Object and writer."""


class PullShell:
    """The pulls of one node."""

    def __init__(
        self,
        directory: Directory,
        send: Callable[[bytes, bytes, msgspec.Struct], None],
        new_location: Callable[[NodeId], Location],
        free: Callable[[Location], None],
    ) -> None:
        self.directory = directory
        self.node = directory.node
        self.pulls: dict[Key, Pull] = {}
        self.sent_chunks: dict[ObjectId, int] = {}
        self.early: list[tuple[NodeId, ReadChunk]] = []
        """What was asked for before the home has said to pull it."""
        self.has_room = True
        self._send = send
        self._new_location = new_location
        self._free = free

    def start(self, effect: StartPull) -> None:
        key = (ObjectId(effect.id), effect.writer)
        sources = [NodeId(source) for source in effect.sources]
        assert self.node not in sources, "a node cannot pull from itself"
        if key in self.pulls:
            self.pulls[key].sources = sources
        elif not self.has_room:
            self.directory.copy_failed(*key, b"", "the store is full")
            return
        else:
            self.pulls[key] = Pull(self._new_location(self.node), sources)
        self._ask(key)

    def cancel(self, effect: CancelPull) -> None:
        key = (ObjectId(effect.id), effect.writer)
        pull = self.pulls.pop(key, None)
        if pull is not None:  # else it found no room
            self._refuse(key, pull)
            self._free(pull.location)

    def node_ended(self, node: NodeId) -> None:
        """Its connections are closed."""
        for key, pull in list(self.pulls.items()):
            if pull.sources and pull.sources[0] == node:
                self._fail(key, pull, node)

    def link_lost(self, node: NodeId) -> None:
        """What was on its way to and from the node is asked for again."""
        self.early = [(reader, message) for reader, message in self.early if reader != node]
        for key, pull in list(self.pulls.items()):
            pull.asking = [(reader, chunk) for reader, chunk in pull.asking if reader != node]
            if not pull.sources:
                self.directory.copy_failed(*key, node, "the link was lost")
            elif pull.sources[0] == node:
                self._ask(key)

    def read_chunk(self, reader: NodeId, message: ReadChunk) -> None:
        key = (ObjectId(message.id), message.writer)
        located = self.directory.locate(*key)
        pull = self.pulls.get(key)
        if located is None:
            self._send(self.node, reader, Chunk(*key, message.chunk, found=False))
        elif located.is_whole or (pull is not None and pull.chunks > message.chunk):
            self.sent_chunks[key[0]] = self.sent_chunks.get(key[0], 0) + 1
            self._send(self.node, reader, Chunk(*key, message.chunk, found=True))
        elif pull is not None:
            pull.asking.append((reader, message.chunk))
        else:
            self.early.append((reader, message))

    def look_again(self) -> None:
        """Something has changed at the directory."""
        early, self.early = self.early, []
        for reader, message in early:
            self.read_chunk(reader, message)

    def chunk(self, source: NodeId, message: Chunk) -> None:
        key = (ObjectId(message.id), message.writer)
        pull = self.pulls.get(key)
        if pull is None or not pull.sources or pull.sources[0] != source or pull.chunks != message.chunk:
            return
        if not message.found:
            self._fail(key, pull, source)
            return
        pull.chunks += 1
        if pull.chunks < CHUNKS:
            self._ask(key)
        else:
            del self.pulls[key]
            self.directory.copy_arrived(*key, pull.location)
        asking, pull.asking = pull.asking, []
        for reader, chunk in asking:
            self.read_chunk(reader, ReadChunk(*key, chunk))

    def _ask(self, key: Key) -> None:
        pull = self.pulls[key]
        if pull.sources[0] in self.directory._dead_nodes:
            self._fail(key, pull, pull.sources[0])
        else:
            self._send(self.node, pull.sources[0], ReadChunk(*key, pull.chunks))

    def _fail(self, key: Key, pull: Pull, source: NodeId) -> None:
        """Try the other sources that the home named, then ask for more."""
        pull.sources = pull.sources[1:]
        if pull.sources:
            self._ask(key)
        else:
            self.directory.copy_failed(*key, source, "it does not answer")

    def _refuse(self, key: Key, pull: Pull) -> None:
        for reader, chunk in pull.asking:
            self._send(self.node, reader, Chunk(*key, chunk, found=False))
