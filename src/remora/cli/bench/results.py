"""The result of one row, and of a whole run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from remora.cli.bench.samples import median_ratio, spread

#: A row whose values lie further apart than this is measured again, and shown as noisy if it stays so.
NOISY_SPREAD = 0.20


@dataclass
class RowResult:
    """All measurements of one row. Index i of each list belongs to the same pair.

    Attributes:
        name: The row's name.
        unit: Unit of the values, as in "calls/s", "GB/s", "s" or "MB".
        lower_is_better: True for durations, sizes and counts.
        ours: Remora's values.
        theirs: The peer's values; empty without a peer.
        limits: The values of the row's limit; empty where the row has none.
        limit_name: That limit's name.
        attempts: How often the whole row was measured; the calmest attempt is shown.
        other_side_cpu: CPU used by the idle side during each measurement, as a share of one core.
        note: What a reader must know to read the row right.
        error: Why there is no result, or "".
    """

    name: str
    unit: str
    lower_is_better: bool = False
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    limits: list[float] = field(default_factory=list)
    limit_name: str = ""
    attempts: int = 1
    other_side_cpu: list[float] = field(default_factory=list)
    note: str = ""
    error: str = ""

    @property
    def rate(self) -> float | None:
        """Median of Remora's values."""
        return median(self.ours) if self.ours else None

    @property
    def peer_rate(self) -> float | None:
        """Median of the peer's values."""
        return median(self.theirs) if self.theirs else None

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer: the median of the pairwise ratios."""
        return median_ratio(self.ours, self.theirs, lower_is_better=self.lower_is_better)

    @property
    def limit_share(self) -> float | None:
        """Which share of its limit the row reaches: the median of the pairwise shares."""
        return median_ratio(self.ours, self.limits)

    @property
    def spread(self) -> float:
        """The larger of the two sides' spreads."""
        return max((spread(values) for values in (self.ours, self.theirs) if values), default=0.0)

    @property
    def noisy(self) -> bool:
        """Whether the row's values lie too far apart."""
        return self.spread > NOISY_SPREAD

    def summary(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        computed = {
            "rate": self.rate,
            "peer_rate": self.peer_rate,
            "ratio": self.ratio,
            "limit_share": self.limit_share,
            "spread": self.spread,
            "noisy": self.noisy,
        }
        return asdict(self) | computed


@dataclass
class Run:
    """A whole run.

    Attributes:
        peer: The peer's name, or "".
        date: When it began, in ISO 8601 with the time zone.
        machine: Processor, cores, memory, kernel.
        versions: Of Python and of both sides.
        settings: Pairs, seconds and whatever else shaped the run.
        rows: The results in the order measured.
        limits: The limits by themselves, in `RowResult.ours`.
    """

    peer: str
    date: str
    machine: dict[str, str]
    versions: dict[str, str]
    settings: dict[str, float]
    rows: list[RowResult] = field(default_factory=list)
    limits: list[RowResult] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The run as JSON data."""
        data = {name: getattr(self, name) for name in ("peer", "date", "machine", "versions", "settings")}
        data["rows"] = [row.summary() for row in self.rows]
        data["limits"] = [row.summary() for row in self.limits]
        return data
