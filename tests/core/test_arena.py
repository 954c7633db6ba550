from __future__ import annotations

import pytest
from arena_shell import ALICE, BOB, CAROL, ArenaShell, refusals

from remora.core.arena_layout import PAGE_SIZE_BYTES as PAGE
from remora.core.arena_records import ArenaError, ReadMemory
from remora.messages.arena import (
    AllocateBlock,
    Block,
    BlockGranted,
    BlocksFreed,
    ExtentsReturned,
    ReleaseBlocks,
    ReturnedExtent,
    ReturnExtents,
)

MB = 1 << 20


def test_a_block_is_whole_pages_and_counted_when_published() -> None:
    shell = ArenaShell(64 * MB)
    block = shell.block(ALICE, 100_000, publish=False)
    assert block.offset % PAGE == 0
    assert block.size_bytes == 25 * PAGE
    assert (shell.arena.usage().used_bytes, shell.arena.usage().reserved_bytes) == (0, 25 * PAGE)
    shell.arena.publish(ALICE, block.offset, 100_000)
    assert (shell.arena.usage().used_bytes, shell.arena.usage().reserved_bytes) == (25 * PAGE, 0)
    assert shell.arena.published_by() == {ALICE: 25 * PAGE}


def test_a_freed_block_goes_first_to_the_process_that_wrote_it() -> None:
    shell = ArenaShell(64 * MB)
    of_alice = shell.block(ALICE, MB)
    of_bob = shell.block(BOB, MB)
    shell.block(CAROL, MB)
    shell.free(of_alice.offset, of_bob.offset)
    assert shell.block(BOB, MB) == of_bob
    assert shell.block(ALICE, MB) == of_alice


def test_warm_pages_of_another_process_are_taken_before_new_ones() -> None:
    shell = ArenaShell(64 * MB)
    of_alice = shell.block(ALICE, MB)
    shell.free(of_alice.offset)
    ((_, answer),) = shell.ask_block(BOB, MB)
    assert answer == BlockGranted(answer.request, of_alice, fresh=False)


def test_an_object_as_large_as_all_scattered_free_bytes_fits() -> None:
    shell = ArenaShell(16 * MB)
    blocks = [shell.block(ALICE, MB) for _ in range(16)]
    shell.free(*[block.offset for block in blocks[::2]])
    block = shell.block(BOB, 8 * MB)
    assert block.size_bytes == shell.arena.usage().free_bytes + 8 * MB
    assert sum(size for _, size in shell.punched) == 8 * MB


def test_only_as_much_is_punched_as_the_limit_needs() -> None:
    shell = ArenaShell(16 * MB)
    first = shell.block(ALICE, 4 * MB)
    shell.block(ALICE, 4 * MB)
    shell.free(first.offset)
    shell.block(ALICE, 9 * MB)
    assert sum(size for _, size in shell.punched) == MB
    assert shell.arena.usage().warm_bytes == 3 * MB


def test_small_objects_cut_from_an_extent_need_no_message_and_come_back_to_its_owner() -> None:
    shell = ArenaShell(64 * MB)
    extent = shell.extent(ALICE)
    assert extent.size_bytes == MB
    shell.arena.publish(ALICE, extent.offset, 100)
    shell.arena.publish(ALICE, extent.offset + 128, 1000)
    assert shell.arena.usage().used_bytes == 128 + 1024
    assert shell.free(extent.offset, extent.offset + 128) == [
        (ALICE, BlocksFreed([extent.offset, extent.offset + 128]))
    ]
    assert shell.arena.reserved_by(ALICE) == MB


def test_a_returned_extent_keeps_its_objects_and_gives_back_the_other_pages() -> None:
    shell = ArenaShell(64 * MB)
    extent = shell.extent(ALICE)
    shell.arena.publish(ALICE, extent.offset, 100)
    shell.arena.publish(ALICE, extent.offset + 64 * 2, 100)
    unpublished = Block(extent.offset + 16 * PAGE, 2 * PAGE)
    shell.arena.extents_returned(ALICE, ExtentsReturned([ReturnedExtent(extent.offset, [unpublished])]), shell.now_s)
    shell.run()
    assert shell.arena.usage().warm_bytes == MB - 3 * PAGE
    assert shell.arena.usage().lost_bytes == PAGE - 2 * 128
    shell.free(extent.offset)
    assert shell.arena.usage().warm_bytes == MB - 3 * PAGE
    shell.free(extent.offset + 128)
    assert shell.arena.usage().warm_bytes == MB - 2 * PAGE
    shell.arena.publish(ALICE, unpublished.offset, 2 * PAGE)
    shell.free(unpublished.offset)
    assert shell.arena.usage().warm_bytes == MB


def test_a_kept_block_that_was_published_meanwhile_is_not_counted_twice() -> None:
    shell = ArenaShell(64 * MB)
    extent = shell.extent(ALICE)
    shell.arena.publish(ALICE, extent.offset, 100)
    returned = ExtentsReturned([ReturnedExtent(extent.offset, [Block(extent.offset, 128)])])
    shell.arena.extents_returned(ALICE, returned, shell.now_s)
    assert shell.arena.usage().used_bytes == 128
    shell.free(extent.offset)
    assert shell.arena.usage().used_bytes == 0


def test_what_a_dead_process_published_stays_and_the_rest_returns() -> None:
    shell = ArenaShell(64 * MB)
    extent = shell.extent(ALICE)
    shell.arena.publish(ALICE, extent.offset, 70_000)
    published = shell.block(ALICE, 2 * MB)
    shell.block(ALICE, 4 * MB, publish=False)
    shell.arena.process_dead(ALICE, shell.now_s)
    shell.run()
    usage = shell.arena.usage()
    assert (usage.used_bytes, usage.reserved_bytes) == (2 * MB + 18 * PAGE, 0)
    shell.free(extent.offset, published.offset)
    assert shell.arena.usage().free_bytes == 64 * MB
    assert shell.arena.published_by() == {}
    assert shell.block(BOB, MB).offset in range(extent.offset, extent.offset + 7 * MB)


def test_a_full_store_lets_requests_wait_in_their_order() -> None:
    shell = ArenaShell(16 * MB)
    blocks = [shell.block(ALICE, 4 * MB) for _ in range(4)]
    assert shell.ask_block(BOB, 8 * MB) == []
    assert shell.ask_block(CAROL, MB) == []
    assert shell.free(blocks[0].offset) == []
    assert [process for process, _ in shell.free(blocks[2].offset)] == [BOB]
    assert [process for process, _ in shell.free(blocks[3].offset)] == [CAROL]


def test_a_request_that_waited_too_long_fails_with_the_numbers_and_who_has_most() -> None:
    shell = ArenaShell(16 * MB)
    shell.block(BOB, 5 * MB)
    shell.block(ALICE, 10 * MB)
    shell.ask_block(CAROL, 3 * MB, timeout_s=2.0)
    assert shell.arena.next_wakeup_s() == 2.0
    assert shell.later(1.9) == []
    (refusal,) = refusals(shell.later(0.1))
    assert refusal.reason == "full"
    assert (refusal.size_bytes, refusal.limit_bytes, refusal.used_bytes) == (3 * MB, 16 * MB, 15 * MB)
    assert refusal.waited_s == pytest.approx(2.0)
    assert [(writer.process, writer.used_bytes) for writer in refusal.writers] == [(ALICE, 10 * MB), (BOB, 5 * MB)]
    assert shell.arena.next_wakeup_s() is None


def test_what_an_object_takes_is_told_by_its_place() -> None:
    shell = ArenaShell(16 * MB)
    block = shell.block(ALICE, 10 * MB)
    assert shell.arena.block_bytes(block.offset) == 10 * MB
    shell.free(block.offset)
    assert shell.arena.block_bytes(block.offset) == 0


def test_when_the_first_request_gives_up_the_next_one_gets_its_space() -> None:
    shell = ArenaShell(16 * MB)
    shell.block(ALICE, 12 * MB)
    shell.ask_block(BOB, 8 * MB, timeout_s=1.0)
    shell.ask_block(CAROL, 4 * MB, timeout_s=5.0)
    messages = shell.later(1.0)
    assert [process for process, _ in messages] == [BOB, CAROL]
    assert isinstance(messages[1][1], BlockGranted)


def test_an_object_larger_than_the_store_fails_at_once() -> None:
    shell = ArenaShell(16 * MB)
    (refusal,) = refusals(shell.ask_block(ALICE, 16 * MB + 1))
    assert refusal.reason == "too large"


def test_reserved_space_is_asked_back_when_the_store_is_full() -> None:
    shell = ArenaShell(64 * MB)
    extent = shell.extent(ALICE)
    shell.arena.publish(ALICE, extent.offset, 100)
    shell.block(BOB, 62 * MB)
    assert shell.ask_block(BOB, MB + PAGE) == [(ALICE, ReturnExtents())]
    assert shell.later(1.0) == []
    shell.arena.extents_returned(ALICE, ExtentsReturned([ReturnedExtent(extent.offset)]), shell.now_s)
    ((process, answer),) = shell.run()
    assert process == BOB
    assert isinstance(answer, BlockGranted)


def test_an_extent_is_small_when_space_for_a_whole_one_is_not_there() -> None:
    shell = ArenaShell(64 * MB)
    shell.block(BOB, 64 * MB - 20 * PAGE)
    assert shell.extent(ALICE, 80_000).size_bytes == 20 * PAGE


def test_the_waiting_requests_of_a_dead_process_are_forgotten() -> None:
    shell = ArenaShell(16 * MB)
    block = shell.block(ALICE, 16 * MB)
    shell.ask_block(BOB, MB)
    shell.arena.process_dead(BOB, shell.now_s)
    assert shell.free(block.offset) == []


def test_a_released_block_is_free_again() -> None:
    shell = ArenaShell(16 * MB)
    block = shell.block(ALICE, 16 * MB, publish=False)
    shell.arena.release(ALICE, ReleaseBlocks([block.offset]), shell.now_s)
    assert shell.block(BOB, 16 * MB) == block


def test_the_machine_is_looked_at_before_each_64_mb_of_growth() -> None:
    shell = ArenaShell(1024 * MB)
    for _ in range(64):
        shell.block(ALICE, 4 * MB)
    assert shell.readings == 4
    shell.now_s = 2.0
    shell.block(ALICE, 4 * MB)
    assert shell.readings == 5, "a reading is good for a second"
    shell.block(ALICE, 200 * MB)
    assert shell.readings == 6, "a larger block is one step"


def test_granted_memory_that_is_not_touched_yet_is_not_granted_again() -> None:
    shell = ArenaShell(1024 * MB)
    shell.arena.allocate_block(ALICE, AllocateBlock(1, 60 * MB), 0.0)
    assert shell.arena.outbox == [ReadMemory()]
    shell.arena.outbox.clear()
    shell.arena.memory_read(0.0, available_bytes=100 * MB, resident_bytes=0)
    assert len(shell.arena.outbox) == 1
    shell.arena.outbox.clear()
    shell.arena.allocate_block(BOB, AllocateBlock(1, 60 * MB), 0.0)
    shell.arena.outbox.clear()
    shell.arena.memory_read(0.0, available_bytes=100 * MB, resident_bytes=0)
    assert shell.arena.outbox == []


def test_a_machine_without_memory_lets_requests_wait_and_then_fail_for_that_reason() -> None:
    shell = ArenaShell(1024 * MB, machine_bytes=32 * MB)
    shell.block(ALICE, 16 * MB)
    assert shell.ask_block(BOB, 20 * MB, timeout_s=1.0) == []
    assert shell.arena.next_wakeup_s() == pytest.approx(0.1)
    (refusal,) = refusals(shell.later(1.0))
    assert (refusal.reason, refusal.room_bytes) == ("machine", 16 * MB)


def test_memory_that_the_machine_gets_back_serves_those_who_wait() -> None:
    shell = ArenaShell(1024 * MB, machine_bytes=32 * MB)
    shell.block(ALICE, 16 * MB)
    shell.ask_block(BOB, 20 * MB)
    shell.machine_bytes = 64 * MB
    ((process, answer),) = shell.later(0.2)
    assert (process, isinstance(answer, BlockGranted)) == (BOB, True)


def test_warm_pages_are_punched_when_the_machine_not_the_limit_is_tight() -> None:
    shell = ArenaShell(1024 * MB, machine_bytes=32 * MB)
    blocks = [shell.block(ALICE, 8 * MB) for _ in range(4)]
    shell.free(blocks[0].offset, blocks[2].offset)
    shell.block(BOB, 16 * MB)
    assert sum(size for _, size in shell.punched) == 16 * MB


def test_a_machine_in_need_gets_warm_pages_back_unasked() -> None:
    shell = ArenaShell(1024 * MB, machine_bytes=64 * MB)
    shell.free(shell.block(ALICE, 32 * MB).offset)
    shell.machine_bytes = 22 * MB
    committed = shell.arena.space.committed_bytes
    shell.arena.memory_read(0.0, available_bytes=shell.machine_bytes - committed, resident_bytes=committed)
    shell.run()
    assert shell.arena.usage().warm_bytes == 22 * MB


def test_much_is_punched_in_steps_of_64_mb() -> None:
    shell = ArenaShell(256 * MB)
    shell.free(shell.block(ALICE, 128 * MB).offset, shell.block(BOB, 128 * MB).offset)
    shell.arena.allocate_block(ALICE, AllocateBlock(99, 256 * MB), 0.0)
    steps = []
    while shell.arena.outbox:
        effect = shell.arena.outbox.pop(0)
        if isinstance(effect, ReadMemory):
            shell.arena.memory_read(0.0, 1 << 40, 256 * MB)
        elif not hasattr(effect, "message"):
            steps.append(sum(size for _, size in effect.ranges))
            shell.arena.punched(0.0)
    assert steps == [64 * MB] * 4


def test_what_cannot_be_so_is_refused_and_changes_nothing() -> None:
    shell = ArenaShell(64 * MB)
    extent = shell.extent(ALICE)
    block = shell.block(ALICE, MB)
    before = repr(shell.arena), shell.arena.usage()
    for wrong in (
        lambda: shell.arena.publish(BOB, extent.offset, 100),
        lambda: shell.arena.publish(ALICE, extent.offset + 1, 100),
        lambda: shell.arena.publish(ALICE, extent.offset, 2 * MB),
        lambda: shell.arena.publish(ALICE, block.offset, 100),
        lambda: shell.arena.free([block.offset, block.offset], 0.0),
        lambda: shell.arena.free([block.offset, 123], 0.0),
        lambda: shell.arena.release(ALICE, ReleaseBlocks([block.offset]), 0.0),
        lambda: shell.arena.release(BOB, ReleaseBlocks([block.offset]), 0.0),
        lambda: shell.arena.extents_returned(BOB, ExtentsReturned([ReturnedExtent(extent.offset)]), 0.0),
        lambda: shell.arena.extents_returned(ALICE, ExtentsReturned([ReturnedExtent(extent.offset)] * 2), 0.0),
        lambda: shell.arena.extents_returned(
            ALICE, ExtentsReturned([ReturnedExtent(extent.offset, [Block(extent.offset + MB, 64)])]), 0.0
        ),
    ):
        with pytest.raises(ArenaError):
            wrong()
    assert (repr(shell.arena), shell.arena.usage()) == before
    shell.arena.validate()


def test_an_object_of_no_bytes_has_a_place_of_its_own() -> None:
    shell = ArenaShell(64 * MB)
    extent = shell.extent(ALICE)
    shell.arena.publish(ALICE, extent.offset, 0)
    assert shell.arena.usage().used_bytes == 64


def test_neighbouring_pages_of_dead_processes_become_one_warm_hole() -> None:
    shell = ArenaShell(64 * MB)
    blocks = [shell.block(process, MB) for process in (ALICE, BOB)]
    shell.free(*[block.offset for block in blocks])
    for process in (ALICE, BOB):
        shell.arena.process_dead(process, shell.now_s)
    ((_, answer),) = shell.ask_block(CAROL, 2 * MB)
    assert answer == BlockGranted(answer.request, Block(blocks[0].offset, 2 * MB), fresh=False)


def test_reserved_space_is_asked_back_again_when_there_is_some_again() -> None:
    shell = ArenaShell(64 * MB)
    for _ in range(2):
        extent = shell.extent(ALICE)
        full = shell.block(BOB, 63 * MB)
        assert shell.ask_block(BOB, MB, timeout_s=1.0) == [(ALICE, ReturnExtents())]
        shell.arena.extents_returned(ALICE, ExtentsReturned([ReturnedExtent(extent.offset)]), shell.now_s)
        ((_, answer),) = shell.run()
        shell.arena.release(BOB, ReleaseBlocks([answer.block.offset]), shell.now_s)
        shell.free(full.offset)


def test_scattered_offsets_are_joined_by_punching_when_no_cold_range_is_large_enough() -> None:
    shell = ArenaShell(16 * MB, offset_space_bytes=17 * MB)
    blocks = [shell.block(process, 4 * MB) for process in (ALICE, BOB) * 2]
    shell.free(*[block.offset for block in blocks])
    assert shell.block(CAROL, 10 * MB).size_bytes == 10 * MB
