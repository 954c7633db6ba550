"""Where tasks run in a cluster of real nodes: here first, where resources, labels or arguments are, or in turn."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from machines import wait_until

import remora
from remora.exceptions import TaskUnschedulableError
from remora.testing.cluster import Cluster
from remora.util.scheduling_strategies import (
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
)


@remora.remote
def where(*_: object) -> str:
    return remora.get_runtime_context().get_node_id()


@remora.remote
def where_with_others(folder: Path, nodes: int) -> str:
    """Runs until such tasks have begun on so many nodes."""
    here = str(remora.get_runtime_context().get_node_id())
    (folder / here).touch()
    while len(os.listdir(folder)) < nodes:
        time.sleep(0.005)
    return here


@remora.remote
def hold(folder: Path, name: str) -> None:
    """Runs until the folder has a file ``end``."""
    (folder / name).touch()
    while not (folder / "end").exists():
        time.sleep(0.005)


@remora.remote
def large() -> np.ndarray:
    return np.ones(500_000)


@remora.remote
class Resident:
    def where(self) -> str:
        return remora.get_runtime_context().get_node_id()


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[str]]:
    """The ids of this node, of one with a disk, and of one in another region."""
    with Cluster(initialize_head=True, head_node_args={"num_cpus": 2}) as cluster:
        cluster.add_node(num_cpus=2, resources={"disk": 1})
        cluster.add_node(num_cpus=2, labels={"region": "us"})
        cluster.wait_for_nodes()
        cluster.connect()
        here = remora.get_runtime_context().get_node_id()
        found = {node["NodeID"]: node for node in remora.nodes()}
        disk = next(node for node, told in found.items() if "disk" in told["Resources"])
        region = next(node for node, told in found.items() if told["Labels"].get("region") == "us")
        yield [here, disk, region]
        remora.shutdown()


def test_one_task_runs_here(nodes: list[str]) -> None:
    assert remora.get(where.remote(), timeout=30) == nodes[0]


def test_many_tasks_use_every_node(nodes: list[str], tmp_path: Path) -> None:
    ran = remora.get([where_with_others.remote(tmp_path, len(nodes)) for _ in range(12)], timeout=30)
    assert set(ran) == set(nodes)


def test_a_resource_draws_tasks_and_actors_to_its_node(nodes: list[str]) -> None:
    assert remora.get(where.options(resources={"disk": 1}).remote(), timeout=30) == nodes[1]
    actor = Resident.options(resources={"disk": 1}).remote()
    assert remora.get(actor.where.remote(), timeout=30) == nodes[1]


def test_labels_choose_the_node_of_tasks_and_actors(nodes: list[str]) -> None:
    us = NodeLabelSchedulingStrategy({"region": In("us")})
    assert remora.get(where.options(scheduling_strategy=us).remote(), timeout=30) == nodes[2]
    actor = Resident.options(label_selector={"region": "in(us, asia)"}).remote()
    assert remora.get(actor.where.remote(), timeout=30) == nodes[2]


def test_affinity_keeps_tasks_at_a_node_that_is_busy(nodes: list[str], tmp_path: Path) -> None:
    there = NodeAffinitySchedulingStrategy(nodes[1], soft=False)
    holders = [hold.options(scheduling_strategy=there).remote(tmp_path, str(number)) for number in range(2)]
    wait_until(lambda: len(os.listdir(tmp_path)) == len(holders), "the tasks that fill the node")
    tasks = [where.options(scheduling_strategy=there).remote() for _ in range(6)]
    assert not remora.wait(tasks, timeout=0.3)[0], "other nodes have room"
    (tmp_path / "end").touch()
    assert set(remora.get(tasks, timeout=30)) == {nodes[1]}


def test_spread_uses_every_node(nodes: list[str], tmp_path: Path) -> None:
    spread = where_with_others.options(scheduling_strategy="SPREAD")
    assert set(remora.get([spread.remote(tmp_path, len(nodes)) for _ in range(6)], timeout=30)) == set(nodes)


def test_a_task_goes_to_its_large_argument(nodes: list[str]) -> None:
    there = NodeAffinitySchedulingStrategy(nodes[2], soft=False)
    argument = large.options(scheduling_strategy=there).remote()
    assert remora.get(where.remote(argument), timeout=30) == nodes[2]


def test_hard_affinity_to_a_node_that_is_not_there_fails_and_soft_goes_elsewhere(nodes: list[str]) -> None:
    nowhere = "ffffffff"
    with pytest.raises(TaskUnschedulableError, match=f"asks for node {nowhere} and no other"):
        remora.get(
            where.options(scheduling_strategy=NodeAffinitySchedulingStrategy(nowhere, soft=False)).remote(), timeout=30
        )
    soft = NodeAffinitySchedulingStrategy(nowhere, soft=True)
    assert remora.get(where.options(scheduling_strategy=soft).remote(), timeout=30) == nodes[0]
