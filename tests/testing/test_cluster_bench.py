"""The benchmark of clusters: its rows, how figures become results, and one short run for real."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from remora.cli.bench.environments import Environment
from remora.cli.bench.markdown import to_markdown
from remora.cli.bench.needs import CLUSTER_NEEDS
from remora.testing.cluster_bench import parts
from remora.testing.cluster_bench.__main__ import cluster_bench
from remora.testing.cluster_bench.catalogue import ClusterRow, PartRows, Scenario, all_scenarios, select
from remora.testing.cluster_bench.parts import HERE, THERE, Effort, Figures
from remora.testing.cluster_bench.raw_sockets import measure_raw
from remora.testing.cluster_bench.runner import ClusterRun
from remora.testing.cluster_bench.running_cluster import DriverError, RunningCluster
from remora.testing.cluster_bench.systems import RemoraSystem
from remora.testing.network_lab import NetworkLab


def names(scenarios: list[Scenario]) -> list[str]:
    return [row.name_for(side) for scenario in scenarios for row in scenario.rows() for side in row.sides]


def test_every_need_is_that_of_a_row() -> None:
    wanted = {name for need in CLUSTER_NEEDS for name in need.rows}
    assert wanted <= set(names(all_scenarios(Effort())))


def test_rows_have_names_of_their_own() -> None:
    every = names(all_scenarios(Effort()))
    assert len(every) == len(set(every))


def test_rows_are_selected_by_a_part_of_their_name_or_as_a_shell_does() -> None:
    found = select(all_scenarios(Effort()), ["a node joins", "task calls*bulk*"])
    assert names(found) == [
        "task calls across nodes, in bulk, TLS",
        "task calls across nodes, in bulk, in the clear",
        "a node joins",
    ]


def test_a_pattern_that_no_row_has_is_named() -> None:
    with pytest.raises(ValueError, match="no row matches 'nonsense'"):
        select(all_scenarios(Effort()), ["nonsense", "a node joins"])


class FakeRun(ClusterRun):
    """Without clusters: each side has figures that are made up, and the peer fails the second time."""

    def __init__(self, scenarios: list[Scenario], effort: Effort) -> None:
        self.said: list[str] = []
        super().__init__(scenarios, Environment("ray", "/bin/false"), effort, self.said.append)
        self.asked: list[str] = []

    def _measure_side(self, scenario: Scenario, side: str) -> Figures:
        self.asked.append(side)
        return {"speed": {"TLS": 10.0, "clear": 20.0, "ray": 4.0}[side]}


def test_sides_take_turns_and_the_order_is_reversed_from_pair_to_pair() -> None:
    rows = (ClusterRow("a row", "speed", "calls/s"),)
    fake = FakeRun([Scenario("fake", (PartRows(parts.calls, rows),), (HERE, THERE), (HERE, THERE))], Effort(pairs=2))
    run = fake.run()
    assert "2 alternating pairs of 1 s, 3 where one takes minutes;" in to_markdown(run)
    assert fake.asked == ["TLS", "clear", "ray", "ray", "clear", "TLS"]
    assert [(row.name, row.rate, row.peer_rate, row.ratio) for row in run.rows] == [
        ("a row, TLS", 10.0, 4.0, 2.5),
        ("a row, in the clear", 20.0, 4.0, 5.0),
    ]


def test_a_row_that_has_no_figures_says_so() -> None:
    rows = (ClusterRow("a row", "other", "calls/s", sides=("TLS",)),)
    scenario = Scenario("fake", (PartRows(parts.calls, rows),), (HERE, THERE), (HERE, THERE), is_long=True)
    (result,) = FakeRun([scenario], Effort(long_pairs=1)).run().rows
    assert result.error == "it was not measured"


def test_the_list_of_rows_needs_no_namespaces() -> None:
    result = CliRunner().invoke(cluster_bench, ["--list", "--rows", "death"])
    assert result.output == "death by kill -9 known\ndeath by silence known\n"


@pytest.mark.parametrize("encrypt", [True, False])
def test_raw_sockets_carry_all_bytes(lab: NetworkLab, encrypt: bool) -> None:
    assert 0 < measure_raw(3_000_000, encrypt, rounds=1) < 10


def test_what_a_driver_raises_reaches_the_benchmark(lab: NetworkLab) -> None:
    with RunningCluster(RemoraSystem(encrypt=False), [HERE]) as cluster:
        with pytest.raises(DriverError, match="KeyError: 'nowhere'"):
            cluster.ask("send_one", size=1, nodes=["nowhere"])
        with pytest.raises(DriverError, match="no_such_thing"):
            cluster.ask("no_such_thing")


def test_a_short_run_gives_a_table_with_every_row_asked_for(lab: NetworkLab, tmp_path: Path) -> None:
    figures, table = tmp_path / "run.json", tmp_path / "run.md"
    rows = ["--rows", "10,000*clear", "--rows", "actor*clear"]
    small = ["--pairs", "1", "--seconds", "0.01", "--large", "2000000", "--small", "20"]
    result = CliRunner().invoke(
        cluster_bench, [*rows, *small, "--json", str(figures), "--markdown", str(table)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    measured = json.loads(figures.read_text())["rows"]
    assert len(measured) == len(names(select(all_scenarios(Effort()), rows[1::2])))
    assert [row["error"] for row in measured if row["name"] in table.read_text()] == [""] * len(measured)


def test_readers_in_a_chain_cost_the_source_one_copy(lab: NetworkLab) -> None:
    effort = Effort(large_bytes=8_000_000, readers=(1, 3))
    (scenario,) = select(all_scenarios(effort), ["copies out*clear"])
    with RunningCluster(RemoraSystem(encrypt=False), scenario.nodes) as cluster:
        cluster.ask("start_readers", nodes=[node.name for node in scenario.nodes[1:]])
        figures = parts.broadcast(cluster, effort)
    assert 0.9 < figures["copies sent to 3"] < 2.5
    assert figures["1 readers"] > 0.95 * 8_000_000 / (1_000_000_000 / 8)
