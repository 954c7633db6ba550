"""A stand-in for the daemon's shell: carries out the allocator's effects on a pretended machine."""

from __future__ import annotations

from typing import Any

from remora.base.ids import ProcessId, make_process_id
from remora.core.arena import ArenaAllocator
from remora.core.arena_records import PunchHoles, ReadMemory
from remora.messages.arena import AllocateBlock, AllocateExtent, AllocationRefused, Block, BlockGranted, ExtentGranted

PLENTY = 1 << 50
ALICE = make_process_id(1, 1)
BOB = make_process_id(1, 2)
CAROL = make_process_id(1, 3)


class ArenaShell:
    """``machine_bytes`` is what the machine has for the store; all that is committed counts as touched."""

    def __init__(self, limit_bytes: int, machine_bytes: int = PLENTY, offset_space_bytes: int | None = None) -> None:
        self.arena = ArenaAllocator(limit_bytes, offset_space_bytes)
        self.machine_bytes = machine_bytes
        self.now_s = 0.0
        self.sent: list[tuple[ProcessId, Any]] = []
        self.punched: list[tuple[int, int]] = []
        self.readings = 0
        self._requests = 0

    def run(self) -> list[tuple[ProcessId, Any]]:
        """Carry out every effect; returns the messages that this gave."""
        first = len(self.sent)
        while self.arena.outbox:
            effect = self.arena.outbox.pop(0)
            if isinstance(effect, ReadMemory):
                self.readings += 1
                committed = self.arena.space.committed_bytes
                self.arena.memory_read(self.now_s, self.machine_bytes - committed, committed)
            elif isinstance(effect, PunchHoles):
                self.punched += effect.ranges
                self.arena.punched(self.now_s)
            else:
                self.sent.append((effect.process, effect.message))
        self.arena.validate()
        return self.sent[first:]

    def ask_block(self, process: ProcessId, size_bytes: int, timeout_s: float = 10.0) -> list[tuple[ProcessId, Any]]:
        self._requests += 1
        self.arena.allocate_block(process, AllocateBlock(self._requests, size_bytes, timeout_s), self.now_s)
        return self.run()

    def block(self, process: ProcessId, size_bytes: int, *, publish: bool = True) -> Block:
        """A block that is granted at once."""
        ((_, answer),) = self.ask_block(process, size_bytes)
        assert isinstance(answer, BlockGranted), answer
        if publish:
            self.arena.publish(process, answer.block.offset, size_bytes)
        return answer.block

    def extent(self, process: ProcessId, minimum_bytes: int = 64, **fields: Any) -> Block:
        """An extent that is granted at once."""
        self._requests += 1
        self.arena.allocate_extent(process, AllocateExtent(self._requests, minimum_bytes, **fields), self.now_s)
        ((_, answer),) = self.run()
        assert isinstance(answer, ExtentGranted), answer
        return answer.extent

    def free(self, *offsets: int) -> list[tuple[ProcessId, Any]]:
        self.arena.free(offsets, self.now_s)
        return self.run()

    def later(self, seconds: float) -> list[tuple[ProcessId, Any]]:
        self.now_s += seconds
        self.arena.tick(self.now_s)
        return self.run()


def refusals(messages: list[tuple[ProcessId, Any]]) -> list[AllocationRefused]:
    return [message for _, message in messages if isinstance(message, AllocationRefused)]
