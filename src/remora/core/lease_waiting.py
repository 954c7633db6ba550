"""What waits for a worker, and why, for ``remora status``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from remora.base.resources import describe_units
from remora.core.lease import Lease, Ticket
from remora.core.lease_fairness import why_it_waits
from remora.core.lease_queue import LeaseQueue
from remora.core.resources_ledger import ResourcesLedger


class WaitingRequest(msgspec.Struct, frozen=True):
    """A request for *count* workers that are not granted; amounts in ones."""

    requester: bytes
    resources: dict[str, float]
    count: int
    since_s: float
    reason: str


def waiting_requests(
    queue: LeaseQueue,
    tickets: Iterable[Ticket],
    nodes: Sequence[Mapping[str, int]],
    leases: Collection[Lease],
    ledger: ResourcesLedger,
) -> list[WaitingRequest]:
    """Those that wait for resources, then those that have them and wait for a process."""
    found = []
    for demand in queue.pending():
        reason, _ = why_it_waits(demand, nodes, leases, ledger)
        if not reason:
            lack = ledger.lacking(demand.need)
            reason = f"{describe_units(lack)} more must become free" if lack else "others are served before it"
        for request in queue.requests(demand):
            requester = request.claim.requester.process
            found.append(WaitingRequest(requester, demand.need.to_floats(), request.left, request.since_s, reason))
    for ticket in tickets:
        requester, need = ticket.claim.requester.process, ticket.claim.demand.need
        reason = "its worker process is being started"
        found.append(WaitingRequest(requester, need.to_floats(), 1, ticket.request.since_s, reason))
    return found
