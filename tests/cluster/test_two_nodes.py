"""Objects, tasks and actors over two nodes of one machine: real daemons, real TLS between them."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import numpy as np
import pytest

import remora
from remora.base import runtime
from remora.cli.inspector import ask
from remora.messages.inspection import InspectMemory, InspectStatus, MemoryReport, NodeMemory, StatusReport
from remora.system.session_directory import running_sessions
from remora.testing.cluster import Cluster

HERE = {"here": 0.001}
THERE = {"there": 0.001}
LARGE = 3_000_000


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Cluster]:
    with Cluster(head_node_args={"num_cpus": 2, "resources": {"here": 1}}) as cluster:
        cluster.add_node(num_cpus=2, resources={"there": 1})
        cluster.wait_for_nodes()
        yield cluster


@pytest.fixture
def session(two_nodes: Cluster) -> Iterator[Cluster]:
    remora.init(address=two_nodes.address)
    try:
        yield two_nodes
    finally:
        remora.shutdown()


@remora.remote
def node_of_task() -> str:
    return str(remora.get_runtime_context().get_node_id())


@remora.remote
def total(array: np.ndarray) -> float:
    return float(array.sum())


@remora.remote
def make(size: int) -> np.ndarray:
    return np.arange(size, dtype=np.uint8)


@remora.remote
class Keeper:
    def __init__(self) -> None:
        self.kept: list[remora.ObjectRef] = []
        self.calls = 0

    def keep(self, refs: list) -> int:
        self.kept += refs
        return len(self.kept)

    def read(self, index: int) -> object:
        return remora.get(self.kept[index])

    def drop(self) -> None:
        self.kept.clear()

    def count(self) -> int:
        self.calls += 1
        return self.calls

    def total(self, array: np.ndarray) -> float:
        return float(array.sum())

    def node(self) -> str:
        return str(remora.get_runtime_context().get_node_id())


def used_bytes(directory: str) -> int:
    """What objects take of the store of the node in *directory*."""
    record = next(one for one in running_sessions() if one.directory == directory)
    return ask(record, InspectStatus(), StatusReport).nodes[0].store.used_bytes


def wait_until(done, what: str, timeout_s: float = 10.0) -> None:
    deadline_s = monotonic() + timeout_s
    while not done():
        assert monotonic() < deadline_s, f"{what} has not happened for {timeout_s} s"
        os.sched_yield()


def memory_of(directory: str) -> NodeMemory:
    """What the node in *directory* tells of its objects."""
    record = next(one for one in running_sessions() if one.directory == directory)
    return next(one for one in ask(record, InspectMemory(), MemoryReport).nodes if one.objects)


def holders_of_large(directory: str) -> list[str]:
    """The kinds of holders of the one large object of the node in *directory*."""
    (large,) = [one for one in memory_of(directory).objects if one.size_bytes >= LARGE]
    return [holder.kind for holder in large.holders]


@pytest.mark.filterwarnings("ignore:a ref was pickled outside")
def test_a_ref_pickled_outside_of_remora_on_another_node_is_kept_until_the_job_ends(two_nodes: Cluster) -> None:
    @remora.remote(resources=THERE, max_retries=0)
    def pickle_a_ref() -> tuple[bytes, int]:
        return pickle.dumps(remora.put(np.ones(LARGE, dtype=np.uint8))), os.getpid()

    remora.init(address=two_nodes.address)
    there = two_nodes.nodes[1].directory
    try:
        pickled, worker = remora.get(pickle_a_ref.remote())
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: holders_of_large(there) == ["exported"], "the end of the worker's own hold")
        assert remora.get(pickle.loads(pickled)).sum() == LARGE
    finally:
        remora.shutdown()
    wait_until(lambda: all(used_bytes(node.directory) < LARGE for node in two_nodes.nodes), "the end of the object")


@pytest.mark.parametrize("reader", ["task", "method", "task elsewhere"])
def test_a_result_that_was_passed_on_before_it_was_there_is_freed_with_the_call(session: Cluster, reader: str) -> None:
    keeper = Keeper.remote()
    for _ in range(3):
        argument = make.options(resources=THERE).remote(LARGE)
        if reader == "method":
            assert remora.get(keeper.total.remote(argument)) > 0
        else:
            place = THERE if reader == "task elsewhere" else HERE
            assert remora.get(total.options(resources=place).remote(argument)) > 0
        del argument
    wait_until(lambda: all(used_bytes(node.directory) < LARGE for node in session.nodes), "the end of the arguments")


def is_orphaned_behind(keeper: Keeper, refs: list, begun: Path, gate: Path) -> list[bool]:
    """Whether the worker takes the submitter of this call for dead when the gate opens."""
    begun.touch()
    while not gate.exists():
        time.sleep(0.002)
    return [task.orphaned for task in runtime.current._client.refs.machine._tasks.values()]


def test_the_late_end_of_an_older_stream_is_not_taken_for_the_end_of_its_process(
    session: Cluster, tmp_path: Path
) -> None:
    keeper = Keeper.options(resources=THERE).remote()
    assert remora.get(keeper.count.remote()) == 1
    client = runtime.current._client
    (record,) = [one for one in client.actors._records.values() if one.id == keeper._remora_actor.creation.id]
    # As when its last handle goes, and there is another one before the end of the stream has arrived.
    older = client.peers._peers.pop(record.peer.process)
    record.peer = client.peers.connect(older.process, older.connection.address, client.methods, record)
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    ref = keeper.__ray_call__.remote(is_orphaned_behind, [remora.put("inside")], begun, gate)
    remora.wait([ref], timeout=0)
    wait_until(begun.exists, "the begin of the call")
    older.connection.close()
    other = Keeper.options(resources=THERE).remote()
    assert remora.get(other.count.remote()) == 1, "by then the end has arrived"
    gate.touch()
    assert remora.get(ref, timeout=10) == [False]
    assert remora.get(keeper.count.remote(), timeout=10) == 2


def test_both_nodes_are_listed_with_what_they_have(session: Cluster) -> None:
    nodes = remora.nodes()
    assert len(nodes) == 2
    assert all(node["Alive"] for node in nodes)
    resources = remora.cluster_resources()
    assert (resources["CPU"], resources["here"], resources["there"]) == (4, 1, 1)
    assert remora.util.get_node_ip_address() == nodes[0]["NodeManagerAddress"] == "127.0.0.1"


def test_a_worker_sees_the_list_of_nodes(session: Cluster) -> None:
    @remora.remote(resources=THERE)
    def look() -> tuple[int, float]:
        return len(remora.nodes()), remora.cluster_resources()["CPU"]

    assert remora.get(look.remote()) == (2, 4.0)


def test_tasks_run_where_their_resources_are(session: Cluster) -> None:
    own = remora.get_runtime_context().get_node_id()
    assert remora.get(node_of_task.options(resources=HERE).remote()) == own
    assert remora.get(node_of_task.options(resources=THERE).remote()) != own


def test_a_thousand_calls_to_another_node_all_come_back(session: Cluster) -> None:
    @remora.remote(resources=THERE)
    def double(number: int) -> int:
        return 2 * number

    assert remora.get([double.remote(number) for number in range(1000)]) == [2 * number for number in range(1000)]


def test_an_array_put_here_is_read_there_without_a_change(session: Cluster) -> None:
    array = np.arange(LARGE, dtype=np.uint8)
    ref = remora.put(array)
    assert remora.get(total.options(resources=THERE).remote(ref)) == float(array.sum())


def test_a_large_result_made_there_is_read_here(session: Cluster) -> None:
    array = remora.get(make.options(resources=THERE).remote(LARGE))
    assert np.array_equal(array, np.arange(LARGE, dtype=np.uint8))
    assert not array.flags.writeable


def test_a_result_made_there_and_used_there_does_not_come_here(session: Cluster) -> None:
    before = used_bytes(session.head_node.directory)
    ref = make.options(resources=THERE).remote(LARGE)
    assert remora.get(total.options(resources=THERE).remote(ref)) > 0
    ready, _ = remora.wait([ref], fetch_local=False, timeout=5)
    assert ready == [ref]
    assert used_bytes(session.head_node.directory) - before < LARGE


def test_large_arguments_pass_by_value_to_another_node(session: Cluster) -> None:
    array = np.ones(LARGE, dtype=np.uint8)
    assert remora.get(total.options(resources=THERE).remote(array)) == float(LARGE)


def test_an_actor_there_keeps_refs_made_here_alive(session: Cluster) -> None:
    keeper = Keeper.options(resources=THERE).remote()
    assert remora.get(keeper.node.remote()) != remora.get_runtime_context().get_node_id()
    large, small = remora.put(np.arange(LARGE, dtype=np.uint8)), remora.put({"small": 1})
    assert remora.get(keeper.keep.remote([large, small])) == 2
    del large, small
    assert remora.get(keeper.read.remote(1)) == {"small": 1}
    assert remora.get(total.remote(keeper.read.remote(0))) == float(np.arange(LARGE, dtype=np.uint8).sum())


def test_calls_of_an_actor_there_stay_in_order(session: Cluster) -> None:
    keeper = Keeper.options(resources=THERE).remote()
    assert remora.get([keeper.count.remote() for _ in range(500)]) == list(range(1, 501))


def test_a_handle_passed_to_a_task_on_another_node_reaches_the_actor(session: Cluster) -> None:
    keeper = Keeper.options(resources=HERE).remote()

    @remora.remote(resources=THERE)
    def call(handle) -> int:
        return remora.get(handle.count.remote())

    assert remora.get(call.remote(keeper)) == 1
    assert remora.get(keeper.count.remote()) == 2


def test_named_actors_are_found_from_every_node(session: Cluster) -> None:
    keeper = Keeper.options(resources=THERE, name="known").remote()

    @remora.remote(resources=THERE)
    def find() -> int:
        return remora.get(remora.get_actor("known").count.remote())

    assert remora.get(find.remote()) == 1
    assert remora.get(remora.get_actor("known").count.remote()) == 2
    del keeper


def test_an_error_raised_there_is_raised_here_with_its_class(session: Cluster) -> None:
    @remora.remote(resources=THERE)
    def fail() -> None:
        raise KeyError("from there")

    with pytest.raises(KeyError, match="from there"):
        remora.get(fail.remote())


def test_a_worker_killed_there_says_how_it_died(session: Cluster) -> None:
    @remora.remote(resources=THERE, max_retries=0)
    def die() -> None:
        os.kill(os.getpid(), 9)

    with pytest.raises(remora.exceptions.WorkerCrashedError, match="SIGKILL"):
        remora.get(die.remote())


def test_a_nested_ref_returned_from_there_can_be_read_here(session: Cluster) -> None:
    @remora.remote(resources=THERE)
    def nested() -> list:
        return [remora.put(np.ones(LARGE, dtype=np.uint8)), remora.put("small")]

    large, small = remora.get(nested.remote())
    assert remora.get(small) == "small"
    assert remora.get(large).sum() == LARGE


def test_everything_is_freed_on_both_nodes_when_the_last_ref_is_gone(two_nodes: Cluster) -> None:
    directories = [node.directory for node in two_nodes.nodes]
    wait_until(lambda: all(used_bytes(one) == 0 for one in directories), "the end of earlier objects")
    remora.init(address=two_nodes.address)
    try:
        ref = remora.put(np.ones(LARGE, dtype=np.uint8))
        made = make.options(resources=THERE).remote(LARGE)
        remora.get(total.options(resources=THERE).remote(ref))
        remora.get(made)
        assert all(used_bytes(one) >= LARGE for one in directories)
        del ref, made
        wait_until(lambda: all(used_bytes(one) == 0 for one in directories), "the freeing of all copies")
    finally:
        remora.shutdown()


def test_prints_of_workers_there_reach_the_driver_with_the_address(session: Cluster, capfd) -> None:
    @remora.remote(resources=THERE)
    def say() -> None:
        print("a word from there")

    remora.get(say.remote())
    said = ""

    def has_come() -> bool:
        nonlocal said
        said += capfd.readouterr().out
        return "a word from there" in said

    wait_until(has_come, "the line")
    assert "node=127.0.0.1:" in said
