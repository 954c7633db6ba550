"""The main function of a node daemon: accepts processes, hands their messages to the services, ends the session."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from time import monotonic, time
from typing import TYPE_CHECKING, Any

import msgspec

from remora.base.configuration import NodeConfiguration
from remora.base.ids import NodeId, ProcessId
from remora.base.resources import Resources
from remora.core.arena_records import ArenaError
from remora.core.counting.vocabulary import CountingError
from remora.core.jobs import JobTable
from remora.core.journal import Journal
from remora.core.key_value import KeyValueTable
from remora.messages import actors, arena, counting, inspection, leases, objects, placement_groups
from remora.messages.head import JobStarted
from remora.messages.key_value import KeyValueRequest
from remora.messages.session import (
    FlushOutput,
    Hello,
    JobEnvironment,
    Leaving,
    OutputFlushed,
    Refused,
    SessionEnded,
    StopNode,
    Welcome,
)
from remora.messages.wire import MAX_FRAME_BYTES
from remora.processes.daemon.actors import ActorService
from remora.processes.daemon.connected import ConnectedProcess, ConnectedProcesses
from remora.processes.daemon.inspection import InspectionService
from remora.processes.daemon.objects import ObjectService, default_limit_bytes
from remora.processes.daemon.placement_groups import PlacementGroupService
from remora.processes.daemon.workers import WorkerService
from remora.system.connection import Connection
from remora.system.cpu_count import available_cpus
from remora.system.handshake import MAX_FIRST_FRAME_BYTES, peer_is_same_user, refusal_of, send_welcome
from remora.system.launch import announce_ready, end_everything
from remora.system.reactor import Reactor
from remora.system.slot_page import SlotPage, create_slot_page

if TYPE_CHECKING:
    from remora.processes.daemon.cluster import ClusterService
    from remora.processes.daemon.cluster_actors import ClusterActorService

TICK_S = 0.05
IDLE_TICK_S = 0.5

COUNTING_MESSAGES = frozenset((*counting.MESSAGES, *objects.MESSAGES))
ARENA_MESSAGES = frozenset(arena.MESSAGES)
LEASE_MESSAGES = frozenset(leases.MESSAGES)
ACTOR_MESSAGES = frozenset(actors.MESSAGES)
INSPECTION_MESSAGES = frozenset(inspection.MESSAGES)
GROUP_MESSAGES = frozenset(placement_groups.MESSAGES)


def main(configuration: NodeConfiguration) -> None:
    """Run the daemon until its driver is gone, then end everything that belongs to it.

    Raises:
        SystemExit: the node could not join its cluster; the text is for the user.
    """
    reactor = Reactor()
    if not configuration.store_limit_bytes:
        configuration = msgspec.structs.replace(configuration, store_limit_bytes=default_limit_bytes())
    cluster = None
    if configuration.cluster is not None:
        cluster = _join_cluster(configuration, reactor)
        configuration = msgspec.structs.replace(configuration, node=cluster.number)
    daemon = NodeDaemon(configuration, reactor, cluster)
    if cluster is not None:
        cluster.start(daemon)
    announce_ready(configuration)
    daemon.run()
    end_everything(configuration)


def _join_cluster(configuration: NodeConfiguration, reactor: Reactor) -> ClusterService:
    # It brings ssl, which a session alone spares itself.
    from remora.processes.daemon.cluster import ClusterService, HeadStartError, JoinError, ListenError

    try:
        return ClusterService(configuration, reactor, resources_of(configuration))
    except (JoinError, HeadStartError, ListenError, OSError) as error:
        raise SystemExit(f"this node cannot be a member of the cluster: {error}") from error


def resources_of(configuration: NodeConfiguration) -> Resources:
    """What the node has in all."""
    num_cpus = configuration.num_cpus
    return Resources.of(
        num_cpus=available_cpus() if num_cpus is None else num_cpus,
        num_gpus=configuration.num_gpus or None,
        memory=float(default_limit_bytes()),
        resources=configuration.resources,
    )


class NodeDaemon:
    """One node's daemon: the loop and the connections; the services own the state.

    *cluster* is the node's membership, None in a session alone.
    """

    def __init__(
        self, configuration: NodeConfiguration, reactor: Reactor, cluster: ClusterService | None = None
    ) -> None:
        self.configuration = configuration
        self.node = NodeId(configuration.node.to_bytes(4, "big"))
        self.reactor = reactor
        self.cluster = cluster
        self.processes = ConnectedProcesses(configuration.node)
        self.store_limit_bytes = configuration.store_limit_bytes
        self.slot_descriptor = create_slot_page()
        slots = SlotPage(os.dup(self.slot_descriptor))
        self.total = resources_of(configuration)
        self.objects = ObjectService(
            self.node, self.store_limit_bytes, configuration.grace_s, self.processes, self._on_object_freed
        )
        self.workers = WorkerService(configuration, self.total, self.reactor, self.processes, slots)
        self.workers.use_clock(monotonic)
        self.actors: ActorService | ClusterActorService
        if cluster is None:
            self.actors = ActorService(self.processes, self.workers, self.objects)
        else:
            self.actors = cluster.make_actor_service(self.processes, self.workers, self.objects)
        self.workers.on_worker_ended = self._on_worker_ended
        self.groups = PlacementGroupService(self.node, configuration.labels, self.processes, self.workers)
        self.inspection = InspectionService(self)
        self._listener = socket.socket(fileno=configuration.descriptors.listener)
        self._listener.setblocking(False)
        self.reactor.register(self._listener.fileno(), self._on_connect)
        if configuration.descriptors.driver >= 0:
            self.reactor.register(configuration.descriptors.driver, self._on_driver_ended)
        self._spare_descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._is_ending = False
        self._end_reason = ""
        self._key_value = KeyValueTable(Journal())
        """That of a session alone; a cluster's is in its head."""
        self.jobs = JobTable(Journal())
        """Those of a session alone; a cluster's are in its head."""
        self._is_shared = configuration.cluster is not None and configuration.cluster.is_shared

    # ------------------------------------------------------------------ the loop

    def run(self) -> None:
        """Serve until the session is over."""
        next_tick_s = 0.0
        while not self._is_ending:
            now_s = monotonic()
            if now_s >= next_tick_s:
                next_tick_s = self._tick(now_s)
            self.groups.look(now_s)
            self.processes.flush()
            if self.cluster is not None:
                next_tick_s = min(next_tick_s, self.cluster.flush(now_s))
            self.reactor.poll(max(0.0, next_tick_s - monotonic()))
            if self.workers.router.has_periodic_work:
                next_tick_s = min(next_tick_s, self._next_lease_tick_s(monotonic()))
        self._say_goodbye()

    def _tick(self, now_s: float) -> float:
        dues_s = (self.objects.tick(now_s), self.inspection.tick(now_s), self.groups.next_due_s())
        due_s = min((time for time in dues_s if time is not None), default=None)
        self.workers.tick(now_s)
        self.workers.output.tick()
        next_s = now_s + IDLE_TICK_S
        if self.workers.router.has_periodic_work:
            next_s = self._next_lease_tick_s(now_s)
        return next_s if due_s is None else max(now_s, min(next_s, due_s))

    def _next_lease_tick_s(self, now_s: float) -> float:
        due_s = self.workers.leases.next_reclaim_s(now_s)
        return now_s + TICK_S if due_s is None else min(due_s, now_s + TICK_S)

    def _on_driver_ended(self, mask: int) -> None:
        self.end("the driver of this session has ended")

    def end(self, reason: str) -> None:
        """Serve no more, and end everything that belongs to the node."""
        if not self._is_ending:
            self._is_ending = True
            self._end_reason = reason

    def _say_goodbye(self) -> None:
        for connected in self.processes:
            connected.connection.send(SessionEnded(self._end_reason))
            connected.connection.flush()
        if self.cluster is not None:
            self.cluster.leave(self._end_reason)
        self.workers.close()

    # ------------------------------------------------------------------ connections

    def _on_connect(self, mask: int) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._refuse_without_descriptors(error)
                return
            if peer_is_same_user(sock):
                connection = Connection(sock, self.reactor, self._on_hello, self._on_lost)
                connection.frame_limit_bytes = MAX_FIRST_FRAME_BYTES
            else:
                sock.close()

    def _refuse_without_descriptors(self, error: OSError) -> None:
        """No descriptor is left for another connection: give up the spare one to accept it, and close it."""
        print(f"a process could not be connected: {error}", file=sys.stderr, flush=True)
        os.close(self._spare_descriptor)
        try:
            self._listener.accept()[0].close()
        except OSError as refused:
            print(f"nor refused: {refused}", file=sys.stderr, flush=True)
        self._spare_descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _on_hello(self, connection: Connection, messages: list[Any]) -> None:
        hello: Any = messages[0] if messages else None
        refusal = refusal_of(hello)
        if refusal is None:
            refusal = self._welcome(connection, hello)
        if refusal is not None:
            print(f"refused a connection: {refusal}", flush=True)
            connection.send(Refused(refusal))
            connection.flush()
            connection.close()
        elif len(messages) > 1:
            self._on_messages(connection, messages[1:])

    def _welcome(self, connection: Connection, hello: Hello) -> str | None:
        now_s = monotonic()
        slot = 0
        worker = None
        if hello.role == "worker":
            job = self.workers.job_of(ProcessId(hello.process))
            if job is None:
                return f"process {hello.process.hex()} is no worker that was started here"
            process = ProcessId(hello.process)
        elif hello.role in ("driver", "inspector"):
            process = job = self.processes.next_id()
        else:
            return f"there is no role {hello.role!r} at a node daemon"
        connected = ConnectedProcess(connection, process, hello.role, hello.pid, job)
        if hello.role == "worker":
            worker = self.workers.on_hello(connected, now_s)
            slot = worker.slot if worker is not None else 0
        connection.peer = connected
        connection.frame_limit_bytes = MAX_FRAME_BYTES
        connection.on_messages = self._on_messages
        self.processes.add(connected)
        if hello.role != "inspector":
            self.objects.process_connected(process, job)
        welcome = Welcome(
            process,
            self.configuration.session_directory,
            self.store_limit_bytes,
            self.total.to_floats(),
            self.workers.namespace_of(job, self.configuration.namespace),
            slot,
            job,
            self.processes.node_address,
            self.cluster.credentials if self.cluster is not None else None,
        )
        try:
            send_welcome(connection.socket, welcome, [self.objects.memory.fd, self.slot_descriptor])
        except OSError as error:
            # It has died since it said hello; the end of its connection is read next.
            print(f"{connected!r} did not wait for its welcome: {error}", flush=True)
            return None
        if worker is not None:
            self.workers.worker_serves(worker, now_s)
        return None

    def _on_messages(self, connection: Connection, messages: list[Any]) -> None:
        connected: ConnectedProcess = connection.peer
        now_s = monotonic()
        try:
            for message in messages:
                self._on_message(connected, message, now_s)
        except (CountingError, ArenaError, ValueError, KeyError) as error:
            # The process broke the protocol: it is ended, not the node.
            traceback.print_exc()
            connection.send(SessionEnded(f"the node daemon ended this process's connection: {error}"))
            connection.flush()
            connection.close()
            self._on_lost(connection, error)

    def _on_message(self, connected: ConnectedProcess, message: Any, now_s: float) -> None:
        kind = type(message)
        if kind in COUNTING_MESSAGES:
            self.objects.on_counting(connected.process, message, now_s)
        elif kind in LEASE_MESSAGES:
            self.workers.on_message(connected, message, now_s)
            if kind is leases.RequestLease:
                self.groups.note_request(message.resources, now_s)
        elif kind in ARENA_MESSAGES:
            self.objects.on_arena(connected.process, message, now_s)
        elif kind in ACTOR_MESSAGES:
            self.actors.on_message(connected, message, now_s)
            if kind is actors.CreateActor:
                self.groups.note_request(message.spec.resources, now_s)
        elif kind in INSPECTION_MESSAGES:
            self.inspection.on_message(connected, message, now_s)
        elif kind in GROUP_MESSAGES:
            self.groups.on_message(connected, message, now_s)
        elif kind is JobEnvironment:
            self.workers.start_job(connected.process, message)
            if self.cluster is not None:
                self.cluster.head.job_started(connected.process, message, connected.pid, message.main_file)
            else:
                self.jobs.started(JobStarted(connected.process, message, connected.pid, message.main_file), time())
        elif kind is StopNode:
            self.end(message.reason)
        elif kind is KeyValueRequest:
            self._on_key_value(connected, message)
        elif kind is FlushOutput:
            others = self.cluster.messages.flush_output(connected.process, message) if self.cluster is not None else 0
            has_more = self.workers.output.flush(connected.process)
            self.processes.send(connected.process, OutputFlushed(message.request, others, has_more))
        elif kind is Leaving:
            connected.is_leaving = True
        else:
            raise ValueError(f"{connected!r} sent {message!r}, which no process says to a daemon")

    def _on_key_value(self, connected: ConnectedProcess, message: KeyValueRequest) -> None:
        if self.cluster is not None:
            self.cluster.head.process_message(connected.process, connected.job, message)
        else:
            self.processes.send(connected.process, self._key_value.answer(message))

    def _on_lost(self, connection: Connection, error: Exception | None) -> None:
        connected: ConnectedProcess | None = connection.peer
        if connected is None:
            return
        if error is not None:
            print(f"lost {connected!r}: {error}", file=sys.stderr, flush=True)
        if connected.role == "worker":
            self.workers.connection_lost(connected)
            return
        self.processes.remove(connected)
        if connected.role == "driver":
            self._end_driver(connected)

    def _end_driver(self, connected: ConnectedProcess) -> None:
        now_s = monotonic()
        self.actors.on_process_gone(connected.process)
        self.objects.process_ended(connected, now_s)
        if self.configuration.descriptors.driver >= 0 and not self._is_shared:
            self.end("the driver of this session has ended")
            return
        self.jobs.ended(connected.process, "its driver has ended", time())
        self.actors.end_job(connected.process)
        self.groups.on_process_gone(connected.process)
        self.groups.job_ended(connected.process, now_s)
        self.workers.end_job(connected.process, now_s)
        if self.cluster is not None:
            self.cluster.messages.forget_job(connected.process)

    def _on_worker_ended(self, connected: ConnectedProcess, cause: str) -> None:
        self.processes.remove(connected)
        self.groups.on_process_gone(connected.process)
        self.objects.process_ended(connected, monotonic())
        self.actors.on_worker_ended(connected, cause)

    def _on_object_freed(self, object_id: Any) -> None:
        self.actors.on_object_freed(object_id)
