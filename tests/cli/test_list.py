from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from inspected_driver import InspectedDriver, inspected_driver

PROGRAM = """
remora.init(num_cpus=1, object_store_memory=102_400_000, log_to_driver=False)

@remora.remote
def crunch(number):
    with open(BEGUN, "w") as begun:
        begun.write("x")
    open(GATE).read()

@remora.remote
def add_one(number):
    return number + 1

@remora.remote
class Counter:
    def add(self, amount):
        return amount

counter = Counter.options(name="visits").remote()
remora.get(counter.add.remote(1))
array = remora.put(np.zeros(1_000_000))  # the array
small = remora.put("small")
outer = remora.put([small])
remora.get(counter.add.remote([outer]))
group = remora.util.placement_group([{"CPU": 0.001}], name="corner")
group.wait(10)
refs = [crunch.options(num_cpus=0.5).remote(number) for number in range(2)]
with open(BEGUN) as begun:
    begun.read(1)
dependent = add_one.remote(refs[0])
impossible = add_one.options(resources={"tape": 1}).remote(1)
wait_for_test(
    pid=os.getpid(),
    array=array.hex(), counter=counter._actor_id.hex(), group=group.id.hex(),
    node=remora.get_runtime_context().get_node_id(),
    tasks=[ref.hex()[:24] for ref in [*refs, dependent, impossible]],
)
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InspectedDriver]:
    with inspected_driver(tmp_path_factory.mktemp("list"), PROGRAM) as running:
        yield running


def listed(driver: InspectedDriver, kind: str, *arguments: str) -> Any:
    result = driver.invoke("list", kind, "--json", *arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_nodes_have_ids_as_in_python_and_what_they_have(driver: InspectedDriver) -> None:
    (node,) = listed(driver, "nodes")
    assert (node["node_id"], node["state"]) == (driver.facts["node"], "ALIVE")
    assert node["resources_total"]["CPU"] == 1


def test_tasks_are_listed_one_by_one_with_states_and_where_they_run(driver: InspectedDriver) -> None:
    tasks = {task["task_id"]: task for task in listed(driver, "tasks")}
    first, second, dependent, impossible = (tasks[task] for task in driver.facts["tasks"])
    assert first["state"] == "RUNNING"
    assert first["worker_pid"] not in (0, None, driver.facts["pid"])
    assert first["node_id"] == driver.facts["node"]
    assert second["name"] == "crunch"
    assert (dependent["name"], dependent["state"]) == ("add_one", "PENDING_ARGS_AVAIL")
    assert (impossible["state"], impossible["worker_pid"]) == ("PENDING_NODE_ASSIGNMENT", None)
    assert {task["caller_pid"] for task in tasks.values()} == {driver.facts["pid"]}


def test_limit_shows_running_tasks_first_and_counts_all(driver: InspectedDriver) -> None:
    (task,) = listed(driver, "tasks", "--limit", "1")
    assert task["state"] == "RUNNING"
    assert "4 calls, 1 of them here" in driver.invoke("list", "tasks", "--limit", "1").output


def test_actors_have_name_state_pid_and_node(driver: InspectedDriver) -> None:
    (actor,) = listed(driver, "actors")
    assert (actor["actor_id"], actor["name"], actor["state"]) == (driver.facts["counter"], "visits", "ALIVE")
    assert actor["node_id"] == driver.facts["node"]
    assert actor["pid"] > 0


def test_a_job_has_its_program_pid_and_times(driver: InspectedDriver) -> None:
    (job,) = listed(driver, "jobs")
    assert (job["status"], job["driver_pid"], job["end_time"]) == ("RUNNING", driver.facts["pid"], None)
    assert job["entrypoint"] == str(driver.path)
    assert job["driver_node_id"] == driver.facts["node"]
    assert 0 < time.time() - job["start_time"] < 600


def test_objects_have_size_place_and_line_the_largest_first(driver: InspectedDriver) -> None:
    array = listed(driver, "objects")[0]
    assert array["object_id"] == driver.facts["array"]
    assert array["node_ids"] == [driver.facts["node"]]
    assert array["object_size"] > 8_000_000
    assert array["call_site"] == f"{driver.path}:{driver.line_of('# the array')} in <module>"


def test_placement_groups_have_their_bundles(driver: InspectedDriver) -> None:
    (group,) = listed(driver, "placement-groups")
    assert (group["placement_group_id"], group["name"]) == (driver.facts["group"], "corner")
    assert group["state"] == "CREATED"
    assert group["bundles"] == [{"resources": {"CPU": 0.001}, "node_id": driver.facts["node"]}]


@pytest.mark.parametrize("kind", ["nodes", "tasks", "actors", "jobs", "objects", "placement-groups"])
def test_tables_fit_100_columns(driver: InspectedDriver, kind: str) -> None:
    result = driver.invoke("list", kind)
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 100


def test_an_unknown_kind_is_refused_with_those_that_there_are(driver: InspectedDriver) -> None:
    result = driver.invoke("list", "pods")
    assert result.exit_code == 2
    assert "placement-groups" in result.output
