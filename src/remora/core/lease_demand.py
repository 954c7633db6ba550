"""What is asked of a node's workers: requests, who makes them, and which of them any worker of one sort can serve."""

from __future__ import annotations

from collections.abc import Iterator

from remora.base.ids import short
from remora.base.resources import Resources


class Request:
    """A request, with how many of its leases are still to be granted."""

    __slots__ = ("claim", "left", "number", "reported", "since_s")

    def __init__(self, claim: Claim, number: int, left: int, since_s: float) -> None:
        self.claim = claim
        self.number = number
        self.left = left
        self.since_s = since_s
        self.reported = False


class Requester:
    """A process that asks for leases, or an actor that needs its worker.

    A process is kept with its turn until it ends; an actor only while it waits for its worker, or has it.
    """

    __slots__ = ("blocked_depth", "claims", "is_gone", "process", "requests", "turn")

    def __init__(self, process: bytes) -> None:
        self.process = process
        self.claims: dict[Demand, Claim] = {}
        """Those with requests or leases, and some that had."""
        self.requests: dict[int, Request] = {}
        """All that wait, by number, whatever they ask for."""
        self.turn = 0
        self.is_gone = False
        """It has ended; there are claims of it while leases of it have not."""
        self.blocked_depth = 0
        """How deeply its task is nested while it is blocked; 0 when it is not."""


class Claim:
    """What one requester has and wants of one demand."""

    __slots__ = ("demand", "held", "leases", "place", "requester", "requests")

    def __init__(self, requester: Requester, demand: Demand) -> None:
        self.requester = requester
        self.demand = demand
        self.held = 0
        """Leases that it has or waits for with its resources allocated."""
        self.place = (0, 0)
        """In which ring of the demand it stands while it has requests."""
        self.requests: dict[int, Request] = {}
        self.leases: dict[int, None] = {}
        """Numbers of the leases it holds, oldest first."""

    def __repr__(self) -> str:
        return f"<Claim of {short(self.requester.process)}: {len(self.requests)} wait, {len(self.leases)} held>"


DemandKey = tuple[bytes, Resources, Resources, str, str, bool]
"""Job, what is held, what the node must have in all, strategy, environment, whether for an actor."""


class Demand:
    """All claims to workers of one sort. Those with requests stand in rings, in the order of their turns."""

    __slots__ = (
        "claim_count",
        "dedicated",
        "environment",
        "fits_here",
        "job",
        "key",
        "need",
        "passed_over_s",
        "required",
        "rings",
        "turn",
    )

    def __init__(self, key: DemandKey) -> None:
        self.key = key
        self.job, self.need, placement, _, self.environment, self.dedicated = key
        self.required = self.need.or_more(placement)
        """What the node must have in all."""
        self.rings: dict[tuple[int, int], dict[Claim, None]] = {}
        """By the negative depth of blocked requesters (0 for those that run) and by how many leases they hold."""
        self.claim_count = 0
        """Claims that are kept, waiting or not. Without any the demand is dropped."""
        self.turn = 0
        self.fits_here = True
        """Whether this node has so much in all."""
        self.passed_over_s: float | None = None
        """Since when others were served while this one waited."""

    def next_claim(self) -> Claim:
        """The one whose turn is first."""
        return next(iter(self.rings[min(self.rings)]))

    def enter(self, claim: Claim) -> None:
        """The claim has requests; it is the last of its ring."""
        claim.place = (-claim.requester.blocked_depth, claim.held)
        self.rings.setdefault(claim.place, {})[claim] = None

    def leave(self, claim: Claim) -> None:
        """The claim has no requests, or changes its place. Nothing happens when it is in no ring."""
        ring = self.rings.get(claim.place)
        if ring is not None and claim in ring:
            del ring[claim]
            if not ring:
                del self.rings[claim.place]

    def claims(self) -> Iterator[Claim]:
        """All claims with requests."""
        for ring in self.rings.values():
            yield from ring

    def __repr__(self) -> str:
        kind = "actors" if self.dedicated else "tasks"
        return f"<Demand of {kind} of {self.need}: {sum(1 for _ in self.claims())} requesters>"
