"""What Remora has to reach, row by row, and whether it did."""

from __future__ import annotations

from dataclasses import dataclass

from remora.cli.bench.results import RowResult

POOL_PEERS = frozenset({"futures", "multiprocessing", "joblib", "dask"})
RAY = frozenset({"ray"})
ANY_PEER = frozenset[str]()


@dataclass(frozen=True)
class Need:
    """A bound on rows.

    Attributes:
        rows: Names of the rows.
        peers: Peers that `ratio` is held against; empty for a need that holds without a peer.
        ratio: At least this many times better than the peer.
        limit_share: At least this share of the row's limit.
        at_most: The value itself, at most.
        either: One of ratio and limit share is enough; otherwise all are needed.
    """

    rows: tuple[str, ...]
    peers: frozenset[str] = ANY_PEER
    ratio: float | None = None
    limit_share: float | None = None
    at_most: float | None = None
    either: bool = False

    def __str__(self) -> str:
        parts = []
        if self.ratio is not None:
            parts.append(f"{self.ratio:g} x")
        if self.limit_share is not None:
            parts.append(f"{self.limit_share:g} of limit")
        if self.at_most is not None:
            parts.append(f"<= {self.at_most:g}")
        return (" or " if self.either else ", ").join(parts)


NEEDS: tuple[Need, ...] = (
    Need(("single client get calls", "single client put calls"), RAY, ratio=60),
    Need(("single client tasks sync", "single client tasks async", "single client tasks and get batch"), RAY, ratio=30),
    Need(
        (
            "1:1 actor calls sync",
            "1:1 actor calls async",
            "1:n actor calls async",
            "n:n actor calls async",
            "1:1 async-actor calls async",
            "single client wait 1k refs",
            "multi client put calls",
            "multi client tasks async",
        ),
        RAY,
        ratio=20,
    ),
    Need(("1:1 actor calls concurrent",), RAY, ratio=8),
    Need(("get 1 MB", "get 100 MB", "get 1 GB", "put and get 160 KB", "actors created and called"), RAY, ratio=10),
    Need(("single client get object containing 10k refs",), RAY, ratio=5),
    Need(("single client put gigabytes", "put 100 MB", "put 1 GB"), RAY, ratio=6, limit_share=0.8, either=True),
    Need(("multi client put gigabytes",), RAY, ratio=1, limit_share=0.6),
    Need(("init",), RAY, ratio=15, at_most=0.35),
    Need(("import",), at_most=0.12),
    Need(
        (
            "pool: one call at a time",
            "pool: 1,000 calls, one per item",
            "pool: 100 calls with a 160 KB array each",
            "pool: 100 calls returning 160 KB each",
            "pool: 10 calls with the same 10 MB array",
        ),
        POOL_PEERS,
        ratio=1.5,
    ),
    Need(("idle: processes beside the driver",), at_most=5),
    Need(("idle: memory without the driver",), at_most=70),
    Need(("idle: listening TCP ports",), at_most=0),
    Need(("idle: CPU",), at_most=1),
    Need(("queued tasks: memory per task",), at_most=1000),
    Need(("queued tasks: longest pause",), at_most=0.1),
)

CLUSTER_NEEDS: tuple[Need, ...] = (
    Need(
        tuple(
            f"{kind} calls across nodes, {how}, {way}"
            for kind in ("task", "actor")
            for how in ("one by one", "in bulk")
            for way in ("TLS", "in the clear")
        ),
        RAY,
        ratio=5,
    ),
    Need(tuple(f"one object of 1 GB to another node, warm, {way}" for way in ("TLS", "in the clear")), limit_share=0.6),
    Need(tuple(f"time to 8 as a multiple of that to 1, {way}" for way in ("TLS", "in the clear")), at_most=2),
    Need(tuple(f"copies out of the source for 8, {way}" for way in ("TLS", "in the clear")), at_most=2),
    Need(("a node joins", "death by kill -9 known"), at_most=1),
    Need(("death by silence known",), at_most=5),
)
"""Of the rows of :mod:`remora.testing.cluster_bench`."""


def find_need(name: str, peer: str) -> Need | None:
    """The need that holds for this row in a run against `peer` ("" without one)."""
    for need in (*NEEDS, *CLUSTER_NEEDS):
        if name in need.rows and (need.peers == ANY_PEER or peer in need.peers or need.at_most is not None):
            return need
    return None


def is_met(need: Need, result: RowResult) -> bool | None:
    """Whether the row meets its need; None where nothing could be held against it."""
    verdicts = []
    if need.ratio is not None and result.ratio is not None:
        verdicts.append(result.ratio >= need.ratio)
    if need.limit_share is not None and result.limit_share is not None:
        verdicts.append(result.limit_share >= need.limit_share)
    if need.at_most is not None and result.rate is not None:
        verdicts.append(result.rate <= need.at_most)
    if not verdicts:
        return None
    return any(verdicts) if need.either else all(verdicts)
