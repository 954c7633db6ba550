"""Objects that come from other nodes and go to them: the machine of pulls, its threads, and the arena between.

Everything here runs in the loop; threads post what happened (:mod:`remora.system.loop_calls`). A connection that reads
is one thread (:mod:`remora.processes.daemon.transfer_client`), and so is one that serves; `transfer_reading` and
`transfer_serving` know all of them.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Protocol

import msgspec

from remora.base.credentials import ClusterCredentials
from remora.base.errors import RemoraError
from remora.base.ids import NodeId, ObjectId, daemon_of
from remora.core.pull_records import (
    AskSpace,
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
from remora.core.pull_streams import STALL_S
from remora.core.pulls import DEFAULT_LIMIT_BYTES, POLL_S, PullManager
from remora.core.served_chunks import Arrival, ObjectKey
from remora.messages.arena import Block
from remora.messages.objects import Location
from remora.messages.transfer import WantedChunk
from remora.processes.daemon.transfer_arrivals import Arrivals
from remora.processes.daemon.transfer_client import ChunkToRead, Pages
from remora.processes.daemon.transfer_memory import TransferMemory
from remora.processes.daemon.transfer_reading import Reading
from remora.processes.daemon.transfer_serving import MAX_UNPROVED, PROOF_TIMEOUT_S, Serving
from remora.system.loop_calls import LoopCalls
from remora.system.network.half_open import HalfOpenConnections
from remora.system.network.refusal_log import RefusalLog
from remora.system.reactor import Reactor
from remora.system.shared_memory import SharedMemory

if TYPE_CHECKING:
    from remora.system.network.preface import Preface

CLOSE_TIMEOUT_S = 0.5


class TransferHost(Protocol):
    """What the node daemon does for transfers."""

    def address_of(self, node: NodeId) -> str | None:
        """``host:port`` of the node, None while it is not known."""

    def locate(self, object_id: ObjectId, writer: bytes) -> Location | None:
        """Where the value that *writer* stored lies on this node, if all of it does."""

    def allocate(self, size_bytes: int, request: int) -> None:
        """Get a block of the arena for the daemon itself; answer by ``space_granted`` or ``space_refused``."""

    def release(self, offset: int) -> None:
        """The block, which was never published, is not wanted."""

    def free(self, location: Location) -> None:
        """A published block that :meth:`Transfers.free_when_served` held back is not read any more."""

    def arrived(self, object_id: ObjectId, writer: bytes, location: Location) -> None:
        """The object is here. Its block belongs to the daemon's process and is not published yet."""

    def failed(self, object_id: ObjectId, writer: bytes, source: bytes, reason: str) -> None:
        """The pull gets nothing more from *source*, and waits for others to be named by :meth:`Transfers.start`.

        An empty *source*: the pull has ended, since this node cannot take the object or nobody gives it.
        """


class TransferStatistics(msgspec.Struct, frozen=True):
    """For ``remora status``. Bytes are those of values, since the start."""

    received_bytes: int
    sent_bytes: int
    pulls: int
    pulls_in_flight: int
    in_flight_bytes: int
    sources: int
    readers: int


class _Coming(msgspec.Struct):
    """What the loop knows of a pull that has not ended."""

    key: ObjectKey
    size_bytes: int
    arrival: Arrival
    offset: int = -1
    pages: Pages = Pages.NEW


class Transfers:
    """All transfers of one node.

    Args:
        reactor: the daemon's loop.
        memory: the arena's file.
        credentials: of the cluster.
        node: this node.
        host: the daemon.
        limit_bytes: the bound on bytes of objects that are being brought in.
        log: takes note of those who are turned away.
        open_socket, accept_socket: as ``open_data_socket`` and ``accept_data_socket`` in :mod:`remora.system.network`.

    Example:
        >>> transfers = Transfers(reactor, memory, credentials, node, host)
        >>> transfers.start(object_id, writer, size_bytes, [other_node], PullPurpose.GET)
        >>> reactor.poll()  # and so on, until host.arrived is called
    """

    def __init__(
        self,
        reactor: Reactor,
        memory: SharedMemory,
        credentials: ClusterCredentials,
        node: NodeId,
        host: TransferHost,
        limit_bytes: int = DEFAULT_LIMIT_BYTES,
        *,
        log: RefusalLog | None = None,
        open_socket: Callable[..., socket.socket] | None = None,
        accept_socket: Callable[..., socket.socket] | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._credentials = credentials
        self._node = node
        self._host = host
        self._open_socket = open_socket or _open_data_socket
        self._accept_socket = accept_socket or _accept_data_socket
        self._clock = clock
        self._calls = LoopCalls(reactor, self._carry_out)
        self.pulls = PullManager(limit_bytes)
        self._arrivals = Arrivals()
        self._reading = Reading(self._calls, self.pulls, self._arrivals, node, clock)
        unproved = HalfOpenConnections(reactor, MAX_UNPROVED, PROOF_TIMEOUT_S)
        self.serving = Serving(self._calls, self._arrivals, host.locate, unproved, log or RefusalLog())
        self._arena = TransferMemory(memory)
        self._coming: dict[int, _Coming] = {}
        self._is_carrying_out = False
        self._is_closed = False
        self.next_deadline_s: float | None = None
        """When :meth:`tick` is due."""

    def __repr__(self) -> str:
        return f"<Transfers {self.pulls!r}, {self.serving!r}>"

    # ------------------------------------------------------------------ bringing objects here

    def start(self, object_id: bytes, writer: bytes, size_bytes: int, sources: Sequence[bytes], purpose: int) -> None:
        """Bring the value here from one of *sources*, the best first; of one that is on its way: go on with these."""
        now_s = self._clock()
        nodes = [NodeId(source) for source in sources if source != self._node]
        if self._arrivals.get((object_id, writer)) is not None:
            self.pulls.raise_priority(object_id, writer, _purpose(purpose))
            self.pulls.sources_changed(object_id, writer, nodes, now_s)
        else:
            number = self.pulls.start(object_id, writer, size_bytes, nodes, _purpose(purpose))
            arrival = self._arrivals.start((object_id, writer), size_bytes)
            self._coming[number] = _Coming((object_id, writer), size_bytes, arrival)
        self._work_to_do(now_s)

    def raise_priority(self, object_id: bytes, writer: bytes, purpose: int) -> None:
        """Somebody more urgent waits for it, too."""
        now_s = self._clock()
        self.pulls.raise_priority(object_id, writer, _purpose(purpose))
        self._work_to_do(now_s)

    def cancel(self, object_id: bytes, writer: bytes) -> None:
        """Nobody waits for it any more; nothing is said of it again."""
        arrival = self._arrivals.get((object_id, writer))
        if arrival is not None:
            now_s = self._clock()
            self._arrivals.end((object_id, writer), arrival, is_whole=False)
            self.pulls.cancel(object_id, writer)
            self._work_to_do(now_s)

    def space_granted(self, request: int, block: Block, fresh: bool) -> None:
        """The answer to ``allocate``: *fresh* pages have no memory yet."""
        now_s = self._clock()
        coming = self._coming[request]
        coming.offset = block.offset
        coming.pages = self._arena.pages_of(block, fresh)
        self._arrivals.place(coming.arrival, block.offset)
        self.pulls.space_granted(request, now_s)
        self._work_to_do(now_s)

    def space_refused(self, request: int, reason: str) -> None:
        """The other answer to ``allocate``."""
        now_s = self._clock()
        self.pulls.space_refused(request, reason)
        self._work_to_do(now_s)

    def node_dead(self, node: bytes) -> None:
        """The node was declared dead: nothing is read from it, and it reads nothing any more."""
        now_s = self._clock()
        self.pulls.node_dead(NodeId(node), now_s)
        self.serving.node_dead(node)
        self._work_to_do(now_s)

    # ------------------------------------------------------------------ giving objects to others

    def accept(self, sock: socket.socket, preface: Preface) -> None:
        """Serve a reader, whose connection was accepted and whose preface was read, in a thread."""
        prove = partial(self._accept_socket, sock, preface, self._credentials, PROOF_TIMEOUT_S)
        self.serving.accept(sock, prove, self._arena.window)

    def free_when_served(self, location: Location) -> bool:
        """Whether the block must stay for now, since it is being read: then ``host.free(location)`` follows."""
        return self.serving.blocks.free_when_served(location.offset, partial(self._host.free, location))

    # ------------------------------------------------------------------ time, and the end

    def tick(self, now_s: float) -> None:
        """What has come since the last time; who stalls. At ``next_deadline_s``, or more often."""
        self._reading.look(now_s)
        self.pulls.tick(now_s)
        self._carry_out()
        self.next_deadline_s = now_s + POLL_S if self.pulls.has_periodic_work else None

    def statistics(self) -> TransferStatistics:
        """The transfers in numbers."""
        pulls = self.pulls.pulls()
        return TransferStatistics(
            received_bytes=self._reading.received_bytes,
            sent_bytes=self.serving.sent_bytes,
            pulls=len(pulls),
            pulls_in_flight=sum(bool(pull.state) for pull in pulls),
            in_flight_bytes=self.pulls.in_flight_bytes,
            sources=len(self._reading),
            readers=len(self.serving.connections),
        )

    def close(self) -> None:
        """End all connections and their threads. What was on its way stays incomplete, and nothing is told of it."""
        self._is_closed = True
        for stream in self._reading.streams:
            stream.close("this node ends")
        self.serving.end_unproved()
        for connection in self.serving.connections:
            connection.close(will_be_answered=False)
        threads = [stream.thread for stream in self._reading.streams]
        threads += [connection.thread for connection in self.serving.connections]
        deadline_s = monotonic() + CLOSE_TIMEOUT_S
        for thread in threads:
            thread.join(max(0.0, deadline_s - monotonic()))
        if not any(thread.is_alive() for thread in threads):  # one that still connects may post later
            self._calls.close()
            self._arena.close()

    # ------------------------------------------------------------------ doing what the machine says

    def _work_to_do(self, now_s: float) -> None:
        """The outbox is emptied in the next turn of the loop: what many calls want then goes in one message."""
        if self.next_deadline_s is None:
            self.next_deadline_s = now_s + POLL_S
        self._calls.wake()

    def _carry_out(self) -> None:
        if self._is_carrying_out or self._is_closed:
            return
        self._is_carrying_out = True
        try:
            while True:
                self.pulls.assign(self._clock())
                effects, self.pulls.outbox = self.pulls.outbox, []
                if not effects:
                    return
                for effect in effects:
                    self._carry_out_one(effect)
        finally:
            self._is_carrying_out = False

    def _carry_out_one(self, effect: Effect) -> None:
        if isinstance(effect, RequestChunks):
            self._request(effect)
        elif isinstance(effect, AskSpace):
            self._host.allocate(effect.size_bytes, effect.pull)
        elif isinstance(effect, Finished):
            self._finished(effect.pull)
        elif isinstance(effect, OpenStream):
            self._open(effect.source, effect.stream)
        elif isinstance(effect, CloseStream):
            self._reading.close(effect.source, effect.stream, effect.reason)
        elif isinstance(effect, SourceFailed):
            coming = self._coming[effect.pull]
            if not coming.arrival.has_failed:  # else it was cancelled after this was decided
                self._host.failed(ObjectId(coming.key[0]), coming.key[1], effect.source, effect.reason)
        elif isinstance(effect, Failed):
            coming = self._coming[effect.pull]
            is_wanted = not coming.arrival.has_failed
            self._arrivals.end(coming.key, coming.arrival, is_whole=False)
            if is_wanted:
                self._host.failed(ObjectId(coming.key[0]), coming.key[1], b"", effect.reason)
        else:
            assert isinstance(effect, ReleasePull)
            self._release(self._coming.pop(effect.pull).offset)

    def _finished(self, number: int) -> None:
        coming = self._coming.pop(number)
        object_id, writer = coming.key
        self._host.arrived(ObjectId(object_id), writer, Location(self._node, coming.offset, coming.size_bytes))
        self._arrivals.end(coming.key, coming.arrival, is_whole=True)

    def _release(self, offset: int) -> None:
        if offset >= 0 and not self.serving.blocks.free_when_served(offset, partial(self._host.release, offset)):
            self._host.release(offset)

    def _open(self, source: NodeId, number: int) -> None:
        connect = partial(self._connect, source, self._host.address_of(source))
        self._reading.open(source, number, connect, self._arena.window)

    def _connect(self, source: NodeId, address: str | None) -> socket.socket:
        """In the stream's thread."""
        if address is None:
            raise OSError("its address is not known here")
        return self._open_socket(address, daemon_of(source), self._credentials, STALL_S)

    def _request(self, request: RequestChunks) -> None:
        chunks = []
        for chunk in request.chunks:
            coming = self._coming[chunk.pull]
            if coming.pages is Pages.NEW and not self._arena.may_grow(chunk.size_bytes):
                self.pulls.fail(chunk.pull, "the machine has no memory left for the store to grow")
            wanted = WantedChunk(*coming.key, chunk.offset, chunk.size_bytes)
            chunks.append(ChunkToRead(chunk, wanted, coming.offset + chunk.offset, coming.pages, coming.arrival))
        self._reading.ask(request.source, request.stream, chunks)


def _purpose(number: int) -> PullPurpose:
    return PullPurpose(min(number, PullPurpose.PREFETCH))


def _open_data_socket(address: str, target: bytes, credentials: ClusterCredentials, timeout_s: float) -> socket.socket:
    from remora.system.network.data_socket import open_data_socket  # in a cluster only: it imports ssl

    try:
        return open_data_socket(address, target, credentials, timeout_s)
    except (RemoraError, ValueError) as error:
        raise ConnectionRefusedError(str(error)) from error


def _accept_data_socket(
    sock: socket.socket, preface: Preface, credentials: ClusterCredentials, timeout_s: float
) -> socket.socket:
    from remora.system.network.data_socket import accept_data_socket

    try:
        return accept_data_socket(sock, preface, credentials, timeout_s)
    except RemoraError as error:
        raise ConnectionRefusedError(str(error)) from error
