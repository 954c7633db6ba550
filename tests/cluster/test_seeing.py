"""What the command line shows of a cluster, from any of its nodes: real daemons on this machine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import numpy as np
import psutil
import pytest
from click.testing import CliRunner

import remora
from remora.base import ids
from remora.cli.main import main
from remora.testing.cluster import Cluster, ClusterNode
from remora.util.placement_group import placement_group

THERE = {"there": 0.001}
LARGE = 3_000_000


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Cluster]:
    with Cluster(head_node_args={"num_cpus": 2, "resources": {"here": 1}}) as cluster:
        cluster.add_node(num_cpus=2, resources={"there": 1}, labels={"zone": "b"})
        cluster.wait_for_nodes()
        yield cluster


@pytest.fixture
def session(two_nodes: Cluster) -> Iterator[Cluster]:
    remora.init(address=two_nodes.address)
    try:
        yield two_nodes
    finally:
        remora.shutdown()


@remora.remote(resources=THERE)
class Keeper:
    def keep(self, refs: list) -> int:
        self.kept = refs
        self.view = remora.get(refs[0])
        return os.getpid()


@remora.remote(resources=THERE)
def make() -> np.ndarray:
    return np.zeros(LARGE, dtype=np.uint8)


def ask(node: ClusterNode, command: str, *arguments: str) -> Any:
    """What ``remora COMMAND --json`` prints about the cluster of the node."""
    result = CliRunner().invoke(main, [*command.split(), "--json", "--session", node.directory, *arguments])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def ask_until(is_so: Callable[[Any], bool], node: ClusterNode, command: str, timeout_s: float = 10.0) -> Any:
    deadline_s = monotonic() + timeout_s
    while not is_so(answer := ask(node, command)):
        assert monotonic() < deadline_s, f"not so after {timeout_s} s: {answer}"
    return answer


def short(hexadecimal: str) -> str:
    """As tables and errors write an id, which is hexadecimal in Python."""
    return ids.short(bytes.fromhex(hexadecimal))


def test_status_is_the_same_from_either_node(session: Cluster) -> None:
    keeper = Keeper.options(name="known").remote()
    pid = remora.get(keeper.keep.remote([remora.put("small")]))
    for node in session.nodes:
        status = ask(node, "status")
        assert len(status["nodes"]) == 2
        assert status["silent"] == status["dead"] == []
        assert {row["store"]["limit_bytes"] for row in status["nodes"]} == {256 << 20}
        (actor,) = (one for one in status["actors"] if one["name"] == "known")
        assert (actor["class_name"], actor["state"], actor["pid"]) == ("Keeper", "alive", pid)
        assert actor["node"] != short(remora.get_runtime_context().get_node_id())
        names = {process["pid"]: process["name"] for process in status["processes"]}
        assert (names[pid], names[os.getpid()]) == ("Keeper", "driver")


def test_the_node_that_is_asked_comes_first_and_tables_fit_100_columns(session: Cluster) -> None:
    assert "zone=b" in CliRunner().invoke(main, ["status", "--session", session.head_node.directory]).output
    firsts = {ask(node, "status")["nodes"][0]["node"]["node"] for node in session.nodes}
    assert len(firsts) == 2
    for command in ("status", "memory"):
        result = CliRunner().invoke(main, [command, "--session", session.worker_nodes[0].directory])
        assert result.exit_code == 0, result.output
        assert max(map(len, result.output.splitlines())) <= 100


def test_objects_name_their_holders_and_copies_on_both_nodes(session: Cluster) -> None:
    keeper = Keeper.remote()
    array = remora.put(np.ones(LARGE, dtype=np.uint8))
    pid = remora.get(keeper.keep.remote([array]))
    here, there = (ask(node, "status")["nodes"][0]["node"]["node"] for node in session.nodes)

    def held(memory: Any) -> list[int]:
        (one,) = (one for one in memory["objects"] if one["id"] == short(array.hex()))
        return [holder["pid"] for holder in one["holders"]]

    for node in session.nodes:
        memory = ask_until(lambda answer: pid in held(answer), node, "memory")
        (one,) = (one for one in memory["objects"] if one["id"] == short(array.hex()))
        (own,) = (holder for holder in one["holders"] if holder["pid"] == os.getpid())
        (other,) = (holder for holder in one["holders"] if holder["pid"] == pid)
        assert "test_objects_name_their_holders" in own["site"]
        assert other["name"] == "Keeper"
        assert (one["primary"], one["copies"]) == (here, [{"node": there, "kind": "cached"}])
        assert one["views"] == 1


def test_every_byte_of_both_stores_is_explained(session: Cluster) -> None:
    keeper = Keeper.remote()
    array = remora.put(np.ones(LARGE, dtype=np.uint8))
    remora.get(keeper.keep.remote([array]))
    made = make.remote()
    remora.wait([made], fetch_local=False)

    def is_complete(memory: Any) -> bool:
        here, there = (node["contents"] for node in memory["nodes"])
        return here["primary_bytes"] >= LARGE and there["cached_bytes"] >= LARGE <= there["kept_bytes"]

    memory = ask_until(is_complete, session.head_node, "memory")
    for node in memory["nodes"]:
        store = node["store"]
        assert sum(node["contents"].values()) == store["used_bytes"]
        assert sum(store[f"{name}_bytes"] for name in ("used", "reserved", "lost", "free")) == store["limit_bytes"]
        assert node["contents"]["unclaimed_bytes"] == 0
    transfers = [node["transfers"] for node in ask(session.head_node, "status")["nodes"]]
    assert transfers[0]["sent_bytes"] >= LARGE <= transfers[1]["received_bytes"]
    writers = {process["name"] for process in memory["processes"] if process["written_bytes"]}
    assert "daemon (copies)" in writers


def test_a_request_that_no_node_can_satisfy_says_so(session: Cluster) -> None:
    waiting = make.options(resources={"tape": 1}).remote()
    status = ask_until(lambda answer: answer["waiting"] != [], session.worker_nodes[0], "status")
    assert any("no node has any 'tape'" in one["reason"] for one in status["waiting"])
    remora.cancel(waiting)


def test_a_driver_is_told_why_its_actor_waits_for_a_worker(session: Cluster) -> None:
    @remora.remote(label_selector={"zone": "mars"})
    class Rover:
        def drive(self) -> int:
            return 1

    rover = Rover.remote()
    with pytest.warns(RuntimeWarning, match="actor Rover waits for a worker: no node has a label zone in"):
        remora.wait([rover.drive.remote()], timeout=5)


def test_placement_groups_are_seen_from_every_node(session: Cluster) -> None:
    group = placement_group([{"CPU": 1, "here": 0.1}, {"CPU": 1, "there": 0.1}], name="both")
    assert group.wait(10)
    for node in session.nodes:
        (row,) = (one for one in ask(node, "list placement-groups") if one["name"] == "both")
        assert row["state"] == "CREATED"
        assert len({bundle["node_id"] for bundle in row["bundles"]}) == 2
    remora.util.remove_placement_group(group)


def test_nodes_are_listed_with_addresses_labels_and_the_head(session: Cluster) -> None:
    nodes = ask(session.worker_nodes[0], "list nodes")
    assert [node["is_head_node"] for node in nodes] == [True, False]
    assert [node["labels"] for node in nodes] == [{}, {"zone": "b"}]
    assert {node["node_id"] for node in nodes} == {node["NodeID"] for node in remora.nodes()}


PRINTING_DRIVER = """
import remora, sys
remora.init(address=sys.argv[1])

@remora.remote(resources={"there": 0.001})
def count():
    for number in range(20_000):
        print(number)

remora.get(count.remote())
"""


def test_lines_of_a_worker_elsewhere_reach_a_driver_that_ends_with_its_task(two_nodes: Cluster) -> None:
    program = [sys.executable, "-c", PRINTING_DRIVER, two_nodes.address]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    lines = ended.stdout.splitlines()
    there = next(node.address for node in two_nodes.list_all_nodes() if "there" in node.resources)
    prefix = re.compile(rf"\(count pid=\d+, node={re.escape(there)}\) ")
    assert [int(prefix.sub("", line)) for line in lines] == list(range(20_000))
    jobs = ask_until(lambda jobs: jobs[0]["status"] == "ENDED", two_nodes.worker_nodes[0], "list jobs")
    assert jobs[0]["end_time"] > jobs[0]["start_time"]
    assert jobs[0]["message"] == "its driver has ended"


def test_a_node_that_does_not_answer_is_named_with_how_long_and_what_to_do(two_nodes: Cluster) -> None:
    stopped = two_nodes.worker_nodes[0]
    os.kill(stopped.pid, signal.SIGSTOP)
    try:
        result = CliRunner().invoke(main, ["status", "--session", two_nodes.head_node.directory])
    finally:
        os.kill(stopped.pid, signal.SIGCONT)
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert re.search(r"Node [0-9a-f]+ \(127.0.0.1:\d+\) has not answered for \d+\.\d s", text)
    assert "the head declares it dead" in text
    assert "CPU" in text


def test_without_the_head_status_and_memory_show_what_the_nodes_know(two_nodes: Cluster) -> None:
    children = psutil.Process(two_nodes.head_node.pid).children()
    head = next(child for child in children if "remora:head" in " ".join(child.cmdline()))
    head.suspend()
    try:
        results = [
            CliRunner().invoke(main, [command, "--session", two_nodes.worker_nodes[0].directory])
            for command in ("status", "memory")
        ]
    finally:
        head.resume()
    for result in results:
        assert result.exit_code == 0, result.output
        assert re.search(r"The head has not answered for \d+\.\d s", result.output)
    assert "2 nodes" in results[0].output


def test_a_killed_node_is_listed_as_dead_with_the_cause() -> None:
    with Cluster(head_node_args={"num_cpus": 1}) as cluster:
        node = cluster.add_node()
        cluster.wait_for_nodes()
        cluster.remove_node(node, allow_graceful=False)
        cluster.wait_for_nodes()
        alive, dead = ask(cluster.head_node, "list nodes")
        assert (alive["state"], dead["state"]) == ("ALIVE", "DEAD")
        assert dead["state_message"]
        assert dead["node_address"].startswith("127.0.0.1:")
        status = ask(cluster.head_node, "status")
        assert (len(status["nodes"]), len(status["dead"])) == (1, 1)
        remora.init(address=cluster.address)
        try:
            assert [node["DeathReasonMessage"] for node in remora.nodes()] == ["", dead["state_message"]]
            assert remora.cluster_resources()["CPU"] == 1
        finally:
            remora.shutdown()
