"""The requests for leases that wait at a daemon, and whose turn it is.

Requests are kept by **demand** (job, resources, strategy, environment, actor or task) and within it by requester,
so that an event looks at demands, which are few, and never at requests, which may be many.

Whose turn it is, among the demands that fit now:

1. the job that was served longest ago;
2. within it, requesters that are blocked workers, the most deeply nested first: what they wait for frees a worker,
   and a recursion then needs as many workers as it is deep, not as it is wide;
3. the requester that holds the fewest leases of this sort: leases linger, so turns alone would not share them;
4. the requester, then the demand, that was served longest ago.

A demand for many CPUs would never find them free together while small ones take each. So one that has been passed
over for ``PATIENCE_S`` because of CPUs alone stops the others, except those of blocked workers: running tasks end
or block, either frees their CPUs. It lets one other through every ``PASS_BY_S``, since a task may also poll for
another one without blocking.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from remora.base.ids import short
from remora.base.resources import CPU
from remora.core.lease_demand import Claim, Demand, DemandKey, Request, Requester
from remora.core.resources_ledger import ResourcesLedger

PATIENCE_S = 1.0
PASS_BY_S = 5.0
UNUSED_CLAIMS = 100
"""How many claims without requests and leases are kept: most processes ask again for what they had, and their turns
count. There may be as many sorts of workers as a job makes placement groups, so that not all can be kept."""


class LeaseQueue:
    """Every waiting request of a node. So many claims are kept that have neither requests nor leases."""

    def __init__(self, unused_claims: int = UNUSED_CLAIMS) -> None:
        self._unused_claims = unused_claims
        self._demands: dict[DemandKey, Demand] = {}
        self._pending: dict[Demand, None] = {}
        self._requesters: dict[bytes, Requester] = {}
        self._unused: dict[Claim, None] = {}
        """Claims without requests and leases, that of longest ago first."""
        self._job_turn: dict[bytes, int] = {}
        self._last_turn = 0
        self._pass_by_at_s = 0.0

    def add(self, process: bytes, number: int, key: DemandKey, count: int, now_s: float) -> Claim:
        """Queue a request.

        Raises:
            ValueError: the requester has a request of this number, or *count* is not positive.
        """
        requester = self._requesters.get(process)
        if count < 1:
            raise ValueError(f"{short(process)} asks for {count} leases")
        if requester is not None and number in requester.requests:
            raise ValueError(f"{short(process)} used request number {number} twice")
        if requester is None:
            requester = self._requesters[process] = Requester(process)
        demand = self._demands.get(key)
        if demand is None:
            demand = self._demands[key] = Demand(key)
        claim = requester.claims.get(demand)
        if claim is None:
            claim = requester.claims[demand] = Claim(requester, demand)
            demand.claim_count += 1
        if not claim.requests:
            demand.enter(claim)
            self._unused.pop(claim, None)
        claim.requests[number] = requester.requests[number] = Request(claim, number, count, now_s)
        self._pending.setdefault(demand)
        return claim

    def next_claim(self, ledger: ResourcesLedger, now_s: float) -> Claim | None:
        """The claim to serve now with what *ledger* has free, or None."""
        if not self._pending:
            return None
        hungry = self._longest_passed_over(ledger, now_s)
        best: Claim | None = None
        held_back: Claim | None = None
        for demand in self._pending:
            if not demand.fits_here or not ledger.fits(demand.need):
                continue
            claim = demand.next_claim()
            if (
                hungry is not None
                and demand is not hungry
                and not claim.requester.blocked_depth
                and CPU in demand.need.units
            ):
                held_back = self._first(held_back, claim)
            else:
                best = self._first(best, claim)
        if best is None and held_back is not None and now_s >= self._pass_by_at_s:
            self._pass_by_at_s = now_s + PASS_BY_S
            return held_back
        return best

    def _first(self, one: Claim | None, other: Claim) -> Claim:
        return other if one is None or self._rank(other) < self._rank(one) else one

    def _rank(self, claim: Claim) -> tuple[int, tuple[int, int], int, int]:
        demand = claim.demand
        return self._job_turn.get(demand.job, 0), claim.place, claim.requester.turn, demand.turn

    def serve(self, claim: Claim, now_s: float) -> Request:
        """One lease less of the claim's oldest request is wanted; its turn has been."""
        demand = claim.demand
        request = next(iter(claim.requests.values()))
        request.left -= 1
        self._last_turn += 1
        claim.requester.turn = demand.turn = self._job_turn[demand.job] = self._last_turn
        demand.leave(claim)
        claim.held += 1
        if request.left == 0:
            del claim.requests[request.number], claim.requester.requests[request.number]
        if claim.requests:
            demand.enter(claim)
        elif not demand.rings:
            del self._pending[demand]
        demand.passed_over_s = None
        for other in self._pending:
            if other is not demand and other.passed_over_s is None and other.fits_here:
                other.passed_over_s = now_s
        return request

    def let_go(self, claim: Claim) -> None:
        """The claim has one lease less."""
        claim.held -= 1
        if claim.requests:
            claim.demand.leave(claim)
            claim.demand.enter(claim)
        elif not claim.held:
            self._set_aside(claim)

    def cancel(self, process: bytes, number: int) -> None:
        """Drop what is left of a request; one that is not there was granted."""
        request = self._find(process, number)
        if request is not None:
            claim = request.claim
            del claim.requests[number], claim.requester.requests[number]
            self._left(claim)

    def left(self, process: bytes, number: int) -> int:
        """How many leases of the request wait for their resources."""
        request = self._find(process, number)
        return request.left if request is not None else 0

    def take_back(self, process: bytes, number: int, count: int) -> int:
        """Let *count* of them wait no more, or as many as there are; returns how many."""
        request = self._find(process, number)
        if request is None:
            return 0
        if request.left <= count:
            self.cancel(process, number)
            return request.left
        request.left -= count
        return count

    def want_more(self, process: bytes, number: int, count: int) -> None:
        """*count* more leases of a request that waits.

        Raises:
            ValueError: there is none of this number.
        """
        request = self._find(process, number)
        if request is None:
            raise ValueError(f"{short(process)} has no request number {number} that waits")
        request.left += count

    def demand_of(self, process: bytes, number: int) -> Demand | None:
        """The demand of a request that waits."""
        request = self._find(process, number)
        return request.claim.demand if request is not None else None

    def _find(self, process: bytes, number: int) -> Request | None:
        requester = self._requesters.get(process)
        return requester.requests.get(number) if requester is not None else None

    def remove(self, process: bytes) -> list[Claim]:
        """The requester is gone; returns the claims it had, for their leases."""
        requester = self._requesters.pop(process, None)
        if requester is None:
            return []
        requester.is_gone = True
        requester.requests.clear()
        claims = list(requester.claims.values())
        for claim in claims:
            claim.requests.clear()
            self._left(claim)
        return claims

    def forget_job(self, job: bytes) -> None:
        """Forget the job's turn."""
        self._job_turn.pop(job, None)

    def set_blocked(self, process: bytes, depth: int) -> None:
        """The requester is a worker that is blocked in a task nested so deeply; 0: it runs."""
        requester = self._requesters.get(process)
        if requester is None and depth:
            requester = self._requesters[process] = Requester(process)
        if requester is None:
            return
        requester.blocked_depth = depth
        for demand, claim in requester.claims.items():
            if claim.requests:
                demand.leave(claim)
                demand.enter(claim)

    def is_waiting(self, process: bytes) -> bool:
        """Whether the process has requests or leases."""
        requester = self._requesters.get(process)
        return requester is not None and any(claim.requests or claim.leases for claim in requester.claims.values())

    def pending(self) -> list[Demand]:
        """Demands with requests, oldest first."""
        return list(self._pending)

    def requests(self, demand: Demand) -> Iterator[Request]:
        """All requests of a demand."""
        for claim in demand.claims():
            yield from claim.requests.values()

    def claims(self) -> Iterator[Claim]:
        """All claims of the requesters that are there, waiting or not."""
        for requester in self._requesters.values():
            yield from requester.claims.values()

    def is_held_back(self, demand: Demand) -> bool:
        """Whether another demand has been passed over for so long that this one may have to let it go first."""
        return any(other is not demand and other.passed_over_s is not None for other in self._pending)

    def _left(self, claim: Claim) -> None:
        demand = claim.demand
        if claim.requests:
            return
        demand.leave(claim)
        if not demand.rings:
            self._pending.pop(demand, None)
            demand.passed_over_s = None
        if not claim.held:
            self._set_aside(claim)

    def _set_aside(self, claim: Claim) -> None:
        """Nothing of it waits and nothing is held."""
        unused = self._unused
        if claim.requester.is_gone or claim.demand.dedicated:
            self._drop(claim)
            return
        unused[claim] = None
        if len(unused) > self._unused_claims:
            self._drop(next(iter(unused)))

    def _drop(self, claim: Claim) -> None:
        requester, demand = claim.requester, claim.demand
        self._unused.pop(claim, None)
        del requester.claims[demand]
        demand.claim_count -= 1
        if not demand.claim_count:
            del self._demands[demand.key]
        if demand.dedicated and not requester.claims and not requester.is_gone:
            del self._requesters[requester.process]

    def _longest_passed_over(self, ledger: ResourcesLedger, now_s: float) -> Demand | None:
        hungry: Demand | None = None
        since_s = now_s - PATIENCE_S
        for demand in self._pending:
            passed_over_s = demand.passed_over_s
            if passed_over_s is None or passed_over_s > since_s or not demand.fits_here:
                continue
            if ledger.lacking(demand.need).keys() <= {CPU}:
                hungry, since_s = demand, passed_over_s
        if hungry is not None and self._pass_by_at_s < since_s + PATIENCE_S:
            self._pass_by_at_s = since_s + PATIENCE_S + PASS_BY_S
        return hungry

    def validate(self) -> None:
        """
        Raises:
            AssertionError: an index does not agree with the requests.
        """
        for requester in self._requesters.values():
            assert not requester.is_gone, f"{short(requester.process)} is gone and kept"
            waiting = {number: one for claim in requester.claims.values() for number, one in claim.requests.items()}
            assert requester.requests == waiting, f"{short(requester.process)}: requests of which no claim knows"
            for demand, claim in requester.claims.items():
                assert bool(claim.requests or claim.held) != (claim in self._unused), f"{claim!r}: in use, or unused"
                assert self._demands.get(demand.key) is demand, f"{demand!r} of {claim!r} was dropped"
                assert claim.demand is demand, f"{claim!r} is filed wrongly"
                assert bool(claim.requests) == (claim in demand.claims()), f"{claim!r} is not in its turn"
                place = (-requester.blocked_depth, claim.held)
                assert not claim.requests or claim.place == place, f"{claim!r} stands in the wrong ring"
                assert all(request.left > 0 for request in claim.requests.values()), f"{claim!r} has empty requests"
        assert len(self._unused) <= self._unused_claims, f"{self!r}: too many unused claims"
        assert self._unused.keys() <= set(self.claims()), f"{self!r}: unused claims of those who are gone"
        claims = Counter(claim.demand for claim in self.claims())
        for demand in self._demands.values():
            assert demand.claim_count >= max(1, claims[demand]), f"{demand!r} has {demand.claim_count} claims"
            assert bool(demand.rings) == (demand in self._pending), f"{demand!r} waits and is not pending"

    def __repr__(self) -> str:
        return f"<LeaseQueue {list(self._pending)}>"
