"""The daemon's side of leases: who gets which worker, and when it must give it back.

A request waits in the queue until its resources are free; then it has them, and waits for a worker process of its
job and environment, which is taken from the idle ones or started. A worker has one lease at most. What happens
seldom is left to ``tick``, every 50 ms or so.

A request of a process of another node is granted if it has its resources at once, in its turn; what of it has not is
rejected, because its own node may find another one for it. A *patient* one may wait for ``PATIENCE_S``: its node has
found none for a while, and by waiting it takes its turn among the requests of this node.

Messages that met on the way are no errors: a return of a lease that broke, a state of a worker whose lease has
ended, the cancelling of a request that was granted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from remora.base.bundle_names import group_of
from remora.base.ids import short
from remora.base.resources import CPU, UNITS_PER_ONE, Resources
from remora.core.bundle_ledger import BundleLedger
from remora.core.lease import (
    ActorDelayed,
    ActorPlaced,
    ActorUnplaceable,
    Effect,
    Lease,
    RejectRequest,
    Send,
    Ticket,
)
from remora.core.lease_demand import Claim, DemandKey, Request
from remora.core.lease_fairness import QUANTUM_S, leases_to_reclaim, why_it_waits, why_no_worker
from remora.core.lease_queue import LeaseQueue
from remora.core.lease_waiting import WaitingRequest, waiting_requests
from remora.core.resources_ledger import ResourcesLedger
from remora.core.worker_pool import MAX_WORKERS, Key, PooledWorker, StopWorker, WorkerPool
from remora.messages.leases import LeaseBroken, LeaseDelayed, LeaseEnded, LeaseGranted, ReclaimLease, RequestFailed

RECLAIM_EVERY_S = 0.01
REPORT_EVERY_S = 0.5
REMEMBERED_GROUPS = 1000
PATIENCE_S = 10.0


class LeaseTable:
    """Requests, leases, resources and workers of one node.

    Example:
        >>> table = LeaseTable(Resources.of(num_cpus=2))
        >>> table.request(driver, job, 1, Resources.of(num_cpus=1), now_s=0.0)
        >>> table.outbox
        [StartWorker(number=1, job=b'...', environment='')]
    """

    def __init__(
        self, total: Resources, warm: int | None = None, max_workers: int = MAX_WORKERS, node: bytes = b""
    ) -> None:
        """*node* is the upper half of the numbers of its leases."""
        self.outbox: list[Effect] = []
        """In order. The daemon takes what is in it, and leaves an empty list."""
        cpus = -(-total.units.get(CPU, 0) // UNITS_PER_ONE)
        self.pool = WorkerPool(cpus, lambda effect: self.outbox.append(effect), warm, max_workers)
        self.ledger = ResourcesLedger(total)
        self.bundles = BundleLedger(self.ledger)
        """Call :meth:`bundles_changed` after changing it."""
        self._removed_groups: dict[bytes, str] = {}
        """Placement groups that nothing waits for, and why."""
        self._nodes = [total.units]
        self._queue = LeaseQueue()
        self._tickets: dict[Key, dict[Ticket, None]] = {}
        self._leases: dict[int, Lease] = {}
        self._lease_of_worker: dict[bytes, Lease] = {}
        self._first_lease = int.from_bytes(node, "big") << 32
        self._last_lease = self._first_lease
        self._patient: dict[tuple[bytes, int], float] = {}
        """Process and number of requests of other nodes that may wait until then."""
        self.is_submitter: Callable[[bytes], bool] = lambda process: False
        """Whether a worker has requests or leases elsewhere, so that it is not stopped for idling."""
        self._reclaim_at_s = 0.0
        self._report_at_s = 0.0

    def request(
        self,
        process: bytes,
        job: bytes,
        number: int,
        need: Resources,
        strategy: str = "",
        environment: str = "",
        count: int = 1,
        *,
        is_forwarded: bool = False,
        is_patient: bool = False,
        now_s: float,
    ) -> None:
        """The process wants *count* workers, each with *need*.

        *is_forwarded*: it is a process of another node. What cannot be granted soon is answered by ``RejectRequest``,
        at once or, when it *is_patient*, after ``PATIENCE_S``.

        Raises:
            ValueError: it has a request of this number, or *count* is not positive.
        """
        key = (job, need, Resources(), strategy, environment, False)
        if not is_forwarded:
            self._add(process, number, key, count, now_s)
        elif self.pool.is_full():
            self.outbox.append(RejectRequest(process, number, count))
        else:
            self._add_forwarded(process, number, key, count, is_patient, now_s)

    def take_back(self, process: bytes, number: int, count: int, now_s: float) -> int:
        """So many of the request's leases, or as many as wait for resources, are wanted elsewhere; returns how many."""
        taken = self._queue.take_back(process, number, count)
        self._dispatch(now_s)
        return taken

    def want_more(self, process: bytes, number: int, count: int, now_s: float) -> None:
        """*count* more leases of a request that waits for resources.

        Raises:
            ValueError: it does not wait for any.
        """
        self._queue.want_more(process, number, count)
        self._dispatch(now_s)

    def is_stuck(self, process: bytes, number: int) -> bool:
        """Whether the request waits for what this node will not have free before some actor ends."""
        demand = self._queue.demand_of(process, number)
        return demand is not None and bool(why_it_waits(demand, self._nodes, self._leases.values(), self.ledger)[0])

    def queued(self, process: bytes, number: int) -> int:
        """How many of the request's leases wait for resources."""
        return self._queue.left(process, number)

    def request_actor(
        self,
        actor: bytes,
        job: bytes,
        need: Resources,
        placement: Resources,
        strategy: str = "",
        environment: str = "",
        *,
        now_s: float,
    ) -> None:
        """The actor wants a worker of its own with *need*, answered by ``ActorPlaced``.

        *placement* is what its node must have in all, in use or not: on the node where it is asked for there is
        nothing to choose, and an actor that holds nothing need not wait for tasks to end.

        Raises:
            ValueError: it waits for one already.
        """
        self._add(actor, 0, (job, need, placement, strategy, environment, True), 1, now_s)

    def cancel(self, process: bytes, number: int, now_s: float) -> int:
        """What of the request is not granted is not wanted any more; returns how many leases that are."""
        count = self._queue.left(process, number)
        self._queue.cancel(process, number)
        dropped = self._drop_tickets(
            lambda ticket: ticket.request.number == number and ticket.claim.requester.process == process
        )
        self._dispatch(now_s)
        return count + len(dropped)

    def returned(self, process: bytes, leases: Sequence[int], now_s: float) -> None:
        """The holder has nothing more for these workers.

        Raises:
            ValueError: one of them was never granted, or to somebody else.
        """
        for number in leases:
            lease = self._leases.get(number)
            if not self._first_lease < number <= self._last_lease:
                raise ValueError(f"{short(process)} returns lease {number}, which was never granted")
            if lease is not None and lease.claim.requester.process != process:
                raise ValueError(f"{short(process)} returns {lease!r}")
        for number in leases:
            lease = self._leases.get(number)
            if lease is not None and not lease.orphaned:
                self._free_worker(lease, now_s)
        self._dispatch(now_s)

    def kill(self, process: bytes, number: int) -> None:
        """The holder wants the worker of a lease to end at once. Nothing happens when it has ended already.

        Raises:
            ValueError: the lease is somebody else's.
        """
        lease = self._leases.get(number)
        if lease is None:
            return
        if lease.claim.requester.process != process:
            raise ValueError(f"{short(process)} wants the worker of {lease!r} killed")
        self.outbox.append(StopWorker(lease.worker.number, lease.worker.process, force=True))

    def blocked(self, process: bytes, now_s: float) -> None:
        """The worker waits for something: its CPUs are free, and its own requests come first."""
        lease = self._lease_of_worker.get(process)
        if lease is None or lease.blocked:
            return
        lease.blocked = True
        self.ledger.lend_cpus(lease.allocation)
        if not lease.claim.demand.dedicated:
            self._queue.set_blocked(process, lease.depth)
        self._dispatch(now_s)

    def unblocked(self, process: bytes, now_s: float) -> None:
        """The worker runs again, and has its CPUs back even if others use them."""
        lease = self._lease_of_worker.get(process)
        if lease is None or not lease.blocked:
            return
        lease.blocked = False
        self.ledger.retake_cpus(lease.allocation)
        self._queue.set_blocked(process, 0)

    def worker_ready(self, number: int, process: bytes, address: str, slot: int, now_s: float) -> None:
        """A process that ``StartWorker`` asked for has said hello.

        Raises:
            ValueError: the worker is not starting.
        """
        worker = self.pool.ready(number, process, address, slot, now_s)
        if worker is not None:
            self._match(worker.key, now_s)

    def worker_start_failed(self, number: int, cause: str, now_s: float) -> None:
        """The process ended before it said hello. After some in a row those who wait for such a worker fail."""
        key, gives_up = self.pool.start_failed(number)
        if gives_up:
            reason = f"no worker could be started: {cause}"
            for ticket in self._drop_tickets(lambda ticket: _key(ticket.claim) == key):
                self._queue.cancel(ticket.claim.requester.process, ticket.request.number)
                self._say_failed(ticket.request, reason)
        self._dispatch(now_s)

    def worker_idle(self, process: bytes, now_s: float) -> None:
        """A worker whose lease holder is gone has ended what it ran for it."""
        lease = self._lease_of_worker.get(process)
        if lease is not None and lease.orphaned:
            self._free_worker(lease, now_s)
            self._dispatch(now_s)

    def worker_died(self, process: bytes, cause: str, now_s: float, running: bytes = b"") -> None:
        """The worker's process has ended, as a worker and as a submitter; *running* as in ``LeaseBroken``."""
        self.pool.died(process)
        lease = self._lease_of_worker.get(process)
        if lease is not None:
            self._end_lease(lease)
            if not lease.orphaned and not lease.claim.demand.dedicated:
                holder = lease.claim.requester.process
                if holder != process:  # it may have been its own, for what it submitted before it was idle
                    self.outbox.append(Send(holder, LeaseBroken(lease.number, process, cause, running)))
        self.requester_gone(process, now_s)

    def requester_gone(self, process: bytes, now_s: float) -> None:
        """Its requests are dropped; its workers end what they run for it and say so. For an actor: it waits no more."""
        self._drop_tickets(lambda ticket: ticket.claim.requester.process == process)
        for claim in self._queue.remove(process):
            for number in claim.leases:
                lease = self._leases[number]
                if not claim.demand.dedicated:
                    lease.orphaned = True
                    self.outbox.append(Send(lease.worker.process, LeaseEnded(number)))
        self._dispatch(now_s)

    def job_started(self, job: bytes) -> None:
        """Its workers are worth warming."""
        self.pool.job_started(job)

    def job_ended(self, job: bytes, now_s: float) -> None:
        """Stop every worker of the job but its actors, which the actor registry ends.

        What is asked for is dropped with who has asked (:meth:`requester_gone`): it may be a detached actor, which
        lives on.
        """
        self._queue.forget_job(job)
        self.pool.job_ended(job)
        for key, tickets in self._tickets.items():
            self.pool.want(key, len(tickets))
        self._dispatch(now_s)

    def awaits_worker_of(self, job: bytes) -> bool:
        """Whether an actor of the job, or one that submits tasks, waits for a worker."""
        if any(demand.job == job for demand in self._queue.pending()):
            return True
        return any(key_job == job for key_job, _ in self._tickets)

    def resources_changed(self, total: Resources, other_nodes: Sequence[Resources], now_s: float) -> None:
        """What this node has in all now, and what others have; what no node had may have become possible.

        Raises:
            ValueError: this node has less of something than before.
        """
        self.ledger.grow(total)
        self._nodes = [self.ledger.total.units, *(node.units for node in other_nodes)]
        self.bundles_changed(now_s)

    def bundles_changed(self, now_s: float) -> None:
        """Bundles of placement groups came or went: what waits may fit now, or not any more."""
        self._nodes[0] = total = self.ledger.total.units
        for demand in self._queue.pending():
            demand.fits_here = demand.required.fits_into(total)
        self._dispatch(now_s)

    def group_removed(self, group: bytes, reason: str, now_s: float) -> list[bytes]:
        """Fail what waits for resources of the group, now and later. Returns the workers that have some."""
        self._removed_groups.pop(group, None)
        self._removed_groups[group] = reason
        if len(self._removed_groups) > REMEMBERED_GROUPS:
            del self._removed_groups[next(iter(self._removed_groups))]
        for ticket in self._drop_tickets(lambda ticket: group_of(ticket.allocation.need) == group):
            self._queue.cancel(ticket.claim.requester.process, ticket.request.number)
            self._say_failed(ticket.request, reason, is_group_removed=True)
        for demand in [demand for demand in self._queue.pending() if group_of(demand.need) == group]:
            for request in list(self._queue.requests(demand)):
                self._queue.cancel(request.claim.requester.process, request.number)
                self._say_failed(request, reason, is_group_removed=True)
        self._dispatch(now_s)
        return [lease.worker.process for lease in self._leases.values() if group_of(lease.allocation.need) == group]

    def tick(self, now_s: float) -> None:
        """Take leases back for those who starve, say why others wait, stop idle workers."""
        for (process, number), until_s in list(self._patient.items()):
            if now_s >= until_s:
                self._reject(process, number)
        self._dispatch(now_s)
        self._reclaim(now_s)
        if now_s >= self._report_at_s:
            self._report_at_s = now_s + REPORT_EVERY_S
            self._report(now_s)
        self.pool.tick(now_s, self._may_stop)

    @property
    def has_periodic_work(self) -> bool:
        """Whether :meth:`tick` may have something to do soon: somebody waits, or an idle worker is too many."""
        return bool(self._tickets) or any(True for _ in self._queue.pending()) or self.pool.has_surplus

    def next_reclaim_s(self, now_s: float) -> float | None:
        """When :meth:`tick` may take a lease back that it may not take yet; None when nobody waits for one."""
        if not any(demand.fits_here for demand in self._queue.pending()):
            return None
        due_s = [lease.granted_s + QUANTUM_S for lease in self._leases.values() if not lease.reclaiming]
        return min((time for time in due_s if time > now_s), default=None)

    def leases(self) -> list[Lease]:
        """All leases, for ``remora status``."""
        return list(self._leases.values())

    def waiting(self) -> list[WaitingRequest]:
        """Every request that is not granted, and why, for ``remora status``."""
        tickets = [ticket for tickets in self._tickets.values() for ticket in tickets]
        return waiting_requests(self._queue, tickets, self._nodes, self._leases.values(), self.ledger)

    # From request to lease.

    def _add(self, process: bytes, number: int, key: DemandKey, count: int, now_s: float) -> None:
        claim = self._queue.add(process, number, key, count, now_s)
        claim.demand.fits_here = claim.demand.required.fits_into(self.ledger.total.units)
        self._dispatch(now_s)
        if self._removed_groups and (group := group_of(claim.demand.need)) in self._removed_groups:
            self.group_removed(group, self._removed_groups[group], now_s)
        begins_to_wait = len(claim.requests) == 1 and number in claim.requests
        if begins_to_wait or (claim.requests and now_s >= self._reclaim_at_s):
            self._reclaim(now_s)

    def _add_forwarded(
        self, process: bytes, number: int, key: DemandKey, count: int, is_patient: bool, now_s: float
    ) -> None:
        claim = self._queue.add(process, number, key, count, now_s)
        claim.demand.fits_here = claim.demand.required.fits_into(self.ledger.total.units)
        self._dispatch(now_s)
        if not (is_patient and claim.demand.fits_here):
            self._reject(process, number)
        elif self._queue.left(process, number):
            self._patient[process, number] = now_s + PATIENCE_S
            self._reclaim(now_s)

    def _reject(self, process: bytes, number: int) -> None:
        self._patient.pop((process, number), None)
        count = self._queue.left(process, number)
        if count:
            self._queue.cancel(process, number)
            self.outbox.append(RejectRequest(process, number, count))

    def _may_stop(self, worker: PooledWorker) -> bool:
        return not self._queue.is_waiting(worker.process) and not self.is_submitter(worker.process)

    def _dispatch(self, now_s: float) -> None:
        while (claim := self._queue.next_claim(self.ledger, now_s)) is not None:
            allocation = self.ledger.allocate(claim.demand.need)
            assert allocation is not None, f"{claim!r} was chosen because it fits"
            request = self._queue.serve(claim, now_s)
            key = _key(claim)
            self._tickets.setdefault(key, {})[Ticket(claim, request, allocation)] = None
            self._match(key, now_s)

    def _match(self, key: Key, now_s: float) -> None:
        """Give idle workers to tickets, and start as many more as are needed."""
        tickets = self._tickets.get(key, {})
        while tickets and (worker := self.pool.take(key)) is not None:
            ticket = next(iter(tickets))
            del tickets[ticket]
            self._grant(ticket, worker, now_s)
        if not tickets:
            self._tickets.pop(key, None)
        self.pool.want(key, len(tickets))

    def _grant(self, ticket: Ticket, worker: PooledWorker, now_s: float) -> None:
        claim, allocation = ticket.claim, ticket.allocation
        holder = claim.requester.process
        parent = self._lease_of_worker.get(holder)
        self._last_lease += 1
        lease = Lease(self._last_lease, claim, worker, allocation, parent.depth + 1 if parent else 1, now_s)
        self._leases[lease.number] = self._lease_of_worker[worker.process] = lease
        claim.leases[lease.number] = None
        if claim.demand.dedicated:
            self.pool.dedicate(worker)
            self.outbox.append(ActorPlaced(holder, worker, allocation.gpu_ids))
        else:
            number = ticket.request.number
            grant = LeaseGranted(number, lease.number, worker.process, worker.address, worker.slot, allocation.gpu_ids)
            self.outbox.append(Send(holder, grant))

    def _drop_tickets(self, is_dropped: Callable[[Ticket], bool]) -> list[Ticket]:
        dropped = []
        for key, tickets in list(self._tickets.items()):
            for ticket in [ticket for ticket in tickets if is_dropped(ticket)]:
                del tickets[ticket]
                self.ledger.release(ticket.allocation)
                self._queue.let_go(ticket.claim)
                dropped.append(ticket)
            if not tickets:
                del self._tickets[key]
            self.pool.want(key, len(tickets))
        return dropped

    # From lease to free worker.

    def _free_worker(self, lease: Lease, now_s: float) -> None:
        self._end_lease(lease)
        self.pool.give_back(lease.worker, now_s)
        self._match(lease.worker.key, now_s)

    def _end_lease(self, lease: Lease) -> None:
        self.ledger.release(lease.allocation)
        del self._leases[lease.number], self._lease_of_worker[lease.worker.process]
        lease.claim.leases.pop(lease.number, None)
        self._queue.let_go(lease.claim)
        self._queue.set_blocked(lease.worker.process, 0)

    # What tick does.

    def _reclaim(self, now_s: float) -> None:
        self._reclaim_at_s = now_s + RECLAIM_EVERY_S
        for lease in leases_to_reclaim(self._queue.pending(), self._leases.values(), self.ledger, now_s):
            lease.reclaiming = True
            self.outbox.append(Send(lease.claim.requester.process, ReclaimLease(lease.number)))

    def _report(self, now_s: float) -> None:
        for demand in self._queue.pending():
            reason, after_s = why_it_waits(demand, self._nodes, self._leases.values(), self.ledger)
            if reason:
                for request in self._queue.requests(demand):
                    self._say_delayed(request, reason, after_s, now_s)
        if self._tickets and self.pool.is_full():
            reason, after_s = why_no_worker(self._leases.values())
            for tickets in self._tickets.values():
                for ticket in tickets:
                    self._say_delayed(ticket.request, reason, after_s, now_s)

    def _say_delayed(self, request: Request, reason: str, after_s: float, now_s: float) -> None:
        if request.reported or now_s - request.since_s < after_s:
            return
        request.reported = True
        requester = request.claim.requester.process
        if request.claim.demand.dedicated:
            self.outbox.append(ActorDelayed(requester, reason))
        else:
            self.outbox.append(Send(requester, LeaseDelayed(request.number, reason)))

    def _say_failed(self, request: Request, reason: str, is_group_removed: bool = False) -> None:
        requester = request.claim.requester.process
        if request.claim.demand.dedicated:
            self.outbox.append(ActorUnplaceable(requester, reason))
        else:
            self.outbox.append(Send(requester, RequestFailed(request.number, reason, is_group_removed)))

    def validate(self) -> None:
        """
        Raises:
            AssertionError: resources, leases, workers and requests do not agree.
        """
        self.ledger.validate()
        self.pool.validate()
        self._queue.validate()
        allocations = [lease.allocation for lease in self._leases.values()]
        allocations += [ticket.allocation for tickets in self._tickets.values() for ticket in tickets]
        taken = {id(allocation) for allocation in allocations} | self.bundles.allocated()
        assert taken == self.ledger.allocated(), f"{self!r}: resources that nobody has"
        self.bundles.validate()
        workers = [lease.worker.process for lease in self._leases.values()]
        assert len(workers) == len(set(workers)), f"{self!r}: a worker has two leases"
        assert self._lease_of_worker == {lease.worker.process: lease for lease in self._leases.values()}
        held = Counter(lease.claim for lease in self._leases.values())
        held.update(ticket.claim for tickets in self._tickets.values() for ticket in tickets)
        for claim in {*held, *self._queue.claims()}:
            assert claim.held == held[claim], f"{claim!r} is counted as holding {claim.held}"
        for lease in self._leases.values():
            assert lease.worker.key[0] == lease.claim.demand.job, f"{lease!r}: a worker serves two jobs"
            assert lease.blocked == lease.allocation.cpus_lent, f"{lease!r}: blocked with its CPUs"
            assert lease.orphaned or lease.number in lease.claim.leases or lease.claim.demand.dedicated, f"{lease!r}"
        for demand in self._queue.pending():
            can_go = demand.fits_here and self.ledger.fits(demand.need)
            assert not can_go or self._queue.is_held_back(demand), f"{demand!r} could be served"

    def __repr__(self) -> str:
        waiting = sum(len(tickets) for tickets in self._tickets.values())
        return (
            f"<LeaseTable {self.ledger!r} {self.pool!r} leases={len(self._leases)} tickets={waiting} {self._queue!r}>"
        )


def _key(claim: Claim) -> Key:
    return claim.demand.job, claim.demand.environment
