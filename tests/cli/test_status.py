from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from inspected_driver import InspectedDriver, ask_until, inspected_driver

from remora.cli import inspector
from remora.cli.main import main
from remora.system import session_directory

PROGRAM = """
remora.init(num_cpus=1, object_store_memory=102_400_000, log_to_driver=False)

@remora.remote
def crunch(number):
    with open(BEGUN, "w") as begun:
        begun.write("x")
    open(GATE).read()

@remora.remote
def needs_much():
    return 1

@remora.remote
def add_one(number):
    return number + 1

@remora.remote
class Counter:
    def add(self, amount):
        return amount

counter = Counter.options(name="visits").remote()
remora.get(counter.add.remote(1))
refs = [crunch.remote(number) for number in range(4)]
with open(BEGUN) as begun:
    begun.read(1)
dependent = add_one.remote(refs[0])
impossible = needs_much.options(resources={"tape": 1}).remote()
wait_for_test(pid=os.getpid())
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InspectedDriver]:
    with inspected_driver(tmp_path_factory.mktemp("status"), PROGRAM) as running:
        yield running


def test_status_names_what_each_worker_runs_and_to_whom_it_is_leased(driver: InspectedDriver) -> None:
    processes = driver.ask("status")["processes"]
    (own,) = (process for process in processes if process["state"] == "driver")
    assert own["pid"] == driver.facts["pid"]
    (running,) = (process for process in processes if process["running"])
    assert running["running"] == ["crunch"]
    assert running["state"] == "leased"
    assert running["leased_to"] == own["process"]
    assert all(process["has_answered"] for process in processes)


def test_status_counts_queued_and_sent_calls_by_function(driver: InspectedDriver) -> None:
    (own,) = (process for process in driver.ask("status")["processes"] if process["state"] == "driver")
    counts = {call["name"]: (call["queued"], call["sent"]) for call in own["submitted"]}
    assert counts == {"crunch": (3, 1), "needs_much": (1, 0), "add_one": (1, 0)}


def test_status_shows_actors_with_name_state_and_pid(driver: InspectedDriver) -> None:
    report = driver.ask("status")
    (actor,) = report["actors"]
    assert (actor["class_name"], actor["name"], actor["state"], actor["restarts"]) == ("Counter", "visits", "alive", 0)
    (worker,) = (process for process in report["processes"] if process["state"] == "actor")
    assert worker["pid"] == actor["pid"]
    assert worker["name"] == "Counter"


def test_status_says_why_requests_wait(driver: InspectedDriver) -> None:
    waiting = driver.ask("status")["waiting"]
    (impossible,) = (one for one in waiting if "tape" in one["resources"])
    assert "no node has any 'tape'" in impossible["reason"]
    others = [one for one in waiting if one is not impossible]
    assert {one["reason"] for one in others} == {"CPU 1 more must become free"}


def test_status_shows_resources_in_use_and_a_store_that_adds_up(driver: InspectedDriver) -> None:
    (row,) = driver.ask("status")["nodes"]
    node, store = row["node"], row["store"]
    assert node["resources"]["CPU"] == 1
    assert node["available"]["CPU"] == 0
    assert store["limit_bytes"] == 102_400_000
    parts = (store[f"{name}_bytes"] for name in ("used", "reserved", "lost", "free"))
    assert sum(parts) == store["limit_bytes"]


def test_status_tables_fit_100_columns(driver: InspectedDriver) -> None:
    result = driver.invoke("status")
    assert result.exit_code == 0, result.output
    assert max(map(len, result.output.splitlines())) <= 100
    for text in ("crunch", "Counter", "visits", "CPU 1 more must become free", str(driver.facts["pid"])):
        assert text in result.output


def test_a_stopped_worker_is_shown_as_not_answering_with_what_it_began_last(driver: InspectedDriver) -> None:
    (running,) = (process for process in driver.ask("status")["processes"] if process["running"])
    os.kill(running["pid"], signal.SIGSTOP)
    try:
        processes = driver.ask("status")["processes"]
    finally:
        os.kill(running["pid"], signal.SIGCONT)
    silent = [(process["pid"], process["running"]) for process in processes if not process["has_answered"]]
    assert silent == [(running["pid"], ["crunch"])]


def test_a_session_that_does_not_run_is_refused_with_those_that_do(driver: InspectedDriver) -> None:
    result = CliRunner().invoke(main, ["status", "--session", "/nowhere"])
    assert result.exit_code == 1
    assert "no session runs in /nowhere" in result.output
    assert driver.session in result.output


def test_nodes_of_a_cluster_are_offered_as_such_and_not_by_the_pid_of_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    node = session_directory.SessionRecord(directory="/somewhere", driver_pid=0, started_at_s=0.0)
    monkeypatch.setattr(inspector, "running_sessions", lambda: [node])
    result = CliRunner().invoke(main, ["status", "--session", "/nowhere"])
    assert "/somewhere (node of a cluster)" in result.output


@pytest.mark.parametrize("command", ["status", "memory"])
def test_without_a_session_the_error_says_what_to_do(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_directory, "base_directories", lambda: [str(tmp_path)])
    result = CliRunner().invoke(main, [command])
    assert result.exit_code == 1
    assert "no session of this user runs on this machine: start a program that calls remora.init()" in result.output
    assert "start a node with `remora start`" in result.output


def test_an_inspector_leaves_nothing_in_the_session(driver: InspectedDriver) -> None:
    before = driver.ask("status")
    after = ask_until(driver, lambda answer: True, "status")
    assert [process["process"] for process in after["processes"]] == [one["process"] for one in before["processes"]]
