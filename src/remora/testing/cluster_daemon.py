"""The daemon of one node of a simulated cluster: real machines, and those real services that have no effects.

Hands each message to the machine that understands it, as ``processes/daemon/main.py`` and ``cluster.py`` do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from remora.base.bundle_names import base_name, is_cpu
from remora.base.ids import NodeId, ObjectId, ProcessId, make_process_id, node_of
from remora.base.resources import Resources
from remora.core.counting.directory import Directory
from remora.core.counting.entries import Loss
from remora.core.counting.vocabulary import (
    CancelPull,
    FreeLocation,
    ObjectFreed,
    RaisePull,
    Send,
    StartPull,
)
from remora.messages import actors, copies, counting, leases, objects, placement_groups
from remora.messages import head as h
from remora.messages.links import ForProcess, FromProcess, LeaseRejected, ProcessGone, StartJob
from remora.messages.session import JobEnvironment, Leaving
from remora.processes.daemon.cluster_actors import ClusterActorService
from remora.processes.daemon.placement_groups import PlacementGroupService
from remora.testing.cluster_head_link import SimulatedHeadLink
from remora.testing.cluster_network import HEAD, End, Unit
from remora.testing.cluster_transfers import SimulatedTransfers
from remora.testing.cluster_workers import SimulatedWorkers

if TYPE_CHECKING:
    from remora.testing.cluster_world import World

OBJECT_MESSAGES = frozenset((*counting.MESSAGES, *copies.MESSAGES, *objects.MESSAGES))
LEASE_ANSWERS = frozenset(
    (leases.LeaseGranted, leases.LeaseDelayed, leases.RequestFailed, leases.LeaseBroken, leases.ReclaimLease)
)
ACTOR_MESSAGES = frozenset(actors.MESSAGES)
GROUP_MESSAGES = frozenset(placement_groups.MESSAGES)
LEASE_MESSAGES = frozenset(leases.MESSAGES)
ENVIRONMENT = JobEnvironment([], "/", "", "default")


class Arena:
    """Which pieces of the node's memory are taken, and by whom until they are published."""

    def __init__(self) -> None:
        self._last_offset = 0
        self.blocks: dict[int, ProcessId | None] = {}

    def allocate(self, process: ProcessId) -> int:
        """A piece for the process."""
        self._last_offset += 1
        self.blocks[self._last_offset] = process
        return self._last_offset

    def publish(self, offset: int) -> None:
        """The piece belongs to the directory."""
        assert offset in self.blocks, f"a piece at {offset} is published that nobody has"
        self.blocks[offset] = None

    def free(self, offset: int) -> None:
        """Nobody needs it."""
        assert offset in self.blocks, f"the piece at {offset} is freed twice"
        del self.blocks[offset]

    def process_dead(self, process: ProcessId) -> None:
        """What it had not published is free."""
        self.blocks = {offset: owner for offset, owner in self.blocks.items() if owner != process}


class Connected:
    """A process that has said hello; what the services look at."""

    __slots__ = ("is_leaving", "job", "process", "worker_number")

    def __init__(self, process: ProcessId, job: ProcessId, worker_number: int) -> None:
        self.process = process
        self.job = job
        self.worker_number = worker_number
        self.is_leaving = False


class SimulatedDaemon:
    """One node."""

    def __init__(self, world: World, total: Resources, labels: dict[str, str], is_head_node: bool) -> None:
        self.world = world
        self.boot = world.next_boot()
        self.head = SimulatedHeadLink(self, self.boot)
        self.address = f"host-{world.last_boot}:7000"
        joined = world.head.join(
            h.JoinCluster(
                self.boot, world.protocol, (3, 11), self.address, "", 0, dict(total.units), labels, is_head_node
            )
        )
        self.node = NodeId(joined.node)
        self.process = make_process_id(int.from_bytes(self.node, "big"), 0)
        self.is_heard = False
        """The head has a connection for heartbeats of this node."""
        self.silent_until_s = 0.0
        self._last_process = 0
        self._processes: dict[ProcessId, Connected] = {}
        self._members: dict[bytes, h.MemberView] = {}
        self._linked: set[bytes] = set()
        self._unsaid: dict[bytes, list[Unit]] = {}
        self._dead: set[bytes] = set()
        self.arena = Arena()
        self.directory: Directory = world.machines.directory(self.node, describe_loss, world.grace_s)
        self.total = dict(total.units)
        self.workers = SimulatedWorkers(self, total, labels)
        self.transfers = SimulatedTransfers(self, world.machines.pulls)
        # These have no effects but by what they are given, so they are the real ones.
        me: Any = self
        self.actors = ClusterActorService(me.head, me, me.workers, me)
        self.groups = PlacementGroupService(self.node, labels, me, me.workers)
        self.groups.use_head(self.head.process_message)
        self.head.joined(joined)
        world.alive.add(self.node)
        world.names[self.node] = world.names[self.process] = f"N{world.last_boot}"
        world.daemons[self.node] = self
        for departure in joined.departed:
            self._dead.add(departure.node)
            self.workers.view.died(departure.node, departure.cause)
        self.directory.deaths_before({NodeId(one.node): NodeId(one.heir or self.node) for one in joined.departed})
        self.on_members(joined.members)

    # ------------------------------------------------------------------ what the services use of the daemon

    def send(self, to: bytes, message: Any) -> None:
        """Say it to a process of this node, to another node, or to a process of one."""
        if to in self._processes:
            self.world.send(self.node, to, message)
        elif len(to) == len(self.node):
            self.send_node(to, message)
        elif node_of(to) != self.node:
            self.send_node(node_of(to), ForProcess(to), message)

    def send_node(self, node: bytes, *unit: Any) -> None:
        """Say it to another daemon, unless that is dead; what is said to one that is not known yet waits."""
        if node in self._dead:
            return
        if node in self._members or node in self._linked:
            self._linked.add(node)
            self.world.send(self.node, node, *unit)
        else:
            self._unsaid.setdefault(node, []).append(unit)

    def is_elsewhere(self, process: bytes) -> bool:
        """Whether the process is one of another node."""
        return node_of(process) != self.node

    def watch(self, object_id: ObjectId) -> bool:
        """Have it told when the object is freed."""
        return self.directory.watch(object_id)

    def keep_detached(self, actor: ObjectId) -> None:
        """What the constructor of a detached actor needs stays."""
        self.directory.keep_detached(actor)

    def drop_detached(self, actor: ObjectId, now_s: float) -> None:
        """The detached actor is dead."""
        self.directory.drop_detached(actor)
        self._carry_out_objects()

    def address_of(self, node: NodeId) -> str | None:
        """Where a member is."""
        member = self._members.get(node)
        return member.address if member is not None else None

    def next_process(self) -> ProcessId:
        """A process id that was never given before."""
        self._last_process += 1
        return make_process_id(int.from_bytes(self.node, "big"), self._last_process)

    # ------------------------------------------------------------------ processes

    def connect(self, process: ProcessId, job: ProcessId, worker_number: int = 0) -> None:
        """A process says hello."""
        self._processes[process] = Connected(process, job, worker_number)
        self.directory.process_connected(process, job)
        self.world.process_started(process, job, worker_number)

    def start_driver(self, process: ProcessId) -> None:
        """A driver says hello, and what its workers need."""
        self.connect(process, process)
        self.workers.start_job(process, ENVIRONMENT)
        self.head.job_started(process, ENVIRONMENT)

    def refused_process(self, process: bytes, reason: str) -> None:
        """The head ended a process because of what it said."""
        self.world.check(False, f"the head ends {self.world.name(process)}: {reason}", process)

    # ------------------------------------------------------------------ what arrives

    def receive(self, sender: bytes, unit: Unit, lane: int) -> None:
        """One unit; all that follows from it at once is done."""
        if lane:
            if sender not in self._dead:
                self.transfers.receive(NodeId(sender), lane, unit[0])
        elif sender == HEAD:
            self.head.receive(unit)
        elif len(sender) == len(self.node):
            self._from_node(NodeId(sender), unit)
        elif ProcessId(sender) in self._processes:
            self._from_process(self._processes[ProcessId(sender)], unit[0])
        self.carry_out()

    def _from_process(self, connected: Connected, message: Any) -> None:
        kind = type(message)
        process, now_s = connected.process, self.world.now_s
        if kind is End:
            self._process_ended(connected)
        elif kind in OBJECT_MESSAGES:
            location = _written_location(message)
            if location is not None:
                self.arena.publish(location.offset)
            self.directory.process_message(process, message)
        elif kind in LEASE_MESSAGES:
            self.workers.on_message(process, connected.job, message)
            if kind is leases.RequestLease:
                self.groups.note_request(message.resources, now_s)
        elif kind in ACTOR_MESSAGES:
            self.actors.on_message(_as_any(connected), message, now_s)
            if kind is actors.CreateActor:
                self.groups.note_request(message.spec.resources, now_s)
        elif kind in GROUP_MESSAGES:
            self.groups.on_message(_as_any(connected), message, now_s)
        else:
            assert kind is Leaving, f"no process says {message!r}"
            connected.is_leaving = True

    def _process_ended(self, connected: Connected) -> None:
        process, now_s = connected.process, self.world.now_s
        cause = self.world.cause_of_end(process)
        if process == connected.job:
            del self._processes[process]
            self.actors.on_process_gone(process)
            self._objects_ended(connected)
            self.actors.end_job(process)
            self.groups.on_process_gone(process)
            self.groups.job_ended(process, now_s)
            self.workers.end_job(process, now_s)
            return
        self.workers.worker_ended(process, cause)
        del self._processes[process]
        self.groups.on_process_gone(process)
        self._objects_ended(connected)
        self.actors.on_worker_ended(_as_any(connected), cause)

    def _objects_ended(self, connected: Connected) -> None:
        self.directory.process_ended(connected.process, self.world.now_s, connected.is_leaving)
        self.arena.process_dead(connected.process)
        self._carry_out_objects()

    def _from_node(self, node: NodeId, unit: Unit) -> None:
        if node in self._dead:
            return
        self._linked.add(node)
        message = unit[-1]
        kind = type(message)
        router, now_s = self.workers.router, self.world.now_s
        if kind is End:
            return  # what is said to it goes nowhere until the head has declared it dead
        if isinstance(unit[0], FromProcess):
            router.from_process(unit[0].process, unit[0].job, message, now_s)
        elif isinstance(unit[0], ForProcess):
            assert kind in LEASE_ANSWERS, f"no daemon says {message!r} to a process"
            router.for_process(node, unit[0].process, message, now_s)
        elif kind in OBJECT_MESSAGES:
            self.directory.node_message(node, message)
        elif kind is LeaseRejected:
            router.rejected(node, message, now_s)
        elif kind is StartJob:
            self.workers.start_job(message.job, message.environment)
        else:
            assert kind is ProcessGone, f"no daemon says {message!r}"
            router.remote_process_gone(message.process, now_s)

    # ------------------------------------------------------------------ what the head says

    def on_members(self, members: list[h.MemberView]) -> None:
        """These nodes joined or changed."""
        now_s = self.world.now_s
        self._members.update((member.node, member) for member in members)
        for member in members:
            for unit in self._unsaid.pop(member.node, ()):
                self.send_node(member.node, *unit)
        for member in members:
            if member.node != self.node:
                self.workers.view.report(
                    member.node,
                    address=member.address,
                    total=member.total,
                    available=member.available,
                    labels=member.labels,
                    queue_length=member.queue_length,
                    now_s=now_s,
                )
        others = [Resources(member.total) for member in self._members.values() if member.node != self.node]
        self.workers.leases.resources_changed(self.workers.leases.ledger.total, others, now_s)
        self.directory.nodes_changed([NodeId(node) for node in self._members])
        self._carry_out_objects()
        self.workers.router.view_changed(now_s)
        self.workers.carry_out()

    def on_node_dead(self, departure: h.Departure) -> None:
        """A node is no member any more."""
        node, now_s = NodeId(departure.node), self.world.now_s
        self.world.note(self.node, f"hears that {self.world.name(node)} is dead: {departure.cause}", node)
        self.world.declared_dead.add(node)
        self._members.pop(node, None)
        self._dead.add(node)
        self._unsaid.pop(node, None)
        self.transfers.node_dead(node)
        self.workers.node_dead(node)
        self.directory.node_dead(node, NodeId(departure.heir), now_s)
        self._carry_out_objects()
        self.workers.router.node_died(node, departure.cause, now_s)
        for job in self.workers.jobs_of(node):
            self.workers.end_job(job, now_s)
        self.workers.carry_out()

    def expel(self, reason: str) -> None:
        """This node is no member any more: it stops."""
        self.world.note(self.node, f"stops: {reason}", self.node)
        self.world.stop_node(self.node)

    # ------------------------------------------------------------------ time, and doing what the machines say

    def tick(self) -> None:
        """Time has passed."""
        now_s = self.world.now_s
        self.directory.tick(now_s)
        self.workers.tick(now_s)
        self.transfers.tick()
        self.carry_out()
        ledger, demand = self.workers.leases.ledger, self.workers.router.demand()
        count = sum(count for _, count in demand)
        self.head.tell_load(ledger.total.units, ledger.free(), count, demand)

    def carry_out(self) -> None:
        """The end of a turn: empty every outbox."""
        self._carry_out_objects()
        self.workers.carry_out()
        self.groups.look(self.world.now_s)

    def _carry_out_objects(self) -> None:
        directory = self.directory
        while True:
            self.transfers.carry_out()
            if not directory.outbox:
                return
            outbox = directory.outbox[:]
            directory.outbox.clear()
            for effect in outbox:
                if isinstance(effect, Send):
                    self.send(effect.to, effect.message)
                elif isinstance(effect, FreeLocation):
                    self.world.place_freed(effect.location)
                    self.arena.free(effect.location.offset)
                elif isinstance(effect, ObjectFreed):
                    self.actors.on_object_freed(ObjectId(effect.id))
                elif isinstance(effect, StartPull | RaisePull | CancelPull):
                    self.transfers.do(effect)

    def evict(self, size_bytes: int) -> None:
        """The store is full."""
        self.world.note(self.node, f"needs space for {size_bytes} bytes")
        self.directory.evict(size_bytes)
        self.carry_out()

    def validate(self) -> None:
        """
        Raises:
            AssertionError: a machine does not hold together.
        """
        self.directory.validate()
        self.workers.router.validate()
        leases = self.workers.leases
        leases.bundles.validate()
        for name, amount in leases.ledger.free().items():
            is_lent = is_cpu(name) or (leases.bundles.is_draining and base_name(name) != name)
            assert amount >= 0 or is_lent, f"{self.world.name(self.node)} has {amount} of {name} free"
        self.transfers.pulls.validate()
        self.head.link.validate()


def describe_loss(loss: Loss) -> bytes:
    """The error of an object that is lost: why, and where."""
    return f"lost: {loss.reason.name} {loss.where.hex()}".encode()


def _written_location(message: Any) -> objects.Location | None:
    if isinstance(message, counting.Store):
        return message.location
    if isinstance(message, counting.Publish | counting.Resolve) and not message.writer:
        return message.value.location
    return None


def _as_any(value: Any) -> Any:
    return value
