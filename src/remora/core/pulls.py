"""Which objects this node brings in from others, in which order, and from where: a machine of the node daemon.

A **pull** is one object on its way. Pulls are served by who waits (`get`, then task arguments, then prefetch), first
come first served inside. One starts when its bytes fit into the bound on bytes in flight, or when nothing as urgent
is in flight: so one object may always exceed the bound, and nothing starves behind something less urgent. Then it
gets space, and its chunks are asked of the first of its sources that answers. Only one source at a time, since the
home has chosen it so that readers form a chain; the others stand by.

**A source that fails.** It may be dead or not have the object: that is told by ``SourceFailed``, and this pull never
asks it again, unless ``sources_changed`` names it anew. Or its stream may break or stall: then the missing chunks are
asked of the next source, and the broken one rests and comes last; only when the source has sent no byte of any object
for ``GIVE_UP_S``, or had to wait for chunks itself for as long, all have failed. What has come stays, and a pull whose
sources have all failed waits for others to be named. When none are for as long, it fails with the reasons of all. So
every pull ends.

**Space.** Chunks are written straight to where they belong, so the space of a pull that failed or was cancelled is
released when the last chunk on its way has come or its stream is closed, not before.

The shell calls :meth:`PullManager.assign` after each batch of calls, then carries out ``outbox`` in order.
"""

from __future__ import annotations

from collections.abc import Sequence

from remora.base.ids import NodeId
from remora.core.pull_queue import PullQueue
from remora.core.pull_records import (
    AskSpace,
    Effect,
    Failed,
    Finished,
    Pull,
    PullPurpose,
    PullState,
    ReleasePull,
    SourceFailed,
)
from remora.core.pull_streams import PullStreams

GIVE_UP_S = 30.0
"""Then the sources of a running pull have failed, and after the same time without new ones the pull."""
POLL_S = 0.25
DEFAULT_LIMIT_BYTES = 256 << 20


class PullManager:
    """All pulls of one node.

    Args:
        limit_bytes: the bound on the bytes of objects that are being brought in.

    Example:
        >>> pulls = PullManager()
        >>> number = pulls.start(object_id, writer, 100_000, [node], PullPurpose.GET)
        >>> pulls.outbox
        [AskSpace(pull=1, size_bytes=100000)]
        >>> pulls.space_granted(number, now_s=0.0)
        >>> pulls.assign(now_s=0.0)  # adds OpenStream and RequestChunks
    """

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        self.outbox: list[Effect] = []
        """In order. The shell takes what is in it, and leaves an empty list."""
        self._pulls: dict[int, Pull] = {}
        self._by_key: dict[tuple[bytes, bytes], Pull] = {}
        self._queue = PullQueue(limit_bytes)
        self._streams = PullStreams(lambda effect: self.outbox.append(effect))
        self._parked: dict[int, Pull] = {}
        self._last_pull = 0

    def __repr__(self) -> str:
        return f"<PullManager {self._queue!r}, {self._streams!r}>"

    @property
    def in_flight_bytes(self) -> int:
        """Of all pulls that asked for space and have not ended, and of those that ended and still have it."""
        return self._queue.in_flight_bytes

    # ------------------------------------------------------------------ what the directory wants

    def start(self, id: bytes, writer: bytes, size_bytes: int, sources: Sequence[NodeId], purpose: PullPurpose) -> int:
        """Bring the object here; the number of the pull, by which effects name it.

        Raises:
            ValueError: it is being pulled already.
        """
        if (id, writer) in self._by_key:
            raise ValueError(f"{self._by_key[id, writer]!r} is running already")
        self._last_pull += 1
        pull = Pull(self._last_pull, id, writer, size_bytes, purpose, list(dict.fromkeys(sources)))
        self._pulls[pull.number] = self._by_key[pull.key] = pull
        self._queue.add(pull)
        self._admit()
        return pull.number

    def raise_priority(self, id: bytes, writer: bytes, purpose: PullPurpose) -> None:
        """Somebody more urgent waits for it, too. Nothing changes when it was as urgent, or is not being pulled."""
        pull = self._by_key.get((id, writer))
        if pull is None or pull.purpose <= purpose:
            return
        self._queue.set_purpose(pull, purpose)
        source = self._streams.get(pull.source)
        if source is not None and source.ready[pull.purpose].pop(pull.number, None) is not None:
            source.ready[purpose][pull.number] = pull
        pull.purpose = purpose
        self._admit()

    def cancel(self, id: bytes, writer: bytes) -> None:
        """Nobody waits for it any more. Nothing happens when it is not being pulled."""
        pull = self._by_key.get((id, writer))
        if pull is not None:
            self._end(pull)

    def sources_changed(self, id: bytes, writer: bytes, sources: Sequence[NodeId], now_s: float) -> None:
        """The home names other sources, best first. One that refused and is named again is asked again."""
        pull = self._by_key.get((id, writer))
        if pull is None:
            return
        pull.sources = list(dict.fromkeys(sources))
        pull.progress_s = now_s
        for node in [node for node in pull.refused if node in pull.sources and not self._streams.is_dead(node)]:
            del pull.refused[node]
        if pull.state is PullState.RUNNING and pull.source not in pull.sources:
            self._choose_source(pull, now_s)

    def node_dead(self, node: NodeId, now_s: float) -> None:
        """The node was declared dead: nothing comes from it any more."""
        self._streams.node_dead(node)
        for pull in [pull for pull in self._by_key.values() if node in pull.sources]:
            self._refuse(pull, node, "it is dead")
            if pull.source == node:
                self._choose_source(pull, now_s)

    # ------------------------------------------------------------------ space

    def space_granted(self, number: int, now_s: float) -> None:
        """The answer to ``AskSpace``.

        Raises:
            KeyError, ValueError: the pull did not ask.
        """
        pull = self._asking(number)
        pull.has_space = True
        if pull.state is PullState.ENDED:
            self._release_if_idle(pull)
            return
        pull.state = PullState.RUNNING
        pull.progress_s = now_s
        self._choose_source(pull, now_s)

    def space_refused(self, number: int, reason: str) -> None:
        """The other answer to ``AskSpace``.

        Raises:
            KeyError, ValueError: the pull did not ask.
        """
        pull = self._asking(number)
        if pull.state is not PullState.ENDED:
            self._fail(pull, reason)
        self._release(pull)

    def fail(self, number: int, reason: str) -> None:
        """The node itself cannot take the object, for example since the machine has no memory left."""
        pull = self._pulls.get(number)
        if pull is not None and pull.state is not PullState.ENDED:
            self._fail(pull, reason)

    # ------------------------------------------------------------------ what comes from the sources

    def stream_progress(self, source: NodeId, stream: int, now_s: float, *, is_payload: bool) -> None:
        """Bytes came on the stream: of an object, or only the word that the source is waiting for them itself."""
        found = self._streams.get(source)
        if found is None or stream not in found.streams:
            return
        found.streams[stream].progress_s = now_s
        if is_payload:
            found.paid(now_s)

    def chunk_received(self, source: NodeId, stream: int, number: int, offset: int, now_s: float) -> None:
        """The chunk lies where it belongs.

        Raises:
            KeyError, ValueError: it was not asked for there.
        """
        found = self._streams[source]
        at = found.streams[stream]
        size_bytes = at.answered(number, offset)
        at.progress_s = now_s
        found.paid(now_s)
        pull = self._answered(pull_number=number)
        self._streams.wake(found)
        if pull.state is PullState.ENDED:
            self._release_if_idle(pull)
            return
        pull.progress_s = now_s
        pull.starved_since_s = None
        pull.received += 1
        pull.received_bytes += size_bytes
        if not pull.outstanding and not pull.has_unasked():
            self._finish(pull)

    def chunk_refused(
        self, source: NodeId, stream: int, number: int, offset: int, reason: str, now_s: float, *, is_final: bool
    ) -> None:
        """The source does not have the chunk: never (*is_final*), or it waited for it long enough.

        Raises:
            KeyError, ValueError: it was not asked for there.
        """
        found = self._streams[source]
        at = found.streams[stream]
        at.answered(number, offset)
        at.progress_s = now_s
        pull = self._answered(pull_number=number)
        self._streams.wake(found)
        if pull.state is PullState.ENDED:
            self._release_if_idle(pull)
            return
        pull.returned.append(offset)
        if is_final:
            self._refuse(pull, source, reason)
        else:
            self._put_last(pull, source, reason)
            if pull.starved_since_s is None:
                pull.starved_since_s = now_s
            elif now_s - pull.starved_since_s >= GIVE_UP_S:
                self._give_up(pull, now_s)
                return
        self._leave(pull, source, now_s)

    def stream_closed(self, source: NodeId, stream: int, reason: str, now_s: float) -> None:
        """The stream has ended, and nothing is written any more of what was asked there.

        Raises:
            KeyError: it was not open.
        """
        found = self._streams[source]
        closed = found.streams.pop(stream)
        if closed.outstanding:
            found.broke(now_s)
        broken: dict[int, Pull] = {}
        for number, offset in closed.outstanding:
            pull = self._answered(pull_number=number)
            pull.returned.append(offset)
            broken[number] = pull
        for pull in broken.values():
            if pull.state is PullState.ENDED:
                self._release_if_idle(pull)
            else:
                self._put_last(pull, source, reason)
                self._leave(pull, source, now_s)
        if broken:
            for pull in found.all_ready():
                self._choose_source(pull, now_s)
        self._streams.wake(found)

    # ------------------------------------------------------------------ time

    def tick(self, now_s: float) -> None:
        """Close streams that stall or idle, give up pulls that get nothing, try sources that have rested."""
        self._streams.close_silent(now_s)
        for pull in list(self._by_key.values()):
            if pull.state is PullState.RUNNING and now_s - self._last_byte_s(pull) >= GIVE_UP_S:
                self._give_up(pull, now_s)
        for pull in list(self._parked.values()):
            self._choose_source(pull, now_s)

    @property
    def has_periodic_work(self) -> bool:
        """Whether :meth:`tick` is to be called, every ``POLL_S``."""
        return bool(self._pulls) or self._streams.has_streams()

    def assign(self, now_s: float) -> None:
        """Ask for as many chunks as the streams have room for. Once after a batch of other calls, since many in one
        message are far cheaper than many messages."""
        self._streams.assign(now_s)

    # ------------------------------------------------------------------ from queue to end

    def _admit(self) -> None:
        while (pull := self._queue.take_next()) is not None:
            pull.state = PullState.WAITING_FOR_SPACE
            self.outbox.append(AskSpace(pull.number, pull.size_bytes))

    def _asking(self, number: int) -> Pull:
        pull = self._pulls[number]
        if pull.has_space or pull.state in (PullState.QUEUED, PullState.RUNNING):
            raise ValueError(f"{pull!r} did not ask for space")
        return pull

    def _answered(self, pull_number: int) -> Pull:
        pull = self._pulls[pull_number]
        pull.outstanding -= 1
        return pull

    def _finish(self, pull: Pull) -> None:
        self._unready(pull)
        pull.state = PullState.ENDED
        del self._by_key[pull.key]
        self.outbox.append(Finished(pull.number))
        self._forget(pull)

    def _fail(self, pull: Pull, reason: str) -> None:
        self.outbox.append(Failed(pull.number, reason))
        self._end(pull)

    def _give_up(self, pull: Pull, now_s: float) -> None:
        """No byte came for long: the sources have failed. If they had failed before, so has the pull."""
        candidates = [node for node in pull.sources if node not in pull.refused]
        if not candidates:
            self._fail(pull, pull.reasons())
            return
        pull.progress_s = now_s
        pull.starved_since_s = None
        for node in candidates:
            self._refuse(pull, node, pull.broken.get(node, f"it gave no byte for {GIVE_UP_S:.0f} s"))
        self._choose_source(pull, now_s)

    def _last_byte_s(self, pull: Pull) -> float:
        """When its source sent bytes last, also those of objects that come before it."""
        source = self._streams.get(pull.source)
        return pull.progress_s if source is None else max(pull.progress_s, source.payload_s)

    def _end(self, pull: Pull) -> None:
        was_queued = pull.state is PullState.QUEUED
        self._unready(pull)
        del self._by_key[pull.key]
        pull.state = PullState.ENDED
        if was_queued:
            self._queue.remove(pull)
            del self._pulls[pull.number]
            self.outbox.append(ReleasePull(pull.number))
            self._admit()
        elif pull.has_space:
            self._release_if_idle(pull)

    def _release_if_idle(self, pull: Pull) -> None:
        if not pull.outstanding:
            self._release(pull)

    def _release(self, pull: Pull) -> None:
        self.outbox.append(ReleasePull(pull.number))
        self._forget(pull)

    def _forget(self, pull: Pull) -> None:
        """It was in flight and is over."""
        del self._pulls[pull.number]
        self._queue.left(pull)
        self._admit()

    # ------------------------------------------------------------------ sources

    def _leave(self, pull: Pull, source: NodeId, now_s: float) -> None:
        """The source failed the pull; if that has gone elsewhere meanwhile, only the chunks are to be asked again."""
        if pull.source in (source, None):
            self._choose_source(pull, now_s)
        else:
            self._streams.make_ready(pull)

    def _refuse(self, pull: Pull, node: NodeId, reason: str) -> None:
        if node not in pull.refused:
            pull.refused[node] = reason
            self.outbox.append(SourceFailed(pull.number, node, reason))

    def _put_last(self, pull: Pull, source: NodeId, reason: str) -> None:
        pull.broken[source] = reason
        if source in pull.sources:
            pull.sources.remove(source)
            pull.sources.append(source)

    def _choose_source(self, pull: Pull, now_s: float) -> None:
        """Ask the first source that may be asked; wait while there is none, or all of them rest."""
        if pull.state is not PullState.RUNNING:
            return
        self._unready(pull)
        pull.source = None
        for node in pull.sources:
            if self._streams.is_dead(node):
                self._refuse(pull, node, "it is dead")
        candidates = [node for node in pull.sources if node not in pull.refused]
        if not pull.sources:
            self._fail(pull, "no node is known to have it")
            return
        rested = (node for node in candidates if self._streams.source(node).rests_until_s <= now_s)
        pull.source = next(rested, None)
        if pull.source is None:
            self._parked[pull.number] = pull
        else:
            self._streams.make_ready(pull)

    def _unready(self, pull: Pull) -> None:
        self._parked.pop(pull.number, None)
        self._streams.unready(pull)

    # ------------------------------------------------------------------ looking

    def pulls(self) -> list[Pull]:
        """All that have not ended, those that wait to start too."""
        return list(self._by_key.values())

    def validate(self) -> None:
        """Raise AssertionError when an invariant does not hold. Walks over everything."""
        in_flight = [pull for pull in self._pulls.values() if pull.state is not PullState.QUEUED]
        self._queue.validate(in_flight)
        assert self._by_key == {p.key: p for p in self._pulls.values() if p.state is not PullState.ENDED}, repr(self)
        outstanding: dict[int, int] = dict.fromkeys(self._pulls, 0)
        for each in self._streams:
            for stream in each.streams.values():
                assert stream.outstanding_bytes == sum(stream.outstanding.values()), repr(stream)
                for number, _ in stream.outstanding:
                    outstanding[number] += 1
        for pull in self._pulls.values():
            assert pull.outstanding == outstanding[pull.number], repr(pull)
            if pull.state is PullState.RUNNING:
                source = self._streams.get(pull.source)
                is_ready = source is not None and pull.number in source.ready[pull.purpose]
                waits = is_ready or pull.number in self._parked
                assert waits or pull.outstanding, f"{pull!r} waits for nothing"
                assert not (is_ready and not pull.has_unasked()), f"{pull!r} has nothing to ask for"
            elif pull.state is PullState.ENDED:
                assert pull.outstanding or not pull.has_space, f"{pull!r} is over"
