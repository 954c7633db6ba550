from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remora.base.errors import ObjectStoreFullError
from remora.core.arena_layout import PAGE_SIZE_BYTES as PAGE
from remora.messages.arena import (
    AllocateBlock,
    AllocateExtent,
    AllocationRefused,
    Block,
    BlockGranted,
    BlocksFreed,
    ExtentGranted,
    ReleaseBlocks,
    ReturnedExtent,
)
from remora.processes.arena_client import MAX_MAPPED_RANGES, ArenaWriter, Reservation, full_error
from remora.system.memory_limits import MemoryReading
from remora.system.shared_memory import SharedMemory

MB = 1 << 20
LIMIT = 256 * MB


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    memory = SharedMemory.create(1 << 36)
    yield memory
    memory.close()


@pytest.fixture
def writer(memory: SharedMemory) -> Iterator[ArenaWriter]:
    writer = ArenaWriter(memory, LIMIT)
    yield writer
    writer.close()


def grant_extent(
    writer: ArenaWriter, size_bytes: int, offset: int = 0, extent_bytes: int = 4 * MB, **fields: Any
) -> Reservation:
    message = writer.ask(size_bytes, **fields)
    assert isinstance(message, AllocateExtent)
    return writer.granted(ExtentGranted(message.request, Block(offset, extent_bytes), fresh=True))


def grant_block(writer: ArenaWriter, size_bytes: int, offset: int, *, fresh: bool) -> Reservation:
    message = writer.ask(size_bytes)
    assert isinstance(message, AllocateBlock)
    block = Block(offset, -(-size_bytes // PAGE) * PAGE)
    return writer.granted(BlockGranted(message.request, block, fresh))


def content(memory: SharedMemory, offset: int, size_bytes: int) -> bytes:
    return os.pread(memory.fd, size_bytes, offset)


def test_after_the_first_extent_small_objects_need_no_message(writer: ArenaWriter) -> None:
    assert writer.reserve(160_000) is None
    first = grant_extent(writer, 160_000)
    second = writer.reserve(160_000)
    assert second is not None
    assert (first.offset, second.offset) == (0, 40 * PAGE)


def test_a_large_object_gets_a_block_of_its_own(writer: ArenaWriter) -> None:
    assert isinstance(writer.ask(1_300_000), AllocateExtent)
    assert isinstance(writer.ask(1_400_000), AllocateBlock)


@pytest.mark.parametrize("fresh", [True, False])
def test_every_sort_of_buffer_arrives_at_its_offset(writer: ArenaWriter, memory: SharedMemory, fresh: bool) -> None:
    reservation = grant_block(writer, 5 * MB, 8 * PAGE, fresh=fresh)
    doubles = np.arange(100.0).reshape(10, 10)
    parts = [b"head", bytearray(b"body"), memoryview(doubles), b"", memoryview(doubles[3])]
    reservation.write(parts, [0, 64, 128, 1000, 4 * MB])
    at = reservation.offset
    assert content(memory, at, 4) == b"head"
    assert content(memory, at + 64, 4) == b"body"
    assert content(memory, at + 128, 800) == doubles.tobytes()
    assert content(memory, at + 4 * MB, 80) == doubles[3].tobytes()


@pytest.mark.parametrize(("offset", "nbytes"), [(-1, 2), (2 * MB, 1), (2 * MB - 3, 4), (0, 2 * MB + 1)])
def test_a_part_outside_of_the_reservation_is_refused(writer: ArenaWriter, offset: int, nbytes: int) -> None:
    reservation = grant_block(writer, 2 * MB, 0, fresh=False)
    with pytest.raises(ValueError, match="does not lie in"):
        reservation.write([bytes(nbytes)], [offset])


def test_released_and_freed_space_is_cut_again(writer: ArenaWriter) -> None:
    released = grant_extent(writer, 160_000)
    assert writer.release(released.offset) is None
    published = writer.reserve(160_000)
    assert published is not None
    assert published.offset == released.offset
    writer.published(published.offset)
    writer.blocks_freed(BlocksFreed([published.offset]))
    again = writer.reserve(160_000)
    assert again is not None
    assert again.offset == published.offset


def test_a_full_extent_is_returned_with_the_request_for_the_next_one(writer: ArenaWriter) -> None:
    published = grant_extent(writer, 1_300_000)
    writer.published(published.offset)
    unpublished = writer.reserve(1_300_000)
    assert unpublished is not None
    while writer.reserve(1_300_000) is not None:
        pass
    message = writer.ask(1_300_000)
    assert isinstance(message, AllocateExtent)
    (returned,) = message.returned
    assert returned.offset == 0
    assert published.offset not in [block.offset for block in returned.kept]
    assert returned.kept[0] == Block(unpublished.offset, unpublished.footprint_bytes)
    writer.blocks_freed(BlocksFreed([published.offset]))
    assert writer.release(unpublished.offset) == ReleaseBlocks([unpublished.offset])


def test_extents_are_given_back_when_the_daemon_asks(writer: ArenaWriter) -> None:
    reservation = grant_extent(writer, 100)
    assert writer.return_extents().extents == [ReturnedExtent(0, [Block(reservation.offset, 128)])]
    assert writer.reserve(100) is None
    assert writer.return_extents().extents == []


def test_two_threads_that_ask_at_once_both_get_theirs(writer: ArenaWriter) -> None:
    first, second = writer.ask(100), writer.ask(200)
    assert first.request != second.request
    late = writer.granted(ExtentGranted(second.request, Block(4 * MB, 4 * MB), fresh=True))
    early = writer.granted(ExtentGranted(first.request, Block(0, 4 * MB), fresh=True))
    assert (late.size_bytes, early.size_bytes) == (200, 100)


def test_a_small_array_can_have_its_own_pages(writer: ArenaWriter) -> None:
    small = grant_extent(writer, 100)
    alone = writer.reserve(100, own_pages=True)
    assert alone is not None
    assert (alone.offset % PAGE, alone.footprint_bytes) == (0, PAGE)
    assert alone.offset // PAGE != small.offset // PAGE


def page_table_bytes(memory: SharedMemory) -> int:
    """What this process has of the memory file in its page tables."""
    inode = f" {os.fstat(memory.fd).st_ino} "
    total, is_ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line[0].isdigit() or line[0] in "abcdef":
            is_ours = inode in line
        elif is_ours and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


def test_new_pages_are_written_by_call_and_mapped_when_they_are_used_again(
    writer: ArenaWriter, memory: SharedMemory
) -> None:
    data = bytes(8 * MB)
    grant_block(writer, 8 * MB, 0, fresh=True).write([data], [0])
    assert (memory.resident_bytes(), page_table_bytes(memory)) == (8 * MB, 0)
    grant_block(writer, 8 * MB, 0, fresh=False).write([data], [0])
    assert page_table_bytes(memory) == 8 * MB


def test_pages_that_were_punched_meanwhile_are_mapped_anew(writer: ArenaWriter, memory: SharedMemory) -> None:
    grant_block(writer, 8 * MB, 0, fresh=False).write([b"x"], [0])
    memory.punch([(0, 8 * MB)])
    grant_block(writer, 8 * MB, 0, fresh=True).write([bytes(8 * MB)], [0])
    assert page_table_bytes(memory) == 0
    grant_block(writer, 8 * MB, 0, fresh=False).write([b"x"], [0])
    assert page_table_bytes(memory) == 8 * MB


def test_pages_stay_in_the_page_table_for_a_bounded_number_of_ranges(writer: ArenaWriter, memory: SharedMemory) -> None:
    for number in range(MAX_MAPPED_RANGES + 10):
        grant_block(writer, 1_400_000, 4 * MB * number, fresh=False).write([b"x"], [0])
    assert page_table_bytes(memory) == MAX_MAPPED_RANGES * 342 * PAGE


def test_a_reused_fresh_extent_is_mapped_once_as_a_whole(writer: ArenaWriter, memory: SharedMemory) -> None:
    reservation = grant_extent(writer, 160_000)
    reservation.write([b"x" * 160_000], [0])
    assert page_table_bytes(memory) == 0
    writer.release(reservation.offset)
    again = writer.reserve(160_000)
    assert again is not None
    again.write([b"y" * 160_000], [0])
    assert page_table_bytes(memory) == 4 * MB
    assert content(memory, again.offset, 160_000) == b"y" * 160_000


def test_before_each_step_of_64_mb_but_the_first_the_machine_is_asked(memory: SharedMemory) -> None:
    readings = [MemoryReading(1 << 40, "the machine"), MemoryReading(63 * MB, "memory cgroup /test")]
    writer = ArenaWriter(memory, LIMIT, lambda: readings.pop(0))
    reservation = grant_block(writer, 200 * MB, 0, fresh=True)
    part = np.zeros(100 * MB, np.uint8)
    with pytest.raises(ObjectStoreFullError, match="cgroup /test has no memory left"):
        reservation.write([memoryview(part), memoryview(part)], [0, 100 * MB])
    assert readings == []
    assert memory.resident_bytes() == 100 * MB
    assert writer.release(reservation.offset) == ReleaseBlocks([0])
    writer.close()


def test_a_refusal_is_worded_with_its_numbers() -> None:
    refusal = AllocationRefused(1, "full", 3_000_000, 16_000_000, 15_000_000, 500_000, 1_000_000, 0, 2.0)
    text = str(full_error(refusal, "1.2.3 15.0 MB"))
    assert "3.0 MB does not fit" in text
    assert "15.0 MB of 16.0 MB" in text
    assert "waited 2.0 s" in text
    assert "1.2.3 15.0 MB" in text


def test_threads_may_write_at_the_same_time(writer: ArenaWriter, memory: SharedMemory) -> None:
    reservations = [grant_block(writer, 4 * MB, 4 * MB * number, fresh=number % 2 == 0) for number in range(6)]
    data = [bytes([number]) * (4 * MB) for number in range(6)]
    threads = [
        threading.Thread(target=reservation.write, args=([part], [0]))
        for reservation, part in zip(reservations, data, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [content(memory, one.offset, 4 * MB) for one in reservations] == data
