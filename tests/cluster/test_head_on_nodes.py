"""The head beside a real daemon: keys and values over nodes, detached actors over jobs, and what it outlives."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from time import monotonic

import psutil
import pytest

import remora
from remora.experimental import internal_kv as kv
from remora.testing.cluster import Cluster

THERE = {"there": 0.001}


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Cluster]:
    with Cluster(head_node_args={"num_cpus": 2}) as cluster:
        cluster.add_node(num_cpus=2, resources={"there": 1})
        cluster.wait_for_nodes()
        yield cluster


@remora.remote
def read(key: str) -> bytes | None:
    return kv._internal_kv_get(key)


@remora.remote
class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count

    def node(self) -> str:
        return str(remora.get_runtime_context().get_node_id())


def child_of_daemon(cluster: Cluster, title: str, before: int = 0) -> int:
    """The pid of the head or the zygote beside the head node's daemon, when it is another one than *before*."""
    deadline_s = monotonic() + 10
    pause = threading.Event()
    while True:
        for child in psutil.Process(cluster.head_node.pid).children():
            with contextlib.suppress(psutil.Error):
                if title in " ".join(child.cmdline()) and child.pid != before:
                    return child.pid
        assert monotonic() < deadline_s, f"there is no {title}"
        pause.wait(0.02)


def test_a_value_put_by_the_driver_is_read_on_another_node_also_by_a_head_that_was_killed(two_nodes: Cluster) -> None:
    remora.init(address=two_nodes.address)
    try:
        kv._internal_kv_put("key", b"value")
        head = child_of_daemon(two_nodes, "remora:head")
        os.kill(head, signal.SIGKILL)
        assert remora.get(read.options(resources=THERE).remote("key"), timeout=20) == b"value"
        child_of_daemon(two_nodes, "remora:head", before=head)
    finally:
        remora.shutdown()


def test_a_detached_actor_outlives_its_job_and_the_next_one_finds_it(two_nodes: Cluster) -> None:
    for count in (1, 2):
        remora.init(address=two_nodes.address, namespace="shared")
        try:
            if count == 1:
                counter = Counter.options(name="counter", lifetime="detached", resources=THERE).remote()
            else:
                counter = remora.get_actor("counter")
            assert remora.get(counter.add.remote(), timeout=20) == count
            if count == 2:
                remora.kill(counter)
        finally:
            remora.shutdown()


def test_get_if_exists_gives_one_actor_to_drivers_and_tasks_of_all_nodes(two_nodes: Cluster) -> None:
    remora.init(address=two_nodes.address, namespace="shared")
    try:

        @remora.remote
        def count_there() -> int:
            counter = Counter.options(name="one", namespace="shared", get_if_exists=True).remote()
            return int(remora.get(counter.add.remote()))

        own = Counter.options(name="one", get_if_exists=True).remote()
        counts = [count_there.options(resources=THERE).remote() for _ in range(4)]
        assert sorted([*remora.get(counts, timeout=20), remora.get(own.add.remote(), timeout=20)]) == [1, 2, 3, 4, 5]
    finally:
        remora.shutdown()


def test_a_zygote_that_is_killed_takes_no_head_with_it(two_nodes: Cluster) -> None:
    remora.init(address=two_nodes.address)
    try:
        kv._internal_kv_put("key", b"value")
        head = child_of_daemon(two_nodes, "remora:head")
        zygote = child_of_daemon(two_nodes, "remora:zygote")
        os.kill(zygote, signal.SIGKILL)
        child_of_daemon(two_nodes, "remora:zygote", before=zygote)
        assert remora.get(read.remote("key"), timeout=20) == b"value"
        assert child_of_daemon(two_nodes, "remora:head") == head
    finally:
        remora.shutdown()
