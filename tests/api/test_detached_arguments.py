"""A detached actor whose handle nobody keeps gets the arguments that it was made with."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import remora

DRAINED_S = 0.2
"""Several times as long as it takes to tell others that refs of this process have died."""


@pytest.fixture
def one_cpu() -> Iterator[None]:
    remora.shutdown()
    remora.init(num_cpus=1)
    yield
    remora.shutdown()


@remora.remote
def hold_the_cpu(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.005)


@remora.remote(num_cpus=0)
def answer() -> None:
    pass


class SizeKeeper:
    def __init__(self, refs: list[Any]) -> None:
        self.size = len(remora.get(refs[0]))

    def tell_size(self) -> int:
        return self.size


Keeper: Any = remora.remote(num_cpus=1)(SizeKeeper)


@pytest.mark.usefixtures("one_cpu")
def test_a_detached_actor_gets_its_arguments_although_its_handle_was_dropped(tmp_path: Path) -> None:
    path = tmp_path / "go on"
    busy = hold_the_cpu.remote(str(path))
    ref = remora.put(np.zeros(50_000))
    Keeper.options(name="keeper", lifetime="detached").remote([ref])
    del ref
    until_s = time.monotonic() + DRAINED_S
    while time.monotonic() < until_s:
        remora.get(answer.remote())
    path.touch()
    remora.get(busy)
    keeper = remora.get_actor("keeper")
    assert remora.get(keeper.tell_size.remote(), timeout=20) == 50_000
    remora.kill(keeper)
