"""A whole run: pair by pair, each side on a cluster of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from statistics import median

from remora.cli.bench.environments import Environment
from remora.cli.bench.machine import describe_machine, describe_versions
from remora.cli.bench.results import RowResult, Run
from remora.testing.cluster_bench.catalogue import BOTH, ClusterRow, Scenario
from remora.testing.cluster_bench.parts import Effort, Figures, raw
from remora.testing.cluster_bench.running_cluster import RunningCluster
from remora.testing.cluster_bench.systems import RaySystem, RemoraSystem, System

RAW = "raw"


class ClusterRun:
    """Collects the figures of all sides, and makes results of them.

    Args:
        scenarios: What to measure.
        peer: The peer's environment, or None to measure Remora alone.
        effort: How large and how long.
        say: Called with what is being done now.
    """

    def __init__(
        self, scenarios: Sequence[Scenario], peer: Environment | None, effort: Effort, say: Callable[[str], None]
    ) -> None:
        self._scenarios = scenarios
        self._peer = peer
        self._effort = effort
        self._say = say
        self._figures: dict[str, list[Figures]] = {}
        self._errors: dict[str, str] = {}

    def run(self) -> Run:
        """Measure everything."""
        date = datetime.now(UTC).isoformat(timespec="seconds")
        environments = {"ours": Environment("remora", sys.executable)}
        if self._peer:
            environments["theirs"] = self._peer
        run = Run(
            peer=self._peer.module if self._peer else "",
            date=date,
            machine=describe_machine(),
            versions=describe_versions(environments),
            settings={
                "pairs": self._effort.pairs,
                "long_pairs": self._effort.long_pairs,
                "seconds": self._effort.seconds,
            },
        )
        for scenario in self._scenarios:
            self._measure(scenario)
            run.rows += [self._result(row, side) for row in scenario.rows() for side in row.sides]
        run.limits = [
            RowResult(name, "GB/s", ours=[figures[name] for figures in self._figures[RAW]])
            for name in ("raw socket", "raw TLS")
            if RAW in self._figures
        ]
        return run

    def _measure(self, scenario: Scenario) -> None:
        sides = [side for side in BOTH if any(side in row.sides for row in scenario.rows())]
        if any(row.limits for row in scenario.rows()):
            sides.append(RAW)
        if self._peer:
            sides.append(self._peer.module)
        pairs = self._effort.long_pairs if scenario.is_long else self._effort.pairs
        for pair in range(pairs):
            for side in sides if pair % 2 == 0 else reversed(sides):
                now = datetime.now().strftime("%H:%M:%S")
                self._say(f"{now} {scenario.name}, pair {pair + 1} of {pairs}: {side}")
                figures = raw(self._effort) if side == RAW else self._measure_side(scenario, side)
                self._figures.setdefault(side, []).append(figures)

    def _measure_side(self, scenario: Scenario, side: str) -> Figures:
        system = self._system(side)
        is_peer = isinstance(system, RaySystem)
        figures: Figures = {}
        nodes = scenario.peer_nodes if is_peer else scenario.nodes
        try:
            with RunningCluster(system, nodes) as cluster:
                cluster.ask("start_readers", nodes=[node.name for node in nodes[1:]])
                for part in scenario.parts:
                    if is_peer or any(side in row.sides for row in part.rows):
                        figures |= part.measure(cluster, self._effort)
        except Exception as error:  # noqa: BLE001 - the other sides and pairs go on; rows without figures say why
            self._errors[side] = f"{type(error).__name__}: {error}"
            self._say(f"{scenario.name}, {side}: {self._errors[side]}")
        return figures

    def _system(self, side: str) -> System:
        if side in BOTH:
            return RemoraSystem(encrypt=side == "TLS")
        assert self._peer is not None
        return RaySystem(self._peer)

    def _result(self, row: ClusterRow, side: str) -> RowResult:
        result = RowResult(
            row.name_for(side), row.unit, row.lower_is_better, limit_name=row.limit_of(side), note=self._note(row, side)
        )
        result.ours = self._values(side, row.key)
        result.limits = self._values(RAW, row.limit_of(side))
        if self._peer:
            result.theirs = self._values(self._peer.module, row.key)
        if not result.ours:
            result.error = self._errors.get(side, "it was not measured")
        return result

    def _values(self, side: str, key: str) -> list[float]:
        return [figures[key] for figures in self._figures.get(side, []) if key in figures]

    def _note(self, row: ClusterRow, side: str) -> str:
        notes = ((median(values), text) for key, text in row.notes if (values := self._values(side, key)))
        return ", ".join(f"{value:.2f} {text}" for value, text in notes)
