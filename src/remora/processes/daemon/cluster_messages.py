"""What other nodes and the head say to this node, and what is said to other nodes: handed to who understands it."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from remora.base.ids import NodeId, ProcessId, daemon_of, node_of, short
from remora.base.resources import Resources
from remora.core.routed_requests import ToNode
from remora.messages import copies, counting, inspection, objects
from remora.messages import head as h
from remora.messages.actors import ActorState
from remora.messages.leases import (
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
from remora.messages.links import FromProcess, LeaseRejected, ProcessGone, StartJob
from remora.messages.placement_groups import PlacementGroups, ReturnBundles
from remora.messages.session import FlushOutput, OutputFlushed, SessionEnded, WorkerOutput

if TYPE_CHECKING:
    from remora.processes.daemon.cluster import ClusterService

COUNTING_MESSAGES = frozenset((*counting.MESSAGES, *copies.MESSAGES, *objects.MESSAGES))
LEASE_REQUESTS = frozenset((RequestLease, CancelRequest, ReturnLease, KillLeased))
LEASE_ANSWERS = frozenset((LeaseGranted, LeaseDelayed, RequestFailed, LeaseBroken, ReclaimLease))
INSPECTION_MESSAGES = frozenset(inspection.MESSAGES)


class ClusterMessages:
    """The :class:`~remora.processes.daemon.links.LinkHandler` of a node, and its listener to the head."""

    def __init__(self, cluster: ClusterService) -> None:
        self._cluster = cluster
        self._nodes = cluster.nodes
        self._jobs_told: dict[NodeId, set[bytes]] = {}

    def __repr__(self) -> str:
        return f"<ClusterMessages of {self._cluster!r}, {len(self._jobs_told)} nodes know jobs of this one>"

    def start(self) -> None:
        """The daemon is complete: it is told what was heard of others until now."""
        daemon = self._cluster.daemon
        daemon.processes.send_elsewhere = self._send_elsewhere
        daemon.processes.is_clogged_elsewhere = lambda process: self._cluster.links.is_clogged(node_of(process))
        daemon.workers.on_to_node = self._on_to_node
        departures = self._nodes.departures
        for departure in departures:
            self._cluster.links.node_dead(NodeId(departure.node))
            daemon.workers.view.died(departure.node, departure.cause)
        own = self._cluster.node
        daemon.objects.deaths_before({NodeId(gone.node): NodeId(gone.heir or own) for gone in departures})
        self._look_at(self._nodes.members, monotonic())

    # ------------------------------------------------------------------ what other nodes say (LinkHandler)

    def on_node_message(self, node: NodeId, message: Any) -> None:
        """See :class:`~remora.processes.daemon.links.LinkHandler`."""
        daemon, now_s = self._cluster.daemon, monotonic()
        kind = type(message)
        if kind in COUNTING_MESSAGES:
            daemon.objects.on_node_message(node, message, now_s)
        elif kind is LeaseRejected:
            daemon.workers.router.rejected(node, message, now_s)
            daemon.workers.carry_out()
        elif kind is StartJob:
            daemon.workers.start_job(ProcessId(message.job), message.environment)
        elif kind is ProcessGone:
            daemon.workers.router.remote_process_gone(message.process, now_s)
            daemon.workers.carry_out()
        elif kind in INSPECTION_MESSAGES:
            daemon.inspection.on_node_message(node, message, now_s)
        else:
            raise ValueError(f"node {short(node)} sent {message!r}, which no daemon says")

    def on_message_from(self, node: NodeId, process: ProcessId, job: ProcessId, message: Any) -> None:
        """See :class:`~remora.processes.daemon.links.LinkHandler`."""
        workers = self._cluster.daemon.workers
        if node_of(process) == node and type(message) is FlushOutput:
            has_more = workers.output.flush(process)
            self._cluster.links.send_for(process, OutputFlushed(message.request, has_more=has_more))
            return
        if node_of(process) != node or type(message) not in LEASE_REQUESTS:
            raise ValueError(f"node {short(node)} passed on {message!r} of process {short(process)}")
        workers.router.from_process(process, job, message, monotonic())
        workers.carry_out()

    def on_message_for(self, node: NodeId, process: ProcessId, message: Any) -> None:
        """See :class:`~remora.processes.daemon.links.LinkHandler`."""
        workers = self._cluster.daemon.workers
        if type(message) in LEASE_ANSWERS:
            workers.router.for_process(node, process, message, monotonic())
            workers.carry_out()
        elif type(message) is WorkerOutput:
            self._cluster.daemon.workers.output.pass_on(process, message)
        elif type(message) is OutputFlushed:
            self._cluster.daemon.processes.send(process, message)
        else:
            raise ValueError(f"node {short(node)} sent {message!r} for process {short(process)}")

    def on_link_broken(self, node: NodeId, error: Exception) -> None:
        """See :class:`~remora.processes.daemon.links.LinkHandler`."""
        print(f"the link with node {short(node)} is broken: {error}", flush=True)
        self._cluster.head.peer_reachability(node, False, str(error))

    def _send_elsewhere(self, to: bytes, message: Any) -> None:
        if len(to) == len(self._cluster.node):
            self._cluster.links.send(NodeId(to), message)
        else:
            self._cluster.links.send_for(ProcessId(to), message)

    def _on_to_node(self, effect: ToNode) -> None:
        node = NodeId(effect.node)
        if type(effect.message) is RequestLease and type(effect.marker) is FromProcess:
            self._tell_job(node, effect.marker.job)
        if effect.marker is not None:
            self._cluster.links.send(node, effect.marker)
        self._cluster.links.send(node, effect.message)

    def _tell_job(self, node: NodeId, job: bytes) -> None:
        told = self._jobs_told.setdefault(node, set())
        workers = self._cluster.daemon.workers
        environment = workers.job_environment(job)
        if environment is not None and (job not in told or workers.has_ended(job)):  # the node may have forgotten it
            told.add(job)
            self._cluster.links.send(node, StartJob(job, environment))

    def flush_output(self, driver: ProcessId, message: FlushOutput) -> int:
        """Ask the nodes that this one is linked with for what they have of the driver's workers; how many were asked.

        A node without a link has sent nothing yet, and would have to be connected with first.
        """
        nodes = self._cluster.links.linked_nodes()
        for node in nodes:
            self._cluster.links.send(node, FromProcess(driver, driver))
            self._cluster.links.send(node, message)
        return len(nodes)

    def forget_job(self, job: bytes) -> None:
        """The driver has ended, and every node forgets the job: a detached actor that asks for workers tells again."""
        for told in self._jobs_told.values():
            told.discard(job)

    # ------------------------------------------------------------------ what the head says (HeadListener)

    def on_members(self, members: list[h.MemberView]) -> None:
        """See :class:`~remora.processes.daemon.head_listener.HeadListener`."""
        self._nodes.told(members)
        if self._cluster.has_started:
            self._cluster.links.members_changed()
            self._look_at(members, monotonic())

    def on_node_dead(self, departure: h.Departure) -> None:
        """See :class:`~remora.processes.daemon.head_listener.HeadListener`."""
        self._nodes.departed(departure)
        if self._cluster.has_started:
            print(f"node {short(departure.node)} is gone: {departure.cause}", flush=True)
            self._on_death(departure, monotonic())

    def on_process_message(self, process: ProcessId, message: Any) -> None:
        """See :class:`~remora.processes.daemon.head_listener.HeadListener`."""
        if process != daemon_of(self._cluster.node):
            self._cluster.actors.deliver(process, message, self._nodes.address_of)
        elif isinstance(message, h.ActorStates | PlacementGroups):
            self._cluster.daemon.inspection.on_head_message(message, monotonic())
        elif isinstance(message, ActorState):
            self._cluster.actors.on_state(message, monotonic())
        else:
            self._cluster.daemon.groups.on_manager_message(message, monotonic())
            if isinstance(message, ReturnBundles):
                self._cluster.head.hasten_load()

    def on_place_actor(self, message: h.PlaceActor) -> None:
        """See :class:`~remora.processes.daemon.head_listener.HeadListener`."""
        self._cluster.actors.place(message, monotonic())

    def on_cancel_placement(self, message: h.CancelPlacement) -> None:
        """See :class:`~remora.processes.daemon.head_listener.HeadListener`."""
        self._cluster.actors.cancel_placement(message, monotonic())

    def on_kill_process(self, process: ProcessId) -> None:
        """See :class:`~remora.processes.daemon.head_listener.HeadListener`."""
        self._cluster.daemon.workers.kill(process)

    def on_end_process(self, process: ProcessId, reason: str) -> None:
        """See :class:`~remora.processes.daemon.head_listener.HeadListener`."""
        ended = SessionEnded(f"the head of the cluster ended this process: {reason}")
        self._cluster.daemon.processes.send(process, ended)

    def on_job_ended(self, job: ProcessId, cause: str) -> None:
        """See :class:`~remora.processes.daemon.head_listener.HeadListener`."""
        self.forget_job(job)
        self._cluster.daemon.workers.end_job(job, monotonic())
        self._cluster.daemon.objects.job_ended(job, monotonic())

    def on_expelled(self, reason: str) -> None:
        """See :class:`~remora.processes.daemon.head_listener.HeadListener`."""
        print(f"this node is no member of its cluster any more: {reason}", flush=True)
        if self._cluster.has_started:
            self._cluster.daemon.end(f"its node is no member of the cluster any more: {reason}")

    def _look_at(self, members: list[h.MemberView], now_s: float) -> None:
        workers = self._cluster.daemon.workers
        for member in members:
            if member.node == self._cluster.node:
                continue  # the router knows better what there is here
            workers.view.report(
                member.node,
                address=member.address,
                total=member.total,
                available=member.available,
                labels=member.labels,
                queue_length=member.queue_length,
                now_s=now_s,
            )
        others = [Resources(member.total) for member in self._nodes.members if member.node != self._cluster.node]
        workers.leases.resources_changed(workers.leases.ledger.total, others, now_s)
        self._cluster.daemon.objects.nodes_changed([NodeId(member.node) for member in self._nodes.members], now_s)
        workers.router.view_changed(now_s)
        workers.carry_out()

    def _on_death(self, departure: h.Departure, now_s: float) -> None:
        node, daemon = NodeId(departure.node), self._cluster.daemon
        self._cluster.links.node_dead(node)
        self._cluster.transfers.node_dead(node)
        self._jobs_told.pop(node, None)
        # Without an heir nobody was left who could ask for its objects, and so this node may answer.
        heir = NodeId(departure.heir or self._cluster.node)
        daemon.objects.node_dead(node, heir, self._nodes.how_it_ended(departure), now_s)
        daemon.workers.router.node_died(node, departure.cause, now_s)
        for job in daemon.workers.jobs_of(node):
            self.forget_job(job)
            daemon.workers.end_job(job, now_s)
        daemon.inspection.node_dead(node, now_s)
        daemon.workers.carry_out()
