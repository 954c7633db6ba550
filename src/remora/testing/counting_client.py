"""A process of the simulation: what a driver or worker does with refs, around the real counting machine.

Python's reference counts are played by `strong`: how many strong references a live ``ObjectRef`` of an id has. It
is one instance per id, its death is told late, and an object that was never published is told of to nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from remora.base.ids import NodeId, ObjectId, ProcessId, make_object_id, node_of
from remora.base.object_ref import FAILED, INLINE, PENDING, STORED
from remora.core.counting.process import ProcessRefs
from remora.core.counting.reading import TO_KNOW
from remora.core.counting.vocabulary import DAEMON, Send
from remora.messages import counting as m
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
from remora.messages.tasks import Argument, Close, Reply, ReplyAck, Task
from remora.testing.counting_parts import End, Item, Network, OwnObject, RunningCall, SubmittedCall


@dataclass(eq=False)
class SimulatedClient:
    """One driver or worker."""

    network: Network
    process: ProcessId
    refs: ProcessRefs
    alive: bool = True
    strong: dict[ObjectId, int] = field(default_factory=dict)
    variables: dict[ObjectId, int] = field(default_factory=dict)
    """Refs in the program's globals and in the states of its actors; tasks have their own."""
    objects: dict[ObjectId, OwnObject] = field(default_factory=dict)
    running: dict[tuple[ProcessId, int], RunningCall] = field(default_factory=dict)
    submitted: dict[int, SubmittedCall] = field(default_factory=dict)
    gets: dict[ObjectId, list[RunningCall | None]] = field(default_factory=dict)
    knowing: dict[ObjectId, None] = field(default_factory=dict)
    """Ids of which is asked only whether they have a value."""
    shown: dict[ObjectId, Location] = field(default_factory=dict)
    """Where values lie on this node, as the daemon told it; refs to them live."""
    viewed: set[ObjectId] = field(default_factory=set)
    """Those that something here looks at."""
    deaths: list[ObjectId] = field(default_factory=list)
    calls: int = 0
    _values: dict[ObjectId, Value] = field(default_factory=dict)

    @property
    def node(self) -> NodeId:
        return node_of(self.process)

    # References

    def acquire(self, ids: Iterable[ObjectId]) -> list[ObjectId]:
        """One more strong reference to each. Returns those of which an instance that is counted was born."""
        born = []
        for object_id in ids:
            self.strong[object_id] = self.strong.get(object_id, 0) + 1
            if self.strong[object_id] == 1 and self.is_counted(object_id):
                born.append(object_id)
        return born

    def let_go(self, ids: Iterable[ObjectId]) -> None:
        for object_id in ids:
            self.strong[object_id] -= 1
            if self.strong[object_id]:
                continue
            del self.strong[object_id]
            self.shown.pop(object_id, None)
            self._values.pop(object_id, None)
            self.viewed.discard(object_id)
            if self.is_counted(object_id):
                self.deaths.append(object_id)
                self._forget_own(object_id)
            else:
                self._private_object_died(object_id)

    def is_counted(self, object_id: ObjectId) -> bool:
        return object_id not in self.objects or self.objects[object_id].published

    def is_private(self, object_id: ObjectId) -> bool:
        return not self.is_counted(object_id)

    def tell_deaths(self) -> None:
        deaths, self.deaths = self.deaths, []
        self.refs.died(deaths)

    def _private_object_died(self, object_id: ObjectId) -> None:
        value = self.objects[object_id].value
        if value.state != PENDING:
            del self.objects[object_id]
            self.let_go(_ids(value.contents))

    def _forget_own(self, object_id: ObjectId) -> None:
        own = self.objects.get(object_id)
        if own is not None and own.value.state != PENDING and object_id not in self.strong:
            del self.objects[object_id]

    def escape(self, object_id: ObjectId) -> None:
        """The ref is about to leave: publish the object, what it contains first."""
        own = self.objects.get(object_id)
        if own is None or own.published:
            return
        for content in _ids(own.value.contents):
            self.escape(content)
        own.published = True
        self.refs.publish(object_id, own.value)
        self.let_go(_ids(own.value.contents))

    # What the program does

    def new(self, contents: Iterable[ObjectId] = (), large: bool = False, copies: int = 1) -> ObjectId:
        """``put``: an object with refs to others inside, in the arena when it is large, there on so many nodes."""
        self.calls += 1
        object_id = make_object_id(self.process, self.calls)
        inside = list(contents)
        location = self.network.new_location(self.node) if large else None
        self.objects[object_id] = OwnObject(Value(STORED if large else INLINE, b"", location, list(inside)))
        self.acquire(inside)
        self.add_variable(object_id)
        if large:
            self.escape(object_id)
        if copies > 1:
            self.refs.outbox.append(Send(DAEMON, WantCopies([object_id], copies)))
        return object_id

    def submit(
        self, worker: ProcessId, nested: Iterable[ObjectId] = (), top_level: Iterable[ObjectId] = ()
    ) -> tuple[int, ObjectId]:
        """Call a function with nested refs and with refs at top level, whose values must be here."""
        self.calls += 1
        call, result = self.calls, make_object_id(self.process, self.calls)
        refs = tuple(nested)
        values = tuple(Argument(object_id, self.objects[object_id].value) for object_id in top_level)
        ids = list(refs) + [object_id for argument in values for object_id in _ids(argument.value.contents)]
        for object_id in ids:
            self.escape(object_id)
        held = refs + tuple(top_level)
        handle = self.network.actors.get(worker)
        if handle in self.strong:
            held += (handle,)
        self.acquire(held)
        self.objects[result] = OwnObject(Value(PENDING))
        self.add_variable(result)
        self.submitted[call] = SubmittedCall(worker, held, result, told=bool(ids))
        if ids:
            self.refs.submitted(worker, call, ids)
        self.network.send(self.process, worker, Task(call, 0, b"", refs=refs, values=values))
        return call, result

    def end(self, key: tuple[ProcessId, int], contents: Iterable[ObjectId] = (), large: bool = False) -> None:
        """The task returns a value with these refs inside."""
        submitter, call = key
        running = self.running.pop(key)
        inside = list(contents)
        for object_id in inside:
            self.escape(object_id)
        result = make_object_id(submitter, call)
        location = self.network.new_location(self.node) if large else None
        value = Value(STORED if large else INLINE, b"", location, list(inside))
        if running.orphaned:
            self._end_orphan(key, result, value, running)
            return
        if inside:
            self.refs.result_packed(submitter, call, inside)
        self.let_go(running.variables)
        self.tell_deaths()
        closed = True
        if running.told or inside or location or self.refs.own_actor_is_lent:
            closed = self.refs.task_ended(submitter, call, {result: location} if location else None)
        self.network.send(self.process, submitter, Reply(call, [value], closed))

    def _end_orphan(self, key: tuple[ProcessId, int], result: ObjectId, value: Value, running: RunningCall) -> None:
        """The submitter is dead: its home may want the result for others."""
        self.refs.resolve(result, value)
        self.let_go(running.variables)
        self.tell_deaths()
        if running.told:
            self.refs.task_ended(*key)

    def give_item(self, key: tuple[ProcessId, int], contents: Iterable[ObjectId] = ()) -> None:
        """The generator yields a value with these refs inside."""
        running = self.running[key]
        inside = list(contents)
        for object_id in inside:
            self.escape(object_id)
        running.items += 1
        if inside:
            self.refs.item_packed(key[0], key[1], running.items, inside)
        self.network.send(self.process, key[0], Item(key[1], running.items, Value(INLINE, contents=list(inside))))

    def keep(self, key: tuple[ProcessId, int], object_id: ObjectId) -> None:
        """The task stores a ref of its own where it outlives the task."""
        self.running[key].variables.remove(object_id)
        self.variables[object_id] = self.variables.get(object_id, 0) + 1

    def get(self, object_id: ObjectId, task: RunningCall | None = None, purpose: int = 0) -> None:
        """Ask for the value; the refs inside become variables of the task, or of the program."""
        own = self.objects.get(object_id)
        self.acquire([object_id])
        self.gets.setdefault(object_id, []).append(task)
        if own is not None and not self._is_elsewhere(own.value) and (own.value.state != PENDING or not own.published):
            if own.value.state != PENDING:
                self._unpack(object_id, own.value)
        elif object_id in self.shown:
            self.viewed.add(object_id)
            self.network.look(self.shown[object_id])
            self._unpack(object_id, self._values[object_id])
        elif len(self.gets[object_id]) == 1:
            self.network.send(self.process, self.node, GetObjects([object_id], purpose))

    def know(self, object_id: ObjectId) -> None:
        """Ask whether there is a value, which need not come."""
        if object_id not in self.knowing and (object_id not in self.objects or self.objects[object_id].published):
            self.acquire([object_id])
            self.knowing[object_id] = None
            self.network.send(self.process, self.node, GetObjects([object_id], TO_KNOW))

    def close_view(self, object_id: ObjectId) -> None:
        """Nothing looks at the value any more; where it lies stays known."""
        self.viewed.discard(object_id)

    def _is_elsewhere(self, value: Value) -> bool:
        return value.location is not None and value.location.node != self.node

    def drop(self, object_id: ObjectId) -> None:
        """A variable ends: one of the program, else one of a task."""
        if self.variables.get(object_id):
            self.variables[object_id] -= 1
            if not self.variables[object_id]:
                del self.variables[object_id]
        else:
            next(task for task in self.running.values() if object_id in task.variables).variables.remove(object_id)
        self.let_go([object_id])

    def add_variable(self, object_id: ObjectId) -> None:
        self.acquire([object_id])
        self.variables[object_id] = self.variables.get(object_id, 0) + 1

    def in_hand(self) -> list[ObjectId]:
        """Ids of all variables."""
        ids = dict.fromkeys(self.variables)
        for task in self.running.values():
            ids.update(dict.fromkeys(task.variables))
        return list(ids)

    def become_actor(self, handle: ObjectId) -> None:
        """This process is the actor that the object stands for; it has its own handle."""
        self.network.actors[self.process] = handle
        self.refs = type(self.refs)(self.process, own_actor=handle)
        self.add_variable(handle)
        self.refs.appeared([handle])

    # What arrives

    def receive(self, sender: bytes, message: msgspec.Struct) -> None:
        peer = ProcessId(sender)
        match message:
            case Task():
                self._task_arrived(peer, message)
            case Reply(call, [value], closed):
                self._reply_arrived(peer, call, value, closed)
            case Item(call, item, value):
                self._item_arrived(peer, call, item, value)
            case Close(call):
                self.refs.close_received(peer, call)
            case ReplyAck(call):
                self.refs.reply_acked(peer, call)
            case m.ItemAck(call, item):
                self.refs.item_acked(peer, call, item)
            case m.Ack(ids, ok):
                self.refs.acknowledged(_ids(ids), ok)
            case m.PublishAck(ids):
                self.refs.publish_acknowledged(_ids(ids))
            case m.Ping(number):
                self.refs.pinged(number)
            case ObjectValue(object_id, value, _, for_now):
                self._value_arrived(ObjectId(object_id), value, for_now)
            case ReleaseCopies(ids):
                self._release_copies(_ids(ids))
            case HomeDied(nodes):
                self._offer_values(nodes)
            case End():
                self._peer_ended(peer)

    def _task_arrived(self, submitter: ProcessId, task: Task) -> None:
        ids = _ids(task.refs) + [object_id for argument in task.values for object_id in _ids(argument.value.contents)]
        distinct = list(dict.fromkeys(ids))
        if distinct:
            self.refs.task_received(submitter, task.call, ids)
            self.refs.appeared(self.acquire(distinct))
        self.running[submitter, task.call] = RunningCall(bool(distinct), distinct)

    def _reply_arrived(self, worker: ProcessId, call: int, value: Value, closed: bool) -> None:
        submitted = self.submitted[call]
        submitted.replied = True
        contents = _ids(value.contents)
        remote = [submitted.result] if value.location and value.location.node != self.node else []
        born = self._result_arrived(submitted.result, value, worker)
        if submitted.told or contents or remote or not closed:
            self.refs.reply_received(worker, call, contents, closed, born, remote)
        else:
            self.arguments_go(call)

    def _result_arrived(self, result: ObjectId, value: Value, worker: ProcessId) -> list[ObjectId]:
        """Returns the ids inside of which an instance was born."""
        own = self.objects[result]
        own.value = value
        born: list[ObjectId] = []
        writer = worker if value.state == STORED else None
        if own.published:
            self.refs.resolve(result, value, writer)
            self._forget_own(result)
        elif result not in self.strong:
            del self.objects[result]
            if value.location is not None and value.location.node == self.node:
                self.refs.drop_copy(result, worker)
        elif value.state == STORED:
            own.published = True
            self.refs.publish(result, value, writer)
        else:
            born = self.acquire(_ids(value.contents))
        if result in self.objects:
            self._result_is_here(result, value)
        return born

    def _result_is_here(self, result: ObjectId, value: Value) -> None:
        if not self._is_elsewhere(value):
            self._unpack(result, value)
        elif result in self.gets:
            self.network.send(self.process, self.node, GetObjects([result]))

    def _item_arrived(self, worker: ProcessId, call: int, item: int, value: Value) -> None:
        object_id = make_object_id(self.process, call, item)
        contents = _ids(value.contents)
        self.objects[object_id] = OwnObject(value)
        self.add_variable(object_id)
        born = self.acquire(contents)
        if contents:
            self.refs.item_received(worker, call, item, contents, born)

    def _value_arrived(self, object_id: ObjectId, value: Value, for_now: bool) -> None:
        knew = object_id in self.knowing
        self.knowing.pop(object_id, None)
        if not self._is_elsewhere(value):  # else it is the answer to who only wanted to know
            if object_id in self.strong and not for_now:
                self._values[object_id] = value
            if value.location is not None and object_id in self.strong:
                self.network.look(value.location)
                self.shown[object_id] = value.location
                if self.gets.get(object_id):
                    self.viewed.add(object_id)
            self._unpack(object_id, value)
        if knew:
            self.let_go([object_id])

    def _release_copies(self, ids: list[ObjectId]) -> None:
        released = [object_id for object_id in ids if object_id not in self.viewed]
        for object_id in released:
            self.shown.pop(object_id, None)
        self.network.send(self.process, self.node, CopiesReleased(list(released)))

    def _offer_values(self, nodes: list[bytes]) -> None:
        known: list[tuple[bytes, Value]] = [
            (object_id, value)
            for object_id, value in self._values.items()
            if value.location is None and object_id[:4] in nodes and object_id in self.strong
        ]
        self.network.send(self.process, self.node, OfferValues(nodes, known))

    def _unpack(self, object_id: ObjectId, value: Value) -> None:
        """The value of an object that was asked for is here; also of one that turned out to be private."""
        for task in self.gets.pop(object_id, ()):
            contents = _ids(value.contents)
            born = self.acquire(contents)
            if self.is_counted(object_id):
                self.refs.unpacked(object_id, contents, born)
            for content in contents:
                if task is not None and task in self.running.values():
                    task.variables.append(content)
                else:
                    self.variables[content] = self.variables.get(content, 0) + 1
            self.let_go([object_id])

    def _peer_ended(self, peer: ProcessId) -> None:
        for call, submitted in list(self.submitted.items()):
            if submitted.worker == peer and not submitted.replied:
                submitted.replied = True
                self._result_arrived(submitted.result, Value(FAILED), peer)
                if not submitted.told:
                    self.arguments_go(call)
        for (submitter, _), task in self.running.items():
            task.orphaned = task.orphaned or submitter == peer
        self.refs.peer_died(peer)

    def arguments_go(self, call: int) -> None:
        """What the machine says with ``LetGo``."""
        submitted = self.submitted.pop(call, None)
        if submitted is not None:
            self.let_go(submitted.held)


def _ids(ids: Iterable[bytes]) -> list[ObjectId]:
    return [ObjectId(object_id) for object_id in ids]
