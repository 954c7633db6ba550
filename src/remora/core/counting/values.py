"""Values of objects at their home: told by processes, asked for by processes and nodes, copied, lost."""

from __future__ import annotations

from collections.abc import Iterable

from remora.base.ids import NodeId, ObjectId, ProcessId, process_of
from remora.base.object_ref import PENDING
from remora.core.counting.entries import NO_CONTENTS, DescribeLoss, Entry, LossReason
from remora.core.counting.lending import Lending
from remora.core.counting.parking import DropRequest, GetRequest, KeepRequest
from remora.core.counting.reading import TO_KNOW
from remora.core.counting.vocabulary import FreeLocation, Hold, home_of, is_process
from remora.messages.counting import Keep, KeepAck, PublishAck, Unkeep
from remora.messages.objects import GetObjects, Location, Value


class Values(Lending):
    """All that concerns values. :class:`~remora.core.counting.directory.Directory` is the whole."""

    def __init__(self, node: NodeId, describe_loss: DescribeLoss) -> None:
        super().__init__(node, describe_loss)
        self._pending: dict[ObjectId, None] = {}
        self._node_handlers[GetObjects] = self.node_get

    # Telling

    def _set_value(self, object_id: ObjectId, entry: Entry, value: Value, sender: ProcessId, writer: bytes) -> None:
        """The entry has a value now, or is known to be pending."""
        entry.value = value
        entry.publisher = sender
        entry.writer = writer or sender
        if value.state == PENDING:
            self._pending[object_id] = None
            return
        self._pending.pop(object_id, None)
        contents = [ObjectId(content) for content in dict.fromkeys(value.contents) if content != object_id]
        entry.contents = dict.fromkeys(contents, Hold.ASKED) if contents else NO_CONTENTS
        entry.asked = len(contents)
        for content in contents:
            self._hold(content, object_id)
        if value.location is not None:
            self._take_copy(object_id, entry, value.location)
        if value.contents or self._lies_elsewhere(value):
            # Not before: contents of this node are held at once, while the copy on another one is not kept yet.
            entry.acknowledge = sender
        self._acknowledge_publication(object_id, entry)
        self._wake(object_id, entry)

    def _lies_elsewhere(self, value: Value) -> bool:
        return value.location is not None and value.location.node != self.node

    def _refuse_value(self, object_id: ObjectId, value: Value, sender: ProcessId, writer: bytes) -> None:
        """A value came for an object that is freed: its contents are not held, its copy is dropped."""
        if value.contents or self._lies_elsewhere(value):
            self._list(sender, PublishAck, object_id)
        if value.location is None or self._lies_elsewhere(value):
            return
        if writer in (b"", sender):
            self.outbox.append(FreeLocation(value.location))
        else:
            self._drop_copy(DropRequest(object_id, sender, writer))

    # Copies

    def _take_copy(self, object_id: ObjectId, entry: Entry, location: Location) -> None:
        if entry.writer == entry.publisher and location.node == self.node:
            self._copies.add(object_id, entry.writer, location, self.node)
            return
        entry.copy = Hold.ASKED
        if location.node == self.node:
            self._keep_copy(KeepRequest(object_id, self.node, entry.writer))
        elif location.node in self._dead_nodes:
            self._copy_answered(object_id, ok=False)
        else:
            self._tell(location.node, Keep(object_id, entry.writer, list[bytes](entry.contents)))

    def _keep_copy(self, request: KeepRequest, final: bool = False) -> None:
        """A home, perhaps this one, wants the copy kept that a process of this node stored."""
        object_id, node, writer = ObjectId(request.id), request.node, request.writer
        copy = self._local.get(object_id)
        if copy is not None and copy.location is not None and copy.writer == writer:
            self._keep_local(object_id, copy)
        found = (object_id, writer) in self._copies
        if not found and not final and self._park(writer, request):
            return
        if found:
            self._copies.keep(object_id, writer, node)
            self._copies.describe(object_id, writer, list(request.contents))
        if node != self.node:
            self._tell(node, KeepAck(object_id, found))
            return
        entry = self._entries[object_id]
        if found:
            self._copies.release(object_id, writer, entry.publisher)
        self._copy_answered(object_id, found)

    def _copy_answered(self, object_id: ObjectId, ok: bool) -> None:
        entry = self._entries.get(object_id)
        if entry is None or entry.copy is not Hold.ASKED:
            return
        if ok:
            entry.copy = Hold.HELD
        else:
            self._lose(object_id, entry, LossReason.COPY_LOST, entry.writer)
        self._acknowledge_publication(object_id, entry)
        self._wake(object_id, entry)
        if entry.spread is not None:
            self._keep_enough(object_id, entry)

    def _drop_copy(self, request: DropRequest, final: bool = False) -> None:
        """A process does not keep a copy any more, or none of those that the writer stored for it."""
        if request.id:
            found = (request.id, request.writer) in self._copies
            if not found and not final and request.keeper != request.writer and self._park(request.writer, request):
                return
            self._copies.release(request.id, request.writer, request.keeper)
        elif final or not self._park(request.writer, request):
            for object_id, writer in self._copies.of_keeper(request.keeper):
                if writer == request.writer:
                    self._copies.release(object_id, writer, request.keeper)

    def _let_copy_go(self, object_id: ObjectId, entry: Entry) -> None:
        """The object is freed: the home does not want its copy."""
        location = entry.value.location
        if location is None:
            return
        if location.node != self.node:
            self._tell(location.node, Unkeep(object_id, entry.writer))
            return
        self._parking.discard(lambda r: isinstance(r, KeepRequest) and r.node == self.node, object_id)
        self._copies.release(object_id, entry.writer, self.node)
        if entry.copy is Hold.ASKED:
            self._drop_copy(DropRequest(object_id, entry.publisher, entry.writer))

    # Asking

    def node_get(self, node: NodeId, message: GetObjects) -> None:
        for object_id in message.ids:
            self._get(GetRequest(object_id, node, message.purpose))

    def _get(self, request: GetRequest, final: bool = False) -> None:
        """A process of this node, or another node, waits for the value of an object whose home is here."""
        object_id, waiter = ObjectId(request.id), request.waiter
        entry = self._entries.get(object_id)
        if entry is None:
            if final or not self._park(process_of(object_id), request):
                self._give(waiter, object_id, self._unknown(object_id))
        elif entry.can_be_read:
            self._serve(waiter, request.purpose, object_id, entry)
        else:
            entry.waiters = entry.waiters or {}
            entry.waiters[waiter] = min(request.purpose, entry.waiters.get(waiter, request.purpose))
            if is_process(waiter):
                self._waiting.setdefault(waiter, {})[object_id] = None

    def _serve(self, waiter: bytes, purpose: int, object_id: ObjectId, entry: Entry) -> None:
        """There is a value: give it, or have it fetched from where it lies."""
        location = entry.value.location
        if location is None or (purpose == TO_KNOW and location.node != waiter):
            self._give(waiter, object_id, entry.value)
        elif not is_process(waiter):
            self._lend(NodeId(waiter), object_id, entry)
        elif location.node == self.node:
            self._give(waiter, object_id, entry.value)
        else:
            self._fetch(object_id, ProcessId(waiter), purpose)

    def _forget_get(self, process: ProcessId, ids: Iterable[ObjectId]) -> None:
        for object_id in ids:
            self._note_not_waiting(process, object_id)
            self._forget_fetch(process, object_id)
            entry = self._entries.get(object_id)
            if entry is not None and entry.waiters:
                entry.waiters.pop(process, None)
            elif entry is None and self._parking:
                self._parking.discard(lambda r: isinstance(r, GetRequest) and r.waiter == process, object_id)

    def _wake(self, object_id: ObjectId, entry: Entry) -> None:
        if entry.waiters and entry.can_be_read:
            waiters, entry.waiters = entry.waiters, None
            for waiter, purpose in waiters.items():
                self._serve(waiter, purpose, object_id, entry)

    # Losing

    def _unknown(self, object_id: ObjectId) -> Value:
        if home_of(object_id) != self.node:
            return self._lost(object_id, LossReason.NODE_DIED, home_of(object_id))
        return self._lost(object_id, LossReason.UNKNOWN, process_of(object_id))

    def _lose(self, object_id: ObjectId, entry: Entry, reason: LossReason, where: bytes) -> None:
        """The value is lost; what it contained is held no more, since nobody can take it out."""
        self._pending.pop(object_id, None)
        entry.value = self._lost(object_id, reason, where)
        entry.copy = Hold.NONE
        contents, entry.contents, entry.asked = entry.contents, NO_CONTENTS, 0
        self._drop([content for content, hold in contents.items() if hold is not Hold.GONE], object_id)

    def _freed(self, object_id: ObjectId, entry: Entry) -> None:
        self._pending.pop(object_id, None)
        self._free_spread(object_id, entry)
        self._let_copy_go(object_id, entry)
        waiters, entry.waiters = entry.waiters or {}, None
        for waiter in waiters:
            self._give(waiter, object_id, self._lost(object_id, LossReason.UNKNOWN, process_of(object_id)))
        super()._freed(object_id, entry)
