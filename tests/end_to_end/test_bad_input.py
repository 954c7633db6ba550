"""Values that cannot be pickled or unpickled, half-way too, and folders with very long names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driver_programs import eventually, told_by

import remora

TIMEOUT_S = 10
MB = 1 << 20
STORE_BYTES = 64 * MB


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    remora.shutdown()
    remora.init(num_cpus=2, object_store_memory=STORE_BYTES)
    yield
    remora.shutdown()


class FailsToPickle:
    def __reduce__(self) -> Any:
        raise ValueError("no pickle of me")


def _refuse(*_: object) -> None:
    raise ValueError("no unpickling of me")


class FailsToUnpickle:
    def __reduce__(self) -> Any:
        return _refuse, (1,)


@remora.remote
def take(value: object) -> int:
    return 1


@remora.remote
def give(kind: str) -> object:
    refs = [remora.put(1)]
    return [refs, np.zeros(50_000), FailsToPickle() if kind == "pickle" else FailsToUnpickle(), "rest"]


@remora.remote
class Keeper:
    def take(self, value: object) -> int:
        return 1

    def give(self, kind: str) -> object:
        return [np.zeros(50_000), FailsToPickle() if kind == "pickle" else FailsToUnpickle(), "rest"]


@remora.remote
class Taker:
    def __init__(self, value: object) -> None:
        self.value = value

    def is_there(self) -> bool:
        return True


def half(bad: object) -> list[object]:
    """A value whose pickle has begun, with a ref and a large buffer, when it fails."""
    return [remora.put(1), np.zeros(50_000), {"bad": bad}, "rest"]


def is_well() -> bool:
    """Whether calls still work, and the bad ones hold no space: nothing but extents that are written to."""
    works = remora.get([take.remote(1), take.remote([remora.put(2)])], timeout=TIMEOUT_S) == [1, 1]
    return works and eventually(lambda: remora.available_resources()["object_store_memory"] >= STORE_BYTES - 8 * MB)


def test_a_pickle_that_fails_half_way_is_an_error_of_the_call_that_names_the_part() -> None:
    keeper = Keeper.remote()
    for call in (
        lambda: remora.put(half(FailsToPickle())),
        lambda: take.remote(half(FailsToPickle())),
        lambda: keeper.take.remote(half(FailsToPickle())),
        lambda: Taker.remote(half(FailsToPickle())),
    ):
        with pytest.raises(remora.exceptions.SerializationError, match="no pickle of me") as raised:
            call()
        assert "bad" in str(raised.value)
    assert is_well()
    assert remora.get(keeper.take.remote(1), timeout=TIMEOUT_S) == 1


def test_an_actor_whose_constructor_gets_what_cannot_be_unpickled_is_dead_and_says_why() -> None:
    with pytest.raises(remora.exceptions.RayActorError, match="no unpickling of me"):
        remora.get(Taker.remote(half(FailsToUnpickle())).is_there.remote(), timeout=TIMEOUT_S)
    assert is_well()


def test_an_argument_that_fails_to_unpickle_half_way_is_the_error_of_its_task() -> None:
    keeper = Keeper.remote()
    for ref in (
        take.remote(half(FailsToUnpickle())),
        take.remote(remora.put(half(FailsToUnpickle()))),
        keeper.take.remote(half(FailsToUnpickle())),
    ):
        with pytest.raises(remora.exceptions.RayTaskError, match="no unpickling of me"):
            remora.get(ref, timeout=TIMEOUT_S)
    assert is_well()
    assert remora.get(keeper.take.remote(1), timeout=TIMEOUT_S) == 1


def test_a_result_that_fails_to_pickle_half_way_is_the_error_of_its_task() -> None:
    keeper = Keeper.remote()
    for ref in (give.remote("pickle"), keeper.give.remote("pickle")):
        with pytest.raises(remora.exceptions.RayTaskError, match="no pickle of me"):
            remora.get(ref, timeout=TIMEOUT_S)
    assert is_well()
    assert remora.get(keeper.take.remote(1), timeout=TIMEOUT_S) == 1


def test_a_value_that_fails_to_unpickle_is_the_error_of_each_get() -> None:
    for ref in (give.remote("unpickle"), Keeper.remote().give.remote("unpickle"), remora.put(half(FailsToUnpickle()))):
        for _ in range(2):
            with pytest.raises(remora.exceptions.RemoraError, match="no unpickling of me"):
                remora.get(ref, timeout=TIMEOUT_S)
    assert is_well()


def test_a_session_whose_folder_has_a_very_long_path_works_and_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "/".join(["a" * 100] * 5)
    source = """
    import json, os, remora
    session = remora.init(num_cpus=1)

    @remora.remote
    class Counter:
        def add(self):
            return 1

    @remora.remote
    def one():
        return 1

    folder = os.path.realpath(session["session_dir"])
    values = remora.get([Counter.remote().add.remote(), one.remote()])
    print(json.dumps([folder, os.listdir(folder), values]), flush=True)
    """
    path, files, values = told_by(source, environment={"REMORA_TMPDIR": str(folder)})
    assert path.startswith(str(folder))
    assert "daemon.log" in files
    assert values == [1, 1]
    assert os.listdir(folder) == []
    shutil.rmtree(tmp_path)
