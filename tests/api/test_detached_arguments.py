"""A detached actor whose handle nobody keeps gets the arguments that it was made with, also when it is made again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest

import remora
from remora.cli.inspector import ask
from remora.messages.inspection import InspectMemory, MemoryReport, ObjectReport
from remora.system.session_directory import running_sessions


@pytest.fixture
def one_cpu() -> Iterator[None]:
    remora.shutdown()
    remora.init(num_cpus=1)
    yield
    remora.shutdown()


@remora.remote
def hold_the_cpu(path: str) -> None:
    with open(path) as pipe:
        pipe.read()


class SizeKeeper:
    def __init__(self, refs: list[Any], stored: Any) -> None:
        self.sizes = len(remora.get(refs[0])), len(stored)

    def tell(self) -> tuple[int, tuple[int, int]]:
        return os.getpid(), self.sizes


Keeper: Any = remora.remote(num_cpus=1, max_restarts=1)(SizeKeeper)


def stored_objects() -> list[ObjectReport]:
    """What lies in the store of this process's session, and who holds it."""
    session = next(each for each in running_sessions() if each.driver_pid == os.getpid())
    return [one for one in ask(session, InspectMemory(100), MemoryReport).nodes[0].objects if one.size_bytes > 100_000]


def wait_until_stored(count: int) -> None:
    """Until there are so many objects in the store, and no process holds any of them."""
    deadline_s = monotonic() + 10
    while True:
        found = stored_objects()
        if len(found) == count and not any(holder.kind == "process" for one in found for holder in one.holders):
            return
        assert monotonic() < deadline_s, found


def make_keeper() -> None:
    """Make it, and keep neither its handle nor its arguments."""
    refs = [remora.put(np.zeros(50_000)), remora.put(np.zeros(60_000))]
    Keeper.options(name="keeper", lifetime="detached").remote([refs[0]], refs[1])


@pytest.mark.usefixtures("one_cpu")
def test_a_detached_actor_gets_its_arguments_although_its_handle_was_dropped(tmp_path: Path) -> None:
    path = tmp_path / "go on"
    os.mkfifo(path)
    busy = hold_the_cpu.remote(str(path))
    make_keeper()
    wait_until_stored(2)
    path.write_text("")
    remora.get(busy)
    assert remora.get(remora.get_actor("keeper").tell.remote(), timeout=20)[1] == (50_000, 60_000)


@pytest.mark.usefixtures("one_cpu")
def test_a_detached_actor_gets_its_arguments_again_when_it_restarts_although_nobody_had_a_handle() -> None:
    make_keeper()
    pid, _ = remora.get(remora.get_actor("keeper").tell.remote(), timeout=20)
    wait_until_stored(2)
    os.kill(pid, signal.SIGKILL)
    again, sizes = pid, None
    while again == pid:
        try:
            again, sizes = remora.get(remora.get_actor("keeper").tell.remote(), timeout=20)
        except remora.exceptions.ActorUnavailableError:
            continue  # the call met the end of the first worker
    assert sizes == (50_000, 60_000)


@pytest.mark.usefixtures("one_cpu")
def test_the_arguments_of_a_detached_actor_go_when_it_is_dead_for_good() -> None:
    make_keeper()
    keeper = remora.get_actor("keeper")
    remora.get(keeper.tell.remote(), timeout=20)
    wait_until_stored(2)
    remora.kill(keeper)
    del keeper
    wait_until_stored(0)


@pytest.mark.usefixtures("one_cpu")
def test_the_arguments_of_a_detached_actor_that_is_not_made_since_its_name_is_taken_go() -> None:
    make_keeper()
    remora.get(remora.get_actor("keeper").tell.remote(), timeout=20)
    with pytest.raises(remora.exceptions.ActorAlreadyExistsError):
        make_keeper()
    wait_until_stored(2)
