"""The refs of one simulated process and what it knows of their values, around the real counting machine.

Python's reference counts are played by ``strong``. There is one live instance per id, its death is told late, and one
that was never published is told of to nobody. What ``processes/client/refs.py`` and ``values.py`` do, without threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from remora.base.ids import NodeId, ObjectId, ProcessId, make_object_id, node_of
from remora.base.object_ref import BORROWED, FAILED, FIRST_FINISHED, INLINE, PENDING, STORED
from remora.core.counting.process import ProcessRefs
from remora.core.counting.vocabulary import DAEMON, Send
from remora.messages.objects import (
    CopiesReleased,
    GetObjects,
    HomeDied,
    Location,
    ObjectValue,
    OfferValues,
    ReleaseCopies,
    Value,
    WantCopies,
)
from remora.messages.tasks import Close, Done, HandedBack, Reply
from remora.testing.cluster_network import REPLIES

if TYPE_CHECKING:
    from remora.testing.cluster_world import World

TO_READ, AS_ARGUMENT, TO_KNOW, NOT_ASKED = 0, 1, 3, 4
ELSEWHERE = NodeId(bytes(4))
Waiter = Callable[["LiveRef"], None]
"""Told when there is what it waits for."""
Look = Callable[["LiveRef"], bool]
"""Told of every change until it says that it has seen enough."""


class LiveRef:
    """The one instance of a ref in a process; ``contents_held``: it keeps those inside alive itself."""

    __slots__ = (
        "contents",
        "contents_held",
        "data",
        "id",
        "is_evictable",
        "location",
        "published",
        "state",
        "strong",
        "waiters",
    )

    def __init__(self, object_id: ObjectId, state: int, published: bool) -> None:
        self.id = object_id
        self.state = state
        self.published = published
        self.strong = 0
        self.data = b""
        self.location: Location | None = None
        self.contents: tuple[ObjectId, ...] = ()
        self.contents_held = False
        self.is_evictable = False
        """It lies in a copy that may leave the node: where, is told to nobody."""
        self.waiters: list[Look] = []

    @property
    def is_finished(self) -> bool:
        """Whether its value is here."""
        return self.state >= FIRST_FINISHED

    @property
    def is_unknown(self) -> bool:
        """Whether it is not known to have a value, here or on another node."""
        return not self.is_finished and (self.state == PENDING or self.location is None)

    @property
    def value(self) -> Value:
        """What this process knows, as others are told it."""
        contents = list[bytes](self.contents)
        if self.state == PENDING:
            return Value(PENDING)
        if self.state in (BORROWED, STORED):
            location = self.location
            if self.is_evictable and location is not None:
                location = Location(ELSEWHERE, 0, location.size_bytes)
            return Value(STORED, b"", location, contents)
        return Value(self.state, self.data, None, contents)

    def __repr__(self) -> str:
        return f"<{('pending', 'borrowed', 'inline', 'stored', 'failed')[self.state]} {self.strong} refs>"


class ProcessObjects:
    """Refs and values of one process."""

    def __init__(self, world: World, process: ProcessId) -> None:
        self.world = world
        self.process = process
        self.node = node_of(process)
        self.is_alive = True
        self.refs: ProcessRefs = world.machines.refs(process)
        self.live: dict[ObjectId, LiveRef] = {}
        self.deaths: list[ObjectId] = []
        self.last_call = 0
        self.viewed: set[ObjectId] = set()
        """Those that something here looks at."""
        self.constructor_call: tuple[bytes, int] = (b"", 0)
        self._asked: dict[ObjectId, int] = {}
        self._wanted_here: set[ObjectId] = set()
        self._changed: list[LiveRef] = []
        self._kept: dict[tuple[bytes, int], tuple[ObjectId, ...]] = {}
        """What open calls keep, until the machine lets go."""

    # ------------------------------------------------------------------ instances

    def next_call(self) -> int:
        """A number that this process has not used."""
        self.last_call += 1
        return self.last_call

    def new_id(self) -> ObjectId:
        """The id of a new object."""
        return make_object_id(self.process, self.next_call())

    def make(self, object_id: ObjectId, state: int, contents: Iterable[ObjectId] = ()) -> LiveRef:
        """A private ref of this process's own; the caller acquires it."""
        ref = self.live[object_id] = LiveRef(object_id, state, published=False)
        ref.contents = tuple(contents)
        self._hold_contents(ref)
        return ref

    def acquire(self, ids: Iterable[bytes]) -> list[ObjectId]:
        """One more strong reference to each. Returns those of which an instance was made."""
        born = []
        for one in ids:
            object_id = ObjectId(one)
            ref = self.live.get(object_id)
            if ref is None:
                ref = self.live[object_id] = LiveRef(object_id, BORROWED, published=True)
                born.append(object_id)
            ref.strong += 1
        return born

    def adopt(self, ids: Iterable[bytes]) -> None:
        """The same for ids that came in a carrier which the machine knows already."""
        born = self.acquire(ids)
        if born:
            self.refs.appeared(born)
            self.carry_out()

    def load(self, object_id: ObjectId) -> None:
        """The same for an id that came in a pickle which is not ours."""
        for born in self.acquire([object_id]):
            self.refs.loaded(born)
            self.carry_out()

    def let_go(self, ids: Iterable[bytes]) -> None:
        """One strong reference less to each."""
        for one in list(ids):
            ref = self.live[ObjectId(one)]
            ref.strong -= 1
            if not ref.strong:
                del self.live[ref.id]
                self.viewed.discard(ref.id)
                if ref.published:
                    self.deaths.append(ref.id)
                if ref.contents_held:
                    self.let_go(one for one in ref.contents if one != ref.id)

    def _hold_contents(self, ref: LiveRef) -> list[ObjectId]:
        ref.contents_held = True
        return self.acquire(one for one in ref.contents if one != ref.id)

    def tell_deaths(self) -> None:
        """The machine hears which refs have died."""
        deaths, self.deaths = self.deaths, []
        if deaths:
            self.refs.died(deaths)
            self.carry_out()
            self.on_died(deaths)

    def on_died(self, ids: list[ObjectId]) -> None:
        """Told of refs that died."""

    # ------------------------------------------------------------------ publishing

    def publish(self, object_id: ObjectId, writer: ProcessId | None = None) -> None:
        """Make the ref known to its home, and before it those inside its value. Again does nothing."""
        todo = [self.live[object_id]]
        while todo:
            ref = todo[-1]
            inner = [self.live[one] for one in ref.contents if one in self.live] if ref.contents_held else []
            missing = [one for one in inner if not one.published and one is not ref]
            if missing and not ref.published:
                todo += missing
                continue
            todo.pop()
            if not ref.published:
                ref.published = True
                self.world.note(self.process, f"publishes {self.world.name(ref.id)}", ref.id)
                self.refs.publish(ref.id, ref.value, writer if ref.id == object_id else None)
        self.carry_out()

    def export(self, object_id: ObjectId) -> None:
        """The ref is pickled by something that is not ours."""
        self.publish(object_id)
        self.world.exported(self.process, object_id)
        self.refs.export(object_id)
        self.carry_out()

    def carry_out(self) -> None:
        """Do what the counting machine left in its outbox."""
        while self.refs.outbox:
            effects, self.refs.outbox = self.refs.outbox, []
            for effect in effects:
                if isinstance(effect, Send):
                    if effect.to == DAEMON:
                        self.tell_daemon(effect.message)
                    else:
                        self.send_to(effect.to, effect.message)
                else:
                    self._let_call_go((effect.worker, effect.call))  # type: ignore[union-attr]

    def _let_call_go(self, key: tuple[bytes, int]) -> None:
        self.let_go(self._kept.pop(key, ()))

    def send_to(self, to: bytes, message: Any) -> None:
        """Say something to another process, on the connection where it belongs."""
        if isinstance(message, Close) and (to, message.call) == self.constructor_call:
            return  # the actor's creation object holds what its constructor was given
        lane = REPLIES if isinstance(message, Done | Reply | Close | HandedBack) else 0
        self.world.send(self.process, to, message, lane=lane)

    def tell_daemon(self, message: Any) -> None:
        """Say something to the daemon of the node."""
        self.world.send(self.process, self.node, message)

    # ------------------------------------------------------------------ making values

    def put(self, contents: Iterable[ObjectId] = (), size_bytes: int = 0, copies: int = 1) -> ObjectId:
        """A new object, in the arena when it has a size; the caller acquires it."""
        ref = self.make(self.new_id(), STORED if size_bytes else INLINE, contents)
        if size_bytes:
            ref.location = Location(self.node, self.world.daemons[self.node].arena.allocate(self.process), size_bytes)
            self.publish(ref.id)
        if copies > 1:
            self.tell_daemon(WantCopies([ref.id], copies))
        return ref.id

    # ------------------------------------------------------------------ getting

    def get(self, object_id: ObjectId, then: Waiter) -> None:
        """Call *then* as soon as the value is here; perhaps at once."""
        ref = self.live[object_id]
        if self._wait(ref, then, lambda one: one.is_finished):
            return
        if ref.state == PENDING:
            self._wanted_here.add(object_id)
        else:
            self.request(object_id, TO_READ)

    def know(self, object_id: ObjectId, then: Waiter) -> None:
        """Call *then* as soon as there is a value on any node; perhaps at once."""
        ref = self.live[object_id]
        if not self._wait(ref, then, lambda one: not one.is_unknown) and ref.state == BORROWED:
            self.request(object_id, TO_KNOW)

    def _wait(self, ref: LiveRef, then: Waiter, is_enough: Look) -> bool:
        if is_enough(ref):
            then(ref)
            return True

        def look(changed: LiveRef) -> bool:
            if is_enough(changed):
                then(changed)
                return True
            return False

        ref.waiters.append(look)
        return False

    def request(self, object_id: ObjectId, purpose: int) -> None:
        """Ask the daemon for the value of a borrowed ref, once."""
        if self._asked.get(object_id, NOT_ASKED) > purpose:
            self._asked[object_id] = purpose
            self.tell_daemon(GetObjects([object_id], purpose))

    def unpack(self, container: LiveRef) -> list[ObjectId]:
        """The refs inside the value, which is deserialized; the caller lets go of them."""
        if not container.contents:
            return []
        born = self.acquire(container.contents)
        if not container.contents_held:
            self.refs.unpacked(container.id, list(container.contents), born)
            self.carry_out()
        return list(container.contents)

    # ------------------------------------------------------------------ filling

    def fill(self, ref: LiveRef, value: Value, worker: ProcessId) -> tuple[list[bytes], list[ObjectId], list[ObjectId]]:
        """The return of a call: the ids inside, those of which an instance was made, and it if stored elsewhere."""
        is_elsewhere = value.location is not None and value.location.node != self.node
        remote = [ref.id] if is_elsewhere else []
        if ref.is_finished:
            # It has an error already. What the worker keeps for this process must still be taken off it.
            if value.state == STORED and not is_elsewhere:
                self.refs.drop_copy(ref.id, worker)
            return list(value.contents), [], remote
        born: list[ObjectId] = []
        if value.contents:
            ref.contents = tuple(ObjectId(one) for one in value.contents)
            born = self._hold_contents(ref)
        self.take_value(ref, value, worker)
        return list(value.contents), born, remote

    def take_value(self, ref: LiveRef, value: Value, writer: ProcessId | None) -> None:
        """A pending ref of this process has its value."""
        location = value.location
        is_elsewhere = location is not None and location.node != self.node
        ref.data, ref.location = value.data, location
        ref.state = BORROWED if is_elsewhere else value.state
        if ref.published:
            self.refs.resolve(ref.id, ref.value, writer if location is not None else None)
            self.carry_out()
        elif location is not None:
            self.publish(ref.id, writer)
        if ref.id in self._wanted_here:
            self._wanted_here.discard(ref.id)
            if ref.state == BORROWED:
                self.request(ref.id, TO_READ)
        self._changed.append(ref)

    def fail(self, object_id: ObjectId, reason: str) -> None:
        """A ref that has no value gets an error."""
        ref = self.live.get(object_id)
        if ref is not None and not ref.is_finished:
            self.world.note(self.process, f"{self.world.name(object_id)} fails: {reason}", object_id)
            self.take_value(ref, Value(FAILED, reason.encode()), None)
            self.carry_out()

    def tell_waiters(self) -> None:
        """At the end of a turn, those who wait hear what came in it."""
        while self._changed:
            changed, self._changed = self._changed, []
            for ref in changed:
                waiters, ref.waiters = ref.waiters, []
                ref.waiters += [look for look in waiters if not look(ref)]

    # ------------------------------------------------------------------ what the daemon says of values

    def value_arrived(self, message: ObjectValue) -> None:
        """The value of a borrowed ref."""
        object_id = ObjectId(message.id)
        ref = self.live.get(object_id)
        value, location = message.value, message.value.location
        if location is not None and location.node != self.node:
            if self._asked.get(object_id, NOT_ASKED) == TO_KNOW:
                del self._asked[object_id]
            if ref is not None and not ref.is_finished:
                if not ref.contents:
                    ref.contents = tuple(ObjectId(one) for one in value.contents)
                ref.location = location
            if ref is not None:
                self._changed.append(ref)
            return
        self._asked.pop(object_id, None)
        if ref is None:
            return
        if ref.is_finished:  # it came meanwhile, as the argument of a call that runs here
            self._changed.append(ref)
            return
        if not ref.contents_held:
            ref.contents = tuple(ObjectId(one) for one in value.contents)
        ref.data, ref.location, ref.state = value.data, location, value.state
        ref.is_evictable = message.evictable
        if location is not None:
            self.world.look(self.process, object_id, location)
        self._changed.append(ref)

    def release_copies(self, message: ReleaseCopies) -> None:
        """The node needs space."""
        used = self.viewed | {one for kept in self._kept.values() for one in kept} | self.received_ids()
        released: list[bytes] = []
        for object_id in map(ObjectId, message.ids):
            if object_id in used:
                continue
            ref = self.live.get(object_id)
            if ref is not None and ref.state == STORED and ref.location is not None:
                ref.location = Location(ELSEWHERE, 0, ref.location.size_bytes)
                ref.state = BORROWED
                ref.is_evictable = False
            released.append(object_id)
        self.tell_daemon(CopiesReleased(released))

    def received_ids(self) -> set[ObjectId]:
        """Ids in calls that run or wait here."""
        return set()

    def offer_values(self, message: HomeDied) -> None:
        """The home of some refs died: what this process knows of them."""
        known: list[tuple[bytes, Value]] = [
            (ref.id, ref.value)
            for ref in self.live.values()
            if ref.published and ref.is_finished and ref.location is None and ref.id[:4] in message.nodes
        ]
        self.tell_daemon(OfferValues(message.nodes, known))
