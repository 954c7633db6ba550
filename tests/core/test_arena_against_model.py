"""The allocator beside a model that only knows lists of bytes: random programs of several processes."""

from __future__ import annotations

from typing import Any

from arena_shell import ALICE, BOB, CAROL, ArenaShell, refusals
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from remora.base.ids import ProcessId
from remora.core.arena_layout import PAGE_SIZE_BYTES as PAGE
from remora.core.arena_layout import footprint_of, round_up_to_pages
from remora.messages.arena import (
    AllocateBlock,
    AllocateExtent,
    Block,
    BlockGranted,
    BlocksFreed,
    ExtentGranted,
    ExtentsReturned,
    ReleaseBlocks,
    ReturnedExtent,
    ReturnExtents,
)

LIMIT = 512 * PAGE
PROCESSES = st.sampled_from([ALICE, BOB, CAROL])
SIZES = st.one_of(st.integers(0, 4 * PAGE), st.integers(1, 32).map(lambda share: share * LIMIT // 32))
PICK = st.integers(0, 10_000)


class ModelExtent:
    """An extent as its owner sees it: objects are cut one behind the other."""

    def __init__(self, where: Block) -> None:
        self.where = where
        self.next = where.offset
        self.unpublished: list[Block] = []


class ArenaPrograms(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.shell = ArenaShell(LIMIT)
        self.requests: dict[int, tuple[ProcessId, int]] = {}
        self.last_request = 0
        self.extents: dict[ProcessId, list[ModelExtent]] = {}
        self.unpublished: dict[ProcessId, list[Block]] = {}
        self.published: dict[int, Block] = {}
        self.asked_back: list[ProcessId] = []
        self.asks_since_death = 0

    @property
    def arena(self) -> Any:
        return self.shell.arena

    def run_effects(self) -> None:
        for process, message in self.shell.run():
            if isinstance(message, ExtentGranted):
                assert process == self.requests.pop(message.request)[0]
                self.extents.setdefault(process, []).append(ModelExtent(message.extent))
            elif isinstance(message, BlockGranted):
                owner, size = self.requests.pop(message.request)
                assert (owner, message.block.size_bytes) == (process, round_up_to_pages(footprint_of(size)))
                self.unpublished.setdefault(process, []).append(message.block)
            elif isinstance(message, ReturnExtents):
                self.asked_back.append(process)
            elif isinstance(message, BlocksFreed):
                assert process in self.extents
            else:
                assert refusals([(process, message)])
                del self.requests[message.request]

    def held(self) -> list[Block]:
        extents = [extent.where for extents in self.extents.values() for extent in extents]
        in_extents = [
            block
            for block in self.published.values()
            if any(e.offset <= block.offset < e.offset + e.size_bytes for e in extents)
        ]
        blocks = [block for blocks in self.unpublished.values() for block in blocks]
        return [*extents, *blocks, *(block for block in self.published.values() if block not in in_extents)]

    def pages_held(self) -> int:
        return len(
            {
                page
                for block in self.held()
                for page in range(block.offset // PAGE, -(-(block.offset + block.size_bytes) // PAGE))
            }
        )

    @rule(process=PROCESSES, size=SIZES, timeout=st.sampled_from([0.5, 5.0]), publish=st.booleans())
    def ask_for_a_block(self, process: ProcessId, size: int, timeout: float, publish: bool) -> None:
        self.last_request += 1
        self.asks_since_death += 1
        self.requests[self.last_request] = (process, size)
        fits = self.pages_held() * PAGE + round_up_to_pages(footprint_of(size)) <= LIMIT
        nobody_waits = len(self.requests) == 1
        self.arena.allocate_block(process, AllocateBlock(self.last_request, size, timeout), self.shell.now_s)
        self.run_effects()
        if fits and nobody_waits:
            assert not self.requests, "whatever fits the free bytes is granted at once"
            if publish:
                self.publish_or_release_a_block(sum(len(blocks) for blocks in self.unpublished.values()) - 1, True)

    @rule(process=PROCESSES, size=st.integers(0, 3 * PAGE), returns=st.booleans())
    def ask_for_an_extent(self, process: ProcessId, size: int, returns: bool) -> None:
        self.last_request += 1
        self.asks_since_death += 1
        self.requests[self.last_request] = (process, size)
        returned = self.give_up(process) if returns else []
        self.arena.allocate_extent(process, AllocateExtent(self.last_request, size, returned, 1.0), self.shell.now_s)
        self.run_effects()

    @precondition(lambda self: any(self.extents.values()))
    @rule(pick=PICK, size=st.integers(0, 3 * PAGE), publish=st.booleans())
    def cut_from_an_extent(self, pick: int, size: int, publish: bool) -> None:
        choices = [(process, extent) for process, extents in self.extents.items() for extent in extents]
        process, extent = choices[pick % len(choices)]
        block = Block(extent.next, footprint_of(size))
        if block.offset + block.size_bytes > extent.where.offset + extent.where.size_bytes:
            return
        extent.next += block.size_bytes
        if publish:
            self.arena.publish(process, block.offset, size)
            self.published[block.offset] = block
        else:
            extent.unpublished.append(block)

    @precondition(lambda self: any(self.unpublished.values()))
    @rule(pick=PICK, publish=st.booleans())
    def publish_or_release_a_block(self, pick: int, publish: bool) -> None:
        choices = [(process, block) for process, blocks in self.unpublished.items() for block in blocks]
        process, block = choices[pick % len(choices)]
        self.unpublished[process].remove(block)
        if publish:
            self.arena.publish(process, block.offset, block.size_bytes)
            self.published[block.offset] = block
        else:
            self.arena.release(process, ReleaseBlocks([block.offset]), self.shell.now_s)
            self.run_effects()

    @precondition(lambda self: self.published)
    @rule(pick=PICK, count=st.integers(1, 8))
    def free_objects(self, pick: int, count: int) -> None:
        offsets = sorted(self.published)
        chosen = {offsets[(pick + step) % len(offsets)] for step in range(count)}
        for offset in chosen:
            del self.published[offset]
        self.arena.free(sorted(chosen), self.shell.now_s)
        self.run_effects()

    @precondition(lambda self: self.asked_back)
    @rule()
    def answer_that_extents_are_returned(self) -> None:
        process = self.asked_back.pop(0)
        self.arena.extents_returned(process, ExtentsReturned(self.give_up(process)), self.shell.now_s)
        self.run_effects()

    def give_up(self, process: ProcessId) -> list[ReturnedExtent]:
        extents = self.extents.pop(process, [])
        for extent in extents:
            self.unpublished.setdefault(process, []).extend(extent.unpublished)
        return [ReturnedExtent(extent.where.offset, extent.unpublished) for extent in extents]

    @precondition(lambda self: self.asks_since_death > 8)
    @rule(process=PROCESSES)
    def a_process_dies(self, process: ProcessId) -> None:
        self.asks_since_death = 0
        self.extents.pop(process, None)
        self.unpublished.pop(process, None)
        self.requests = {number: one for number, one in self.requests.items() if one[0] != process}
        self.asked_back = [one for one in self.asked_back if one != process]
        self.arena.process_dead(process, self.shell.now_s)
        self.run_effects()

    @rule(seconds=st.sampled_from([0.2, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.shell.now_s += seconds
        self.arena.tick(self.shell.now_s)
        self.run_effects()

    @invariant()
    def no_two_live_ranges_overlap(self) -> None:
        cursor = 0
        for block in sorted(self.held(), key=lambda block: block.offset):
            assert block.offset >= cursor
            cursor = block.offset + block.size_bytes

    @invariant()
    def the_sums_are_those_of_the_model(self) -> None:
        usage = self.arena.usage()
        assert usage.used_bytes == sum(block.size_bytes for block in self.published.values())
        assert usage.free_bytes == LIMIT - self.pages_held() * PAGE
        assert usage.committed_bytes <= LIMIT
        assert usage.used_bytes + usage.reserved_bytes + usage.lost_bytes + usage.warm_bytes == usage.committed_bytes

    @invariant()
    def whoever_waits_is_known_to_wait(self) -> None:
        assert (self.arena.next_wakeup_s() is not None) == bool(self.requests)


TestArenaPrograms = ArenaPrograms.TestCase
TestArenaPrograms.settings = settings(max_examples=100, stateful_step_count=80, deadline=None)
