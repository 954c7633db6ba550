"""What is lost and what goes on when a node, the head or a driver of a cluster dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from time import monotonic

import numpy as np
import psutil
import pytest

import remora
from remora.cli.inspector import ask
from remora.messages.inspection import InspectStatus, StatusReport
from remora.system.session_directory import running_sessions
from remora.testing.cluster import Cluster, ClusterNode

LARGE = 2_000_000
THERE = {"there": 0.001}
ELSEWHERE = {"elsewhere": 0.001}
DEATH_TIMEOUT_S = 20


@remora.remote
def make(size: int) -> np.ndarray:
    return np.ones(size, dtype=np.uint8)


@remora.remote
def total(array: np.ndarray) -> float:
    return float(array.sum())


@remora.remote
class Keeper:
    def __init__(self) -> None:
        self.kept: list[remora.ObjectRef] = []

    def make(self, size: int) -> list[remora.ObjectRef]:
        return [remora.put(np.ones(size, dtype=np.uint8)), remora.put("small")]

    def keep(self, refs: list) -> int:
        self.kept += refs
        return len(self.kept)

    def read(self, index: int) -> object:
        return remora.get(self.kept[index])

    def pid(self) -> int:
        return os.getpid()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster(head_node_args={"num_cpus": 2, "resources": {"here": 1}}) as cluster:
        cluster.add_node(num_cpus=2, resources={"there": 1})
        cluster.wait_for_nodes()
        remora.init(address=cluster.address)
        try:
            yield cluster
        finally:
            remora.shutdown()


def kill(cluster: Cluster, node: ClusterNode) -> None:
    cluster.remove_node(node, allow_graceful=False)


def wait_until(done, what: str, timeout_s: float = DEATH_TIMEOUT_S) -> None:
    deadline_s = monotonic() + timeout_s
    while not done():
        assert monotonic() < deadline_s, f"{what} has not happened for {timeout_s} s"
        os.sched_yield()


def is_free(resource: str) -> bool:
    return remora.available_resources().get(resource) == remora.cluster_resources()[resource]


def stored_bytes(cluster: Cluster) -> list[int]:
    """What objects take of the store of each node."""
    (session,) = (one for one in running_sessions() if one.directory == cluster.address)
    return [status.store.used_bytes for status in ask(session, InspectStatus(), StatusReport).nodes]


def head_process(cluster: Cluster) -> psutil.Process:
    children = psutil.Process(cluster.head_node.pid).children()
    return next(one for one in children if "remora:head" in " ".join(one.cmdline()))


def test_a_killed_node_is_known_to_be_dead_within_a_second(cluster: Cluster) -> None:
    kill(cluster, cluster.nodes[1])
    before_s = monotonic()
    wait_until(lambda: sum(node["Alive"] for node in remora.nodes()) == 1, "the death")
    assert monotonic() - before_s < 3  # one second on a machine that does nothing else


def test_a_get_of_what_lay_only_on_a_dead_node_says_what_is_lost_and_where(cluster: Cluster) -> None:
    ref = make.options(resources=THERE).remote(LARGE)
    assert remora.wait([ref], fetch_local=False, timeout=10)[0]
    kill(cluster, cluster.nodes[1])
    with pytest.raises(remora.exceptions.ObjectLostError, match="node"):
        remora.get(ref, timeout=DEATH_TIMEOUT_S)


def test_a_copy_on_another_node_is_used_when_the_first_one_is_lost(cluster: Cluster) -> None:
    cluster.add_node(num_cpus=1, resources={"elsewhere": 1})
    cluster.wait_for_nodes()
    ref = make.options(resources=THERE).remote(LARGE)
    assert remora.get(total.options(resources=ELSEWHERE).remote(ref)) == LARGE
    kill(cluster, cluster.nodes[1])
    wait_until(lambda: sum(node["Alive"] for node in remora.nodes()) == 2, "the death")
    assert remora.get(ref, timeout=DEATH_TIMEOUT_S).sum() == LARGE


def test_objects_outlive_the_node_that_was_their_home_when_others_have_them(cluster: Cluster) -> None:
    cluster.add_node(num_cpus=1, resources={"elsewhere": 1})
    cluster.wait_for_nodes()
    maker = Keeper.options(resources=THERE).remote()
    keeper = Keeper.options(resources=ELSEWHERE).remote()
    large, small = remora.get(maker.make.remote(LARGE))
    assert remora.get(keeper.keep.remote([large, small])) == 2
    assert remora.get(keeper.read.remote(0)).sum() == LARGE
    assert remora.get(small) == "small"
    kill(cluster, cluster.nodes[1])
    wait_until(lambda: sum(node["Alive"] for node in remora.nodes()) == 2, "the death")
    assert remora.get(large, timeout=DEATH_TIMEOUT_S).sum() == LARGE
    assert remora.get(keeper.read.remote(1), timeout=DEATH_TIMEOUT_S) == "small"
    assert remora.get(total.remote(large), timeout=DEATH_TIMEOUT_S) == LARGE


def test_tasks_of_a_dead_node_run_again_on_another_one(cluster: Cluster) -> None:
    cluster.add_node(num_cpus=1, resources={"there": 1})
    cluster.wait_for_nodes()

    @remora.remote(resources=THERE, max_retries=3)
    def wait_for(path: str) -> str:
        while not os.path.exists(path):
            os.sched_yield()
        return remora.get_runtime_context().get_node_id()

    path = f"{cluster.head_node.directory}/go"
    refs = [wait_for.remote(path) for _ in range(2)]
    remora.wait(refs, timeout=1)
    kill(cluster, cluster.nodes[1])
    wait_until(lambda: sum(node["Alive"] for node in remora.nodes()) == 2, "the death")
    with open(path, "w"):
        pass
    assert len(remora.get(refs, timeout=DEATH_TIMEOUT_S)) == 2


def test_an_actor_of_a_dead_node_restarts_on_another_one_or_says_what_happened(cluster: Cluster) -> None:
    cluster.add_node(num_cpus=2, resources={"there": 1})
    cluster.wait_for_nodes()
    lasting = Keeper.options(resources=THERE, max_restarts=1, max_task_retries=1).remote()
    mortal = Keeper.options(resources=THERE).remote()
    lasting_pid, mortal_pid = remora.get([lasting.pid.remote(), mortal.pid.remote()])
    node = next(node for node in cluster.worker_nodes if lasting_pid in family(node))
    mortal_was_there = mortal_pid in family(node)
    kill(cluster, node)
    assert remora.get(lasting.pid.remote(), timeout=DEATH_TIMEOUT_S) > 0
    (answered,), _ = remora.wait([mortal.pid.remote()], timeout=DEATH_TIMEOUT_S)
    if mortal_was_there:
        with pytest.raises(remora.exceptions.ActorDiedError, match="node"):
            remora.get(answered)
    else:
        assert remora.get(answered) > 0


def family(node: ClusterNode) -> set[int]:
    daemon = psutil.Process(node.pid)
    return {daemon.pid, *(child.pid for child in daemon.children(recursive=True))}


def test_calls_objects_and_names_go_on_while_the_head_is_killed_and_started_again(cluster: Cluster) -> None:
    keeper = Keeper.options(resources=THERE, name="lasting").remote()
    pid = remora.get(keeper.pid.remote())
    ref = make.options(resources=THERE).remote(LARGE)
    first = head_process(cluster)
    os.kill(first.pid, signal.SIGKILL)
    assert remora.get(keeper.pid.remote(), timeout=10) == pid
    assert remora.get(ref, timeout=10).sum() == LARGE
    daemon = psutil.Process(cluster.head_node.pid)
    wait_until(lambda: first.pid not in {child.pid for child in daemon.children()}, "the end of the head")
    assert remora.get(remora.get_actor("lasting").pid.remote(), timeout=10) == pid
    assert remora.get(Keeper.options(resources=THERE).remote().pid.remote(), timeout=10) != pid
    assert sum(node["Alive"] for node in remora.nodes()) == 2


def test_a_driver_that_is_killed_leaves_nothing_of_its_job_on_any_node(cluster: Cluster) -> None:
    program = f"""
import sys, numpy, remora
remora.init(address={cluster.address!r})
@remora.remote(resources={THERE!r})
class Holder:
    def __init__(self): self.ref = remora.put(numpy.ones({LARGE}, dtype=numpy.uint8))
    def ready(self): return True
holder = Holder.remote()
remora.get(holder.ready.remote())
kept = remora.put(numpy.ones({LARGE}, dtype=numpy.uint8))
print("ready", flush=True)
sys.stdin.read()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True) as driver:
        assert driver.stdout is not None
        assert driver.stdout.readline() == "ready\n"
        wait_until(lambda: not is_free("there"), "its actor is known to be there")
        wait_until(lambda: min(stored_bytes(cluster)) >= LARGE, "an object of it is on each node")
        driver.kill()
    wait_until(lambda: is_free("there") and is_free("CPU"), "the end of what ran for it")
    wait_until(lambda: not any(stored_bytes(cluster)), "the end of its objects")
