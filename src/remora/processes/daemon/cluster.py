"""What makes a node daemon a member of a cluster: its port, the head beside it, links to others, what they say.

Everything that has a state has it elsewhere: the head's link, the links between daemons, the router of leases, the
directory, the transfers. This joins them, and hands each message to who understands it.
"""

from __future__ import annotations

import os
import socket
from time import monotonic
from typing import TYPE_CHECKING, Any

from remora.base.configuration import JOIN_FILE, NodeConfiguration, worker_sockets_name
from remora.base.ids import NodeId, ProcessId, make_process_id, node_of, short
from remora.base.join_string import JoinString
from remora.base.network_address import join_address, split_address
from remora.base.resources import UNITS_PER_ONE, Resources
from remora.core.pulls import DEFAULT_LIMIT_BYTES
from remora.core.routed_requests import ToNode
from remora.messages import copies, counting, inspection, objects
from remora.messages import head as h
from remora.messages.actors import ActorState
from remora.messages.leases import (
    CancelRequest,
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
from remora.messages.session import SessionEnded, WorkerOutput
from remora.processes.daemon.cluster_actors import ClusterActorService
from remora.processes.daemon.connected import ConnectedProcesses
from remora.processes.daemon.head_link import HeadLink, JoinError
from remora.processes.daemon.heartbeats import HEAD_PROCESS
from remora.processes.daemon.links import Links
from remora.processes.daemon.objects import ObjectService
from remora.processes.daemon.remote_objects import RemoteObjects
from remora.processes.daemon.transfers import Transfers
from remora.processes.daemon.workers import WorkerService
from remora.processes.head.configuration import HeadConfiguration
from remora.processes.head.keeper import HeadKeeper, HeadStartError
from remora.system.certificates import install_credentials
from remora.system.network.doorkeeper import Doorkeeper
from remora.system.network.own_address import own_address
from remora.system.network.preface import Preface, Purpose
from remora.system.network.refusals import Refusal, refuse
from remora.system.network.socket_passing import pass_socket
from remora.system.network.sockets import ListenError, is_any_address
from remora.system.network.stream import Stream, StreamAcceptor
from remora.system.reactor import Reactor

if TYPE_CHECKING:
    from remora.processes.daemon.main import NodeDaemon

COUNTING_MESSAGES = frozenset((*counting.MESSAGES, *copies.MESSAGES, *objects.MESSAGES))
LEASE_REQUESTS = frozenset((RequestLease, CancelRequest, ReturnLease))
LEASE_ANSWERS = frozenset((LeaseGranted, LeaseDelayed, RequestFailed, LeaseBroken, ReclaimLease))
INSPECTION_MESSAGES = frozenset(inspection.MESSAGES)
__all__ = ["ClusterService", "HeadStartError", "JoinError", "ListenError"]

CREDENTIALS_FOLDER = "cluster"
LONGEST_TURN_S = 0.5
"""The head's watch over a hanging daemon looks at turns of the loop."""


class ClusterService:
    """One node's membership. Made before the daemon, since the cluster gives the node its number.

    Raises:
        JoinError: the cluster refused this node, or its head cannot be reached.
        HeadStartError: the head beside this node cannot be started.
        ListenError: the port is taken, or the address is none of this machine.
    """

    def __init__(self, configuration: NodeConfiguration, reactor: Reactor, total: Resources) -> None:
        assert configuration.cluster is not None, "a session alone is in no cluster"
        cluster = configuration.cluster
        self._configuration = configuration
        self._reactor = reactor
        self._daemon: NodeDaemon | None = None
        self.node = NodeId(b"")
        self.credentials = cluster.credentials
        head_host = split_address(cluster.head_address)[0] if cluster.head_address else ""
        host = cluster.host or own_address(head_host)
        self._doorkeeper = Doorkeeper(reactor, host, cluster.port, self.credentials, self._on_preface)
        told_host = own_address(head_host) if is_any_address(host) else host
        self.address = join_address(told_host, self._doorkeeper.port)
        self._keeper = self._start_head() if cluster.is_head else None
        self._join = JoinString(*split_address(cluster.head_address or self.address), self.credentials)
        self._members: dict[bytes, h.MemberView] = {}
        self._departures: list[h.Departure] = []
        self._departed_members: dict[bytes, h.MemberView] = {}
        self._jobs_told: dict[NodeId, set[bytes]] = {}
        self.head = HeadLink(reactor, self._join.address, self.credentials, self)
        joined = self.head.join(self.address, dict(total.units), configuration.labels, cluster.is_head)
        self.node = NodeId(joined.node)
        if not self.credentials.key_path and joined.key:
            folder = os.path.join(configuration.session_directory, CREDENTIALS_FOLDER)
            self.credentials = install_credentials(folder, self.credentials.secret, joined.certificate, joined.key)
        self._acceptor = StreamAcceptor(reactor, self.credentials, self._on_stream, self._doorkeeper.log)
        self.links = Links(reactor, self.node, self.credentials, self.address_of, self)

    def __repr__(self) -> str:
        return f"<ClusterService node {short(self.node)} at {self.address}, {len(self._members)} members>"

    def _start_head(self) -> HeadKeeper:
        configuration = self._configuration
        assert configuration.cluster is not None, "a session alone has no head"
        keeper = HeadKeeper(
            HeadConfiguration(
                session_directory=configuration.session_directory,
                credentials=self.credentials,
                state=configuration.cluster.state,
            ),
            self._reactor,
        )
        keeper.start()
        return keeper

    @property
    def number(self) -> int:
        """This node's number."""
        return int.from_bytes(self.node, "big")

    def start(self, daemon: NodeDaemon) -> None:
        """The daemon is complete: what was heard of others until now is told, and what comes goes to it."""
        self._daemon = daemon
        if self._keeper is not None:
            self._keeper.tell_pids(daemon.workers.spare)
        objects = daemon.objects
        remote = RemoteObjects(self.node, objects.directory, objects.arena, objects.carry_out, self.address_of)
        limit_bytes = min(DEFAULT_LIMIT_BYTES, daemon.store_limit_bytes // 4)
        self.transfers = remote.transfers = Transfers(
            self._reactor,
            objects.memory,
            self.credentials,
            self.node,
            remote,
            limit_bytes,
            log=self._doorkeeper.log,
        )
        daemon.processes.send_elsewhere = self._send_elsewhere
        daemon.processes.unsent_bytes_elsewhere = lambda process: self.links.unsent_bytes(node_of(process))
        daemon.processes.node_address = self.address
        daemon.workers.router.address = self.address
        daemon.workers.on_to_node = self._on_to_node
        objects.join_cluster(remote)
        daemon.groups.use_head(self.head.process_message)
        now_s = monotonic()
        for departure in self._departures:
            self.links.node_dead(NodeId(departure.node))
            daemon.workers.view.died(departure.node, departure.cause)
        objects.deaths_before({NodeId(gone.node): NodeId(gone.heir or self.node) for gone in self._departures})
        self._look_at(list(self._members.values()), now_s)
        path = os.path.join(self._configuration.session_directory, JOIN_FILE)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w") as file:
            file.write(str(self._join))

    def make_actor_service(
        self, processes: ConnectedProcesses, workers: WorkerService, objects: ObjectService
    ) -> ClusterActorService:
        """What stands for the registry of actors, which is in the head."""
        self.actors = ClusterActorService(self.head, processes, workers, objects)
        return self.actors

    def address_of(self, node: NodeId) -> str | None:
        """The ``host:port`` of a member."""
        member = self._members.get(node)
        return member.address if member is not None else None

    def node_reports(self) -> list[inspection.NodeReport]:
        """What this node knows of all nodes, also of those that are members no more."""
        alive = [
            inspection.NodeReport(
                member.node,
                True,
                member.hostname,
                member.address,
                _to_floats(member.total),
                _to_floats(member.available),
                member.labels,
                is_head_node=member.is_head_node,
            )
            for member in self._members.values()
        ]
        return alive + [self._report_departed(departure) for departure in self._departures]

    def _report_departed(self, departure: h.Departure) -> inspection.NodeReport:
        member = self._departed_members.get(departure.node)  # None: it left before this node joined
        hostname, address = (member.hostname, member.address) if member is not None else ("", "")
        return inspection.NodeReport(departure.node, False, hostname, address, {}, {}, {}, departure.cause)

    # ------------------------------------------------------------------ the turn of the loop

    def flush(self, now_s: float) -> float:
        """Do what is due and write what is to be said to others, once per turn; when the next turn is due."""
        due_s = self.transfers.next_deadline_s
        if due_s is not None and due_s <= now_s:
            self.transfers.tick(now_s)
            due_s = self.transfers.next_deadline_s
        workers = self.daemon.workers
        ledger, demand = workers.leases.ledger, workers.router.demand()
        self.head.tell_load(ledger.total.units, ledger.free(), sum(count for _, count in demand), demand)
        self.links.flush()
        self.head.flush()
        return due_s if due_s is not None else now_s + LONGEST_TURN_S

    def leave(self, reason: str) -> None:
        """Leave in order, and close everything."""
        self.head.leave(reason)
        self.close()

    def close(self) -> None:
        """Close the port and all streams; the head is ended with its node."""
        self.transfers.close()
        self._doorkeeper.close()
        self._acceptor.close()
        self.links.close()
        self.head.close()
        if self._keeper is not None:
            self._keeper.close()

    # ------------------------------------------------------------------ who knocks

    def _on_preface(self, sock: socket.socket, preface: Preface) -> None:
        target = preface.target
        if target == HEAD_PROCESS and self._keeper is not None:
            pass_socket(self._keeper.socket_path, sock, preface)
        elif self._daemon is None:
            refuse(sock, Refusal.STARTING)
        elif node_of(target) != self.node:
            refuse(sock, Refusal.UNKNOWN_TARGET)
        elif target != make_process_id(self.number, 0):
            self._pass_to_worker(sock, preface)
        elif preface.purpose == Purpose.LINK:
            self._acceptor.take(sock, preface)
        elif preface.purpose == Purpose.DATA:
            self.transfers.accept(sock, preface)
        else:
            refuse(sock, Refusal.UNKNOWN_TARGET)

    def _pass_to_worker(self, sock: socket.socket, preface: Preface) -> None:
        assert self._daemon is not None, "asked for before"
        number = self._daemon.workers.number_of(preface.target)
        if number is None:
            refuse(sock, Refusal.UNKNOWN_TARGET)
        else:
            path = os.path.join(self._configuration.session_directory, worker_sockets_name(number))
            pass_socket(path, sock, preface)

    def _on_stream(self, stream: Stream, sender: bytes) -> None:
        self.links.accept(stream, sender)

    # ------------------------------------------------------------------ what other nodes say (LinkHandler)

    def on_node_message(self, node: NodeId, message: Any) -> None:
        """See :class:`~remora.processes.daemon.links.LinkHandler`."""
        daemon, now_s = self.daemon, monotonic()
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
        if node_of(process) != node or type(message) not in LEASE_REQUESTS:
            raise ValueError(f"node {short(node)} passed on {message!r} of process {short(process)}")
        workers = self.daemon.workers
        workers.router.from_process(process, job, message, monotonic())
        workers.carry_out()

    def on_message_for(self, node: NodeId, process: ProcessId, message: Any) -> None:
        """See :class:`~remora.processes.daemon.links.LinkHandler`."""
        workers = self.daemon.workers
        if type(message) in LEASE_ANSWERS:
            workers.router.for_process(node, process, message, monotonic())
            workers.carry_out()
        elif type(message) is WorkerOutput:
            self.daemon.workers.output.pass_on(process, message)
        else:
            raise ValueError(f"node {short(node)} sent {message!r} for process {short(process)}")

    def on_link_broken(self, node: NodeId, error: Exception) -> None:
        """See :class:`~remora.processes.daemon.links.LinkHandler`."""
        print(f"the link with node {short(node)} is broken: {error}", flush=True)
        self.head.peer_reachability(node, False, str(error))

    def _send_elsewhere(self, to: bytes, message: Any) -> None:
        if len(to) == len(self.node):
            self.links.send(NodeId(to), message)
        else:
            self.links.send_for(ProcessId(to), message)

    def _on_to_node(self, effect: ToNode) -> None:
        node = NodeId(effect.node)
        if type(effect.message) is RequestLease and type(effect.marker) is FromProcess:
            self._tell_job(node, effect.marker.job)
        if effect.marker is not None:
            self.links.send(node, effect.marker)
        self.links.send(node, effect.message)

    def _tell_job(self, node: NodeId, job: bytes) -> None:
        told = self._jobs_told.setdefault(node, set())
        environment = self.daemon.workers.job_environment(job)
        if job not in told and environment is not None:
            told.add(job)
            self.links.send(node, StartJob(job, environment))

    def forget_job(self, job: bytes) -> None:
        """The driver has ended, and every node forgets the job: a detached actor that asks for workers tells again."""
        for told in self._jobs_told.values():
            told.discard(job)

    # ------------------------------------------------------------------ what the head says (HeadListener)

    def on_members(self, members: list[h.MemberView]) -> None:
        """See :class:`~remora.processes.daemon.head_listener.HeadListener`."""
        self._members.update((member.node, member) for member in members)
        if self._daemon is not None:
            self.links.members_changed()
            self._look_at(members, monotonic())

    def on_node_dead(self, departure: h.Departure) -> None:
        """See :class:`~remora.processes.daemon.head_listener.HeadListener`."""
        member = self._members.pop(departure.node, None)
        if member is not None:
            self._departed_members[departure.node] = member
        self._departures.append(departure)
        if self._daemon is not None:
            print(f"node {short(departure.node)} is gone: {departure.cause}", flush=True)
            self._on_death(departure, monotonic())

    def on_process_message(self, process: ProcessId, message: Any) -> None:
        """See :class:`~remora.processes.daemon.head_listener.HeadListener`."""
        if process != make_process_id(self.number, 0):
            self.actors.deliver(process, message, self.address_of)
        elif isinstance(message, h.ActorStates | PlacementGroups):
            self.daemon.inspection.on_head_message(message, monotonic())
        elif isinstance(message, ActorState):
            self.actors.on_state(message, monotonic())
        else:
            self.daemon.groups.on_manager_message(message, monotonic())
            if isinstance(message, ReturnBundles):
                self.head.hasten_load()

    def on_place_actor(self, message: h.PlaceActor) -> None:
        """See :class:`~remora.processes.daemon.head_listener.HeadListener`."""
        self.actors.place(message, monotonic())

    def on_cancel_placement(self, message: h.CancelPlacement) -> None:
        """See :class:`~remora.processes.daemon.head_listener.HeadListener`."""
        self.actors.cancel_placement(message, monotonic())

    def on_kill_process(self, process: ProcessId) -> None:
        """See :class:`~remora.processes.daemon.head_listener.HeadListener`."""
        self.daemon.workers.kill(process)

    def on_end_process(self, process: ProcessId, reason: str) -> None:
        """See :class:`~remora.processes.daemon.head_listener.HeadListener`."""
        self.daemon.processes.send(process, SessionEnded(f"the head of the cluster ended this process: {reason}"))

    def on_job_ended(self, job: ProcessId, cause: str) -> None:
        """See :class:`~remora.processes.daemon.head_listener.HeadListener`."""
        self.forget_job(job)
        self.daemon.workers.end_job(job, monotonic())

    def on_expelled(self, reason: str) -> None:
        """See :class:`~remora.processes.daemon.head_listener.HeadListener`."""
        print(f"this node is no member of its cluster any more: {reason}", flush=True)
        if self._daemon is not None:
            self._daemon.end(f"its node is no member of the cluster any more: {reason}")

    @property
    def daemon(self) -> NodeDaemon:
        """The daemon that this belongs to."""
        assert self._daemon is not None, "nothing is said to a node before it has started"
        return self._daemon

    def _look_at(self, members: list[h.MemberView], now_s: float) -> None:
        workers = self.daemon.workers
        for member in members:
            if member.node == self.node:
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
        others = [Resources(member.total) for member in self._members.values() if member.node != self.node]
        workers.leases.resources_changed(workers.leases.ledger.total, others, now_s)
        self.daemon.objects.nodes_changed([NodeId(node) for node in self._members], now_s)
        workers.router.view_changed(now_s)
        workers.carry_out()

    def _on_death(self, departure: h.Departure, now_s: float) -> None:
        node, daemon = NodeId(departure.node), self.daemon
        self.links.node_dead(node)
        self.transfers.node_dead(node)
        self._jobs_told.pop(node, None)
        # Without an heir nobody was left who could ask for its objects, and so this node may answer.
        daemon.objects.node_dead(node, NodeId(departure.heir or self.node), self._how_it_ended(departure), now_s)
        daemon.workers.router.node_died(node, departure.cause, now_s)
        for job in daemon.workers.jobs_of(node):
            self.forget_job(job)
            daemon.workers.end_job(job, now_s)
        daemon.inspection.node_dead(node, now_s)
        daemon.workers.carry_out()

    def _how_it_ended(self, departure: h.Departure) -> str:
        member = self._departed_members.get(departure.node)
        return f"{member.hostname} at {member.address}, {departure.cause}" if member is not None else departure.cause


def _to_floats(units: dict[str, int]) -> dict[str, float]:
    return {name: amount / UNITS_PER_ONE for name, amount in units.items()}
