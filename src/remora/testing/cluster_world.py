"""A whole cluster in one process: head, daemons, drivers and workers, with a fake clock, network and disk.

Nothing happens by itself. Who drives the world (a story, a seed) chooses every step: deliver the oldest unit of one
channel, let a worker say hello or begin a call, end a write of the disk, let time pass, act in a program, kill. The
machines in it are those of ``core``; :class:`Machines` says which, so that tests can break one on purpose.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from remora.base.ids import NodeId, ObjectId, ProcessId, make_task_id, node_of
from remora.base.protocol_version import PROTOCOL_VERSION
from remora.base.resources import Resources
from remora.core.counting.directory import Directory
from remora.core.counting.entries import Entry
from remora.core.counting.process import ProcessRefs
from remora.core.head import Head
from remora.core.lease_routing import LeaseRouter
from remora.core.leases import LeaseTable
from remora.core.pulls import PullManager
from remora.core.submission import Submission
from remora.messages.actors import ActorSpec, ConstructActor
from remora.messages.objects import Location
from remora.messages.tasks import Task
from remora.testing.cluster_daemon import SimulatedDaemon
from remora.testing.cluster_head import SimulatedHead
from remora.testing.cluster_network import HEAD, REPLIES, Channel, Line, Network, Unit, Violation
from remora.testing.cluster_process import SimulatedProcess
from remora.testing.cluster_refs import LiveRef

HEARTBEAT_S = 0.5
Step = tuple[str, Any]
"""Something that could happen next, and to whom."""


@dataclass
class Machines:
    """The classes of the machines that a world is made of."""

    refs: type[ProcessRefs] = ProcessRefs
    directory: type[Directory] = Directory
    table: type[LeaseTable] = LeaseTable
    router: type[LeaseRouter] = LeaseRouter
    submission: type[Submission[Any]] = Submission
    pulls: type[PullManager] = PullManager
    head: type[Head] = Head


class Observer:
    """What a world tells of what happens in it; the checker is one."""

    def object_freed(self, node: NodeId, object_id: ObjectId, entry: Entry) -> None:
        """A directory frees the object."""

    def place_freed(self, location: Location) -> None:
        """A daemon frees a piece of its store."""

    def looks(self, process: SimulatedProcess, object_id: ObjectId, location: Location) -> None:
        """A process looks at a piece of the store."""

    def exported(self, process: SimulatedProcess, object_id: ObjectId) -> None:
        """A process is about to pickle a published ref outside of our serializers."""

    def task_made(self, task: bytes, retries: int) -> None:
        """A task is submitted."""

    def method_called(self, task: bytes, actor: ObjectId) -> None:
        """A method is called."""

    def call_sent(self, submitter: ProcessId, task: Task, held: tuple[ObjectId, ...]) -> None:
        """A call leaves; the submitter holds these until the worker has closed it."""

    def task_began(self, process: SimulatedProcess, task: bytes) -> None:
        """A worker begins a call."""

    def actor_made(self, creator: ProcessId, actor: ObjectId, spec: ActorSpec) -> None:
        """An actor is asked for."""

    def actor_began(self, process: SimulatedProcess, actor: ObjectId, message: ConstructActor) -> None:
        """A worker begins to be an actor."""

    def get_failed(self, process: SimulatedProcess, ref: LiveRef) -> None:
        """A process was told that an object has no value."""

    def connection_changed(self, submitter: ProcessId, worker: ProcessId, *, is_open: bool) -> None:
        """The submitter opens its connection to the worker, or closes it."""

    def sent(self, sender: bytes, to: bytes, unit: Unit) -> None:
        """A unit leaves."""

    def stepped(self) -> None:
        """Something happened, and all that follows from it at once."""


class World(Network):
    """The cluster. *rng* decides what is nobody's choice, for example what of a dead process is lost on the way."""

    def __init__(self, seed: int = 0, machines: Machines | None = None, grace_s: float = 0.0) -> None:
        super().__init__()
        self.machines = machines or Machines()
        self.machines.directory = _observed(self.machines.directory, self)
        self.rng = random.Random(f"world {seed}")
        self.grace_s = grace_s
        self.protocol = PROTOCOL_VERSION
        self.observers: list[Observer] = []
        self.daemons: dict[NodeId, SimulatedDaemon] = {}
        self.processes: dict[ProcessId, SimulatedProcess] = {}
        self.faults = 0
        self.last_boot = 0
        self.declared_dead: set[bytes] = set()
        self.loses_last: bool | None = None
        """Whether other nodes miss what the dead said last; None: that is decided for each."""
        self.held_up: set[Channel] = set()
        """Channels that deliver nothing now."""
        self._connections: dict[tuple[ProcessId, ProcessId], None] = {}
        self._causes: dict[ProcessId, str] = {}
        self._to_reopen: dict[NodeId, None] = {}
        self._begun: dict[ProcessId, bytes] = {}
        self._next_heartbeat_s = 0.0
        self.head = SimulatedHead(self, self.machines.head)

    def send(self, sender: bytes, to: bytes, *unit: Any, lane: int = 0) -> None:
        if sender in self.alive:
            for observer in self.observers:
                observer.sent(sender, to, unit)
        super().send(sender, to, *unit, lane=lane)

    # ------------------------------------------------------------------ who is there

    def next_boot(self) -> bytes:
        """What names a daemon before it is a member."""
        self.last_boot += 1
        return b"boot" + self.last_boot.to_bytes(12, "big")

    def add_node(self, total: Resources, labels: dict[str, str] | None = None) -> SimulatedDaemon:
        """A node joins; the first one is the head's."""
        return SimulatedDaemon(self, total, labels or {}, is_head_node=not self.daemons)

    def add_driver(self, daemon: SimulatedDaemon, name: str = "") -> SimulatedProcess:
        """A program begins on the node."""
        process = daemon.next_process()
        drivers = sum(one.is_driver for one in self.processes.values())
        self.names[process] = name or f"D{drivers + 1}"
        daemon.start_driver(process)
        daemon.carry_out()
        return self.processes[process]

    def process_started(self, process: ProcessId, job: ProcessId, worker_number: int) -> None:
        """A process has said hello."""
        self.names.setdefault(process, f"{self.name(node_of(process))}.{worker_number}")
        self.alive.add(process)
        self.processes[process] = SimulatedProcess(self, process, job, worker_number)
        self.note(process, "says hello", process)

    def living_daemons(self) -> list[SimulatedDaemon]:
        """Daemons that run, also those that were declared dead and do not know."""
        return [daemon for daemon in self.daemons.values() if daemon.node in self.alive]

    def living_processes(self) -> list[SimulatedProcess]:
        """Drivers and workers that run."""
        return [process for process in self.processes.values() if process.is_alive]

    def cause_of_end(self, process: ProcessId) -> str:
        """How the process ended."""
        return self._causes.get(process, "it ended")

    # ------------------------------------------------------------------ steps

    def steps(self) -> Iterator[Step]:
        """All that could happen next without time passing, apart from deliveries."""
        if self.head.has_disk_work:
            yield "disk", None
        for node in self._to_reopen:
            yield "reopen", node
        for daemon in self.daemons.values():
            if daemon.node in self.alive:
                for worker in daemon.workers.waiting_to_start():
                    yield "hello", (daemon, worker)
        for process in self.processes.values():
            if process.is_alive:
                if process.can_start:
                    yield "begin", process
                elif process.can_leave:
                    yield "leave", process
                if process.deaths:
                    yield "deaths", process

    def open_channels(self) -> list[Channel]:
        """Those that may deliver now."""
        if not self.held_up and not any(daemon.silent_until_s > self.now_s for daemon in self.daemons.values()):
            return list(self.channels)
        return [channel for channel in self.channels if not self._is_held_up(channel)]

    def _is_held_up(self, channel: Channel) -> bool:
        if channel in self.held_up:
            return True
        silent = self.daemons.get(NodeId(channel[0] if channel[1] == HEAD else channel[1]))
        return HEAD in channel and silent is not None and silent.silent_until_s > self.now_s

    def take_step(self, step: Step) -> None:
        """Let it happen."""
        kind, who = step
        if kind == "disk":
            self.head.work_on_disk()
        elif kind == "reopen":
            del self._to_reopen[who]
            self.daemons[who].head.reopen()
        elif kind == "hello":
            daemon, worker = who
            daemon.workers.say_hello(worker)
            daemon.carry_out()
        elif kind == "begin":
            who.start_next()
        elif kind == "leave":
            who.leave()
        else:
            assert kind == "deaths", f"no step is called {kind}"
            who.tell_deaths()
            who.end_turn()
        self._stepped()

    def deliver(self, channel: Channel) -> None:
        """Hand over the oldest unit of the channel, and all that its receiver then wants."""
        sender, to, lane = channel
        unit = self.take(channel)
        if to not in self.alive:
            return
        self.log.append(Line(self.now_s, sender, to, unit))
        self._hand_over(sender, to, unit, lane)
        self._stepped()

    def _hand_over(self, sender: bytes, to: bytes, unit: tuple[Any, ...], lane: int) -> None:
        if to == HEAD:
            self.head.receive(NodeId(sender), unit)
        elif len(to) == 4:
            self.daemons[NodeId(to)].receive(sender, unit, lane)
        else:
            self.processes[ProcessId(to)].receive(sender, unit, lane)

    def act(self, process: SimulatedProcess, what: str, action: Callable[[], None], *concerns: bytes) -> None:
        """The code of the process does something."""
        self.note(process.process, what, *concerns)
        action()
        process.carry_out()
        process.end_turn()
        self._stepped()

    def pass_time(self, seconds: float) -> None:
        """Clocks go on, and everything periodic is done."""
        self.now_s += seconds
        if self.now_s >= self._next_heartbeat_s:
            self._next_heartbeat_s = self.now_s + HEARTBEAT_S
            self._heartbeats()
        if self.head.head is not None:
            self.head.tick()
        for daemon in self.living_daemons():
            daemon.tick()
        for process in self.living_processes():
            process.tick()
        self._stepped()

    def _heartbeats(self) -> None:
        for daemon in self.living_daemons():
            if self.head.head is None:
                daemon.is_heard = False
            elif daemon.silent_until_s <= self.now_s:
                refusal = self.head.heartbeat(daemon.node, daemon.boot, daemon.is_heard)
                daemon.is_heard = not refusal
                if refusal:
                    daemon.expel(refusal)

    def _stepped(self) -> None:
        for observer in self.observers:
            observer.stepped()

    # ------------------------------------------------------------------ connections between processes

    def connected(self, submitter: ProcessId, worker: ProcessId) -> None:
        """A connection from the submitter to the worker stands, if that lives."""
        if worker in self.alive:
            self._connections[submitter, worker] = None
        for observer in self.observers:
            observer.connection_changed(submitter, worker, is_open=True)

    def disconnected(self, submitter: ProcessId, worker: ProcessId) -> None:
        """The submitter closes the connection: what is on its way to it is lost."""
        if self._connections.pop((submitter, worker), 0) is None:
            self.put_end(submitter, worker)
        self.channels.pop((worker, submitter, REPLIES), None)
        for observer in self.observers:
            observer.connection_changed(submitter, worker, is_open=False)

    def read_to_end(self, submitter: ProcessId, worker: ProcessId) -> None:
        """The worker is known to be dead: what it wrote on this node is there, from elsewhere some may be lost."""
        channel = (worker, submitter, REPLIES)
        process = self.processes[submitter]
        if worker in self.alive or (process.is_elsewhere(worker) and self._decide_loss()):
            return
        while channel in self.channels and worker in process.peers:
            unit = self.take(channel)
            self.log.append(Line(self.now_s, worker, submitter, unit))
            process.receive(worker, unit, REPLIES)

    def begun_last(self, worker: ProcessId) -> bytes:
        """The task that the worker began last, as its slot tells on its own node."""
        return self._begun.get(worker, bytes(12))

    def task_began(self, process: SimulatedProcess, submitter: ProcessId, call: int) -> None:
        """The worker writes it into its slot."""
        task = make_task_id(submitter, call)
        self._begun[process.process] = task
        self.daemons[process.node].workers.slots[process.worker_number] = task
        self.note(process.process, f"begins {self.name(task)}", task)
        for observer in self.observers:
            observer.task_began(process, task)

    # ------------------------------------------------------------------ deaths

    def end_process(self, process: ProcessId, cause: str, in_order: bool = False) -> None:
        """The process ends; what it wrote still arrives, or not on other nodes."""
        one = self.processes[process]
        if not one.is_alive:
            return
        self.note(process, f"ends: {cause}", process)
        self._causes[process] = cause
        one.is_alive = False
        loses_last = not in_order and self._decide_loss()
        self.drop(process, from_it=False)
        self._end_connections(process, loses_last)
        self.put_end(process, one.node)
        self.alive.discard(process)

    def _decide_loss(self) -> bool:
        return self.rng.random() < 0.5 if self.loses_last is None else self.loses_last

    def _end_connections(self, process: ProcessId, loses_last: bool) -> None:
        for submitter, worker in [pair for pair in self._connections if process in pair]:
            del self._connections[submitter, worker]
            other, lane = (worker, 0) if submitter == process else (submitter, REPLIES)
            if loses_last and node_of(other) != node_of(process):
                self.channels.pop((process, other, lane), None)
            self.put_end(process, other, lane)

    def kill_process(self, process: SimulatedProcess) -> None:
        """A fault."""
        self.faults += 1
        self.end_process(process.process, "it is killed")

    def kill_node(self, node: NodeId) -> None:
        """A fault: the machine goes down."""
        self.faults += 1
        self.note(node, "goes down", node)
        self.stop_node(node)

    def stop_node(self, node: NodeId) -> None:
        """The daemon and all processes of the node end."""
        if node not in self.alive:
            return
        loses_last = self._decide_loss()
        for process in [one for one in self.living_processes() if one.node == node]:
            self.end_process(process.process, "its node is gone")
        self.alive.discard(node)
        self._to_reopen.pop(node, None)
        for channel in list(self.channels):
            if node in channel[:2] and (loses_last or channel[1] == node or node_of(channel[0]) == channel[1]):
                del self.channels[channel]
        for daemon in self.living_daemons():
            for source, lane in daemon.transfers.open_streams():
                if source == node:
                    self.put_end(node, daemon.node, lane)
        if HEAD in self.alive:
            self.put_end(node, HEAD)

    def kill_head(self) -> None:
        """A fault: the head's process dies."""
        self.faults += 1
        self.head.kill()
        self._to_reopen.clear()
        for daemon in self.living_daemons():
            daemon.head.head_lost()
            daemon.is_heard = False

    def restart_head(self) -> None:
        """Its daemon starts it again; the nodes come back one after the other."""
        self.head.start()
        self._to_reopen = {daemon.node: None for daemon in self.living_daemons()}
        self._stepped()

    def silence(self, daemon: SimulatedDaemon, seconds: float) -> None:
        """A fault: the node and the head do not hear each other for so long."""
        self.faults += 1
        self.note(daemon.node, f"is cut off from the head for {seconds:g} s", daemon.node)
        daemon.silent_until_s = self.now_s + seconds

    # ------------------------------------------------------------------ what observers are told

    def check(self, is_true: bool, text: str, concern: bytes = b"") -> None:
        """
        Raises:
            Violation: it is not true.
        """
        if not is_true:
            raise Violation(text, concern)

    def look(self, process: ProcessId, object_id: ObjectId, location: Location) -> None:
        """A process looks at a piece of the store."""
        for observer in self.observers:
            observer.looks(self.processes[process], object_id, location)

    def place_freed(self, location: Location) -> None:
        """A daemon frees a piece of its store."""
        for observer in self.observers:
            observer.place_freed(location)

    def exported(self, process: ProcessId, object_id: ObjectId) -> None:
        """A process is about to pickle a published ref outside of our serializers."""
        for observer in self.observers:
            observer.exported(self.processes[process], object_id)

    def task_made(self, task: bytes, retries: int) -> None:
        """A task is submitted."""
        for observer in self.observers:
            observer.task_made(task, retries)

    def method_called(self, task: bytes, actor: ObjectId) -> None:
        """A method is called."""
        for observer in self.observers:
            observer.method_called(task, actor)

    def call_sent(self, submitter: ProcessId, task: Task, held: tuple[ObjectId, ...]) -> None:
        """A call leaves."""
        for observer in self.observers:
            observer.call_sent(submitter, task, held)

    def actor_made(self, creator: ProcessId, actor: ObjectId, spec: ActorSpec) -> None:
        """An actor is asked for."""
        for observer in self.observers:
            observer.actor_made(creator, actor, spec)

    def actor_began(self, process: SimulatedProcess, actor: ObjectId, message: ConstructActor) -> None:
        """A worker begins to be an actor."""
        self.note(process.process, f"is actor {self.name(actor)} now", actor)
        for observer in self.observers:
            observer.actor_began(process, actor, message)

    def get_failed(self, process: SimulatedProcess, ref: LiveRef) -> None:
        """A process was told that an object has no value."""
        self.note(process.process, f"get of {self.name(ref.id)} raises {ref.data.decode()}", ref.id)
        for observer in self.observers:
            observer.get_failed(process, ref)

    def duration_s(self, call: int) -> float:
        """What a call took: most are quick, so that several are sent to a worker at once."""
        return 0.01 if call % 5 == 0 else 0.0001

    def validate(self) -> None:
        """
        Raises:
            AssertionError: a machine does not hold together.
        """
        if self.head.head is not None:
            self.head.head.validate()
        for daemon in self.living_daemons():
            daemon.validate()
        for process in self.living_processes():
            process.refs.validate()
            process.submission.validate()
            for handle in process.handles.values():
                handle.calls.validate()


def _observed(machine: type[Directory], world: World) -> type[Directory]:
    """The directory machine, telling the world of every object that it frees."""

    class Observed(machine):  # type: ignore[misc, valid-type]
        def _freed(self, object_id: ObjectId, entry: Entry) -> None:
            world.note(self.node, f"frees {world.name(object_id)}", object_id)
            for observer in world.observers:
                observer.object_freed(self.node, object_id, entry)
            super()._freed(object_id, entry)

    return Observed
