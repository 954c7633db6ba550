from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from inspected_driver import InspectedDriver, ask_until, inspected_driver

from remora.base import ids
from remora.cli.main import main

PROGRAM = """
remora.init(num_cpus=1, object_store_memory=102_400_000, log_to_driver=False)

@remora.remote
class Keeper:
    def keep(self, box):
        self.box = box

    def look(self, box):
        self.view = remora.get(box[0])[:5]

@remora.remote
def crunch(array):
    with open(BEGUN, "w") as begun:
        begun.write("x")
    open(GATE).read()

def make_array():
    return remora.put(np.zeros(1_000_000))  # the array

array = make_array()
views = [remora.get(array)[10:20], remora.get(array)]
keeper = Keeper.remote()
remora.get(keeper.keep.remote([array]))
remora.get(keeper.look.remote([array]))
inner = remora.put("inner")  # the inner one
outer = remora.put([inner])  # the outer one
remora.get(keeper.keep.remote([outer]))
result = crunch.remote(np.zeros(100_000))  # large arguments
with open(BEGUN) as begun:
    begun.read(1)

one, other = Keeper.remote(), Keeper.remote()
remora.get([one.keep.remote([other]), other.keep.remote([one])])
leaked = [handle._actor_id.hex() for handle in (one, other)]
del one, other
private = remora.put(bytearray(50_000))
young = remora.put(np.zeros(20_000))  # young
wait_for_test(
    pid=os.getpid(),
    array=array.hex(), inner=inner.hex(), outer=outer.hex(), keeper=keeper._actor_id.hex(), leaked=leaked,
)
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InspectedDriver]:
    with inspected_driver(tmp_path_factory.mktemp("memory"), PROGRAM) as running:
        yield running


def short(hexadecimal: str) -> str:
    """As tables and errors write an id, which is hexadecimal in Python."""
    return ids.short(bytes.fromhex(hexadecimal))


def objects(report: Any) -> dict[str, Any]:
    return {one["id"]: one for one in report["objects"]}


def test_an_object_names_the_line_that_made_it_and_its_size(driver: InspectedDriver) -> None:
    array = objects(driver.ask("memory"))[short(driver.facts["array"])]
    assert array["state"] == "stored"
    assert 8_000_000 <= array["size_bytes"] <= array["store_bytes"] < 8_010_000
    (holder,) = (holder for holder in array["holders"] if holder["name"] == "driver")
    assert holder["pid"] == driver.facts["pid"]
    assert holder["site"] == f"{driver.path}:{driver.line_of('# the array')} in make_array"


def test_views_are_counted_for_their_object_also_those_of_other_processes(driver: InspectedDriver) -> None:
    report = driver.ask("memory")
    array = objects(report)[short(driver.facts["array"])]
    assert array["views"] == 3  # two of the driver, one of the actor
    assert array["viewed_bytes"] == 3 * array["size_bytes"]
    assert {process["name"]: process["views"] for process in report["processes"] if process["views"]} == {
        "driver": 2,
        "Keeper": 1,
        "worker": 1,  # its own argument
    }


def test_containers_and_borrowers_are_holders(driver: InspectedDriver) -> None:
    def has_keeper(report: Any) -> bool:
        holders = objects(report)[short(driver.facts["outer"])]["holders"]
        return any(holder["name"] == "Keeper" and holder["pid"] > 0 for holder in holders)

    report = ask_until(driver, has_keeper, "memory")
    assert has_keeper(report)
    inner, outer = (objects(report)[short(driver.facts[name])] for name in ("inner", "outer"))
    assert outer["contents"] == [inner["id"]]
    assert [holder["id"] for holder in inner["holders"] if holder["kind"] == "container"] == [outer["id"]]


def test_an_immediate_value_that_escaped_names_its_line(driver: InspectedDriver) -> None:
    inner = objects(driver.ask("memory"))[short(driver.facts["inner"])]
    sites = {holder["site"] for holder in inner["holders"] if holder["kind"] == "process"}
    assert sites == {f"{driver.path}:{driver.line_of('# the inner one')} in <module>"}


def test_large_arguments_name_the_line_of_the_call(driver: InspectedDriver) -> None:
    sites = [holder["site"] for one in driver.ask("memory")["objects"] for holder in one["holders"]]
    assert f"{driver.path}:{driver.line_of('# large arguments')} in <module> (arguments of crunch)" in sites


def test_every_byte_is_explained(driver: InspectedDriver) -> None:
    report = driver.ask("memory")
    (node,), listed = report["nodes"], report["objects"]
    store, contents = node["store"], node["contents"]
    assert report["total_objects"] == node["total_objects"] == len(listed)
    assert sum(one["store_bytes"] for one in listed) == contents["primary_bytes"]
    assert sum(contents.values()) == store["used_bytes"]
    assert sum(process["written_bytes"] for process in report["processes"]) == store["used_bytes"]
    assert sum(process["reserved_bytes"] for process in report["processes"]) == store["reserved_bytes"]
    parts = (store[f"{name}_bytes"] for name in ("used", "reserved", "lost", "free"))
    assert sum(parts) == store["limit_bytes"] == 102_400_000
    assert contents["unclaimed_bytes"] == contents["kept_bytes"] == contents["cached_bytes"] == 0
    assert node["inline_bytes"] == sum(one["size_bytes"] for one in listed if not one["store_bytes"])


def test_actors_that_hold_each_other_are_leaks_and_nothing_else_is(driver: InspectedDriver) -> None:
    expected = {short(actor) for actor in driver.facts["leaked"]}
    leaked = ask_until(driver, lambda answer: len(answer) == 2, "memory", "--leaks")
    assert {one["id"] for one in leaked} == expected
    result = driver.invoke("memory", "--leaks")
    assert result.exit_code == 1
    assert "2 leaked objects" in result.output
    assert "hold each other" in result.output


def test_limit_lists_the_largest_and_counts_all(driver: InspectedDriver) -> None:
    ask_until(driver, lambda answer: len(answer) == 2, "memory", "--leaks")
    report = driver.ask("memory", "--limit", "1")
    assert {one["id"] for one in report["objects"] if not one["is_leaked"]} == {short(driver.facts["array"])}
    assert report["total_objects"] > 3


def test_a_limit_below_0_is_refused() -> None:
    result = CliRunner().invoke(main, ["memory", "--limit", "-1"])
    assert result.exit_code == 2
    assert "-1 is not in the range" in result.output


def test_memory_tables_fit_100_columns(driver: InspectedDriver) -> None:
    result = driver.invoke("memory")
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 100
    unfolded = "".join(result.output.split())
    assert f":{driver.line_of('# the array')}inmake_array" in unfolded
    assert "102,400,000" in result.output


def test_a_young_object_is_told_of_when_somebody_looks_and_private_values_are_summed(driver: InspectedDriver) -> None:
    report = driver.ask("memory")
    (own,) = (process for process in report["processes"] if process["name"] == "driver")
    assert 50_000 <= own["private_bytes"] < 60_000
    sites = [holder["site"] for one in report["objects"] for holder in one["holders"]]
    assert f"{driver.path}:{driver.line_of('# young')} in <module>" in sites
