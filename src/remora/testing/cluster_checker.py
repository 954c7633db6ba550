"""The truth about a simulated cluster, against which its machines are judged at every step and when all is quiet.

References are judged as in :mod:`remora.testing.counting_checker`: at the moment an object is freed, no claim to it may
stand. Without faults every live ref is a claim that stands; :mod:`remora.testing.standing_claims` says which do after
one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from remora.base.ids import NodeId, ObjectId, ProcessId, make_object_id, node_of
from remora.base.object_ref import FAILED
from remora.core.actor import Actor
from remora.core.counting.carriers import CallCarrier, Carrier, RunningTask
from remora.core.counting.entries import Entry
from remora.core.counting.vocabulary import Hold
from remora.messages import counting as m
from remora.messages.actors import DEAD, ActorSpec, ConstructActor
from remora.messages.objects import Location
from remora.messages.tasks import Reply, Task
from remora.testing.cluster_daemon import SimulatedDaemon
from remora.testing.cluster_network import REPLIES, Unit, Violation
from remora.testing.cluster_process import SimulatedProcess
from remora.testing.cluster_refs import LiveRef
from remora.testing.cluster_world import Observer, World
from remora.testing.standing_claims import Seen, StandingClaims


@dataclass
class CallTruth:
    """What a call carried, and what its submitter holds for it."""

    held: tuple[ObjectId, ...]
    listed: tuple[ObjectId, ...]


class Checker(StandingClaims[SimulatedProcess], Observer):
    """Watches a world from its beginning. Raises :class:`Violation`."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        world.observers.append(self)
        self.calls: dict[tuple[ProcessId, int], CallTruth] = {}
        self.retries: dict[bytes, int] = {}
        self.begun: dict[bytes, int] = {}
        self.constructors: dict[tuple[bytes, int], ObjectId] = {}
        self.actors: dict[ObjectId, ActorSpec] = {}
        self.incarnations: dict[tuple[ObjectId, int], ProcessId] = {}
        self.names: dict[str, list[ObjectId]] = {}
        self.freed: set[ObjectId] = set()
        self.closed: set[tuple[ProcessId, ProcessId]] = set()
        """Connections that the submitter has closed, for example because the worker is killed: no call covers now."""
        self.exports: dict[ObjectId, list[SimulatedProcess]] = {}
        """Refs that were there when they were pickled outside of our serializers, and by whom."""
        self.exporters: list[SimulatedProcess] = []
        self.failed_gets = 0

    # ------------------------------------------------------------------ what is true

    def sent(self, sender: bytes, to: bytes, unit: Unit) -> None:
        message = unit[-1]
        if isinstance(message, Reply):
            for item, value in enumerate(message.returns):
                self._has_value(make_object_id(ProcessId(to), message.call, item), value)
        elif isinstance(message, m.Publish | m.Resolve):
            self._has_value(ObjectId(message.id), message.value)

    def call_sent(self, submitter: ProcessId, task: Task, held: tuple[ObjectId, ...]) -> None:
        listed = [ObjectId(one) for one in task.refs]
        for argument in task.values:
            listed += [ObjectId(one) for one in argument.value.contents]
            self._has_value(ObjectId(argument.id), argument.value)
        self.calls[submitter, task.call] = CallTruth(held, tuple(listed))

    def actor_made(self, creator: ProcessId, actor: ObjectId, spec: ActorSpec) -> None:
        self.actors[actor] = spec
        self.constructors[creator, int.from_bytes(actor[8:12], "big")] = actor

    def exported(self, process: SimulatedProcess, object_id: ObjectId) -> None:
        self.exporters.append(process)
        counted = process.refs._refs.get(object_id)
        if not self.world.faults or (counted is not None and counted.hold is Hold.HELD):  # else it may be lost already
            self.exports.setdefault(object_id, []).append(process)

    def is_exported(self, object_id: ObjectId, job: ProcessId | None = None) -> bool:
        """Whether a job that runs, or this one, keeps the object to its end."""
        exporters = self.exports.get(object_id, ())
        return any(self._is_kept_for(one) for one in exporters if job in (None, one.job))

    def _is_kept_for(self, exporter: SimulatedProcess) -> bool:
        """A node holds for a job what its own processes have pickled."""
        is_there = exporter.node in self.world.alive and exporter.node not in self.world.declared_dead
        return is_there and self._counts(self._process(exporter.job))

    @property
    def objects_stay(self) -> bool:
        """Whether something is rightly not freed when nobody wants anything any more, and what hangs on it."""
        return any(one.is_alive or self._is_kept_for(one) for one in self.exporters) or self.has_cycle()

    def connection_changed(self, submitter: ProcessId, worker: ProcessId, *, is_open: bool) -> None:
        if is_open:
            self.closed.discard((submitter, worker))
        else:
            self.closed.add((submitter, worker))

    # ------------------------------------------------------------------ tasks, actors, names

    def task_made(self, task: bytes, retries: int) -> None:
        self.retries[task] = retries

    def method_called(self, task: bytes, actor: ObjectId) -> None:
        self.retries[task] = self.actors[actor].max_task_retries

    def task_began(self, process: SimulatedProcess, task: bytes) -> None:
        begun = self.begun[task] = self.begun.get(task, 0) + 1
        if 0 <= self.retries[task] < begun - 1:
            raise Violation(f"{self._name(task)} runs {begun} times, with {self.retries[task]} retries", task)

    def actor_began(self, process: SimulatedProcess, actor: ObjectId, message: ConstructActor) -> None:
        before = self.incarnations.get((actor, message.incarnation))
        if before is not None:
            number = message.incarnation
            raise Violation(f"{self._name(actor)} is made twice as worker number {number}", actor)
        self.incarnations[actor, message.incarnation] = process.process
        restarts = self.actors[actor].max_restarts
        if 0 <= restarts < message.incarnation - 1:
            raise Violation(f"{self._name(actor)} starts {message.incarnation} times, with {restarts} restarts", actor)

    def name_granted(self, name: str, actor: ObjectId) -> None:
        """The creator was told that the name is its actor's."""
        head = self.world.head.head
        granted = self.names.setdefault(name, [])
        for other in granted if head is not None else ():
            state = self._actor_of(other)
            if other != actor and state is not None and state.state.state != DEAD:
                raise Violation(f"{name!r} is {self._name(actor)} and {self._name(other)} at once", actor)
        granted.append(actor)

    def _actor_of(self, actor: ObjectId) -> Actor | None:
        return next((one for one in self.world.head.machine.registry.actors() if one.id == actor), None)

    def looks(self, process: SimulatedProcess, object_id: ObjectId, location: Location) -> None:
        blocks = self.world.daemons[process.node].arena.blocks
        if location.node != process.node:
            raise Violation(f"{self._name(process.process)} looks at {self._name(object_id)} elsewhere", object_id)
        if location.offset in blocks or not self._stands(process, object_id, frozenset()):
            return
        entry = self._entry_of(object_id)
        if entry is not None and entry.value.state != FAILED:  # else it was lost with who wrote it
            raise Violation(
                f"{self._name(process.process)} looks at {self._name(object_id)}, which is freed", object_id
            )

    def get_failed(self, process: SimulatedProcess, ref: LiveRef) -> None:
        self.failed_gets += 1
        if not self.world.faults and self._was_given_to_an_unreachable_actor(ref.id):
            return
        if not self.world.faults and ref.data.startswith(b"lost") and b"NO_ROOM" not in ref.data:
            raise Violation(f"{self._name(ref.id)} is lost, and nothing died", ref.id)

    def _was_given_to_an_unreachable_actor(self, object_id: ObjectId) -> bool:
        """What a constructor was given goes with the actor's last handle, also while it runs."""
        return any(
            actor in self.freed and self._contains(actor, object_id) for actor in self.actors if self._was_used(actor)
        )

    def _was_used(self, actor: ObjectId) -> bool:
        return any(made == actor for made, _ in self.incarnations)

    def _contains(self, container: ObjectId, object_id: ObjectId, been: frozenset[ObjectId] = frozenset()) -> bool:
        inside = self.contents.get(container, ())
        return object_id in inside or any(
            one not in been and self._contains(one, object_id, been | {container}) for one in inside
        )

    # ------------------------------------------------------------------ at every free

    def object_freed(self, node: NodeId, object_id: ObjectId, entry: Entry) -> None:
        self.freed.add(object_id)
        if node in self.world.declared_dead:
            return
        if self.is_exported(object_id):
            raise Violation(f"{self._name(object_id)} is freed, and its job promised to keep it", object_id)
        for process in self._members():
            if self._lives(process, object_id) and self._stands(process, object_id, frozenset()):
                raise Violation(f"{self._name(object_id)} is freed while it lives in {process!r}", object_id)
        for daemon in self._daemons():
            for container, other in daemon.directory._entries.items():
                contains = container != object_id and object_id in other.contents
                if contains and self._container_holds(container, object_id, frozenset()):
                    name = self._name(container)
                    raise Violation(f"{self._name(object_id)} is freed while {name} contains it", object_id)
        self._check_travelling(object_id)

    def _check_travelling(self, object_id: ObjectId) -> None:
        for (sender, to, lane), queue in self.world.channels.items():
            process = self.world.processes.get(ProcessId(sender))
            if process is None or not process.is_alive or len(to) != 8 or node_of(sender) in self.world.declared_dead:
                continue
            for unit in queue:
                message = unit[-1]
                if (sender, to) in self.closed or (to, sender) in self.closed:
                    continue
                if lane == 0 and isinstance(message, Task):
                    truth = self.calls[process.process, message.call]
                    carried = object_id in truth.listed
                    stands = carried and self._kept_by(process, truth.held, object_id, frozenset())
                elif lane == REPLIES and isinstance(message, Reply) and message.returns:
                    carried = object_id in message.returns[0].contents and self._lives(process, object_id)
                    stands = carried and self._stands_if_lives(process, object_id, frozenset())
                else:
                    continue
                if stands:
                    text = f"{self._name(object_id)} is freed while {self.world.describe(message)} carries it"
                    raise Violation(text, object_id)

    def place_freed(self, location: Location) -> None:
        for process in self._members():
            for object_id, ref in process.live.items():
                if ref.location == location and ref.is_finished and self._stands(process, object_id, frozenset()):
                    name = self._name(process.process)
                    raise Violation(f"{name} may look at {self._name(object_id)}, which is freed", object_id)

    def _members(self) -> Iterator[SimulatedProcess]:
        dead = self.world.declared_dead
        return (one for one in self.world.living_processes() if one.node not in dead)

    def _daemons(self) -> Iterable[SimulatedDaemon]:
        return [one for one in self.world.living_daemons() if one.node not in self.world.declared_dead]

    def _lives(self, process: SimulatedProcess, object_id: ObjectId) -> bool:
        ref = process.refs._refs.get(object_id)
        has_instance = object_id in process.live and process.actor != object_id
        return has_instance or (ref is not None and (ref.holds > 0 or ref.publications > 0))

    # ------------------------------------------------------------------ what the claims are judged by

    def _process(self, process: bytes) -> SimulatedProcess:
        return self.world.processes[ProcessId(process)]

    def _counts(self, process: SimulatedProcess) -> bool:
        return process.is_alive and process.node not in self.world.declared_dead

    def _needs_no_proof(self, process: SimulatedProcess, object_id: ObjectId) -> bool:
        # A handle that came by a name is no claim before it is registered.
        return not self.world.faults and process.actor is None and object_id not in self.actors

    def _is_private(self, process: SimulatedProcess, object_id: ObjectId) -> bool:
        live = process.live.get(object_id)
        return live is not None and not live.published

    def _held_for(self, submitter: ProcessId, call: int) -> tuple[ObjectId, ...]:
        return self.calls[submitter, call].held

    def _has_home(self, object_id: ObjectId) -> bool:
        return self._entry_of(object_id) is not None

    def _was_freed(self, object_id: ObjectId) -> bool:
        return object_id in self.freed

    def _entry_of(self, object_id: ObjectId) -> Entry | None:
        entries = (daemon.directory._entries.get(object_id) for daemon in self._daemons())
        return next((entry for entry in entries if entry is not None), None)

    def _covers(self, process: SimulatedProcess, object_id: ObjectId, cover: Carrier, seen: Seen) -> bool:
        """A constructor's call is covered by the actor; a connection that was closed carries nothing."""
        if isinstance(cover, RunningTask):
            actor = self.constructors.get((cover.submitter, cover.call))
            if actor is not None:
                return self._container_holds(actor, object_id, seen)
            if (cover.submitter, process.process) in self.closed:
                return False
        elif isinstance(cover, CallCarrier) and cover.is_reply and (process.process, cover.of.worker) in self.closed:
            return False
        return super()._covers(process, object_id, cover, seen)

    def _name(self, any_id: bytes) -> str:
        return self.world.name(any_id)
