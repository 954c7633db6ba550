"""The half of counting in every node daemon: the home of the ids made on this node.

For each published object it knows the value, or where it is, and the set of its holders; no counts, no sequence
numbers. An empty set frees the object everywhere. For the other homes it forwards what the members of this node
hold, in order, and keeps the list of it.

The daemon calls `process_message` and `node_message` (or the method of the message, on hot paths) for everything
of tags 20-39 and 140-149 and for the messages about values (50-58), tells of connections, ends, pulls (`copy_arrived`,
`copy_failed`), a full store (`evict`), of who is in the cluster (`nodes_changed`, `node_dead`) and of the end of other
nodes' jobs (`job_ended`), calls `tick` at `next_deadline_s`, and after each call takes what stands in `outbox` (and
clears it), in order. It takes everything out before it does anything: what it does may call the directory again.

Ends. A process has ended when its socket was read to the end, not when a signal says so: what it wrote last still
counts. A process that crashed is forgotten only after a grace: the receiver of its last reply may be about to
register what came in it. The same for a node. A process that left in order, or had no peers, has no grace.

Example:
    >>> directory = Directory(node, describe_loss=encode_loss)
    >>> directory.process_connected(driver)
    >>> directory.process_message(driver, Publish(ref_id, Value(INLINE, data)))
    >>> directory.process_message(driver, Release([ref_id]))
    >>> directory.is_known(ref_id)
    False
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from remora.base.ids import NodeId, ObjectId, ProcessId, node_of, process_of, short
from remora.base.object_ref import PENDING
from remora.core.counting.entries import DescribeLoss, Entry, LossReason, ObjectRow, row_of
from remora.core.counting.exports import Exports
from remora.core.counting.parking import DropRequest, GetRequest, HoldRequest, KeepRequest, Request
from remora.core.counting.vocabulary import DETACHED, CountingError, Hold, home_of, is_container, is_process
from remora.messages import counting as m
from remora.messages.objects import CopiesReleased, ForgetGet, GetObjects, Location, OfferValues, Value, WantCopies

DEFAULT_GRACE_S = 5.0


class Directory(Exports):
    """Objects of one node, and what the node's processes hold elsewhere.

    Args:
        node: this node's id.
        describe_loss: makes the serialized error of an object that is lost; it names the object and where.
        grace_s: how long the holds of a crashed process or node outlive it.
    """

    def __init__(self, node: NodeId, describe_loss: DescribeLoss, grace_s: float = DEFAULT_GRACE_S) -> None:
        super().__init__(node, describe_loss)
        self.grace_s = grace_s
        self._ending: dict[ProcessId | NodeId, float] = {}
        """Crashed processes and dead nodes whose holds still stand, and until when."""
        self._process_handlers: dict[type, Callable[[ProcessId, Any], None]] = {
            m.Publish: self.publish,
            m.Resolve: self.resolve,
            m.Register: self.register,
            m.Release: self.release,
            m.Pong: self.pong,
            m.Export: self.export,
            m.Store: self.store,
            m.DropCopy: self.drop_copy,
            m.DropUnclaimed: self.drop_unclaimed,
            GetObjects: self.get_objects,
            ForgetGet: self.forget_get,
            CopiesReleased: self.copies_released,
            OfferValues: self.offer_values,
            WantCopies: self.want_copies,
        }

    def process_message(self, process: ProcessId, message: msgspec.Struct) -> None:
        """A message of a connected process of this node.

        Raises:
            CountingError: the process is not connected, or says what it cannot say; end its connection.
        """
        self._require_connected(process)
        handler = self._process_handlers.get(type(message))
        if handler is None:
            raise CountingError(f"process {short(process)} sent {type(message).__name__}, which no process says")
        handler(process, message)

    # Messages of processes

    def publish(self, process: ProcessId, message: m.Publish) -> None:
        object_id = ObjectId(message.id)
        if process_of(object_id) != process or object_id in self._entries:
            raise CountingError(
                f"process {short(process)} cannot publish {short(object_id)}: not its own, or known already"
            )
        entry = self._entries[object_id] = Entry(process, message.value)
        self._note_held(process, object_id)
        self._set_value(object_id, entry, message.value, process, message.writer)
        if self._parking:
            for request in self._parking.take_of_id(object_id, (HoldRequest, GetRequest)):
                self._look_again(request, final=False)

    def resolve(self, process: ProcessId, message: m.Resolve) -> None:
        object_id = ObjectId(message.id)
        if message.value.state == PENDING:
            raise CountingError(f"process {short(process)} cannot resolve {short(object_id)} without a value")
        if self._home(object_id) != self.node:
            self._resolve_elsewhere(object_id, process, message)
            return
        entry = self._entries.get(object_id)
        if entry is None or entry.value.state != PENDING:
            self._refuse_value(object_id, message.value, process, message.writer)
        else:
            self._set_value(object_id, entry, message.value, process, message.writer)
            if entry.spread is not None:
                self._keep_enough(object_id, entry)

    def register(self, process: ProcessId, message: m.Register) -> None:
        for object_id in message.ids:
            self._hold(ObjectId(object_id), process)

    def release(self, process: ProcessId, message: m.Release) -> None:
        self._drop([ObjectId(object_id) for object_id in message.ids], process)

    def pong(self, process: ProcessId, message: m.Pong) -> None:
        for request in self._parking.take_answered(process, message.number):
            self._look_again(request, final=True)

    def store(self, process: ProcessId, message: m.Store) -> None:
        keeper = message.keeper or process
        self._copies.add(message.id, process, message.location, keeper)
        if keeper not in self._processes:
            self._copies.release(message.id, process, keeper)
        if self._parking:
            for request in self._parking.take_of_id(message.id, (KeepRequest, DropRequest)):
                self._look_again(request, final=False)

    def drop_copy(self, process: ProcessId, message: m.DropCopy) -> None:
        self._drop_copy(DropRequest(message.id, process, message.writer))

    def drop_unclaimed(self, process: ProcessId, message: m.DropUnclaimed) -> None:
        self._drop_copy(DropRequest(b"", process, message.writer))

    def get_objects(self, process: ProcessId, message: GetObjects) -> None:
        for object_id in message.ids:
            entry = self._entries.get(ObjectId(object_id))
            if entry is not None and entry.can_be_read:
                self._serve(process, message.purpose, ObjectId(object_id), entry)
            elif self._home(object_id) == self.node:
                self._get(GetRequest(object_id, process, message.purpose))
            else:
                self._fetch(ObjectId(object_id), process, message.purpose)

    def forget_get(self, process: ProcessId, message: ForgetGet) -> None:
        self._forget_get(process, [ObjectId(object_id) for object_id in message.ids])

    # Connections and ends

    def process_connected(self, process: ProcessId, driver: ProcessId | None = None) -> None:
        """A driver or worker of this node has its connection; *driver* is that of its job, by default itself."""
        if node_of(process) != self.node or process in self._processes:
            raise CountingError(f"process {short(process)} cannot connect to {self!r}")
        self._processes[process] = driver or process

    def process_ended(self, process: ProcessId, now_s: float, at_once: bool) -> None:
        """The process's socket was read to its end. *at_once*: it left in order, or no other process knew it."""
        self._require_connected(process)
        del self._processes[process]
        for object_id in list(self._waiting.get(process, ())):
            self._forget_get(process, [object_id])
        for object_id in self._local.forget_process(process):
            self._drop_local(object_id)
        self._forget_asked_process(process)
        self._parking.discard(lambda r: isinstance(r, HoldRequest) and r.holder == process)
        self._parking.discard(lambda r: isinstance(r, GetRequest) and r.waiter == process)
        for request in self._parking.take_of_process(process):
            self._look_again(request, final=True)
        if at_once:
            self._forget_process(process)
        else:
            self._ending[process] = now_s + self.grace_s

    def node_dead(self, node: NodeId, heir: NodeId, now_s: float) -> None:
        """The node was declared dead, once and for ever; *heir*, a node that lives, will answer for its ids.

        Its holds stay for the grace.
        """
        if node == self.node or node in self._dead_nodes or heir in self._dead_nodes or heir == node:
            raise CountingError(f"node {short(node)} cannot die with the heir {short(heir)} for {self!r}")
        self._mourn(node)
        self._begin_succession(node, heir, now_s)
        self._ending[node] = now_s + self.grace_s

    @property
    def next_deadline_s(self) -> float | None:
        """When `tick` has something to do."""
        deadlines = [*self._ending.values(), *(asking.deadline_s for asking in self._asking.values())]
        question_s = self._next_question_s()
        if question_s is not None:
            deadlines.append(question_s)
        return min(deadlines, default=None)

    def tick(self, now_s: float) -> None:
        """Forget those whose grace is over, and wait no longer for processes that do not say what they know."""
        self._end_patience(now_s)
        self._be_patient_with_users(now_s)
        for who in [who for who, deadline_s in self._ending.items() if deadline_s <= now_s]:
            del self._ending[who]
            if is_process(who):
                self._forget_process(ProcessId(who))
            else:
                self._forget_node(NodeId(who))

    # Detached actors

    def keep_detached(self, object_id: ObjectId) -> None:
        """Hold the creation object of a detached actor, with all that its constructor needs; nothing when not known."""
        if object_id in self._entries:
            self._hold(object_id, self.node + DETACHED)

    def drop_detached(self, object_id: ObjectId) -> None:
        """The actor is dead for good; nothing happens when it was not held."""
        if object_id in self._held_by.get(self.node + DETACHED, ()):
            self._drop([object_id], self.node + DETACHED)

    # Looking

    def watch(self, object_id: ObjectId) -> bool:
        """Emit ``ObjectFreed`` when the object is freed. False, and no watch, when it is not known here (any more)."""
        if object_id in self._entries:
            self._watched.add(object_id)
        return object_id in self._entries

    def is_known(self, object_id: ObjectId) -> bool:
        """Whether the object is published and not freed."""
        return object_id in self._entries

    def value_of(self, object_id: ObjectId) -> Value | None:
        """The object's value, or None while it is pending or not known here."""
        entry = self._entries.get(object_id)
        return entry.value if entry is not None and entry.can_be_read else None

    def rows(self) -> Iterator[ObjectRow]:
        """Every object whose home is here, with its holders."""
        return (row_of(object_id, entry) for object_id, entry in self._entries.items())

    def ids(self) -> list[ObjectId]:
        """Every object whose home is here; a list, for those who look at them one after the other, over a while."""
        return list(self._entries)

    def row(self, object_id: ObjectId) -> ObjectRow | None:
        """One of the rows; None when the object is freed."""
        entry = self._entries.get(object_id)
        return row_of(object_id, entry) if entry is not None else None

    def kept_copies(self) -> list[tuple[bytes, bytes]]:
        """Id and writer of what lies on this node and is kept for a home or for a process."""
        return self._copies.keys()

    def home_copy(self, object_id: bytes, writer: bytes) -> Location | None:
        """Where the copy lies, if it is kept for a home; None for one that only processes keep."""
        if not self._copies.is_kept_for_home(object_id, writer):
            return None
        return self._copies.location(object_id, writer)

    def cached_copies(self) -> list[Location]:
        """Where evictable copies of values from elsewhere lie."""
        return [copy.location for _, copy in self._local if copy.location is not None]

    def held_elsewhere(self) -> Iterator[tuple[ObjectId, bytes, Hold]]:
        """Id of another home, member of this node that holds it or has asked to."""
        return (
            (object_id, member, hold)
            for object_id, members in self._foreign.items()
            for member, hold in members.items()
        )

    # Steps

    def _look_again(self, request: Request, final: bool) -> None:
        if isinstance(request, HoldRequest):
            self._add_holder(request, final)
        elif isinstance(request, GetRequest):
            self._get(request, final)
        elif isinstance(request, KeepRequest):
            if request.node != self.node or request.id in self._entries:
                self._keep_copy(request, final)
        else:
            self._drop_copy(request, final)

    def _forget_process(self, process: ProcessId) -> None:
        self._drop(list(self._held_by.get(process, ())), process)
        self._drop_exports(process)
        for object_id, writer in self._copies.of_keeper(process):
            self._copies.release(object_id, writer, process)
        for object_id in [object_id for object_id in self._pending if process_of(object_id) == process]:
            entry = self._entries[object_id]
            self._lose(object_id, entry, LossReason.MAKER_DIED, process)
            self._wake(object_id, entry)

    def validate(self) -> None:
        """Raises AssertionError when an invariant does not hold. Slow; for tests and `remora memory --check`."""
        for object_id, entry in self._entries.items():
            assert self._home(object_id) == self.node, f"{short(object_id)} has another home"
            assert entry.holders, f"{short(object_id)} should have been freed"
            assert entry.asked == list(entry.contents.values()).count(Hold.ASKED), (
                f"{short(object_id)}: {entry.asked} asked"
            )
            assert not (entry.waiters and entry.can_be_read), f"{short(object_id)} has a value and waiters"
            assert (object_id in self._pending) == (entry.value.state == PENDING), f"{short(object_id)}: {entry!r}"
            for holder in entry.holders:
                local = home_of(holder) == self.node and not is_container(holder)
                assert not local or object_id in self._held_by.get(holder, ()), (
                    f"{short(holder)} holds {short(object_id)} unnoted"
                )
        for holder, ids in self._held_by.items():
            for object_id in ids:
                places = (
                    self._entries[object_id].holders if self._home(object_id) == self.node else self._foreign[object_id]
                )
                assert holder in places, f"{short(holder)} is noted for {short(object_id)}"
        assert all(members and self._home(object_id) != self.node for object_id, members in self._foreign.items())
        assert all(keepers for _, _, keepers in self._copies)
