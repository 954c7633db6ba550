"""The rows of the table, and where their figures come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from remora.testing.cluster_bench import parts
from remora.testing.cluster_bench.parts import HERE, THERE, Effort, Figures
from remora.testing.cluster_bench.running_cluster import RunningCluster
from remora.testing.cluster_bench.systems import NodeOptions

CLEAR, TLS = "clear", "TLS"
BOTH = (TLS, CLEAR)
LABELS = {TLS: "TLS", CLEAR: "in the clear"}


@dataclass(frozen=True)
class ClusterRow:
    """One line of the table, or one a way of speaking when there are two.

    Attributes:
        name: As shown, and as matched by ``--rows``; the way of speaking follows it when there are two.
        key: Of the figure that a part returns.
        unit: Of that figure.
        lower_is_better: For durations.
        sides: Remora's ways of speaking that are measured.
        limits: By the way of speaking, which figure of `parts.raw` bounds it.
        notes: Figures by key that are shown beside the name.
    """

    name: str
    key: str
    unit: str
    lower_is_better: bool = False
    sides: Sequence[str] = BOTH
    limits: tuple[tuple[str, str], ...] = ()
    notes: tuple[tuple[str, str], ...] = ()

    def name_for(self, side: str) -> str:
        """The name of the line of one way of speaking."""
        return f"{self.name}, {LABELS[side]}" if len(self.sides) > 1 else self.name

    def limit_of(self, side: str) -> str:
        """The figure of `parts.raw` that bounds this line, or ""."""
        return dict(self.limits).get(side, "")


@dataclass(frozen=True)
class PartRows:
    """A part, as a function of a cluster that runs, and the rows that it has figures for."""

    measure: Callable[[RunningCluster, Effort], Figures]
    rows: tuple[ClusterRow, ...]


@dataclass(frozen=True)
class Scenario:
    """A cluster, and what is measured on it one after the other. A new one is started for each side and pair.

    Attributes:
        name: For progress.
        parts: In order; a later one may need what an earlier one has left.
        nodes: What Remora's cluster begins with; the first node has the driver.
        peer_nodes: The peer's.
        is_long: One measurement takes minutes, so it is done less often.
    """

    name: str
    parts: tuple[PartRows, ...]
    nodes: tuple[NodeOptions, ...]
    peer_nodes: tuple[NodeOptions, ...]
    is_long: bool = False

    def rows(self) -> list[ClusterRow]:
        """All rows."""
        return [row for part in self.parts for row in part.rows]


RAW_LIMITS = ((CLEAR, "raw socket"), (TLS, "raw TLS"))

TRANSFER = PartRows(
    parts.one_large_object,
    (
        ClusterRow("one object of 1 GB to another node, warm", "1 GB, warm", "GB/s", limits=RAW_LIMITS),
        ClusterRow("one object of 1 GB to another node, fresh", "1 GB, fresh", "GB/s", limits=RAW_LIMITS),
    ),
)
SMALL_OBJECTS = PartRows(
    parts.small_objects,
    (ClusterRow("10,000 objects of 100 KB in one get", "100 KB objects", "objects/s"),),
)
CALLS = PartRows(
    parts.calls,
    (
        ClusterRow("task calls across nodes, one by one", "task calls one by one", "calls/s"),
        ClusterRow("task calls across nodes, in bulk", "task calls in bulk", "calls/s"),
        ClusterRow("actor calls across nodes, one by one", "actor calls one by one", "calls/s"),
        ClusterRow("actor calls across nodes, in bulk", "actor calls in bulk", "calls/s"),
    ),
)
GROUPS = PartRows(
    parts.placement_groups,
    (ClusterRow("placement groups of 2 bundles on 2 nodes", "placement groups", "groups/s", sides=(TLS,)),),
)
JOINING = PartRows(
    parts.joining,
    (
        ClusterRow(
            "a node joins",
            "node joins",
            "s",
            lower_is_better=True,
            sides=(TLS,),
            notes=(("start command", "s until the command has returned"), ("interpreter", "s of a bare interpreter")),
        ),
    ),
)
DEATHS = PartRows(
    parts.deaths,
    (
        ClusterRow("death by kill -9 known", "death by kill", "s", lower_is_better=True, sides=(TLS,)),
        ClusterRow("death by silence known", "death by silence", "s", lower_is_better=True, sides=(TLS,)),
    ),
)


def _broadcast_rows(effort: Effort) -> PartRows:
    most = max(effort.readers)
    rows = [
        ClusterRow(f"1 GB over 1 Gbit/s links to {count}", f"{count} readers", "s", lower_is_better=True)
        for count in effort.readers
    ]
    rows += [
        ClusterRow(f"1 GB over 1 Gbit/s links to {count}, fresh", f"{count} reader{plural}, fresh", "s", True)
        for count, plural in ((1, ""), (most, "s"))
    ]
    rows.append(ClusterRow(f"time to {most} as a multiple of that to 1", "relative time", "", True))
    rows.append(ClusterRow(f"copies out of the source for {most}", f"copies sent to {most}", "", True))
    return PartRows(parts.broadcast, tuple(rows))


def all_scenarios(effort: Effort) -> list[Scenario]:
    """Everything that can be measured."""
    readers = tuple(NodeOptions(f"reader{number}", num_cpus=1) for number in range(1, max(effort.readers) + 2))
    two = (HERE, THERE)
    return [
        Scenario("broadcast", (_broadcast_rows(effort),), (HERE, *readers), (HERE, *readers[:-1]), is_long=True),
        Scenario("two nodes", (TRANSFER, SMALL_OBJECTS, CALLS, GROUPS), two, two),
        Scenario("nodes that come and go", (JOINING, DEATHS), two, two, is_long=True),
    ]


def select(scenarios: Sequence[Scenario], patterns: Sequence[str]) -> list[Scenario]:
    """The scenarios with the rows whose names a pattern is part of, or matches as a shell's; all without patterns.

    Raises:
        ValueError: a pattern matches nothing.
    """
    if not patterns:
        return list(scenarios)
    used: set[str] = set()

    def wanted(row: ClusterRow) -> bool:
        matching = [one for one in patterns for side in row.sides if _matches(row.name_for(side), one)]
        used.update(matching)
        return bool(matching)

    found = []
    for scenario in scenarios:
        kept = tuple(
            PartRows(part.measure, rows) for part in scenario.parts if (rows := tuple(filter(wanted, part.rows)))
        )
        if kept:
            found.append(Scenario(scenario.name, kept, scenario.nodes, scenario.peer_nodes, scenario.is_long))
    if missing := [pattern for pattern in patterns if pattern not in used]:
        raise ValueError(f"no row matches {', '.join(map(repr, missing))}; --list prints the names of all")
    return found


def _matches(name: str, pattern: str) -> bool:
    return pattern.lower() in name.lower() or fnmatch(name.lower(), pattern.lower())
