"""The truth about a simulated cluster, against which the counting machines are judged.

Without faults the rule is plain: at the moment an object is freed, no live ref to it exists anywhere, none is on its
way, and no object that lives contains it. What a fault excuses is in :mod:`remora.testing.standing_claims`.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from remora.base.ids import ObjectId, ProcessId, make_object_id
from remora.base.object_ref import INLINE
from remora.core.counting.entries import Entry, LossReason
from remora.core.counting.vocabulary import Hold
from remora.messages import counting as m
from remora.messages.objects import Location, ObjectValue
from remora.messages.tasks import Reply, Task
from remora.testing.counting_client import SimulatedClient
from remora.testing.counting_parts import Item
from remora.testing.counting_world import Violation, World
from remora.testing.standing_claims import StandingClaims

LOST = {reason.name.encode() for reason in (LossReason.NODE_DIED, LossReason.COPY_LOST, LossReason.UNREACHABLE)}


@dataclass
class TaskTruth:
    """What a task carried, and what its submitter holds for it."""

    submitter: ProcessId
    call: int
    held: tuple[ObjectId, ...]
    listed: tuple[ObjectId, ...]


class Checker(StandingClaims[SimulatedClient]):
    """Watches a world from its beginning. Raises :class:`Violation`."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.tasks: dict[tuple[ProcessId, int], TaskTruth] = {}
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

    def _lives(self, process: SimulatedClient, object_id: ObjectId) -> bool:
        ref = process.refs._refs.get(object_id)
        is_own_actor = self.world.actors.get(process.process) == object_id
        has_instance = object_id in process.strong and not is_own_actor
        return has_instance or (ref is not None and (ref.holds > 0 or ref.publications > 0))

    # What the claims are judged by

    def _process(self, process: bytes) -> SimulatedClient:
        return self.world.clients[ProcessId(process)]

    def _counts(self, process: SimulatedClient) -> bool:
        return process.alive

    def _needs_no_proof(self, process: SimulatedClient, object_id: ObjectId) -> bool:
        return not self.world.faults

    def _is_private(self, process: SimulatedClient, object_id: ObjectId) -> bool:
        return object_id in process.objects and process.is_private(object_id)

    def _held_for(self, submitter: ProcessId, call: int) -> tuple[ObjectId, ...]:
        return self.tasks[submitter, call].held

    def _has_home(self, object_id: ObjectId) -> bool:
        return self.world.home(object_id) is not None

    def _was_freed(self, object_id: ObjectId) -> bool:
        return object_id in self.world.freed

    def _entry_of(self, object_id: ObjectId) -> Entry | None:
        home = self.world.home(object_id)
        return home._entries.get(object_id) if home is not None else None

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
