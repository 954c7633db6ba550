"""A full store, a full machine, and the smallest and largest objects: an error with the numbers, never a kill."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from driver_programs import eventually, running, told_by

import remora

TIMEOUT_S = 20
MB = 1 << 20
STORE_BYTES = 64 * MB
CGROUP = Path("/sys/fs/cgroup/memory")


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    remora.shutdown()
    remora.init(num_cpus=2, object_store_memory=STORE_BYTES)
    yield
    remora.shutdown()


def free_bytes() -> float:
    return remora.available_resources()["object_store_memory"]


@pytest.fixture(autouse=True)
def nothing_is_left_in_the_store() -> Iterator[None]:
    yield
    assert eventually(lambda: free_bytes() > STORE_BYTES - 12 * MB), free_bytes()


@remora.remote
def size_of(value: object) -> int:
    return len(value)  # type: ignore[arg-type]


@remora.remote
def make(size_bytes: int) -> np.ndarray:
    return np.ones(size_bytes, "u1")


def test_objects_of_no_bytes_are_objects() -> None:
    for empty in (b"", "", [], np.zeros(0), np.zeros((3, 0, 2)), bytearray()):
        ref = remora.put(empty)
        assert len(remora.get(ref)) == len(empty)  # type: ignore[arg-type]
        assert remora.get(size_of.remote(ref), timeout=TIMEOUT_S) == len(empty)  # type: ignore[arg-type]
    assert remora.get(make.remote(0), timeout=TIMEOUT_S).nbytes == 0


def test_an_object_larger_than_the_store_is_refused_with_the_numbers() -> None:
    with pytest.raises(remora.exceptions.ObjectStoreFullError, match="larger than the whole store") as raised:
        remora.put(np.zeros(80 * MB, "u1"))
    assert "67.1 MB" in str(raised.value)
    assert "83.9 MB" in str(raised.value)


def test_a_result_larger_than_the_store_is_the_error_of_its_task() -> None:
    with pytest.raises(remora.exceptions.ObjectStoreFullError, match="larger than the whole store"):
        remora.get(make.remote(80 * MB), timeout=TIMEOUT_S)
    assert remora.get(make.remote(10), timeout=TIMEOUT_S).sum() == 10


def test_arguments_larger_than_the_store_are_refused_at_the_call() -> None:
    with pytest.raises(remora.exceptions.ObjectStoreFullError, match="larger than the whole store"):
        remora.get(size_of.remote(np.zeros(80 * MB, "u1")), timeout=TIMEOUT_S)


def test_a_put_into_a_full_store_waits_until_something_is_dropped() -> None:
    held = [remora.put(np.zeros(40 * MB, "u1"))]
    timer = threading.Timer(0.3, held.clear)
    timer.start()
    ref = remora.put(np.ones(40 * MB, "u1"))
    timer.join()
    assert remora.get(ref).sum() == 40 * MB


def test_a_view_keeps_the_store_full_until_it_dies() -> None:
    view = [remora.get(remora.put(np.zeros(40 * MB, "u1")))[5:7]]
    timer = threading.Timer(0.3, view.clear)
    timer.start()
    ref = remora.put(np.ones(40 * MB, "u1"))
    timer.join()
    assert remora.get(ref).sum() == 40 * MB


FILLED = """
import json, numpy as np, remora
from remora.processes import arena_client
arena_client.ArenaWriter.ask.__kwdefaults__["timeout_s"] = 0.5  # the real one is 10 s
remora.init(num_cpus=1, object_store_memory=64 << 20)
held = remora.put(np.zeros(50 << 20, "u1"))
try:
    remora.put(np.zeros(30 << 20, "u1"))
    told = "it was put"
except remora.exceptions.ObjectStoreFullError as error:
    told = str(error)
del held
remora.put(np.zeros(30 << 20, "u1"))
print(json.dumps(told), flush=True)
"""


def test_a_store_that_stays_full_is_an_error_with_the_largest_holders() -> None:
    told = told_by(FILLED)
    for part in ("31.5 MB", "67.1 MB", "52.4 MB (this one)", "waited 0.5 s"):
        assert part in told, told


def test_whatever_fits_the_free_bytes_can_be_put_however_they_are_scattered() -> None:
    refs = [remora.put(np.full(5 * MB, number, "u1")) for number in range(10)]
    del refs[::2]
    ref = remora.put(np.ones(30 * MB, "u1"))
    assert remora.get(ref).sum() == 30 * MB
    assert [int(remora.get(kept)[0]) for kept in refs] == [1, 3, 5, 7, 9]


def test_the_store_does_not_depend_on_the_size_of_dev_shm() -> None:
    """/dev/shm has 64 MB in a container; the store uses none of it."""

    def used() -> int:
        status = os.statvfs("/dev/shm")
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    before = used()
    ref = remora.put(np.ones(50 * MB, "u1"))
    assert used() - before < 10 * MB
    assert remora.get(ref)[-1] == 1


IN_CGROUP = """
import json, os, sys, numpy as np
open("{folder}/cgroup.procs", "w").write(str(os.getpid()))
import remora
from remora.processes import arena_client
arena_client.ArenaWriter.ask.__kwdefaults__["timeout_s"] = 0.5
remora.init(num_cpus=1, object_store_memory=2 << 30)
refs = []
part = np.ones(32 << 20, "u1")
try:
    while len(refs) < 60:
        refs.append(remora.put(part))
    told = "nobody minded"
except remora.exceptions.ObjectStoreFullError as error:
    told = str(error)
held = len(refs)
is_right = all(remora.get(ref)[-1] == 1 for ref in refs)
refs.clear()
remora.get(remora.put(part))
print(json.dumps([told, held, is_right]), flush=True)
"""


@pytest.fixture
def memory_cgroup() -> Iterator[Path]:
    """A memory cgroup (version 1) with 700 MB."""
    if not (CGROUP / "memory.limit_in_bytes").exists() or not os.access(CGROUP, os.W_OK):
        pytest.skip("no memory cgroup (version 1) can be made here")
    folder = CGROUP / f"remora-test-{os.getpid()}"
    try:
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(700 * MB))
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    yield folder
    assert eventually(lambda: not (folder / "cgroup.procs").read_text())
    folder.rmdir()


def test_a_full_memory_cgroup_is_an_error_and_no_kill(memory_cgroup: Path) -> None:
    with running(IN_CGROUP.format(folder=memory_cgroup)) as program:
        told, held, is_right = program.told(TIMEOUT_S)
        assert program.wait() == 0
        assert "memory cgroup" in told
        assert 2 <= held <= 20
        assert is_right
