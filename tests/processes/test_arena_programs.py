"""Writers, the allocator and real memory together: messages late by any amount, and every byte checked.

Each live object is filled with its own number. If two of them ever shared a byte, or a page with contents were
punched, one of them would read wrong.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from remora.base.ids import ProcessId, make_process_id
from remora.core.arena import ArenaAllocator
from remora.core.arena_layout import PAGE_SIZE_BYTES as PAGE
from remora.core.arena_records import PunchHoles, ReadMemory
from remora.messages.arena import (
    AllocateBlock,
    AllocateExtent,
    AllocationRefused,
    BlocksFreed,
    ExtentsReturned,
    ReleaseBlocks,
    ReturnExtents,
)
from remora.processes.arena_client import ArenaWriter, Reservation
from remora.system.shared_memory import SharedMemory

LIMIT = 2048 * PAGE  # so an extent has 32 pages
PICK = st.integers(0, 10_000)
SMALL = st.one_of(st.integers(0, 10 * PAGE), st.sampled_from([64, 100, 9 * PAGE, 10 * PAGE]))
LARGE = st.integers(1, 10).map(lambda share: share * LIMIT // 32)


class Client:
    """A process: its writer, what it has written, and the two directions of its connection."""

    def __init__(self, number: int, memory: SharedMemory) -> None:
        self.id = make_process_id(1, number)
        self.writer = ArenaWriter(memory, LIMIT)
        self.to_daemon: deque[Any] = deque()
        self.from_daemon: deque[Any] = deque()
        self.written: list[Reservation] = []


class ArenaTraffic(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.memory = SharedMemory.create(64 * LIMIT)
        self.arena = ArenaAllocator(LIMIT, self.memory.size_bytes)
        self.now_s = 0.0
        self.clients: dict[ProcessId, Client] = {}
        self.next_number = 0
        self.puts_since_death = 0
        self.live: dict[int, tuple[bytes, int]] = {}
        self.freeable: list[int] = []
        for _ in range(2):
            self.start_process()

    def teardown(self) -> None:
        for client in self.clients.values():
            client.writer.close()
        self.memory.close()

    @precondition(lambda self: len(self.clients) < 4)
    @rule()
    def start_process(self) -> None:
        self.next_number += 1
        client = Client(self.next_number, self.memory)
        self.clients[client.id] = client

    def client(self, pick: int) -> Client:
        return list(self.clients.values())[pick % len(self.clients)]

    @rule(pick=PICK, size=SMALL, own_pages=st.booleans(), count=st.integers(1, 4), publish=st.booleans())
    def put_small(self, pick: int, size: int, own_pages: bool, count: int, publish: bool) -> None:
        client = self.client(pick)
        for _ in range(count):
            self.put(client, size, own_pages, publish)

    @rule(pick=PICK, size=LARGE, publish=st.booleans())
    def put_large(self, pick: int, size: int, publish: bool) -> None:
        self.put(self.client(pick), size, False, publish)

    def put(self, client: Client, size: int, own_pages: bool, publish: bool) -> None:
        self.puts_since_death += 1
        reservation = client.writer.reserve(size, own_pages=own_pages)
        if reservation is None:
            client.to_daemon.append(client.writer.ask(size, own_pages=own_pages, timeout_s=1.0))
        else:
            self.fill(client, reservation)
            if publish:
                self.publish(client, reservation)

    def fill(self, client: Client, reservation: Reservation) -> None:
        self.next_number += 1
        filling = bytes([self.next_number % 251 + 1])
        reservation.write([filling * reservation.size_bytes], [0])
        client.written.append(reservation)
        self.live[reservation.offset] = (filling, reservation.size_bytes)

    @precondition(lambda self: any(client.written for client in self.clients.values()))
    @rule(pick=PICK, publish=st.integers(0, 3))
    def publish_or_release(self, pick: int, publish: int) -> None:
        choices = [(client, one) for client in self.clients.values() for one in client.written]
        client, reservation = choices[pick % len(choices)]
        if publish:
            self.publish(client, reservation)
        else:
            client.written.remove(reservation)
            del self.live[reservation.offset]
            message = client.writer.release(reservation.offset)
            if message is not None:
                client.to_daemon.append(message)

    def publish(self, client: Client, reservation: Reservation) -> None:
        client.written.remove(reservation)
        client.writer.published(reservation.offset)
        client.to_daemon.append(("publish", reservation.offset, reservation.size_bytes))

    @precondition(lambda self: any(client.to_daemon for client in self.clients.values()))
    @rule(pick=PICK, count=st.integers(1, 9))
    def daemon_reads(self, pick: int, count: int) -> None:
        choices = [client for client in self.clients.values() if client.to_daemon]
        client = choices[pick % len(choices)]
        for _ in range(min(count, len(client.to_daemon))):
            self.handle(client, client.to_daemon.popleft())

    def handle(self, client: Client, message: Any) -> None:
        if isinstance(message, AllocateBlock):
            self.arena.allocate_block(client.id, message, self.now_s)
        elif isinstance(message, AllocateExtent):
            self.arena.allocate_extent(client.id, message, self.now_s)
        elif isinstance(message, ExtentsReturned):
            self.arena.extents_returned(client.id, message, self.now_s)
        elif isinstance(message, ReleaseBlocks):
            self.arena.release(client.id, message, self.now_s)
        else:
            _, offset, size = message
            self.arena.publish(client.id, offset, size)
            self.freeable.append(offset)
        self.run_effects()

    def run_effects(self) -> None:
        while self.arena.outbox:
            effect = self.arena.outbox.pop(0)
            if isinstance(effect, ReadMemory):
                self.arena.memory_read(self.now_s, 1 << 50, self.memory.resident_bytes())
            elif isinstance(effect, PunchHoles):
                self.memory.punch(effect.ranges)
                self.arena.punched(self.now_s)
            else:
                self.clients[effect.process].from_daemon.append(effect.message)

    @precondition(lambda self: any(client.from_daemon for client in self.clients.values()))
    @rule(pick=PICK, count=st.integers(1, 9))
    def process_reads(self, pick: int, count: int) -> None:
        choices = [client for client in self.clients.values() if client.from_daemon]
        client = choices[pick % len(choices)]
        for _ in range(min(count, len(client.from_daemon))):
            message = client.from_daemon.popleft()
            if isinstance(message, BlocksFreed):
                client.writer.blocks_freed(message)
            elif isinstance(message, ReturnExtents):
                client.to_daemon.append(client.writer.return_extents())
            elif isinstance(message, AllocationRefused):
                client.writer.refused(message)
            else:
                reservation = client.writer.granted(message)
                self.fill(client, reservation)
                if message.request % 4:
                    self.publish(client, reservation)

    @precondition(lambda self: self.freeable)
    @rule(pick=PICK, count=st.integers(1, 12))
    def nobody_needs_some_objects(self, pick: int, count: int) -> None:
        for _ in range(min(count, len(self.freeable))):
            offset = self.freeable.pop(pick % len(self.freeable))
            self.check(offset)
            del self.live[offset]
            self.arena.free([offset], self.now_s)
        self.run_effects()

    @precondition(lambda self: len(self.clients) > 1 and self.puts_since_death > 15)
    @rule(pick=PICK)
    def a_process_is_killed(self, pick: int) -> None:
        self.puts_since_death = 0
        client = self.client(pick)
        for message in client.to_daemon:
            self.handle(client, message)
        for reservation in client.written:
            del self.live[reservation.offset]
        del self.clients[client.id]
        client.writer.close()
        self.arena.process_dead(client.id, self.now_s)
        self.run_effects()

    @rule(seconds=st.sampled_from([0.2, 2.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        self.arena.tick(self.now_s)
        self.run_effects()

    @invariant()
    def nothing_is_lost_or_in_use_twice(self) -> None:
        self.arena.validate()
        assert self.memory.resident_bytes() <= self.arena.usage().committed_bytes <= LIMIT

    def check(self, offset: int) -> None:
        filling, size = self.live[offset]
        assert os.pread(self.memory.fd, size, offset) == filling * size

    @invariant()
    def every_live_object_reads_as_it_was_written(self) -> None:
        for offset in self.live:
            self.check(offset)


TestArenaTraffic = ArenaTraffic.TestCase
TestArenaTraffic.settings = settings(max_examples=80, stateful_step_count=80, deadline=None)
