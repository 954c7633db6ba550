"""`kill -9` of each part of a session: what was calling gets a clear error or never notices, and nothing stays."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from driver_programs import eventually, is_running, running, session_processes, told_by

import remora

TIMEOUT_S = 10

BUSY_DRIVER = """
import json, os, sys, signal, remora
session = remora.init(num_cpus=2)

@remora.remote
def endless():
    signal.pause()

@remora.remote
class Keeper:
    def pid(self):
        return os.getpid()

keeper = Keeper.remote()
view = remora.get(remora.put(b"x" * 1_000_000))
pid = remora.get(keeper.pid.remote())
running = endless.remote()
print(json.dumps([session["session_dir"], pid]), flush=True)
input()
"""


@pytest.fixture
def session() -> Iterator[str]:
    remora.shutdown()
    context = remora.init(num_cpus=2, object_store_memory=64 << 20)
    yield context["session_dir"]
    remora.shutdown()


def own(kind: str) -> list[int]:
    return session_processes(os.getpid()).get(kind, [])


@pytest.mark.parametrize("victims", [["driver"], ["remora:daemon"], ["remora:zygote", "driver"], ["all"]])
def test_three_seconds_after_its_parts_were_killed_nothing_of_a_session_is_left(victims: list[str]) -> None:
    with running(BUSY_DRIVER) as program:
        folder, _ = program.told()
        family = program.family()
        parts: dict[str, list[int]] = {**session_processes(program.pid), "driver": [program.pid]}
        parts["all"] = [*family, program.pid]
        for sent in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, nobody can react to another's end
            for pid in (pid for victim in victims for pid in parts[victim]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, sent)
        if "driver" in victims or "all" in victims:
            program.wait()
        assert program.survivors() == []
        if victims == ["all"]:
            # Nobody was left to remove the folder: the next start does.
            remora.shutdown()
            remora.init(num_cpus=1)
            remora.shutdown()
        elif victims == ["remora:daemon"]:
            # Its log is there for who reads the error; the driver's end removes it.
            assert os.path.exists(os.path.join(folder, "daemon.log"))
            program.go_on()
            assert program.wait() == 0
        assert eventually(lambda: not os.path.lexists(folder), 3)
        assert not os.path.lexists(folder + ".lock")


def test_a_task_whose_worker_is_killed_runs_again(session: str, tmp_path: Any) -> None:
    marker = str(tmp_path / "ran")

    @remora.remote
    def dies_once() -> int:
        if not os.path.exists(marker):
            open(marker, "x").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return 7

    assert remora.get(dies_once.remote(), timeout=TIMEOUT_S) == 7


def test_a_task_that_may_not_run_again_says_which_signal_ended_its_worker(session: str) -> None:
    @remora.remote(max_retries=0)
    def dies() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(remora.exceptions.WorkerCrashedError, match=r"dies.*SIGKILL"):
        remora.get(dies.remote(), timeout=TIMEOUT_S)


@pytest.mark.parametrize("end", ["os._exit(3)", "sys.exit(3)"])
def test_a_task_that_ends_its_process_says_so_with_the_exit_code(session: str, end: str) -> None:
    @remora.remote(max_retries=0)
    def leaves() -> None:
        exec(end, {"os": os, "sys": sys})

    with pytest.raises(remora.exceptions.WorkerCrashedError, match=r"leaves.*3"):
        remora.get(leaves.remote(), timeout=TIMEOUT_S)


@remora.remote
class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count

    def pid(self) -> int:
        return os.getpid()

    def leave(self, end: str) -> None:
        exec(end, {"os": os, "sys": sys})


def test_calls_of_a_killed_actor_say_which_signal_ended_it(session: str) -> None:
    counter = Counter.remote()
    pid = remora.get(counter.pid.remote(), timeout=TIMEOUT_S)
    os.kill(pid, signal.SIGKILL)
    assert eventually(lambda: not is_running(pid))
    with pytest.raises(remora.exceptions.RayActorError, match="SIGKILL"):
        remora.get(counter.add.remote(), timeout=TIMEOUT_S)


def test_an_actor_that_may_restart_begins_anew_after_its_worker_was_killed(session: str) -> None:
    counter = Counter.options(max_restarts=1, max_task_retries=2).remote()
    assert remora.get([counter.add.remote() for _ in range(3)], timeout=TIMEOUT_S) == [1, 2, 3]
    first = remora.get(counter.pid.remote(), timeout=TIMEOUT_S)
    os.kill(first, signal.SIGKILL)
    assert eventually(lambda: not is_running(first))
    assert remora.get(counter.add.remote(), timeout=TIMEOUT_S) == 1
    assert remora.get(counter.pid.remote(), timeout=TIMEOUT_S) != first


@pytest.mark.parametrize("end", ["os._exit(3)", "sys.exit(3)"])
def test_an_actor_method_that_ends_its_process_ends_the_actor(session: str, end: str) -> None:
    counter = Counter.remote()
    with pytest.raises((remora.exceptions.RayActorError, remora.exceptions.WorkerCrashedError), match="3"):
        remora.get(counter.leave.remote(end), timeout=TIMEOUT_S)
    with pytest.raises(remora.exceptions.RayActorError):
        remora.get(counter.add.remote(), timeout=TIMEOUT_S)


def test_a_session_survives_the_death_of_its_zygote(session: str) -> None:
    @remora.remote
    def ready() -> int:
        return os.getpid()

    counter = Counter.remote()
    before = remora.get([counter.add.remote(), ready.remote()], timeout=TIMEOUT_S)
    (zygote,) = own("remora:zygote")
    os.kill(zygote, signal.SIGKILL)
    assert eventually(lambda: own("remora:zygote") not in ([], [zygote]))
    assert before[0] == 1
    another = Counter.remote()
    assert remora.get(another.add.remote(), timeout=TIMEOUT_S) == 1
    assert remora.get(ready.remote(), timeout=TIMEOUT_S) > 0
    assert remora.get(counter.add.remote(), timeout=TIMEOUT_S) in (1, 2)


def test_after_the_daemon_was_killed_every_call_says_so_and_a_new_session_can_begin(session: str) -> None:
    @remora.remote
    def endless() -> None:
        signal.pause()

    def died() -> Any:
        return pytest.raises(
            remora.exceptions.LocalRayletDiedError, match=f"node daemon.*SIGKILL.*{session}/daemon.log, is empty"
        )

    counter = Counter.remote()
    large = remora.put(np.arange(1_000_000))
    view = remora.get(large)
    pending = endless.remote()
    assert remora.get(counter.add.remote(), timeout=TIMEOUT_S) == 1
    (daemon,) = own("remora:daemon")
    os.kill(daemon, signal.SIGKILL)
    with died():
        remora.get(pending, timeout=TIMEOUT_S)
    for call in (
        lambda: remora.put(np.zeros(1_000_000)),
        lambda: remora.get(endless.remote(), timeout=TIMEOUT_S),
        lambda: remora.get(counter.add.remote(), timeout=TIMEOUT_S),
        lambda: remora.get(Counter.remote().add.remote(), timeout=TIMEOUT_S),
        remora.nodes,
        lambda: remora.get_actor("nobody"),
    ):
        with died():
            call()
    assert not remora.is_initialized()
    assert view.sum() == 499_999_500_000, "a view stays readable without the daemon"
    remora.shutdown()
    assert view[-1] == 999_999
    remora.init(num_cpus=1)
    assert remora.get(remora.put(5)) == 5
    assert remora.get(Counter.remote().add.remote(), timeout=TIMEOUT_S) == 1


def test_refs_of_a_session_that_was_shut_down_say_so(session: str) -> None:
    @remora.remote
    def endless() -> None:
        signal.pause()

    pending, stored, small = endless.remote(), remora.put(np.arange(1_000_000)), remora.put([1])
    remora.shutdown()
    remora.init(num_cpus=1)
    for ref in (pending, stored):
        with pytest.raises(remora.exceptions.LocalRayletDiedError, match="shutdown"):
            remora.get(ref, timeout=TIMEOUT_S)
    assert remora.get(small) == [1]


def test_a_process_that_has_left_its_session_has_nothing_of_its_store_open_or_mapped() -> None:
    source = """
    import json, os, numpy as np, remora
    remora.init(num_cpus=1)
    assert remora.get(remora.put(np.ones(1_000_000))).sum() == 1_000_000
    array = remora.create(1_000_000)
    array[:] = 1
    kept = remora.put(array)
    del array
    remora.shutdown()
    links = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
    mapped = open("/proc/self/maps").read().splitlines()
    print(json.dumps([line for line in links + mapped if "remora-" in line and "memfd" in line]), flush=True)
    """
    assert told_by(source) == []


def test_the_worker_of_an_actor_that_was_killed_is_free_again(session: str) -> None:
    @remora.remote(num_cpus=2)
    def nothing() -> None:
        pass

    @remora.remote
    class Caller:
        def call(self) -> None:
            remora.get(nothing.remote())

    caller = Caller.remote()
    remora.get(caller.call.remote(), timeout=TIMEOUT_S)
    remora.kill(caller)
    remora.get(nothing.remote(), timeout=TIMEOUT_S)
