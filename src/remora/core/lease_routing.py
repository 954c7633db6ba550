"""Where requests for leases go: to this node's own table, or to another node's.

The submitter's daemon decides, and nobody else: a node that is asked grants or rejects and never asks a third one, so
nothing goes in circles. Every **unit** of a request (a worker that is still to come) is in one place:

* at this node's table, whenever this node can run it and no better one has room. It takes its turn there, and moves
  when another node has room before it has;
* at another node, until that answers. One that rejected is asked again for this shape of tasks when there is news of
  it (its ``revision`` in the view), or after ``RETRY_S`` without any;
* here, when this node may not run it and no other one has room. After ``PATIENT_AFTER_S`` a node that could run it is
  asked *patiently*: the unit waits there in its turn, since otherwise that node's own requests might for ever come
  first. It is called back when another node gets room. Units at the own table do the same when actors hold for life
  what they need.

The router is between the daemon and its :class:`~remora.core.leases.LeaseTable`: what the table says goes through
:meth:`LeaseRouter.settle` into the router's outbox, and what is for processes of other nodes leaves as ``ToNode``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from remora.base.bundle_names import group_of
from remora.base.ids import node_of, short
from remora.base.resources import Resources
from remora.core.cluster_view import ClusterView
from remora.core.lease import Effect, RejectRequest, Send
from remora.core.lease_waiting import WaitingRequest
from remora.core.leases import LeaseTable
from remora.core.request_placing import RequestPlacer
from remora.core.routed_requests import ProcessRecord, RemoteLease, RoutedRequest, RouterEffect, ToNode
from remora.core.waiting_actors import WaitingActors
from remora.messages.leases import (
    MAX_LEASES_ASKED,
    RUNNING_UNKNOWN,
    CancelRequest,
    KillLeased,
    LeaseBroken,
    LeaseDelayed,
    LeaseGranted,
    ReclaimLease,
    RequestFailed,
    RequestLease,
    ReturnLease,
)
from remora.messages.links import ForProcess, LeaseRejected, ProcessGone

FromOtherNode = LeaseGranted | LeaseDelayed | RequestFailed | LeaseBroken | ReclaimLease


class LeaseRouter:
    """Requests of this node's processes, and what processes of other nodes ask of this one.

    Example:
        >>> router = LeaseRouter(table, ClusterView(), node)
        >>> router.request(driver, job, RequestLease(1, {"CPU": 10_000}), now_s=0.0)
        >>> router.outbox
        [StartWorker(number=1, job=b'...', environment='')]
    """

    def __init__(
        self,
        table: LeaseTable,
        view: ClusterView,
        node: bytes,
        labels: Mapping[str, str] | None = None,
        address: str = "",
    ) -> None:
        """*view* is kept by the daemon, its entry of this *node* by the router. *address* is for other nodes."""
        self.outbox: list[RouterEffect] = []
        """In order. The daemon takes what is in it, and leaves an empty list."""
        self.table = table
        self.view = view
        self.node = node
        self.address = address
        self._labels = labels or {}
        self._placer = RequestPlacer(table, view, node, self._emit)
        self._processes: dict[bytes, ProcessRecord] = {}
        self._guests: dict[bytes, dict[bytes, None]] = {}
        """Node to its processes that have asked this one."""
        self.actors = WaitingActors(table, view, node, self._emit)
        table.is_submitter = self._is_submitter
        self._see_myself()

    def _emit(self, effect: RouterEffect) -> None:
        self.outbox.append(effect)

    # ------------------------------------------------------------------ processes of this node

    def request(self, process: bytes, job: bytes, message: RequestLease, *, now_s: float) -> None:
        """The process wants ``message.count`` workers.

        Raises:
            ValueError: it has a request of this number, ``count`` is out of range, or the strategy is none.
        """
        _check_count(process, message)
        record = self._processes.get(process) or ProcessRecord(process, job)
        if message.request in record.requests:
            raise ValueError(f"{short(process)} used request number {message.request} twice")
        self._placer.add(record, message, now_s)
        self._processes[process] = record
        self.settle(now_s)

    def cancel(self, process: bytes, number: int, now_s: float) -> None:
        """What of the request is not granted is not wanted any more."""
        request = self._find(process, number)
        if request is not None:
            self._placer.abandon(request, now_s)
            self.settle(now_s)

    def returned(self, process: bytes, leases: Sequence[int], now_s: float) -> None:
        """The holder has nothing more for these workers. Those of other nodes that broke meanwhile are passed over.

        Raises:
            ValueError: one of them was never granted, or to somebody else.
        """
        own = []
        for lease in leases:
            node = self._granted_by(process, lease)
            if node == self.node:
                own.append(lease)
            elif self.view.get(node) is None:
                raise ValueError(f"{short(process)} returns lease {lease}, which was never granted: no node has it")
        if own:
            self.table.returned(process, own, now_s)
        record = self._processes.get(process)
        by_node: dict[bytes, list[int]] = {}
        for number in leases:
            held = record.leases.pop(number, None) if record is not None else None
            if held is not None:
                by_node.setdefault(held.node, []).append(number)
                self.view.take(held.node, held.need, -1)
        for node, numbers in by_node.items():
            assert record is not None
            self._placer.tell(node, record, ReturnLease(numbers))
        if by_node:
            self._placer.improve_all(now_s)
        self.settle(now_s)

    def kill(self, process: bytes, message: KillLeased, now_s: float) -> None:
        """The holder wants the worker of a lease to end at once.

        Raises:
            ValueError: the lease is somebody else's.
        """
        record = self._processes.get(process)
        held = record.leases.get(message.lease) if record is not None else None
        if held is not None:
            assert record is not None
            self._placer.tell(held.node, record, message)
        elif self._granted_by(process, message.lease) == self.node:
            self.table.kill(process, message.lease)
        self.settle(now_s)

    def process_gone(self, process: bytes, now_s: float) -> None:
        """A process of this node has ended, as a submitter: the table and the nodes that know it hear of that.

        Of a worker the table must have heard before, by ``worker_died``.
        """
        record = self._processes.pop(process, None)
        if record is not None:
            for request in list(record.requests.values()):
                self._placer.forget(request)
            for node in record.nodes:
                self._to_other_node(node, None, ProcessGone(process))
        self.table.requester_gone(process, now_s)
        self.settle(now_s)

    def job_ended(self, job: bytes, now_s: float) -> None:
        """The job's driver has ended: so do its workers here. Requests end with the processes that have made them."""
        self._placer.job_ended(job)
        self.table.job_ended(job, now_s)
        self.settle(now_s)

    # ------------------------------------------------------------------ other nodes

    def from_process(
        self, process: bytes, job: bytes, message: RequestLease | CancelRequest | ReturnLease | KillLeased, now_s: float
    ) -> None:
        """What a process of another node wants of this one: ``FromProcess`` and the message.

        Raises:
            ValueError: it returns what it has not, uses a number twice, or asks for too many.
        """
        if self.view.is_dead(node_of(process)):
            return
        if isinstance(message, RequestLease):
            _check_count(process, message)
            self._guests.setdefault(node_of(process), {})[process] = None
            self.table.request(
                process,
                job,
                message.request,
                Resources(message.resources),
                message.strategy,
                message.environment,
                message.count,
                is_forwarded=True,
                is_patient=message.patient,
                now_s=now_s,
            )
        elif isinstance(message, CancelRequest):
            count = self.table.cancel(process, message.request, now_s)
            if count:
                self._to_other_node(node_of(process), None, LeaseRejected(process, message.request, count))
        elif isinstance(message, KillLeased):
            self.table.kill(process, message.lease)
        else:
            self.table.returned(process, message.leases, now_s)
        self.settle(now_s)

    def for_process(self, node: bytes, process: bytes, message: FromOtherNode, now_s: float) -> None:
        """What another node says to a process of this one: ``ForProcess`` and the message.

        Raises:
            ValueError: it grants a lease whose number is not its own.
        """
        record = self._processes.get(process)
        if record is None or self.view.is_dead(node):
            return  # it has ended, and the node hears of that; or the node's death was told, with all that it ended
        request = record.requests.get(message.request) if not isinstance(message, LeaseBroken | ReclaimLease) else None
        if isinstance(message, LeaseGranted):
            self._granted(record, request, node, message)
        elif isinstance(message, LeaseDelayed):
            self._delayed(request, message)
        elif isinstance(message, RequestFailed):
            if request is not None:
                self._placer.failed(request, node, message, now_s)
        elif message.lease in record.leases:
            if isinstance(message, LeaseBroken):
                del record.leases[message.lease]
            self._emit(Send(process, message))
        self.settle(now_s)

    def rejected(self, node: bytes, message: LeaseRejected, now_s: float) -> None:
        """The node has no room for ``message.count`` units of the request. Nothing happens if it was cancelled."""
        request = self._find(message.process, message.request)
        if request is not None and not self.view.is_dead(node):
            self._placer.rejected(request, node, message.count, now_s)
            self.settle(now_s)

    def remote_process_gone(self, process: bytes, now_s: float) -> None:
        """A process of another node has ended."""
        self._guests.get(node_of(process), {}).pop(process, None)
        self.table.requester_gone(process, now_s)
        self.settle(now_s)

    def node_died(self, node: bytes, cause: str, now_s: float) -> None:
        """The node is no member any more: its leases are broken, its requests dropped, ours there decided again."""
        self.view.died(node, cause)
        said = f"{self.view.get(node)} died" + (f": {cause}" if cause else "")
        for record in self._processes.values():
            record.nodes.pop(node, None)
            for number, lease in list(record.leases.items()):
                if lease.node == node:
                    del record.leases[number]
                    self._emit(Send(record.process, LeaseBroken(number, lease.worker, said, RUNNING_UNKNOWN)))
        self._placer.node_died(node)
        for process in self._guests.pop(node, {}):
            self.table.requester_gone(process, now_s)
        self.view_changed(now_s)

    def view_changed(self, now_s: float) -> None:
        """There is news of some node, or of what this one has: what waits may go there."""
        self.settle(now_s)
        self._placer.refresh_own_view()
        self.actors.place_all(now_s)
        self._placer.improve_all(now_s)
        self.settle(now_s)

    def group_removed(self, group: bytes, reason: str, now_s: float) -> list[bytes]:
        """Fail what waits for resources of the placement group, wherever. Returns the workers here that have some."""
        for request in self._placer.requests():
            if group_of(request.shape.need) == group:
                self._placer.abandon(request, now_s)
                self._emit(Send(request.process.process, RequestFailed(request.number, reason, True)))
        workers = self.table.group_removed(group, reason, now_s)
        self.settle(now_s)
        return workers

    # ------------------------------------------------------------------ time

    def tick(self, now_s: float) -> None:
        """What the table does from time to time; then ask again, ask patiently, say why requests wait."""
        self.table.tick(now_s)
        self.view_changed(now_s)
        self._placer.ask_patiently(now_s)
        self._placer.report(now_s)
        self.settle(now_s)

    @property
    def has_periodic_work(self) -> bool:
        """Whether :meth:`tick` may have something to do soon."""
        return self.table.has_periodic_work or self._placer.has_waiting or self.actors.are_waiting

    # ------------------------------------------------------------------ what the table says

    def settle(self, now_s: float) -> None:
        """Take over what is in the table's outbox; to be called after the table's own methods."""
        outbox = self.table.outbox
        while outbox:
            effects = outbox[:]
            outbox.clear()
            for effect in effects:
                self._pass_on(effect, now_s)

    def _pass_on(self, effect: Effect, now_s: float) -> None:
        if isinstance(effect, RejectRequest):
            rejected = LeaseRejected(effect.process, effect.request, effect.count)
            self._to_other_node(node_of(effect.process), None, rejected)
        elif not isinstance(effect, Send):
            self._emit(effect)
        elif node_of(effect.process) != self.node:
            message = effect.message
            if isinstance(message, LeaseGranted):
                message = msgspec.structs.replace(message, address=self.address)
            self._to_other_node(node_of(effect.process), ForProcess(effect.process), message)
        elif isinstance(effect.message, LeaseDelayed):
            self._delayed(self._find(effect.process, effect.message.request), effect.message)
        elif isinstance(effect.message, RequestFailed):
            request = self._find(effect.process, effect.message.request)
            if request is not None:
                self._placer.failed(request, self.node, effect.message, now_s)
        else:
            if isinstance(effect.message, LeaseGranted):
                request = self._find(effect.process, effect.message.request)
                if request is not None:
                    self._placer.granted_here(request)
            self._emit(effect)

    def _granted(
        self, record: ProcessRecord, request: RoutedRequest | None, node: bytes, message: LeaseGranted
    ) -> None:
        """Also for a request that was cancelled meanwhile: its process takes the worker, and returns it unused."""
        if self._granted_by(record.process, message.lease) != node:
            raise ValueError(f"node {short(node)} granted lease {message.lease}, whose number is another node's")
        need = request.shape.need if request is not None else Resources()
        if request is not None:
            self._placer.granted(request, node)
        record.leases[message.lease] = RemoteLease(record.process, node, message.worker, need)
        self._emit(Send(record.process, message))

    def _delayed(self, request: RoutedRequest | None, message: LeaseDelayed) -> None:
        if request is not None and not request.is_reported:
            request.is_reported = True
            self._emit(Send(request.process.process, message))

    def _to_other_node(self, node: bytes, marker: ForProcess | None, message: object) -> None:
        if not self.view.is_dead(node):
            self._emit(ToNode(node, marker, message))

    def _granted_by(self, process: bytes, lease: int) -> bytes:
        if not 0 <= lease < 1 << 64:
            raise ValueError(f"{short(process)} names lease {lease}, which was never granted")
        return (lease >> 32).to_bytes(4, "big")

    # ------------------------------------------------------------------ looking

    def _find(self, process: bytes, number: int) -> RoutedRequest | None:
        record = self._processes.get(process)
        return record.requests.get(number) if record is not None else None

    def _is_submitter(self, process: bytes) -> bool:
        record = self._processes.get(process)
        return record is not None and bool(record.requests or record.leases)

    def _see_myself(self) -> None:
        ledger = self.table.ledger
        self.view.report(
            self.node,
            address=self.address,
            total=ledger.total.units,
            available=ledger.free(),
            labels=self._labels,
            now_s=0.0,
        )

    def demand(self) -> list[tuple[dict[str, int], int]]:
        """Shapes of resources that are asked for and not granted, with their counts, for the reports to the head."""
        return [(dict(need.units), count) for need, count in self._placer.demand().items()]

    def waiting(self, now_s: float) -> list[WaitingRequest]:
        """What of this node's processes and actors waits, and what of others waits here, for ``remora status``."""
        return [*self.table.waiting(), *self._placer.waiting(now_s), *self.actors.waiting(now_s)]

    def remote_leases(self) -> Iterable[RemoteLease]:
        """The workers of other nodes that processes of this one hold."""
        return [lease for record in self._processes.values() for lease in record.leases.values()]

    def validate(self) -> None:
        """
        Raises:
            AssertionError: requests, leases, views and the table do not agree.
        """
        self.table.validate()
        self.view.validate()
        self._placer.validate()
        assert not self.table.outbox, f"{self!r} was not settled"
        for process, record in self._processes.items():
            assert node_of(process) == self.node, f"{record!r} is another node's"
            for lease in record.leases.values():
                assert not self.view.is_dead(lease.node), f"{lease!r} is of a dead node"
        for node in self._guests:
            assert not self.view.is_dead(node), f"{self!r} keeps guests of a dead node"

    def __repr__(self) -> str:
        return f"<LeaseRouter of {short(self.node)} {self.table!r} {self._placer!r}>"


def _check_count(process: bytes, message: RequestLease) -> None:
    if not 1 <= message.count <= MAX_LEASES_ASKED:
        raise ValueError(
            f"{short(process)} asks for {message.count} leases: one request is for 1 to {MAX_LEASES_ASKED}"
        )
