"""What a call is told of the resources that it may use, on real workers."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import remora


@pytest.fixture(autouse=True, scope="module")
def session() -> Iterator[None]:
    with remora.init(num_cpus=2, num_gpus=2, labels={"rack": "7"}):
        yield


@remora.remote
def visible_gpus() -> tuple[str | None, list[int]]:
    ids = remora.get_gpu_ids()
    assert [str(one) for one in ids] == remora.get_runtime_context().get_accelerator_ids()["GPU"]
    return os.environ.get("CUDA_VISIBLE_DEVICES"), ids


def test_a_task_with_a_gpu_sees_that_one_only() -> None:
    environment, ids = remora.get(visible_gpus.options(num_gpus=1).remote(), timeout=20)
    assert environment in ("0", "1")
    assert [str(one) for one in ids] == [environment]


def test_two_gpus_are_two() -> None:
    environment, ids = remora.get(visible_gpus.options(num_gpus=2).remote(), timeout=20)
    assert environment == "0,1"
    assert len(ids) == 2


def test_the_labels_of_a_node_are_told() -> None:
    (node,) = remora.nodes()
    assert node["Labels"]["rack"] == "7"


def test_groups_of_methods_say_that_they_have_no_effect() -> None:
    class Grouped:
        def nothing(self) -> None:
            pass

    with pytest.warns(RuntimeWarning, match="concurrency_groups"):
        remora.remote(Grouped).options(concurrency_groups={"io": 2}).remote()


def test_an_actor_that_no_node_can_run_says_so() -> None:
    @remora.remote(resources={"tape": 1})
    class Drive:
        def read(self) -> int:
            return 1

    drive = Drive.remote()
    with pytest.warns(RuntimeWarning, match="actor Drive waits for a worker: no node has any 'tape'"):
        remora.wait([drive.read.remote()], timeout=5)
