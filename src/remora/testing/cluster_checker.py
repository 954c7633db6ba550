"""The truth about a simulated cluster, against which its machines are judged at every step and when all is quiet.

References are judged as in :mod:`remora.testing.counting_checker`: at the moment an object is freed, no claim to it may
stand. Without faults every live ref is a claim that stands; after one, a claim stands if it is written down at a home
that lives, or if an unbroken carrier covers it, all the way to a claim that stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from remora.base.ids import NodeId, ObjectId, ProcessId, make_object_id, node_of, process_of
from remora.base.object_ref import FAILED, FIRST_FINISHED
from remora.core.actor import Actor
from remora.core.counting.carriers import ArrivedItem, CallCarrier, Carrier, RunningTask
from remora.core.counting.entries import Entry
from remora.core.counting.vocabulary import Hold
from remora.messages import counting as m
from remora.messages.actors import DEAD, ActorSpec, ConstructActor
from remora.messages.objects import Location, Value
from remora.messages.tasks import Reply, Task
from remora.testing.cluster_daemon import SimulatedDaemon
from remora.testing.cluster_network import REPLIES, Unit, Violation
from remora.testing.cluster_process import SimulatedProcess
from remora.testing.cluster_refs import LiveRef
from remora.testing.cluster_world import Observer, World

Claim = tuple[ProcessId, ObjectId]
Seen = frozenset[Claim]


@dataclass
class CallTruth:
    """What a call carried, and what its submitter holds for it."""

    held: tuple[ObjectId, ...]
    listed: tuple[ObjectId, ...]


class Checker(Observer):
    """Watches a world from its beginning. Raises :class:`Violation`."""

    def __init__(self, world: World) -> None:
        self.world = world
        world.observers.append(self)
        self.calls: dict[tuple[ProcessId, int], CallTruth] = {}
        self.contents: dict[ObjectId, tuple[ObjectId, ...]] = {}
        self.retries: dict[bytes, int] = {}
        self.begun: dict[bytes, int] = {}
        self.constructors: dict[tuple[bytes, int], ObjectId] = {}
        self.actors: dict[ObjectId, ActorSpec] = {}
        self.incarnations: dict[tuple[ObjectId, int], ProcessId] = {}
        self.names: dict[str, list[ObjectId]] = {}
        self.freed: set[ObjectId] = set()
        self.closed: set[tuple[ProcessId, ProcessId]] = set()
        """Connections that the submitter has closed, for example because the worker is killed: no call covers now."""
        self.failed_gets = 0

    # ------------------------------------------------------------------ what is true

    def sent(self, sender: bytes, to: bytes, unit: Unit) -> None:
        message = unit[-1]
        if isinstance(message, Reply):
            for item, value in enumerate(message.returns):
                self._has_value(make_object_id(ProcessId(to), message.call, item), value)
        elif isinstance(message, m.Publish | m.Resolve):
            self._has_value(ObjectId(message.id), message.value)

    def _has_value(self, object_id: ObjectId, value: Value) -> None:
        if value.state >= FIRST_FINISHED:
            self.contents[object_id] = tuple(ObjectId(one) for one in value.contents)

    def call_sent(self, submitter: ProcessId, task: Task, held: tuple[ObjectId, ...]) -> None:
        listed = [ObjectId(one) for one in task.refs]
        for argument in task.values:
            listed += [ObjectId(one) for one in argument.value.contents]
            self._has_value(ObjectId(argument.id), argument.value)
        self.calls[submitter, task.call] = CallTruth(held, tuple(listed))

    def actor_made(self, creator: ProcessId, actor: ObjectId, spec: ActorSpec) -> None:
        self.actors[actor] = spec
        self.constructors[creator, int.from_bytes(actor[8:12], "big")] = actor

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

    # ------------------------------------------------------------------ which claims stand

    def _stands_if_lives(self, process: SimulatedProcess, object_id: ObjectId, seen: Seen) -> bool:
        """A process that let go of what it promised to keep is no excuse."""
        if not process.is_alive or process.node in self.world.declared_dead:
            return False
        return not self._lives(process, object_id) or self._stands(process, object_id, seen)

    def _stands(self, process: SimulatedProcess, object_id: ObjectId, seen: Seen) -> bool:
        if not self.world.faults and process.actor is None and object_id not in self.actors:
            return True  # a handle that came by a name is no claim before it is registered
        claim = (process.process, object_id)
        if not process.is_alive or claim in seen or process.node in self.world.declared_dead:
            return False
        seen = seen | {claim}
        live = process.live.get(object_id)
        if live is not None and not live.published:
            return True
        ref = process.refs._refs.get(object_id)
        if ref is None or ref.hold is Hold.GONE:
            return False
        if ref.hold is Hold.HELD:
            return True
        return any(self._covers(process, object_id, cover, seen) for cover in ref.covers or ()) or any(
            self._stands(process, outer.id, seen) and self._container_holds(outer.id, object_id, seen)
            for outer in ref.containers or ()
        )

    def _covers(self, process: SimulatedProcess, object_id: ObjectId, cover: Carrier, seen: Seen) -> bool:
        processes = self.world.processes
        if isinstance(cover, RunningTask):
            actor = self.constructors.get((cover.submitter, cover.call))
            if actor is not None:
                return self._container_holds(actor, object_id, seen)
            truth = self.calls[cover.submitter, cover.call]
            if (cover.submitter, process.process) in self.closed:
                return False
            return self._kept_by(processes[cover.submitter], truth.held, object_id, seen)
        if isinstance(cover, ArrivedItem):
            return self._stands_if_lives(processes[cover.worker], object_id, seen)
        assert isinstance(cover, CallCarrier)
        if cover.is_reply and (process.process, cover.of.worker) in self.closed:
            return False
        if cover.is_reply:
            return self._stands_if_lives(processes[cover.of.worker], object_id, seen)
        return self._kept_by(process, self.calls[process.process, cover.of.call].held, object_id, seen)

    def _kept_by(
        self, submitter: SimulatedProcess, held: tuple[ObjectId, ...], object_id: ObjectId, seen: Seen
    ) -> bool:
        """Whether the arguments that the submitter promised to hold keep the object."""
        if not submitter.is_alive or submitter.node in self.world.declared_dead:
            return False
        return any(
            self._stands_if_lives(submitter, argument, seen) and self._leads_to(submitter, argument, object_id, seen)
            for argument in held
        )

    def _leads_to(
        self,
        process: SimulatedProcess,
        object_id: ObjectId,
        target: ObjectId,
        seen: Seen,
        been: frozenset[ObjectId] = frozenset(),
    ) -> bool:
        if object_id == target:
            return True
        if object_id in been:
            return False
        return any(
            self._inside_is_held(process, object_id, content, seen)
            and self._leads_to(process, content, target, seen, been | {object_id})
            for content in self.contents.get(object_id, ())
        )

    def _inside_is_held(self, process: SimulatedProcess, object_id: ObjectId, content: ObjectId, seen: Seen) -> bool:
        live = process.live.get(object_id)
        if live is not None and not live.published:
            return self._stands_if_lives(process, content, seen)
        if self._entry_of(object_id) is None:
            maker = self.world.processes[process_of(object_id)]
            return object_id in self.freed or self._stands_if_lives(maker, content, seen)
        return self._container_holds(object_id, content, seen)

    def _entry_of(self, object_id: ObjectId) -> Entry | None:
        entries = (daemon.directory._entries.get(object_id) for daemon in self._daemons())
        return next((entry for entry in entries if entry is not None), None)

    def _container_holds(self, container: ObjectId, object_id: ObjectId, seen: Seen) -> bool:
        entry = self._entry_of(container)
        hold = entry.contents.get(object_id, Hold.NONE) if entry is not None else Hold.NONE
        if entry is None or hold in (Hold.NONE, Hold.GONE):
            return False
        if hold is Hold.HELD:
            return True
        return self._stands_if_lives(self.world.processes[ProcessId(entry.publisher)], object_id, seen)

    def has_cycle(self) -> bool:
        """Whether objects contain each other, beyond one containing itself; these are never freed."""
        state: dict[ObjectId, int] = {}

        def leads_back(object_id: ObjectId) -> bool:
            if object_id in state:
                return state[object_id] == 1
            state[object_id] = 1
            found = any(leads_back(content) for content in self.contents.get(object_id, ()) if content != object_id)
            state[object_id] = 2
            return found

        return any(leads_back(object_id) for object_id in list(self.contents))

    def _name(self, any_id: bytes) -> str:
        return self.world.name(any_id)
