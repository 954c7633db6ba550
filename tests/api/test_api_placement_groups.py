"""Placement groups on one node, with real processes: reserving, running in them, capturing, removing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import remora
from remora.exceptions import ActorDiedError, TaskPlacementGroupRemoved
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
def session() -> Iterator[None]:
    remora.shutdown()
    remora.init(num_cpus=4, num_gpus=2, namespace="groups", labels={"region": "eu"})
    yield
    remora.shutdown()


@pytest.fixture
def make(session: None) -> Iterator[Callable[..., PlacementGroup]]:
    """Makes groups that are removed after the test, when everything of the node must be free again."""
    made: list[PlacementGroup] = []

    def make(*args: Any, **kwargs: Any) -> PlacementGroup:
        made.append(placement_group(*args, **kwargs))
        return made[-1]

    yield make
    for group in made:
        remove_placement_group(group)
    wait_for(lambda: available("CPU") == 4 and not [name for name in remora.cluster_resources() if "_group_" in name])


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come true"
        time.sleep(0.01)


def available(name: str) -> float:
    return remora.available_resources().get(name, 0.0)


def call_without_end(keeper: Any) -> None:
    """It may answer until its worker is killed."""
    while True:
        remora.get(keeper.pid.remote(), timeout=TIMEOUT_S)


def within(group: PlacementGroup | None, index: int = -1, capture: bool | None = None) -> dict[str, Any]:
    return {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, index, capture)}


@remora.remote
def where() -> tuple[PlacementGroup | None, dict[str, float]]:
    return get_current_placement_group(), remora.get_runtime_context().get_assigned_resources()


@remora.remote
def group_of_child(options: dict[str, Any]) -> PlacementGroup | None:
    found: PlacementGroup | None = remora.get(where.options(**options).remote())[0]
    return found


@remora.remote
def group_of_grandchild() -> PlacementGroup | None:
    found: PlacementGroup | None = remora.get(group_of_child.remote({}))
    return found


@remora.remote(max_retries=0)
def sleep_for_ever() -> None:
    while True:
        time.sleep(0.1)


@remora.remote
class Keeper:
    def where(self) -> PlacementGroup | None:
        return get_current_placement_group()

    def group_of_child(self) -> PlacementGroup | None:
        found: PlacementGroup | None = remora.get(where.remote())[0]
        return found

    def pid(self) -> int:
        return os.getpid()


def test_a_group_takes_its_resources_and_gives_them_back(make: Callable[..., PlacementGroup]) -> None:
    group = make([{"CPU": 2}, {"CPU": 1}])
    assert group.wait(TIMEOUT_S)
    assert remora.get(group.ready(), timeout=TIMEOUT_S) == group
    assert available("CPU") == 1
    assert group.bundle_count == 2
    assert group.bundle_specs == [{"CPU": 2.0}, {"CPU": 1.0}]
    node = remora.get_runtime_context().get_node_id()
    entry = placement_group_table(group)
    assert (entry["state"], entry["strategy"]) == ("CREATED", "PACK")
    assert entry["bundles_to_node_id"] == {0: node, 1: node}
    assert placement_group_table()[group.id.hex()] == entry
    remove_placement_group(group)
    wait_for(lambda: available("CPU") == 4)
    assert placement_group_table(group)["state"] == "REMOVED"
    assert not group.wait(TIMEOUT_S), "it will never be ready"
    with pytest.raises(TaskPlacementGroupRemoved, match="remove_placement_group"):
        remora.get(group.ready(), timeout=TIMEOUT_S)


def test_tasks_run_in_a_group_and_know_it(make: Callable[..., PlacementGroup]) -> None:
    group = make([{"CPU": 1}, {"CPU": 2}])
    for index in (-1, 0, 1):
        assert remora.get(where.options(**within(group, index)).remote(), timeout=TIMEOUT_S) == (group, {"CPU": 1.0})
    assert remora.get(where.options(num_cpus=0, **within(group)).remote(), timeout=TIMEOUT_S) == (group, {})
    assert remora.get(where.remote(), timeout=TIMEOUT_S) == (None, {"CPU": 1.0})
    assert get_current_placement_group() is None


def test_a_group_that_does_not_fit_waits_until_there_is_room(make: Callable[..., PlacementGroup]) -> None:
    first, second = make([{"CPU": 3}]), make([{"CPU": 1}, {"CPU": 1}])
    ready = second.ready()
    in_list = remora.put([ready])
    assert first.wait(TIMEOUT_S)
    assert not second.wait(0.05)
    assert placement_group_table(second)["state"] == "PENDING"
    assert "not free now" in placement_group_table(second)["reason"]
    assert available("CPU") == 1, "a group that waits holds nothing"
    remove_placement_group(first)
    assert second.wait(TIMEOUT_S)
    assert remora.get(remora.get(in_list)[0], timeout=TIMEOUT_S) == second


def test_a_group_gets_what_a_task_gives_back(make: Callable[..., PlacementGroup], tmp_path: Any) -> None:
    @remora.remote(num_cpus=3)
    def wait_for_file() -> None:
        while not (tmp_path / "end").exists():
            time.sleep(0.005)

    @remora.remote(num_cpus=3)
    def begin() -> None:
        pass

    remora.get(begin.remote(), timeout=TIMEOUT_S)
    task = wait_for_file.remote()
    wait_for(lambda: available("CPU") == 1)
    group = make([{"CPU": 2}])
    assert not group.wait(0.05)
    (tmp_path / "end").touch()
    assert group.wait(TIMEOUT_S)
    remora.get(task, timeout=TIMEOUT_S)


def test_children_are_captured_when_the_parent_says_so(make: Callable[..., PlacementGroup]) -> None:
    group = make([{"CPU": 1}, {"CPU": 1}])
    captured = group_of_child.options(**within(group, 0, True))
    assert remora.get(group_of_child.options(**within(group, 0)).remote({}), timeout=TIMEOUT_S) is None
    assert remora.get(captured.remote({}), timeout=TIMEOUT_S) == group
    assert remora.get(captured.remote({"scheduling_strategy": "DEFAULT"}), timeout=TIMEOUT_S) is None
    assert remora.get(captured.remote(within(None)), timeout=TIMEOUT_S) is None
    assert remora.get(captured.remote(within(PlacementGroup.empty())), timeout=TIMEOUT_S) is None
    assert remora.get(group_of_grandchild.options(**within(group, 0, True)).remote(), timeout=TIMEOUT_S) == group
    assert remora.get(group_of_child.remote({}), timeout=TIMEOUT_S) is None, "the worker may be one that captured"


def test_a_parent_that_waits_lends_the_cpu_of_its_bundle_to_its_child(make: Callable[..., PlacementGroup]) -> None:
    group = make([{"CPU": 1}])
    assert remora.get(group_of_grandchild.options(**within(group, 0, True)).remote(), timeout=TIMEOUT_S) == group


def test_the_context_knows_the_group(make: Callable[..., PlacementGroup]) -> None:
    @remora.remote
    def ask() -> tuple[str | None, bool]:
        here = remora.get_runtime_context()
        return here.get_placement_group_id(), here.should_capture_child_tasks_in_placement_group

    group = make([{"CPU": 1}])
    assert remora.get(ask.options(**within(group)).remote(), timeout=TIMEOUT_S) == (group.id.hex(), False)
    assert remora.get(ask.options(**within(group, 0, True)).remote(), timeout=TIMEOUT_S) == (group.id.hex(), True)
    assert remora.get(ask.remote(), timeout=TIMEOUT_S) == (None, False)
    assert remora.get_runtime_context().get_placement_group_id() is None


def test_actors_live_in_a_group_and_their_children_are_captured(make: Callable[..., PlacementGroup]) -> None:
    group = make([{"CPU": 2}])
    keeper = Keeper.options(num_cpus=1, **within(group, 0, True)).remote()
    assert remora.get(keeper.where.remote(), timeout=TIMEOUT_S) == group
    assert remora.get(keeper.group_of_child.remote(), timeout=TIMEOUT_S) == group
    wait_for(lambda: available(f"CPU_group_{group.id.hex()}") == 1)
    light = Keeper.options(**within(group)).remote()
    assert remora.get([light.where.remote(), light.group_of_child.remote()], timeout=TIMEOUT_S) == [group, None]


def test_removing_a_group_ends_its_tasks_and_actors(make: Callable[..., PlacementGroup]) -> None:
    group = make([{"CPU": 1}] * 3)
    running = sleep_for_ever.options(**within(group, 0)).remote()
    retried = sleep_for_ever.options(max_retries=-1, **within(group, 1)).remote()
    keeper = Keeper.options(num_cpus=1, max_restarts=-1, max_task_retries=-1, **within(group, 2)).remote()
    outside = Keeper.remote()
    pid = remora.get(keeper.pid.remote(), timeout=TIMEOUT_S)
    remora.get(outside.pid.remote(), timeout=TIMEOUT_S)
    wait_for(lambda: available(f"CPU_group_{group.id.hex()}") == 0)
    waiting = where.options(**within(group)).remote()
    remove_placement_group(group)
    with pytest.raises(remora.exceptions.WorkerCrashedError, match=IS_GONE):
        remora.get(running, timeout=TIMEOUT_S)
    for ref in (retried, waiting, where.options(**within(group)).remote()):
        with pytest.raises(TaskPlacementGroupRemoved, match="remove_placement_group"):
            remora.get(ref, timeout=TIMEOUT_S)
    with pytest.raises(ActorDiedError, match=IS_GONE):
        call_without_end(keeper)
    wait_for(lambda: not os.path.exists(f"/proc/{pid}"))
    assert remora.get(outside.pid.remote(), timeout=TIMEOUT_S)


def test_the_empty_group_is_ready(session: None) -> None:
    assert remora.get(PlacementGroup.empty().ready(), timeout=TIMEOUT_S).is_empty


def test_what_fits_into_no_bundle_is_refused(make: Callable[..., PlacementGroup]) -> None:
    group = make([{"CPU": 1}, {"GPU": 1}])
    with pytest.raises(ValueError, match="task 'where' needs CPU 2 and fits into no bundle"):
        where.options(num_cpus=2, **within(group)).remote()
    with pytest.raises(ValueError, match="which has: GPU 1"):
        where.options(**within(group, 1)).remote()
    with pytest.raises(ValueError, match="actor 'Keeper' needs CPU 1"):
        Keeper.options(**within(group, 1)).remote()


def test_gpus_of_a_bundle_are_its_own(make: Callable[..., PlacementGroup]) -> None:
    @remora.remote(num_cpus=0, num_gpus=1)
    def gpus() -> str | None:
        return os.environ.get("CUDA_VISIBLE_DEVICES")

    group = make([{"GPU": 1}, {"GPU": 1}])
    found = [remora.get(gpus.options(**within(group, index)).remote(), timeout=TIMEOUT_S) for index in (0, 1)]
    assert sorted(map(str, found)) == ["0", "1"]


def test_a_group_is_found_by_its_name(make: Callable[..., PlacementGroup]) -> None:
    group = make([{"CPU": 1}], name="ring", lifetime="detached")
    found = get_placement_group("ring")
    assert found == group
    assert found.bundle_specs == [{"CPU": 1.0}]
    with pytest.raises(ValueError, match="'ring' is taken in namespace 'groups'"):
        placement_group([{"CPU": 1}], name="ring")
    with pytest.raises(ValueError, match="no placement group named 'rong'"):
        get_placement_group("rong")
    remove_placement_group(found)
    with pytest.raises(ValueError, match="no placement group named 'ring'"):
        get_placement_group("ring")


def test_a_task_makes_a_group_and_another_process_uses_it(session: None) -> None:
    @remora.remote
    def make_group() -> PlacementGroup:
        return placement_group([{"CPU": 1}])

    group = remora.get(make_group.remote(), timeout=TIMEOUT_S)
    assert group.wait(TIMEOUT_S)
    assert remora.get(where.options(**within(group)).remote(), timeout=TIMEOUT_S)[0] == group
    remove_placement_group(group)
    wait_for(lambda: available("CPU") == 4)


def test_a_group_that_no_node_can_take_says_why(make: Callable[..., PlacementGroup]) -> None:
    with pytest.warns(RuntimeWarning, match="no node has CPU 64, the most is 4"):
        assert not make([{"CPU": 64}]).wait(2)
    strange = make([{"CPU": 1}], bundle_label_selector=[{"region": "us"}])
    assert not strange.wait(0.01)
    assert placement_group_table(strange)["stats"]["scheduling_state"] == "INFEASIBLE"
    assert make([{"CPU": 1}], bundle_label_selector=[{"region": "in(us, eu)"}]).wait(TIMEOUT_S)


def test_strategies_hold_on_one_node(make: Callable[..., PlacementGroup]) -> None:
    assert make([{"CPU": 1}] * 2, strategy="STRICT_PACK").wait(TIMEOUT_S)
    assert make([{"CPU": 1}] * 2, strategy="SPREAD").wait(TIMEOUT_S)
    strict = make([{"CPU": 0.1}] * 2, strategy="STRICT_SPREAD")
    assert not strict.wait(0.01)
    assert "on 2 different nodes, and there are 1 nodes" in placement_group_table(strict)["reason"]


def test_the_end_of_the_session_ends_the_waiting(no_session: None) -> None:
    remora.init(num_cpus=1)
    ready = placement_group([{"CPU": 64}]).ready()
    remora.shutdown()
    with pytest.raises(remora.exceptions.RemoraError):
        remora.get(ready)


def test_groups_are_there_at_once_in_local_mode(no_session: None) -> None:
    remora.init(local_mode=True)
    group = placement_group([{"CPU": 64}], name="large")
    assert group.wait(0)
    assert remora.get(group.ready()) == group == get_placement_group("large")
    assert remora.get(where.options(**within(group)).remote())[0] is None
    assert placement_group_table(group)["state"] == "CREATED"
    with pytest.raises(ValueError, match="'large' is taken"):
        placement_group([{"CPU": 1}], name="large")
    remove_placement_group(group)
    assert not group.wait(0)
