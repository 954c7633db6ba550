"""The main function of a node daemon: accepts processes, hands their messages to the services, ends the session."""

from __future__ import annotations

import os
import socket
import sys
import traceback
from time import monotonic
from typing import Any

from remora.base.configuration import NodeConfiguration
from remora.base.ids import NodeId, ProcessId
from remora.base.resources import Resources
from remora.core.arena_records import ArenaError
from remora.core.counting.vocabulary import CountingError
from remora.messages import actors, arena, counting, inspection, leases, objects
from remora.messages.session import Hello, JobEnvironment, Leaving, Refused, SessionEnded, Welcome
from remora.messages.wire import MAX_FRAME_BYTES
from remora.processes.daemon.actors import ActorService
from remora.processes.daemon.connected import ConnectedProcess, ConnectedProcesses
from remora.processes.daemon.inspection import InspectionService
from remora.processes.daemon.objects import ObjectService, default_limit_bytes
from remora.processes.daemon.workers import WorkerService
from remora.system.connection import Connection
from remora.system.cpu_count import available_cpus
from remora.system.handshake import MAX_FIRST_FRAME_BYTES, peer_is_same_user, refusal_of, send_welcome
from remora.system.launch import announce_ready, end_everything
from remora.system.reactor import Reactor
from remora.system.slot_page import SlotPage, create_slot_page

TICK_S = 0.05
IDLE_TICK_S = 0.5

COUNTING_MESSAGES = frozenset((*counting.MESSAGES, objects.GetObjects, objects.ForgetGet))
ARENA_MESSAGES = frozenset(arena.MESSAGES)
LEASE_MESSAGES = frozenset(leases.MESSAGES)
ACTOR_MESSAGES = frozenset(actors.MESSAGES)
INSPECTION_MESSAGES = frozenset(inspection.MESSAGES)


def main(configuration: NodeConfiguration) -> None:
    """Run the daemon until its driver is gone, then end everything that belongs to it."""
    daemon = NodeDaemon(configuration)
    announce_ready(configuration)
    daemon.run()
    end_everything(configuration)


class NodeDaemon:
    """One node's daemon: the loop and the connections; the services own the state."""

    def __init__(self, configuration: NodeConfiguration) -> None:
        self.configuration = configuration
        self.node = NodeId(configuration.node.to_bytes(4, "big"))
        self.reactor = Reactor()
        self.processes = ConnectedProcesses(configuration.node)
        self.store_limit_bytes = configuration.store_limit_bytes or default_limit_bytes()
        self.slot_descriptor = create_slot_page()
        slots = SlotPage(os.dup(self.slot_descriptor))
        num_cpus = configuration.num_cpus
        self.total = Resources.of(
            num_cpus=available_cpus() if num_cpus is None else num_cpus,
            num_gpus=configuration.num_gpus or None,
            memory=float(default_limit_bytes()),
            resources=configuration.resources,
        )
        self.objects = ObjectService(
            self.node, self.store_limit_bytes, configuration.grace_s, self.processes, self._on_object_freed
        )
        self.workers = WorkerService(configuration, self.total, self.reactor, self.processes, slots)
        self.workers.use_clock(monotonic)
        self.actors = ActorService(self.processes, self.workers, self.objects)
        self.workers.on_worker_ended = self._on_worker_ended
        self.inspection = InspectionService(self)
        self._listener = socket.socket(fileno=configuration.descriptors.listener)
        self._listener.setblocking(False)
        self.reactor.register(self._listener.fileno(), self._on_connect)
        if configuration.descriptors.driver >= 0:
            self.reactor.register(configuration.descriptors.driver, self._on_driver_ended)
        self._spare_descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._is_ending = False
        self._is_shared = configuration.cluster is not None and configuration.cluster.is_shared

    # ------------------------------------------------------------------ the loop

    def run(self) -> None:
        """Serve until the session is over."""
        next_tick_s = 0.0
        while not self._is_ending:
            now_s = monotonic()
            if now_s >= next_tick_s:
                next_tick_s = self._tick(now_s)
            self.processes.flush()
            self.reactor.poll(max(0.0, next_tick_s - monotonic()))
            if self.workers.leases.has_periodic_work:
                next_tick_s = min(next_tick_s, self._next_lease_tick_s(monotonic()))
        self._say_goodbye()

    def _tick(self, now_s: float) -> float:
        times = [time for time in (self.objects.tick(now_s), self.inspection.tick(now_s)) if time is not None]
        due_s = min(times, default=None)
        self.workers.tick(now_s)
        self.workers.output.tick()
        next_s = now_s + IDLE_TICK_S
        if self.workers.leases.has_periodic_work:
            next_s = self._next_lease_tick_s(now_s)
        return next_s if due_s is None else max(now_s, min(next_s, due_s))

    def _next_lease_tick_s(self, now_s: float) -> float:
        due_s = self.workers.leases.next_reclaim_s(now_s)
        return now_s + TICK_S if due_s is None else min(due_s, now_s + TICK_S)

    def _on_driver_ended(self, mask: int) -> None:
        self._is_ending = True

    def _say_goodbye(self) -> None:
        for connected in self.processes:
            connected.connection.send(SessionEnded("the driver of this session has ended"))
            connected.connection.flush()
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
            self.configuration.namespace,
            slot,
            job,
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
        elif kind in ARENA_MESSAGES:
            self.objects.on_arena(connected.process, message, now_s)
        elif kind in ACTOR_MESSAGES:
            self.actors.on_message(connected, message, now_s)
        elif kind in INSPECTION_MESSAGES:
            self.inspection.on_message(connected, message, now_s)
        elif kind is JobEnvironment:
            self.workers.start_job(connected.process, message)
        elif kind is Leaving:
            connected.is_leaving = True
        else:
            raise ValueError(f"{connected!r} sent {message!r}, which no process says to a daemon")

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
            self._is_ending = True
            return
        self.workers.leases.requester_gone(connected.process, now_s)
        self.workers.leases.job_ended(connected.process, now_s)
        self.actors.registry.job_ended(connected.process)
        self.actors.carry_out()
        self.workers.carry_out()

    def _on_worker_ended(self, connected: ConnectedProcess, cause: str) -> None:
        self.processes.remove(connected)
        self.objects.process_ended(connected, monotonic())
        self.actors.on_worker_ended(connected, cause)

    def _on_object_freed(self, object_id: Any) -> None:
        self.actors.on_object_freed(object_id)
