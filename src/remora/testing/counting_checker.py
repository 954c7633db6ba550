"""The truth about a simulated cluster, against which the counting machines are judged.

Without faults the rule is plain: at the moment an object is freed, no live ref to it exists anywhere, none is on its
way, and no object that lives contains it. A fault may excuse a claim, but the excuse must be proved: a claim stands
if it is written down at a home that lives, or if one carrier that covers it is unbroken, all the way to a claim that
stands. A cover that leads back to itself proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from remora.base.ids import ObjectId, ProcessId, make_object_id, process_of
from remora.base.object_ref import FIRST_FINISHED, INLINE
from remora.core.counting.carriers import ArrivedItem, CallCarrier, Carrier, RunningTask
from remora.core.counting.entries import Entry, LossReason
from remora.core.counting.vocabulary import Hold
from remora.messages import counting as m
from remora.messages.objects import Location, ObjectValue, Value
from remora.messages.tasks import Reply, Task
from remora.testing.counting_client import SimulatedClient
from remora.testing.counting_parts import Item
from remora.testing.counting_world import Violation, World

LOST = {reason.name.encode() for reason in (LossReason.NODE_DIED, LossReason.COPY_LOST, LossReason.UNREACHABLE)}
Claim = tuple[ProcessId, ObjectId]
Seen = frozenset[Claim]


@dataclass
class TaskTruth:
    """What a task carried, and what its submitter holds for it."""

    submitter: ProcessId
    call: int
    held: tuple[ObjectId, ...]
    listed: tuple[ObjectId, ...]


class Checker:
    """Watches a world from its beginning. Raises :class:`Violation`."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tasks: dict[tuple[ProcessId, int], TaskTruth] = {}
        self.contents: dict[ObjectId, tuple[ObjectId, ...]] = {}
        world.on_free = self.object_freed
        world.on_send = self.message_sent
        world.on_place_freed = self.place_freed

    # What is true

    def message_sent(self, sender: bytes, to: bytes, message: msgspec.Struct) -> None:
        match message:
            case Task():
                listed = [ObjectId(object_id) for object_id in message.refs]
                for argument in message.values:
                    listed += [ObjectId(object_id) for object_id in argument.value.contents]
                    self._has_value(ObjectId(argument.id), argument.value)
                held = self.world.clients[ProcessId(sender)].submitted[message.call].held
                self.tasks[ProcessId(sender), message.call] = TaskTruth(
                    ProcessId(sender), message.call, held, tuple(listed)
                )
            case Reply(call, [value]):
                self._has_value(make_object_id(ProcessId(to), call), value)
            case m.Publish(object_id, value) | m.Resolve(object_id, value):
                self._has_value(ObjectId(object_id), value)
            case ObjectValue(object_id, value) if value.data in LOST and to in self.world.clients:
                self._check_lost(ObjectId(object_id), self.world.clients[ProcessId(to)])
            case m.Ack(ids, False) if not self.world.faults:
                client = self.world.clients[ProcessId(to)]
                for object_id in ids:
                    if self._lives(client, ObjectId(object_id)):
                        raise Violation(
                            f"{self._name(object_id)} is said to be gone to {self._name(to)}, where it lives"
                        )

    def _has_value(self, object_id: ObjectId, value: Value) -> None:
        if value.state >= FIRST_FINISHED:
            self.contents[object_id] = tuple(ObjectId(content) for content in value.contents)

    def _check_lost(self, object_id: ObjectId, client: SimulatedClient) -> None:
        """A value is not lost while a living node has a copy. (When two nodes die, what one left to the other is.)"""
        if self.world.node_deaths > 1 or not self._lives(client, object_id):
            return
        for node in self.world.living_nodes():
            directory = self.world.directories[node]
            copy = directory._local.get(object_id)
            kept = [keepers for copied, _, keepers in directory._copies if copied == object_id]
            is_kept = any(len(keeper) == len(node) for keepers in kept for keeper in keepers)
            is_here = is_kept or (copy is not None and copy.location is not None)
            if is_here and self._stands(client, object_id, frozenset()):
                name = self._name(client.process)
                raise Violation(f"{self._name(object_id)} is lost for {name}, and {self._name(node)} has it")
        for other in self.world.living_clients() if not self.world.was_impatient else ():
            known = other._values.get(object_id)
            is_known = known is not None and known.state == INLINE and self._lives(other, object_id)
            if is_known and self._stands(other, object_id, frozenset()):
                name = self._name(client.process)
                raise Violation(f"{self._name(object_id)} is lost for {name}, and {self._name(other.process)} knows it")

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

    # At every free

    def object_freed(self, object_id: ObjectId, entry: Entry) -> None:
        for client in self.world.living_clients():
            if self._lives(client, object_id) and self._stands(client, object_id, frozenset()):
                raise Violation(f"{self._name(object_id)} is freed while it lives in {self._name(client.process)}")
        for directory in (self.world.directories[node] for node in self.world.living_nodes()):
            for container, other in directory._entries.items():
                if (
                    container != object_id
                    and object_id in other.contents
                    and self._container_holds(container, object_id, frozenset())
                ):
                    raise Violation(f"{self._name(object_id)} is freed while {self._name(container)} contains it")
        for (sender, to), queue in self.world.channels.items():
            if sender in self.world.clients and to in self.world.clients and sender in self.world.alive:
                for _, message in queue:
                    self._check_travelling(object_id, self.world.clients[ProcessId(sender)], message)

    def place_freed(self, location: Location) -> None:
        """No process may look at a place that is freed."""
        for client in self.world.living_clients():
            for object_id, shown in client.shown.items():
                lives = shown == location and self._lives(client, object_id)
                if lives and self._stands(client, object_id, frozenset()):
                    raise Violation(f"{self._name(client.process)} may look at {self._name(object_id)}, which is freed")

    def _check_travelling(self, object_id: ObjectId, sender: SimulatedClient, message: msgspec.Struct) -> None:
        match message:
            case Task():
                carried = object_id in self.tasks[sender.process, message.call].listed
                stands = self._kept_by(sender, self.tasks[sender.process, message.call].held, object_id, frozenset())
            case Reply(_, [value]) | Item(_, _, value):
                carried = object_id in value.contents and (not self.world.faults or self._lives(sender, object_id))
                stands = self._stands_if_lives(sender, object_id, frozenset())
            case _:
                return
        if carried and stands:
            raise Violation(f"{self._name(object_id)} is freed while {self.world.describe(message)} carries it")

    def _lives(self, client: SimulatedClient, object_id: ObjectId) -> bool:
        ref = client.refs._refs.get(object_id)
        is_own_actor = self.world.actors.get(client.process) == object_id
        has_instance = object_id in client.strong and not is_own_actor
        return has_instance or (ref is not None and (ref.holds > 0 or ref.publications > 0))

    # Which claims stand

    def _stands_if_lives(self, client: SimulatedClient, object_id: ObjectId, seen: Seen) -> bool:
        """A process that let go of what it promised to keep is no excuse."""
        return client.alive and (not self._lives(client, object_id) or self._stands(client, object_id, seen))

    def _stands(self, client: SimulatedClient, object_id: ObjectId, seen: Seen) -> bool:
        if not self.world.faults:
            return True
        claim = (client.process, object_id)
        if not client.alive or claim in seen:
            return False
        seen = seen | {claim}
        if object_id in client.objects and client.is_private(object_id):
            return True
        ref = client.refs._refs.get(object_id)
        if ref is None or ref.hold is Hold.GONE:
            return False
        if ref.hold is Hold.HELD:
            return True
        return any(self._covers(client, object_id, cover, seen) for cover in ref.covers or ()) or any(
            self._stands(client, outer.id, seen) and self._container_holds(outer.id, object_id, seen)
            for outer in ref.containers or ()
        )

    def _covers(self, client: SimulatedClient, object_id: ObjectId, cover: Carrier, seen: Seen) -> bool:
        if isinstance(cover, RunningTask):
            truth = self.tasks[cover.submitter, cover.call]
            return self._kept_by(self.world.clients[cover.submitter], truth.held, object_id, seen)
        if isinstance(cover, ArrivedItem):
            return self._stands_if_lives(self.world.clients[cover.worker], object_id, seen)
        if isinstance(cover, CallCarrier) and cover.is_reply:
            return self._stands_if_lives(self.world.clients[cover.of.worker], object_id, seen)
        assert isinstance(cover, CallCarrier)
        return self._kept_by(client, self.tasks[client.process, cover.of.call].held, object_id, seen)

    def _kept_by(self, submitter: SimulatedClient, held: tuple[ObjectId, ...], object_id: ObjectId, seen: Seen) -> bool:
        """Whether the arguments that the submitter promised to hold keep the object."""
        return submitter.alive and any(
            self._stands_if_lives(submitter, argument, seen) and self._leads_to(submitter, argument, object_id, seen)
            for argument in held
        )

    def _leads_to(
        self,
        client: SimulatedClient,
        object_id: ObjectId,
        target: ObjectId,
        seen: Seen,
        been: frozenset[ObjectId] = frozenset(),
    ) -> bool:
        """Whether the object is the target or contains it, with every home on the way holding what is inside."""
        if object_id == target:
            return True
        if object_id in been:
            return False
        return any(
            self._inside_is_held(client, object_id, content, seen)
            and self._leads_to(client, content, target, seen, been | {object_id})
            for content in self.contents.get(object_id, ())
        )

    def _inside_is_held(self, client: SimulatedClient, object_id: ObjectId, content: ObjectId, seen: Seen) -> bool:
        if object_id in client.objects and client.is_private(object_id):
            return self._stands_if_lives(client, content, seen)
        if self.world.home(object_id) is None:
            return object_id in self.world.freed or self._stands_if_lives(
                self.world.clients[process_of(object_id)], content, seen
            )
        return self._container_holds(object_id, content, seen)

    def _container_holds(self, container: ObjectId, object_id: ObjectId, seen: Seen) -> bool:
        home = self.world.home(container)
        entry = home._entries.get(container) if home is not None else None
        hold = entry.contents.get(object_id, Hold.NONE) if entry is not None else Hold.NONE
        if entry is None or hold in (Hold.NONE, Hold.GONE):
            return False
        if hold is Hold.HELD:
            return True
        return self._stands_if_lives(self.world.clients[entry.publisher], object_id, seen)

    # When all is quiet and every ref is dropped

    def check_quiet(self) -> None:
        """Nothing is left and nobody waits."""
        cyclic = self.has_cycle()
        for client in self.world.living_clients():
            self._check_quiet_client(client, cyclic)
        for node in self.world.living_nodes():
            directory = self.world.directories[node]
            name = self._name(node)
            if directory._parking:
                raise Violation(f"{name} has parked for ever: {directory._parking!r}")
            if directory._waiting or directory._remote_gets:
                raise Violation(f"somebody waits for ever for a value at {name}")
            if cyclic:
                continue
            for object_id, entry in directory._entries.items():
                holders = self.world.list_names(list(entry.holders))
                raise Violation(f"{self._name(object_id)} is never freed at {name}, holders {holders}")
            for object_id, members in directory._foreign.items():
                raise Violation(
                    f"{name} still holds {self._name(object_id)} for {self.world.list_names(list(members))}"
                )
            for copied, writer, keepers in directory._copies:
                kept_by = self.world.list_names(list(keepers))
                raise Violation(
                    f"a copy of {self._name(copied)} by {self._name(writer)} stays at {name}, kept by {kept_by}"
                )
            for object_id, copy in directory._local:
                raise Violation(f"{name} is left with a copy of {self._name(object_id)}: {copy!r}")
            for object_id, _ in self.world.pulls[node].pulls:
                raise Violation(f"{name} pulls {self._name(object_id)} for ever")
            if self.world.pulls[node].early:
                raise Violation(f"{name} lets a reader wait for a pull that does not begin")
            if directory._resolving:
                raise Violation(
                    f"{name} waits for ever for a home to take {self.world.list_names(list(directory._resolving))}"
                )
            if directory._in_flux or directory._held_back or directory._asking or directory._rebuilds:
                raise Violation(f"{name} never ends a rebuild")
            left = [offset for where, offset in self.world.arena if where == node]
            if left:
                raise Violation(f"{len(left)} pieces of the arena of {name} are never freed")

    def _check_quiet_client(self, client: SimulatedClient, cyclic: bool) -> None:
        name, refs = self._name(client.process), client.refs
        for opened in refs._calls.values():
            raise Violation(f"{name} never settles {opened!r}")
        for task in refs._tasks.values():
            raise Violation(f"{name} never closes {task!r}")
        if client.knowing:
            raise Violation(f"{name} is never told whether {self.world.list_names(list(client.knowing))} have values")
        if client.gets:
            raise Violation(f"{name} waits for ever for the values of {self.world.list_names(list(client.gets))}")
        if client.submitted:
            raise Violation(f"{name} waits for ever for replies: {client.submitted!r}")
        if not refs.is_quiet:
            raise Violation(f"{name} waits for ever for an acknowledgement: {refs!r}")
        for ref in refs._refs.values():
            if ref.hold is Hold.ASKED or not cyclic:
                raise Violation(f"{name} is left with {self._name(ref.id)}: {ref!r}")
        if client.strong and not cyclic:
            raise Violation(f"{name} is left with refs to {self.world.list_names(list(client.strong))}")

    def _name(self, any_id: bytes) -> str:
        return self.world.name(any_id)
