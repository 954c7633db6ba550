"""Placement groups over several nodes of one machine: real daemons and a real head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from machines import wait_until

import remora
from remora.exceptions import ActorDiedError, TaskPlacementGroupRemoved
from remora.testing.cluster import Cluster
from remora.util import (
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from remora.util.placement_group import PlacementGroup
from remora.util.scheduling_strategies import PlacementGroupSchedulingStrategy

TIMEOUT_S = 20
IS_GONE = r"its placement group [0-9a-f]+ is gone: it was removed"


@pytest.fixture(scope="module")
def three_nodes() -> Iterator[Cluster]:
    with Cluster(head_node_args={"num_cpus": 2}) as cluster:
        for region in ("eu", "us"):
            cluster.add_node(num_cpus=2, labels={"region": region})
        cluster.wait_for_nodes()
        yield cluster


@pytest.fixture
def session(three_nodes: Cluster) -> Iterator[Cluster]:
    remora.init(address=three_nodes.address, namespace="groups")
    try:
        yield three_nodes
    finally:
        remora.shutdown()


def within(group: PlacementGroup, index: int = -1, capture: bool | None = None) -> dict[str, Any]:
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, index, capture)}


@remora.remote
def where() -> tuple[str, PlacementGroup | None]:
    return remora.get_runtime_context().get_node_id(), get_current_placement_group()


@remora.remote
def where_child_is() -> tuple[str, PlacementGroup | None]:
    found: tuple[str, PlacementGroup | None] = remora.get(where.remote())
    return found


@remora.remote(num_cpus=1)
class Keeper:
    def where(self) -> str:
        return str(remora.get_runtime_context().get_node_id())


def call_without_end(keeper: Any) -> None:
    """It may answer until its worker is killed."""
    while True:
        remora.get(keeper.where.remote(), timeout=TIMEOUT_S)


def nodes_of(group: PlacementGroup) -> list[str]:
    return list(placement_group_table(group)["bundles_to_node_id"].values())


def test_bundles_are_spread_and_tasks_run_where_theirs_is(session: Cluster) -> None:
    group = placement_group([{"CPU": 2}] * 3, strategy="STRICT_SPREAD", name="wide")
    assert remora.get(group.ready(), timeout=TIMEOUT_S) == group == get_placement_group("wide")
    nodes = nodes_of(group)
    assert len(set(nodes)) == 3
    found = [remora.get(where.options(**within(group, index)).remote(), timeout=TIMEOUT_S) for index in range(3)]
    assert found == [(node, group) for node in nodes]
    captured = where_child_is.options(**within(group, 2, True)).remote()
    assert remora.get(captured, timeout=TIMEOUT_S)[1] == group
    second = placement_group([{"CPU": 1}])
    assert not second.wait(0.1), "everything is reserved"
    remove_placement_group(group)
    assert second.wait(TIMEOUT_S)
    remove_placement_group(second)


def test_a_bundle_goes_to_a_node_with_the_labels_that_it_asks_for(session: Cluster) -> None:
    group = placement_group([{"CPU": 1}] * 2, bundle_label_selector=[{"region": "us"}, {"region": "eu"}])
    assert group.wait(TIMEOUT_S)
    labels = {node["NodeID"]: node["Labels"].get("region") for node in remora.nodes()}
    assert [labels[node] for node in nodes_of(group)] == ["us", "eu"]
    remove_placement_group(group)


def test_actors_of_other_nodes_end_with_their_group(session: Cluster) -> None:
    group = placement_group([{"CPU": 1}] * 3, strategy="STRICT_SPREAD")
    assert group.wait(TIMEOUT_S)
    keepers = [
        Keeper.options(max_restarts=-1, max_task_retries=-1, **within(group, index)).remote() for index in range(3)
    ]
    assert remora.get([keeper.where.remote() for keeper in keepers], timeout=TIMEOUT_S) == nodes_of(group)
    remove_placement_group(group)
    for keeper in keepers:
        with pytest.raises(ActorDiedError, match=IS_GONE):
            call_without_end(keeper)
    late = Keeper.options(**within(group)).remote()
    with pytest.raises(ActorDiedError, match=IS_GONE):
        remora.get(late.where.remote(), timeout=TIMEOUT_S)
    with pytest.raises(TaskPlacementGroupRemoved):
        remora.get(where.options(**within(group)).remote(), timeout=TIMEOUT_S)
    wait_until(lambda: remora.available_resources().get("CPU") == 6, "the end of all groups", TIMEOUT_S)


def test_groups_asked_for_at_once_are_all_or_nothing(session: Cluster) -> None:
    @remora.remote(num_cpus=0)
    def make_and_use(count: int) -> int:
        used = 0
        for _ in range(count):
            group = placement_group([{"CPU": 1}] * 3, strategy="STRICT_SPREAD")
            remora.get(group.ready())
            used += len(remora.get([where.options(**within(group, index)).remote() for index in range(3)]))
            remove_placement_group(group)
        return used

    makers = [make_and_use.remote(5) for _ in range(6)]
    assert remora.get(makers, timeout=60) == [15] * 6
    wait_until(lambda: remora.available_resources().get("CPU") == 6, "the end of all groups", TIMEOUT_S)


def test_groups_end_with_the_program_that_made_them_unless_they_are_detached(session: Cluster) -> None:
    groups = [placement_group([{"CPU": 1}]), placement_group([{"CPU": 1}], name="lasting", lifetime="detached")]
    assert all(group.wait(TIMEOUT_S) for group in groups)
    remora.shutdown()
    remora.init(address=session.address, namespace="groups")
    wait_until(lambda: remora.available_resources().get("CPU") == 5, "the end of the first group", TIMEOUT_S)
    lasting = get_placement_group("lasting")
    assert lasting == groups[1]
    assert remora.get(where.options(**within(lasting)).remote(), timeout=TIMEOUT_S)[1] == lasting
    assert placement_group_table(groups[0])["reason"] == "its job ended"
    remove_placement_group(lasting)
    wait_until(lambda: remora.available_resources().get("CPU") == 6, "the end of all groups", TIMEOUT_S)


def test_groups_outlive_the_head_that_placed_them(session: Cluster) -> None:
    def kill_head() -> None:
        (head,) = [one for one in psutil.Process(session.head_node.pid).children() if one.name() == "remora:head"]
        head.kill()

    first = placement_group([{"CPU": 2}] * 2, strategy="STRICT_SPREAD", name="first")
    assert first.wait(TIMEOUT_S)
    waiting = placement_group([{"CPU": 2}] * 2)
    ready = waiting.ready()
    kill_head()
    assert get_placement_group("first") == first
    assert remora.get(where.options(**within(first, 1)).remote(), timeout=TIMEOUT_S) == (nodes_of(first)[1], first)
    kill_head()
    remove_placement_group(first)
    assert remora.get(ready, timeout=TIMEOUT_S) == waiting
    remove_placement_group(waiting)
    wait_until(lambda: remora.available_resources().get("CPU") == 6, "the end of all groups", TIMEOUT_S)


def test_bundles_of_a_node_that_dies_go_to_another_one() -> None:
    with Cluster(head_node_args={"num_cpus": 1}) as cluster:
        nodes = {name: cluster.add_node(num_cpus=2, labels={"name": name}) for name in ("one", "other")}
        cluster.wait_for_nodes()
        remora.init(address=cluster.address)
        try:
            group = placement_group([{"CPU": 2}])
            assert group.wait(TIMEOUT_S)
            (first,) = nodes_of(group)
            keeper = Keeper.options(max_restarts=1, max_task_retries=-1, **within(group)).remote()
            assert remora.get(where.options(**within(group)).remote(), timeout=TIMEOUT_S)[0] == first
            assert remora.get(keeper.where.remote(), timeout=TIMEOUT_S) == first
            (name,) = [node["Labels"]["name"] for node in remora.nodes() if node["NodeID"] == first]
            cluster.remove_node(nodes[name], allow_graceful=False)
            node, _ = remora.get(where.options(max_retries=-1, **within(group)).remote(), timeout=TIMEOUT_S)
            assert node != first
            wait_until(lambda: placement_group_table(group)["state"] == "CREATED", "the new place", TIMEOUT_S)
            assert nodes_of(group) == [node]
            assert remora.get(keeper.where.remote(), timeout=TIMEOUT_S) == node
        finally:
            remora.shutdown()


def test_a_node_that_joins_takes_the_actor_and_the_bundle_that_wait_for_it() -> None:
    with Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1}) as cluster:
        group = placement_group([{"rack": 1}])
        where_actor_is = Keeper.options(resources={"disk": 1}).remote().where.remote()
        wait_until(lambda: "rack" in placement_group_table(group)["reason"], "a group that waits", TIMEOUT_S)
        cluster.add_node(num_cpus=1, resources={"disk": 1, "rack": 1})
        assert group.wait(TIMEOUT_S)
        assert nodes_of(group) == [remora.get(where_actor_is, timeout=TIMEOUT_S)]
