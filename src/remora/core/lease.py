"""A lease, the ticket that becomes one, and what the lease table asks its daemon to do."""

from __future__ import annotations

import msgspec

from remora.base.ids import short
from remora.core.lease_demand import Claim, Request
from remora.core.resources_ledger import Allocation
from remora.core.worker_pool import PooledWorker, StartWorker, StopWorker
from remora.messages.leases import LeaseBroken, LeaseDelayed, LeaseEnded, LeaseGranted, ReclaimLease, RequestFailed


class Send(msgspec.Struct, frozen=True):
    """Send the message to the process."""

    process: bytes
    message: LeaseGranted | LeaseDelayed | RequestFailed | LeaseBroken | ReclaimLease | LeaseEnded


class RejectRequest(msgspec.Struct, frozen=True):
    """Tell the process's node that *count* workers of the request cannot be had here soon."""

    process: bytes
    request: int
    count: int


class ActorPlaced(msgspec.Struct, frozen=True):
    """The worker is the actor's, for the life of both."""

    actor: bytes
    worker: PooledWorker
    gpu_ids: tuple[int, ...]


class ActorDelayed(msgspec.Struct, frozen=True):
    """The actor waits, and *reason* says why that may be long."""

    actor: bytes
    reason: str


class ActorUnplaceable(msgspec.Struct, frozen=True):
    """No worker can be started for the actor."""

    actor: bytes
    reason: str


Effect = Send | RejectRequest | ActorPlaced | ActorDelayed | ActorUnplaceable | StartWorker | StopWorker


class Lease:
    """A worker that is one requester's, and the resources that it has."""

    __slots__ = ("allocation", "blocked", "claim", "depth", "granted_s", "number", "orphaned", "reclaiming", "worker")

    def __init__(
        self, number: int, claim: Claim, worker: PooledWorker, allocation: Allocation, depth: int, granted_s: float
    ) -> None:
        self.number = number
        self.claim = claim
        self.worker = worker
        self.allocation = allocation
        self.depth = depth
        """1 for a lease of a driver, one more than the holder's own for a lease of a worker."""
        self.granted_s = granted_s
        self.blocked = False
        self.reclaiming = False
        self.orphaned = False
        """Its holder is gone; the worker is asked to say when it is idle."""

    def __repr__(self) -> str:
        marks = "".join(f" {mark}" for mark in ("blocked", "reclaiming", "orphaned") if getattr(self, mark))
        return f"<Lease {self.number} of {self.worker!r} to {short(self.claim.requester.process)}{marks}>"


class Ticket:
    """A request that has its resources and waits for a worker process."""

    __slots__ = ("allocation", "claim", "request")

    def __init__(self, claim: Claim, request: Request, allocation: Allocation) -> None:
        self.claim = claim
        self.request = request
        self.allocation = allocation
