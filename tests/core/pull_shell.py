"""Carries out what the machine of pulls asks for, with streams that answer when the test says so."""

from __future__ import annotations

from collections import deque

from remora.base.ids import NodeId
from remora.core.pull_records import (
    AskSpace,
    Chunk,
    CloseStream,
    Failed,
    Finished,
    OpenStream,
    PullPurpose,
    ReleasePull,
    RequestChunks,
    SourceFailed,
)
from remora.core.pulls import PullManager

WRITER = bytes(7) + b"\x01"
A, B, C = (NodeId(bytes([0, 0, 0, number])) for number in (1, 2, 3))


def object_id(number: int) -> bytes:
    return bytes(12) + number.to_bytes(4, "big")


class PullShell:
    """What a daemon does, without threads and sockets; checks what no effect may ever break."""

    def __init__(self, limit_bytes: int, *, grants: bool = True) -> None:
        self.pulls = PullManager(limit_bytes)
        self.grants = grants
        self.now_s = 100.0
        self.sizes: dict[int, int] = {}
        self.asking: dict[int, int] = {}
        self.space: dict[int, dict[int, int]] = {}
        """Pulls with space, and offsets and sizes of the chunks that have come."""
        self.streams: dict[tuple[NodeId, int], deque[Chunk]] = {}
        self.closing: dict[tuple[NodeId, int], str] = {}
        self.finished: list[int] = []
        self.released: set[int] = set()
        self.failed: dict[int, str] = {}
        self.failed_sources: list[SourceFailed] = []
        self.asked_order: list[int] = []
        self.admitted: list[int] = []

    def start(self, number: int, size_bytes: int, sources: list[NodeId], purpose: int = PullPurpose.GET) -> int:
        pull = self.pulls.start(object_id(number), WRITER, size_bytes, sources, PullPurpose(purpose))
        self.sizes[pull] = size_bytes
        self.run()
        return pull

    def run(self) -> None:
        """Carry out everything that can be done at once."""
        while True:
            self.pulls.assign(self.now_s)
            effects, self.pulls.outbox = self.pulls.outbox, []
            if not effects:
                break
            for effect in effects:
                self.carry_out(effect)
        self.pulls.validate()

    def carry_out(self, effect: object) -> None:
        if isinstance(effect, AskSpace):
            self.admitted.append(effect.pull)
            self.asking[effect.pull] = effect.size_bytes
            if self.grants:
                self.grant(effect.pull)
        elif isinstance(effect, ReleasePull):
            assert not any(chunk.pull == effect.pull for queue in self.streams.values() for chunk in queue)
            assert effect.pull not in self.released
            self.released.add(effect.pull)
            self.space.pop(effect.pull, None)
        elif isinstance(effect, OpenStream):
            assert (effect.source, effect.stream) not in self.streams
            self.streams[effect.source, effect.stream] = deque()
        elif isinstance(effect, CloseStream):
            assert (effect.source, effect.stream) in self.streams
            self.closing[effect.source, effect.stream] = effect.reason
        elif isinstance(effect, RequestChunks):
            assert (effect.source, effect.stream) not in self.closing
            for chunk in effect.chunks:
                assert chunk.pull in self.space
                self.asked_order.append(chunk.pull)
                self.streams[effect.source, effect.stream].append(chunk)
        elif isinstance(effect, Finished):
            assert_covers(self.space.pop(effect.pull), self.sizes[effect.pull])
            self.finished.append(effect.pull)
        elif isinstance(effect, SourceFailed):
            assert effect.pull not in self.failed
            self.failed_sources.append(effect)
        else:
            assert isinstance(effect, Failed)
            self.failed[effect.pull] = effect.reason

    def grant(self, pull: int) -> None:
        del self.asking[pull]
        self.space[pull] = {}
        self.pulls.space_granted(pull, self.now_s)

    def answer(self, source: NodeId, stream: int) -> None:
        """The next chunk of the stream comes."""
        chunk = self.streams[source, stream].popleft()
        assert chunk.offset not in self.space[chunk.pull], "a chunk came twice"
        self.space[chunk.pull][chunk.offset] = chunk.size_bytes
        self.pulls.chunk_received(source, stream, chunk.pull, chunk.offset, self.now_s)

    def refuse(self, source: NodeId, stream: int, *, is_final: bool = True) -> None:
        """The source does not have the next chunk."""
        chunk = self.streams[source, stream].popleft()
        self.pulls.chunk_refused(
            source, stream, chunk.pull, chunk.offset, "it is not here", self.now_s, is_final=is_final
        )

    def close(self, source: NodeId, stream: int, reason: str = "broken") -> None:
        """The stream's end is told."""
        del self.streams[source, stream]
        self.closing.pop((source, stream), None)
        self.pulls.stream_closed(source, stream, reason, self.now_s)

    def tick(self, seconds: float) -> None:
        self.now_s += seconds
        self.pulls.tick(self.now_s)
        self.run()

    def busy(self) -> list[tuple[NodeId, int]]:
        """Streams on which something was asked, and that are not closing."""
        return [at for at, queue in self.streams.items() if queue and at not in self.closing]

    def finish_all(self) -> None:
        """Answer everything, with no failure any more, until nothing is asked."""
        for _ in range(100_000):
            for at in list(self.closing):
                self.close(*at)
            busy = self.busy()
            for at in busy:
                while self.streams[at]:
                    self.answer(*at)
            self.run()
            if not busy and not self.closing:
                if not self.pulls.pulls():
                    return
                self.tick(0.25)
        raise AssertionError(f"it does not end: {self.pulls!r} {self.pulls.pulls()}")


def assert_covers(chunks: dict[int, int], size_bytes: int) -> None:
    """Every byte came exactly once."""
    at = 0
    for offset in sorted(chunks):
        assert offset == at, f"byte {at} is missing"
        at += chunks[offset]
    assert at == size_bytes
