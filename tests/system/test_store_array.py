from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from remora.core.arena_layout import PAGE_SIZE_BYTES as PAGE
from remora.processes.arena_reader import ArenaReader
from remora.system.shared_memory import SharedMemory

OFFSET = 16 * PAGE
SIZE = 4 * PAGE


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    memory = SharedMemory.create(1 << 36)
    yield memory
    memory.close()


@pytest.fixture
def reader(memory: SharedMemory) -> Iterator[ArenaReader]:
    reader = ArenaReader(memory)
    yield reader
    reader.close()


def stored(memory: SharedMemory, count: int) -> bytes:
    return os.pread(memory.fd, count, OFFSET)


def test_what_is_written_to_the_array_is_in_the_store_without_a_copy(memory: SharedMemory, reader: ArenaReader) -> None:
    made = reader.array_in_store(OFFSET, SIZE, keep=None)
    array = made.array((16, 16), "f8", at=64)
    array[:] = 3.0
    assert stored(memory, 64 + 2048) == bytes(64) + np.full(256, 3.0).tobytes()
    fortran = made.array((2, 3), "i4", at=64, order="F")
    assert fortran.flags.f_contiguous


def test_a_sealed_array_is_read_only_and_older_views_no_longer_reach_the_object(
    memory: SharedMemory, reader: ArenaReader
) -> None:
    made = reader.array_in_store(OFFSET, SIZE, keep=None)
    array = made.array(100, "u1")
    array[:] = 1
    older, bytes_of_it = array[10:], memoryview(array)
    made.seal(keep=None)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 2
    older[:] = 2
    bytes_of_it[0] = 2
    assert (older == 2).all()
    assert stored(memory, 100) == b"\1" * 100
    assert bytes(reader.view(OFFSET, 100, None)) == b"\1" * 100


def test_until_it_is_sealed_the_array_keeps_the_reservation_and_then_the_ref(reader: ArenaReader) -> None:
    made = reader.array_in_store(OFFSET, SIZE, keep="reservation")
    array = made.array(100, "u1")
    part = array[5:][5:]
    assert made.seal(keep="ref") == "reservation"
    del array, made
    assert reader.drain() == []
    del part
    assert reader.drain() == ["ref"]


def test_an_array_that_is_dropped_before_it_is_sealed_gives_its_reservation_back(reader: ArenaReader) -> None:
    made = reader.array_in_store(OFFSET, SIZE, keep="reservation")
    array = made.array(100, "u1")
    del made
    array[:] = 1
    assert reader.drain() == []
    del array
    assert reader.drain() == ["reservation"]


def test_an_array_must_fit_start_on_a_page_and_hold_no_python_objects(reader: ArenaReader) -> None:
    made = reader.array_in_store(OFFSET, SIZE, keep=None)
    with pytest.raises(TypeError, match="too small"):
        made.array(SIZE + 1, "u1")
    with pytest.raises(ValueError, match="object"):
        made.array(10, "O")
    with pytest.raises(ValueError, match="pages of its own"):
        reader.array_in_store(OFFSET + 64, SIZE, keep=None)


def test_a_sealed_array_is_closed_to_more(reader: ArenaReader) -> None:
    made = reader.array_in_store(OFFSET, SIZE, keep=None)
    made.seal(keep=None)
    with pytest.raises(ValueError, match="sealed"):
        made.array(1, "u1")
    with pytest.raises(ValueError, match="sealed already"):
        made.seal(keep=None)


def test_a_private_view_may_be_written_to_and_the_store_does_not_change(
    memory: SharedMemory, reader: ArenaReader
) -> None:
    memory.write(OFFSET, b"\1" * SIZE)
    view = reader.private_view(OFFSET, SIZE, keep="ref")
    array = np.frombuffer(view, "u1")
    array += 1
    assert (array == 2).all()
    assert stored(memory, SIZE) == b"\1" * SIZE
    del view
    assert reader.drain() == []
    del array
    assert reader.drain() == ["ref"]


def test_a_private_view_needs_an_object_with_its_own_pages(reader: ArenaReader) -> None:
    with pytest.raises(ValueError, match="shares its page"):
        reader.private_view(OFFSET + 64, 100, keep=None)


def test_places_outside_of_the_store_are_refused(reader: ArenaReader) -> None:
    for offset, size_bytes in ((-1, 10), (1 << 36, 1), ((1 << 36) - 5, 6), (0, -1)):
        with pytest.raises(ValueError, match="do not lie in"):
            reader.view(offset, size_bytes, None)
