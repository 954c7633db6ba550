"""What the machine of pulls keeps, and the effects that it asks for."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import msgspec

from remora.base.ids import NodeId, short


class PullPurpose(IntEnum):
    """Who waits for an object that is pulled; the smaller number is served first."""

    GET = 0
    ARGUMENT = 1
    PREFETCH = 2


class AskSpace(NamedTuple):
    """Effect: get space for the object, then call ``space_granted`` or ``space_refused``."""

    pull: int
    size_bytes: int


class ReleasePull(NamedTuple):
    """Effect: the pull ended without the object, and nothing of it is in use any more: release its space, if it has."""

    pull: int


class OpenStream(NamedTuple):
    """Effect: connect to the source; its end, also that of a vain attempt, is told by ``stream_closed``."""

    source: NodeId
    stream: int


class CloseStream(NamedTuple):
    """Effect: end the stream at once. It counts as in use until ``stream_closed``."""

    source: NodeId
    stream: int
    reason: str


class Chunk(NamedTuple):
    """A piece of the object that a pull is about."""

    pull: int
    offset: int
    size_bytes: int


class RequestChunks(NamedTuple):
    """Effect: ask for these chunks on the stream, in this order."""

    source: NodeId
    stream: int
    chunks: list[Chunk]


class Finished(NamedTuple):
    """Effect: the object is here."""

    pull: int


class SourceFailed(NamedTuple):
    """Effect: the pull gets nothing more from this source. It goes on with the others, and with new ones if told."""

    pull: int
    source: NodeId
    reason: str


class Failed(NamedTuple):
    """Effect: the pull has ended without the object: there is no space, or no node to read from."""

    pull: int
    reason: str


Effect = AskSpace | ReleasePull | OpenStream | CloseStream | RequestChunks | Finished | SourceFailed | Failed


class PullState(IntEnum):
    """Where a pull is. ``ENDED``: finished, failed or cancelled, but chunks of it may be on their way."""

    QUEUED = 0
    WAITING_FOR_SPACE = 1
    RUNNING = 2
    ENDED = 3


class Pull(msgspec.Struct, eq=False):
    """One object on its way here.

    ``sources`` are in the order in which they are tried; ``refused`` of them do not have it, and why; ``broken`` are
    the last errors of others. ``starved_since_s`` is when a source first had to wait for a chunk itself for too long,
    if no chunk has come since. ``returned`` are offsets of chunks that a broken stream gave back.
    """

    number: int
    id: bytes
    writer: bytes
    size_bytes: int
    purpose: PullPurpose
    sources: list[NodeId]
    state: PullState = PullState.QUEUED
    source: NodeId | None = None
    refused: dict[NodeId, str] = {}
    broken: dict[NodeId, str] = {}
    next_offset: int = 0
    returned: list[int] = []
    outstanding: int = 0
    received: int = 0
    received_bytes: int = 0
    progress_s: float = 0.0
    starved_since_s: float | None = None
    has_space: bool = False

    def __repr__(self) -> str:
        where = f" from node {short(self.source)}" if self.source else ""
        done = f"{self.received_bytes} of {self.size_bytes} bytes"
        return f"<Pull {self.number} of {short(self.id)}{where}: {self.state.name}, {self.purpose.name}, {done}>"

    @property
    def key(self) -> tuple[bytes, bytes]:
        """Which object, and who wrote this value of it."""
        return self.id, self.writer

    def has_unasked(self) -> bool:
        """Whether a chunk is neither here nor asked for."""
        return bool(self.returned) or self.next_offset < self.size_bytes or (self.size_bytes == 0 == self.next_offset)

    def reasons(self) -> str:
        """Why each source could not give it."""
        reasons = {**self.broken, **self.refused}
        return "; ".join(f"node {short(node)}: {reason}" for node, reason in reasons.items())
