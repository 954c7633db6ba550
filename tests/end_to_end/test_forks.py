"""Children that user code forks, in the driver and in a task, are nobody's driver and nobody's worker."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from driver_programs import running, told_by

import remora

TIMEOUT_S = 10


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    remora.shutdown()
    remora.init(num_cpus=2, object_store_memory=64 << 20)
    yield
    remora.shutdown()


@remora.remote
def double(number: int) -> int:
    return 2 * number


@remora.remote
def pauses() -> None:
    signal.pause()


def in_child(work: Callable[[], object]) -> str:
    """What *work* returned or raised in a forked child of this process."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            told = repr(work())
        except BaseException as error:  # noqa: BLE001 - it is what the test wants to see
            told = f"{type(error).__name__}: {error}"
        os.write(write, told.encode())
        os._exit(0)
    os.close(write)
    with open(read) as pipe:
        told = pipe.read()
    os.waitpid(pid, 0)
    return told


def session_descriptors() -> list[str]:
    """Sockets, pidfds and memory files that this process has open."""
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:  # the one that lists
            continue
    return [link for link in links if any(part in link for part in ("socket:", "pidfd", "eventpoll", "memfd:remora"))]


def fork_facts() -> dict[str, str]:
    """What a child of this process can still do."""
    pending, stored = double.remote(1), remora.put(np.arange(1_000_000))
    facts = {
        "get pending": in_child(lambda: remora.get(pending, timeout=TIMEOUT_S)),
        "get stored": in_child(lambda: remora.get(stored, timeout=TIMEOUT_S)),
        "call": in_child(lambda: double.remote(1)),
        "put": in_child(lambda: remora.put(1)),
        "connected": in_child(remora.is_initialized),
        "shutdown": in_child(remora.shutdown),
        "exit": in_child(lambda: os._exit(0)),
        "open": in_child(session_descriptors),
    }
    facts["parent"] = str(remora.get([pending, double.remote(3)], timeout=TIMEOUT_S))
    return facts


@pytest.mark.parametrize("where", ["driver", "task"])
def test_a_forked_child_has_no_part_in_the_session_and_its_refs_say_so(where: str) -> None:
    facts = fork_facts() if where == "driver" else remora.get(remora.remote(fork_facts).remote(), timeout=TIMEOUT_S)
    for call in ("get pending", "get stored", "call", "put"):
        assert "RuntimeError: this process was forked from process" in facts[call], call
    assert facts["connected"] == "False"
    assert facts["shutdown"] == "None"
    assert facts["open"] == "[]"
    assert facts["parent"] == "[2, 6]"


def test_a_forked_child_may_begin_a_session_of_its_own() -> None:
    pending, stored = pauses.remote(), remora.put(np.arange(1_000_000))

    def work() -> object:
        told: list[object] = []
        with remora.init(num_cpus=1):
            told.append(remora.get(double.remote(4), timeout=TIMEOUT_S))
            for ref in (pending, stored):
                try:
                    told.append(remora.get(ref, timeout=TIMEOUT_S))
                except remora.exceptions.LocalRayletDiedError:
                    told.append("refused")
        return told

    assert in_child(work) == "[8, 'refused', 'refused']"
    assert remora.get(double.remote(1), timeout=TIMEOUT_S) == 2
    remora.cancel(pending)
    with pytest.raises(remora.exceptions.TaskCancelledError):
        remora.get(pending, timeout=TIMEOUT_S)


def square(number: int) -> int:
    return number * number


def test_process_pools_work_in_the_driver_and_in_a_task() -> None:
    def pools() -> list[list[int]]:
        context = multiprocessing.get_context("fork")
        with context.Pool(2) as pool:
            first = pool.map(square, range(4))
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as executor:
            return [first, list(executor.map(square, range(4)))]

    expected = [[0, 1, 4, 9]] * 2
    assert pools() == expected
    assert remora.get(remora.remote(pools).remote(), timeout=TIMEOUT_S) == expected
    assert remora.get(double.remote(3), timeout=TIMEOUT_S) == 6


@pytest.mark.parametrize("leave", ["return", "raise", "exit"])
def test_a_child_that_leaves_the_call_it_was_forked_in_replies_nothing_and_runs_nothing_else(leave: str) -> None:
    @remora.remote(max_retries=0)
    def forks() -> tuple[str, int]:
        pid = os.fork()
        if pid:
            return "parent", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if leave == "raise":
            raise ValueError("meant for nobody")
        if leave == "exit":
            raise SystemExit(3)
        return "child", 0

    expected = {"return": 0, "raise": 1, "exit": 3}[leave]
    assert remora.get(forks.remote(), timeout=TIMEOUT_S) == ("parent", expected)
    assert remora.get([double.remote(i) for i in range(10)], timeout=TIMEOUT_S) == list(range(0, 20, 2))


def test_a_child_that_outlives_the_driver_keeps_nothing_of_the_session() -> None:
    source = """
    import json, os, signal, remora
    remora.init(num_cpus=1)

    @remora.remote
    class Keeper:
        def pid(self):
            return os.getpid()

    keeper = Keeper.remote()
    remora.get(keeper.pid.remote())
    pid = os.fork()
    if not pid:
        signal.pause()
    print(json.dumps(pid), flush=True)
    signal.pause()
    """
    with running(source) as program:
        child = program.told()
        family = program.family()
        program.kill()
        program.wait()
        family.remove(child)
        assert program.survivors() == []
        os.kill(child, 9)


def test_the_end_of_a_forked_child_does_not_end_its_parents_session() -> None:
    source = """
    import json, os, sys, remora
    remora.init(num_cpus=1)
    pid = os.fork()
    if not pid:
        sys.exit(0)
    os.waitpid(pid, 0)
    print(json.dumps(remora.get(remora.put(5))), flush=True)
    """
    assert told_by(source) == 5
