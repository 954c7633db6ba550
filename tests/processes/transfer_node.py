"""Nodes that only transfer: real arenas, real connections over loopback, one loop for all of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from time import monotonic
from typing import Any

from remora.base.credentials import ClusterCredentials
from remora.base.ids import NodeId, ObjectId, make_process_id
from remora.core.arena import ArenaAllocator
from remora.core.arena_layout import offset_space_of
from remora.core.arena_records import PunchHoles, ReadMemory
from remora.core.pull_records import PullPurpose
from remora.messages.arena import AllocateBlock, AllocationRefused, BlockGranted, ReleaseBlocks
from remora.messages.objects import Location
from remora.processes.daemon.transfers import Transfers
from remora.system.network.doorkeeper import Doorkeeper
from remora.system.reactor import Reactor
from remora.system.shared_memory import SharedMemory

WRITER = make_process_id(1, 7)
CLEAR = ClusterCredentials(b"s" * 32, b"f" * 32, encrypt=False)
STORE_BYTES = 1 << 30


class TransferNode:
    """A node daemon reduced to its transfers and its arena."""

    def __init__(self, number: int, nodes: TransferNodes, credentials: ClusterCredentials, **options: Any) -> None:
        self.number = number
        self.node = NodeId(number.to_bytes(4, "big"))
        self.process = make_process_id(number, 0)
        self.nodes = nodes
        self.memory = SharedMemory.create(offset_space_of(STORE_BYTES))
        self.arena = ArenaAllocator(STORE_BYTES, self.memory.size_bytes)
        self.store: dict[tuple[bytes, bytes], Location] = {}
        self.failures: list[tuple[bytes, bytes, str]] = []
        self.freed: list[Location] = []
        self.requests = 1_000_000
        self.granted: dict[int, int] = {}
        self.is_full = False
        self.transfers = Transfers(nodes.reactor, self.memory, credentials, self.node, self, **options)
        self.door = Doorkeeper(nodes.reactor, nodes.host, 0, credentials, self.transfers.accept)

    @property
    def address(self) -> str:
        """Where other nodes find it."""
        return f"{self.nodes.host}:{self.door.port}"

    # ------------------------------------------------------------------ what a daemon does for transfers

    def address_of(self, node: NodeId) -> str | None:
        other = self.nodes.by_id.get(node)
        return None if other is None else other.address

    def locate(self, object_id: ObjectId, writer: bytes) -> Location | None:
        return self.store.get((object_id, writer))

    def allocate(self, size_bytes: int, request: int) -> None:
        self.arena.allocate_block(self.process, AllocateBlock(request, size_bytes, 0.0), monotonic())
        if self.is_full:
            self.transfers.space_refused(request, "it is full")
        else:
            self.carry_out()

    def release(self, offset: int) -> None:
        self.arena.release(self.process, ReleaseBlocks([offset]), monotonic())
        self.carry_out()

    def free(self, location: Location) -> None:
        self.arena.free([location.offset], monotonic())
        self.freed.append(location)
        self.carry_out()

    def arrived(self, object_id: ObjectId, writer: bytes, location: Location) -> None:
        self.arena.publish(self.process, location.offset, location.size_bytes)
        self.store[object_id, writer] = location

    def failed(self, object_id: ObjectId, writer: bytes, source: bytes, reason: str) -> None:
        self.failures.append((object_id, source, reason))

    def carry_out(self) -> None:
        now_s = monotonic()
        while self.arena.outbox:
            effect = self.arena.outbox.pop(0)
            if isinstance(effect, ReadMemory):
                self.arena.memory_read(now_s, 1 << 40, self.memory.resident_bytes())
            elif isinstance(effect, PunchHoles):
                self.memory.punch(effect.ranges)
                self.arena.punched(now_s)
            elif isinstance(effect.message, BlockGranted):
                message = effect.message
                if message.request > 1_000_000:
                    self.granted[message.request] = message.block.offset
                else:
                    self.transfers.space_granted(message.request, message.block, message.fresh)
            else:
                assert isinstance(effect.message, AllocationRefused)
                self.transfers.space_refused(effect.message.request, effect.message.reason)

    # ------------------------------------------------------------------ what tests do

    def put(self, object_id: bytes, data: bytes) -> Location:
        """Store a value here."""
        self.requests += 1
        self.arena.allocate_block(self.process, AllocateBlock(self.requests, len(data), 0.0), monotonic())
        self.carry_out()
        location = Location(self.node, self.granted.pop(self.requests), len(data))
        self.memory.write(location.offset, data)
        self.arrived(ObjectId(object_id), WRITER, location)
        return location

    def pull(self, object_id: bytes, size_bytes: int, *sources: TransferNode, purpose: int = PullPurpose.GET) -> None:
        """Have the value brought here."""
        self.transfers.start(object_id, WRITER, size_bytes, [source.node for source in sources], purpose)

    def has(self, object_id: bytes) -> bool:
        """Whether the value is here."""
        return (object_id, WRITER) in self.store

    def read(self, object_id: bytes) -> bytes:
        """The value."""
        location = self.store[object_id, WRITER]
        parts = []
        at, end = location.offset, location.offset + location.size_bytes
        while at < end:
            parts.append(os.pread(self.memory.fd, end - at, at))
            at += len(parts[-1])
        return b"".join(parts)

    def drop(self, object_id: bytes) -> bool:
        """Free the value; whether that must wait for readers."""
        location = self.store.pop((object_id, WRITER))
        if self.transfers.free_when_served(location):
            return True
        self.free(location)
        return False

    def kill(self) -> None:
        """Vanish: connections break, nobody answers."""
        del self.nodes.by_id[self.node]
        self.door.close()
        self.transfers.close()
        self.memory.close()


class TransferNodes:
    """Several of them. At any *host* but 127.0.0.1, where connections come from, they take each other for remote."""

    def __init__(self, credentials: ClusterCredentials = CLEAR, host: str = "127.0.0.1") -> None:
        self.host = host
        self.reactor = Reactor()
        self.credentials = credentials
        self.by_id: dict[bytes, TransferNode] = {}

    def add(self, **options: Any) -> TransferNode:
        """One more node."""
        number = len(self.by_id) + 1
        node = TransferNode(number, self, self.credentials, **options)
        self.by_id[node.node] = node
        return node

    def run_until(self, is_so: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Run the loop of all until it is so."""
        deadline_s = monotonic() + timeout_s
        next_tick_s = 0.0
        while not is_so():
            now_s = monotonic()
            assert now_s < deadline_s, f"not so after {timeout_s} s: {[n.transfers for n in self.by_id.values()]}"
            if now_s >= next_tick_s:
                next_tick_s = now_s + 0.1
                for node in self.by_id.values():
                    node.transfers.tick(now_s)
            self.reactor.poll(0.05)

    def close(self) -> None:
        """End all."""
        for node in list(self.by_id.values()):
            node.kill()
        self.reactor.close()


def value_of(size_bytes: int, seed: bytes = b"") -> bytes:
    """Bytes of which no two pieces are alike."""
    return hashlib.shake_128(seed + size_bytes.to_bytes(8, "big")).digest(size_bytes)


def object_id(number: int) -> bytes:
    """The id of object *number*."""
    return bytes([0, 0, 0, 1, 0, 0, 0, 7, 0, 0]) + number.to_bytes(6, "big")
