"""Which leases to take back when others starve, and why a request may wait for long.

A holder keeps what it has while nobody starves. Then one that has two leases more than the one who starves gives
one of them up at once; one that has as little as a single lease gives it to one who has none after ``QUANTUM_S``, so
that more submitters than CPUs take turns instead of trading at every task.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from remora.base.bundle_names import is_cpu
from remora.base.resources import Resources, describe_units, why_never
from remora.core.lease import Lease
from remora.core.lease_demand import Claim, Demand
from remora.core.resources_ledger import ResourcesLedger

QUANTUM_S = 0.005
"""About the work that a submitter keeps in flight. At 0.1 s four submitters of short bursts on two CPUs spent most
of their time waiting for leases that lingered."""

INFEASIBLE_AFTER_S = 1.0
HELD_FOR_LIFE_AFTER_S = 5.0


def leases_to_reclaim(
    pending: Sequence[Demand], leases: Collection[Lease], ledger: ResourcesLedger, now_s: float
) -> list[Lease]:
    """What to ask back so that the next claim of each pending demand can be served."""
    expected = dict(ledger.free())
    spare: dict[Claim, list[Lease]] = {}
    for lease in leases:
        if lease.reclaiming or lease.orphaned:
            _add(expected, lease)
        elif not lease.blocked and not lease.claim.demand.dedicated:
            spare.setdefault(lease.claim, []).append(lease)
    chosen: list[Lease] = []
    for demand in pending:
        if not demand.fits_here:
            continue
        claim = demand.next_claim()
        while lack := _lack(demand.need, expected):
            victim = _victim(claim, lack, spare, now_s)
            if victim is None:
                break
            spare[victim.claim].remove(victim)
            chosen.append(victim)
            _add(expected, victim)
        else:
            for name, amount in demand.need.units.items():
                expected[name] -= amount
    return chosen


def _victim(claim: Claim, lack: set[str], spare: Mapping[Claim, list[Lease]], now_s: float) -> Lease | None:
    mine = len(spare.get(claim, ()))
    best: list[Lease] = []
    for holder, theirs in spare.items():
        if holder is claim or len(theirs) <= len(best) or lack.isdisjoint(holder.demand.need):
            continue
        is_rich = len(theirs) >= mine + 2
        if is_rich or (mine == 0 and now_s - theirs[0].granted_s >= QUANTUM_S):
            best = theirs
    return best[0] if best else None


def _lack(need: Resources, expected: Mapping[str, int]) -> set[str]:
    return {name for name, amount in need.units.items() if amount > expected.get(name, 0)}


def _add(expected: dict[str, int], lease: Lease) -> None:
    for name, amount in lease.allocation.need.units.items():
        if not lease.allocation.cpus_lent or not is_cpu(name):
            expected[name] = expected.get(name, 0) + amount


def why_it_waits(
    demand: Demand, nodes: Sequence[Mapping[str, int]], leases: Collection[Lease], ledger: ResourcesLedger
) -> tuple[str, float]:
    """The reason why the demand may wait for ever, or "", and how long a request must have waited to be told."""
    if not any(demand.required.fits_into(node) for node in nodes):
        return f"{why_never(demand.required, nodes)}; it waits until a node that has it joins", INFEASIBLE_AFTER_S
    for_life: dict[str, int] = {}
    actors = 0
    for lease in leases:
        if lease.claim.demand.dedicated and not lease.allocation.cpus_lent and lease.allocation.need:
            actors += 1
            for name, amount in lease.allocation.need.units.items():
                for_life[name] = for_life.get(name, 0) + amount
    total = ledger.total.units
    short_of = {
        name: total.get(name, 0)
        for name, amount in demand.need.units.items()
        if name in for_life and total.get(name, 0) - for_life[name] < amount
    }
    if not short_of:
        return "", HELD_FOR_LIFE_AFTER_S
    held = {name: for_life[name] for name in short_of}
    return (
        f"it needs {demand.need}, and {actors} living actors hold {describe_units(held)} of this node's "
        f"{describe_units(short_of)}; it waits until one of them ends",
        HELD_FOR_LIFE_AFTER_S,
    )


def why_no_worker(leases: Collection[Lease]) -> tuple[str, float]:
    """The reason for a request that has its resources, when no worker may be started."""
    tasks = [lease for lease in leases if not lease.claim.demand.dedicated]
    blocked = sum(lease.blocked for lease in tasks)
    return (
        f"this node runs {len(tasks)} workers, which is its limit, and {blocked} of them are blocked in get() or "
        f"wait(); if what they wait for needs a worker too, nothing can go on: nest tasks less deeply, or wait for "
        f"fewer at a time",
        INFEASIBLE_AFTER_S,
    )
