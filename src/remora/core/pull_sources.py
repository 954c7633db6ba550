"""The nodes that objects are pulled from: their streams, and what is asked on each."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from remora.base.ids import NodeId, short
from remora.core.pull_records import Chunk, Pull, PullPurpose

CHUNK_BYTES = 1 << 20
"""So much of an object is asked for at a time. From 0.5 to 8 MB one connection is equally fast; in a chain of readers a
small chunk reaches the last one earlier."""
WINDOW_BYTES = 8 * CHUNK_BYTES
"""On a stream at most so much is asked for and not here. It is filled up again when half of it has come, so that
small objects are asked for many at a time."""
WINDOW_CHUNKS = 128
STREAMS_PER_SOURCE = 2
FIRST_REST_S = 0.1
LONGEST_REST_S = 2.0


class PullStream(msgspec.Struct, eq=False):
    """A connection to a source; ``outstanding`` are the sizes of what was asked and did not come, in order."""

    number: int
    progress_s: float
    outstanding: dict[tuple[int, int], int] = {}
    outstanding_bytes: int = 0
    closing: bool = False

    def __repr__(self) -> str:
        state = "closing" if self.closing else f"{len(self.outstanding)} chunks asked"
        return f"<PullStream {self.number}, {state}>"

    def has_room(self, size_bytes: int) -> bool:
        """Whether a chunk of this size may be asked for; of any size when nothing else is."""
        if not self.outstanding:
            return True
        return self.outstanding_bytes + size_bytes <= WINDOW_BYTES and len(self.outstanding) < WINDOW_CHUNKS

    def is_low(self) -> bool:
        """Whether it is time to ask for more."""
        return self.outstanding_bytes <= WINDOW_BYTES // 2 and len(self.outstanding) <= WINDOW_CHUNKS // 2

    def asked(self, chunk: Chunk) -> None:
        """The chunk is asked for here."""
        self.outstanding[chunk.pull, chunk.offset] = chunk.size_bytes
        self.outstanding_bytes += chunk.size_bytes

    def answered(self, pull: int, offset: int) -> int:
        """The chunk came, or was refused; its size.

        Raises:
            ValueError: it was not asked for here.
        """
        size_bytes = self.outstanding.pop((pull, offset), None)
        if size_bytes is None:
            raise ValueError(f"{self!r}: byte {offset} of pull {pull} was not asked for")
        self.outstanding_bytes -= size_bytes
        return size_bytes


class PullSource:
    """One node. ``ready`` are the running pulls, by purpose, that have chunks to ask of it.

    ``payload_s`` is when bytes of any object came from it last.
    """

    __slots__ = ("breaks", "node", "payload_s", "ready", "rests_until_s", "streams")

    def __init__(self, node: NodeId) -> None:
        self.node = node
        self.streams: dict[int, PullStream] = {}
        self.ready: tuple[dict[int, Pull], ...] = tuple({} for _ in PullPurpose)
        self.rests_until_s = 0.0
        self.breaks = 0
        self.payload_s = 0.0

    def __repr__(self) -> str:
        return f"<PullSource node {short(self.node)}, {list(self.streams.values())}, {sum(map(len, self.ready))} ready>"

    def first_ready(self) -> Pull | None:
        """Whose chunks are to be asked for next."""
        for pulls in self.ready:
            for pull in pulls.values():
                return pull
        return None

    def all_ready(self) -> list[Pull]:
        """All pulls that have chunks to ask for here."""
        return [pull for pulls in self.ready for pull in pulls.values()]

    def low_streams(self) -> Iterator[PullStream]:
        """Those that more should be asked on."""
        return (stream for stream in self.streams.values() if not stream.closing and stream.is_low())

    def wants_stream(self) -> bool:
        """Whether one more connection would help: every one has as much to do as it may."""
        return len(self.streams) < STREAMS_PER_SOURCE and not any(stream.closing for stream in self.streams.values())

    def paid(self, now_s: float) -> None:
        """Bytes of an object have come."""
        self.payload_s = now_s
        self.breaks = 0

    def broke(self, now_s: float) -> None:
        """A stream broke: leave the node alone for a while, the longer the more often."""
        self.rests_until_s = now_s + min(LONGEST_REST_S, FIRST_REST_S * 2.0**self.breaks)
        self.breaks += 1
