from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from remora.system.memory_mapping import PROT_READ, PROT_WRITE, Mapping
from remora.system.shared_memory import SharedMemory
from remora.system.writable_map import WritableMap

MB = 1 << 20
PAGE = 4096


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    memory = SharedMemory.create(1 << 40)
    yield memory
    memory.close()


def test_a_terabyte_of_offsets_has_no_memory_until_it_is_written(memory: SharedMemory) -> None:
    assert memory.resident_bytes() == 0
    memory.write((1 << 40) - PAGE, b"x" * PAGE)
    assert memory.resident_bytes() == PAGE


def test_it_has_no_name_and_does_not_lie_in_dev_shm(memory: SharedMemory) -> None:
    before = os.statvfs("/dev/shm").f_bfree
    memory.write(0, bytes(32 * MB))
    assert before - os.statvfs("/dev/shm").f_bfree < 16 * MB // os.statvfs("/dev/shm").f_frsize
    assert "(deleted)" in os.readlink(f"/proc/self/fd/{memory.fd}")


def test_its_length_cannot_be_changed(memory: SharedMemory) -> None:
    for size_bytes in (PAGE, 1 << 41):
        with pytest.raises(PermissionError):
            os.ftruncate(memory.fd, size_bytes)


def test_what_a_punched_hole_had_is_given_back_and_reads_as_zeros(memory: SharedMemory) -> None:
    memory.write(0, b"x" * MB)
    memory.punch([(PAGE, PAGE), (4 * PAGE, 8 * PAGE)])
    assert memory.resident_bytes() == MB - 9 * PAGE
    assert os.pread(memory.fd, 2 * PAGE, 0) == b"x" * PAGE + bytes(PAGE)
    assert os.fstat(memory.fd).st_size == 1 << 40


def test_a_read_only_descriptor_shows_what_is_written_and_can_never_be_written_to(memory: SharedMemory) -> None:
    fd = memory.open_read_only()
    memory.write(PAGE, b"hello")
    assert os.pread(fd, 5, PAGE) == b"hello"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(OSError, match="mapping") as raised:
        Mapping(fd, 0, PAGE, writable=True)
    assert raised.value.errno == errno.EACCES
    mapping = memory.map_whole(fd, writable=False)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(mapping.address), ctypes.c_size_t(PAGE), PROT_READ | PROT_WRITE) == -1
    assert ctypes.get_errno() == errno.EACCES
    mapping.close()
    os.close(fd)


def test_a_private_mapping_of_the_read_only_descriptor_changes_nothing_but_itself(memory: SharedMemory) -> None:
    memory.write(PAGE, b"hello")
    fd = memory.open_read_only()
    mapping = Mapping(fd, PAGE, PAGE, writable=True, private=True)
    ctypes.memmove(mapping.address, b"J", 1)
    assert ctypes.string_at(mapping.address, 5) == b"Jello"
    assert os.pread(fd, 5, PAGE) == b"hello"
    mapping.close()
    os.close(fd)


def test_copies_go_to_their_offset_from_any_contiguous_buffer(memory: SharedMemory) -> None:
    target = WritableMap(memory)
    target.copy_in(10, b"abc")
    target.copy_in(13, bytearray(b"def"))
    target.copy_in(1 << 39, memoryview(np.arange(6.0).reshape(2, 3)))
    assert os.pread(memory.fd, 6, 10) == b"abcdef"
    assert os.pread(memory.fd, 48, 1 << 39) == np.arange(6.0).tobytes()
    target.close()


def test_a_page_forgotten_by_the_page_table_keeps_its_contents(memory: SharedMemory) -> None:
    target = WritableMap(memory)
    target.populate(0, MB)
    assert memory.resident_bytes() == MB
    target.copy_in(0, b"abc")
    target.forget(0, MB)
    assert os.pread(memory.fd, 3, 0) == b"abc"
    target.close()


def test_arrays_of_any_shape_are_written_by_call(memory: SharedMemory) -> None:
    array = np.arange(6.0).reshape(2, 3)
    memory.write(PAGE, memoryview(array))
    assert os.pread(memory.fd, 48, PAGE) == array.tobytes()


def mappings_of(memory: SharedMemory, maps: str) -> list[str]:
    return [line.split()[1] for line in maps.splitlines() if f" {os.fstat(memory.fd).st_ino} " in line]


def test_a_forked_child_has_the_readable_mapping_and_not_the_writable_one(memory: SharedMemory) -> None:
    target = WritableMap(memory)
    fd = memory.open_read_only()
    mapping = memory.map_whole(fd, writable=False)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write_end, "".join(mappings_of(memory, Path("/proc/self/maps").read_text())).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read_end, 100) == b"r--s"
    for one in (read_end, write_end, fd):
        os.close(one)
    mapping.close()
    target.close()


def test_a_file_size_limit_is_named_in_the_error() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "from remora.system.shared_memory import SharedMemory\n"
        "try: SharedMemory.create(1 << 30)\n"
        "except OSError as error: print(error.__notes__)"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "ulimit -f" in printed


def test_a_daemon_needs_no_numpy_for_its_side() -> None:
    program = (
        "import sys\nimport remora.system.shared_memory, remora.system.memory_limits, remora.core.arena\n"
        "import remora.processes.arena_client, remora.processes.arena_reader\n"
        "print('numpy' in sys.modules)"
    )
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert printed == "False\n"
