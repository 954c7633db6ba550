"""Reading at this node: values that come from elsewhere, once for all processes that ask, and the copies of them.

A value is elsewhere when its home is, or when it was stored on another node than its home. In both cases this node
asks the home (perhaps itself) once, and is told the value or from where to pull a copy. Processes are shown a location
of this node only, unless all that they want is to know that there is a value.
"""

from __future__ import annotations

import msgspec

from remora.base.ids import NodeId, ObjectId, ProcessId, process_of
from remora.base.object_ref import FAILED
from remora.core.counting.copies import ArenaCopies
from remora.core.counting.entries import DescribeLoss, Loss, LossReason
from remora.core.counting.holders import Holders
from remora.core.counting.local_copies import LocalCopies, LocalCopy
from remora.core.counting.vocabulary import NOBODY, CancelPull, FreeLocation, RaisePull, StartPull
from remora.messages.copies import CopyArrived, CopyDropped, CopyFailed, CopyKept, FreeCopies, KeepCopy, MakeCopy
from remora.messages.objects import CopiesReleased, GetObjects, Location, ObjectAt, ObjectValue, ReleaseCopies, Value

SOON = 2
"""The purpose of a value that may be wanted soon."""
TO_KNOW = 3
"""The purpose of who wants to know only whether there is a value."""


ASK_AGAIN_AFTER_S = 0.2
"""How long a process is left alone with a copy that it uses, however full the store."""


class Located(msgspec.Struct, frozen=True):
    """Where data is on this node. *location* is None while it arrives, or is about to: the pull knows what is there."""

    location: Location | None

    @property
    def is_whole(self) -> bool:
        """Whether all of it is here."""
        return self.location is not None


class Reading(Holders):
    """Holders and reading. :class:`~remora.core.counting.directory.Directory` is the whole."""

    def __init__(self, node: NodeId, describe_loss: DescribeLoss) -> None:
        super().__init__(node)
        self._describe_loss = describe_loss
        self._copies = ArenaCopies(self.outbox.append)
        self._local = LocalCopies()
        self._ask_again_s: float | None = None
        """When to ask processes again for copies that they used."""
        self._waiting: dict[bytes, dict[ObjectId, None]] = {}
        """Per process of this node: ids whose values it waits for."""
        self._remote_gets: dict[ObjectId, dict[ProcessId, int]] = {}
        """Per id whose value is elsewhere: processes of this node that wait for it, and for which purpose."""
        self._node_handlers |= {
            ObjectAt: self.object_at,
            ObjectValue: self.object_value,
            FreeCopies: self.free_copies,
            MakeCopy: self.make_copy,
            KeepCopy: self.keep_copy,
        }

    # What the shell tells and asks

    def copy_arrived(self, object_id: ObjectId, writer: bytes, location: Location) -> None:
        """The pull is done; the directory owns the place from now on, and frees it at once if nobody wants it."""
        copy = self._local.get(object_id)
        if copy is None or copy.writer != writer or copy.location is not None:
            self.outbox.append(FreeLocation(location))
            return
        self._local.arrived(object_id, location)
        home = self._home(object_id)
        if copy.is_to_keep and home != NOBODY:
            self._keep_local(object_id, copy)
            self._tell_node(home, CopyKept(object_id, writer, True))
        else:
            self._list_home(object_id, CopyArrived)
        for process in self._remote_gets.pop(object_id, {}):
            self._show(process, object_id, copy)

    def copy_failed(self, object_id: ObjectId, writer: bytes, source: bytes, reason: str) -> None:
        """The pull got nothing more out of the node *source*; what has arrived stays, another source is asked for.

        An empty *source* says that this node cannot take the value, for example because its store is full.
        """
        copy = self._local.get(object_id)
        if copy is None or copy.writer != writer or copy.location is not None:
            return
        if source:
            self._list_home(object_id, CopyFailed, source, reason)
            return
        self._local.remove(object_id)
        for process in self._remote_gets.pop(object_id, {}):
            self._give(process, object_id, self._lost(object_id, LossReason.NO_ROOM, self.node, reason), for_now=True)
        self._list_home(object_id, CopyDropped)

    def locate(self, object_id: ObjectId, writer: bytes) -> Located | None:
        """Where the value that *writer* stored is on this node, for other nodes to read; None when it is not here.

        A node that the home has sent here may come before the home's word to pull has.
        """
        copy = self._local.get(object_id)
        if copy is not None and copy.writer == writer:
            return Located(copy.location)
        location = self._copies.location(object_id, writer)
        is_asked_for = min(self._remote_gets.get(object_id, {}).values(), default=TO_KNOW) < TO_KNOW
        return Located(location) if location is not None or is_asked_for else None

    def evict(self, size_bytes: int) -> int:
        """Give back so many bytes of secondary copies. Returns how many are freed now.

        Copies that processes may look at follow when these have answered ``ReleaseCopies``. Call it again whenever
        space is still lacking; it asks nobody twice.
        """
        unused, questions = self._local.choose(size_bytes)
        freed_bytes = 0
        for object_id in unused:
            freed_bytes += self._drop_local(object_id)
        for process, ids in questions.items():
            self._tell(process, ReleaseCopies(list(ids)))
        return freed_bytes

    def _next_question_s(self) -> float | None:
        return None if not self._local.has_refusals else self._ask_again_s or 0.0

    def _be_patient_with_users(self, now_s: float) -> None:
        """What a process uses it goes on using for a while: to ask it all the time would keep both busy."""
        if not self._local.has_refusals:
            self._ask_again_s = None
        elif self._ask_again_s is None:
            self._ask_again_s = now_s + ASK_AGAIN_AFTER_S
        elif self._ask_again_s <= now_s:
            self._ask_again_s = None
            self._local.ask_again()

    # Messages of processes

    def copies_released(self, process: ProcessId, message: CopiesReleased) -> None:
        for object_id in self._local.answered(process, message.ids):
            self._drop_local(object_id)

    def _fetch(self, object_id: ObjectId, process: ProcessId, purpose: int) -> None:
        """A process wants a value that is elsewhere."""
        copy = self._local.get(object_id)
        if copy is not None and copy.location is not None:
            self._show(process, object_id, copy)
            return
        if copy is not None and purpose == TO_KNOW:
            self._give(process, object_id, copy.value)
            return
        waiting = self._remote_gets.setdefault(object_id, {})
        before = min(waiting.values(), default=None)
        waiting[process] = min(purpose, waiting.get(process, purpose))
        self._waiting.setdefault(process, {})[object_id] = None
        if copy is not None:
            if purpose < copy.purpose:
                copy.purpose = purpose
                self.outbox.append(RaisePull(object_id, copy.writer, purpose))
        elif before is None or (before == TO_KNOW and purpose < TO_KNOW):
            self._list_home(object_id, GetObjects, purpose)

    def _forget_fetch(self, process: ProcessId, object_id: ObjectId) -> None:
        waiting = self._remote_gets.get(object_id)
        if waiting is None or waiting.pop(process, None) is None or waiting:
            return
        del self._remote_gets[object_id]
        copy = self._local.get(object_id)
        if copy is not None and copy.location is None and not copy.is_to_keep:
            self._drop_local(object_id)

    # Messages of homes

    def object_at(self, node: NodeId, message: ObjectAt) -> None:
        object_id = ObjectId(message.id)
        if self.node in message.sources:
            self._show_kept(object_id, message.writer, message.value)
            return
        self._tell_knowers(object_id, message.value)
        if self._copies.is_kept_for_home(object_id, message.writer):
            self._tell_node(node, CopyKept(object_id, message.writer, True))
            self._show_kept(object_id, message.writer, message.value)
        elif object_id in self._remote_gets or self._is_arriving(object_id):
            purpose = min(self._remote_gets.get(object_id, {}).values(), default=SOON)
            self._pull(object_id, message, purpose)
        elif self._local.get(object_id) is None:
            self._list_home(object_id, CopyDropped)

    def make_copy(self, node: NodeId, message: MakeCopy) -> None:
        """The home wants a copy kept here."""
        object_id = ObjectId(message.id)
        copy = self._local.get(object_id)
        whole = copy is not None and copy.location is not None and copy.writer == message.writer
        if whole or (object_id, message.writer) in self._copies:
            self.keep_copy(node, KeepCopy(object_id, message.writer, message.wanted))
        else:
            copy = self._pull(object_id, message, SOON)
            copy.is_to_keep = True
            copy.wanted = message.wanted

    def keep_copy(self, node: NodeId, message: KeepCopy) -> None:
        """The home wants the copy kept that is here: as the primary one, or as one of several."""
        object_id = ObjectId(message.id)
        copy = self._local.get(object_id)
        if copy is not None and copy.location is not None and copy.writer == message.writer:
            copy.wanted = message.wanted
            self._keep_local(object_id, copy)
        elif (object_id, message.writer) in self._copies:
            self._copies.keep(object_id, message.writer, node)
        self._tell_node(node, CopyKept(object_id, message.writer, (object_id, message.writer) in self._copies))

    def object_value(self, node: NodeId, message: ObjectValue) -> None:
        """The value itself, or an error; of a stored one only that it is stored."""
        object_id = ObjectId(message.id)
        if message.value.location is not None:
            self._tell_knowers(object_id, message.value)
            return
        if self._is_arriving(object_id):
            self._end_pull(object_id)
        for process in self._remote_gets.pop(object_id, {}):
            self._give(process, object_id, message.value, message.for_now)

    def free_copies(self, node: NodeId, message: FreeCopies) -> None:
        for object_id in map(ObjectId, message.ids):
            if self._local.get(object_id) is None:
                continue
            self._remove_local(object_id)
            for process in self._remote_gets.pop(object_id, {}):
                self._give(process, object_id, self._lost(object_id, LossReason.UNKNOWN, process_of(object_id)))

    # Copies

    def _pull(self, object_id: ObjectId, message: ObjectAt | MakeCopy, purpose: int) -> LocalCopy:
        copy = self._local.get(object_id)
        if copy is not None and copy.writer != message.writer:
            self._remove_local(object_id)
            copy = None
        if copy is None:
            copy = LocalCopy(message.value, message.writer, purpose)
            self._local.add(object_id, copy)
        copy.value = message.value
        copy.sources = message.sources
        self.outbox.append(StartPull(object_id, copy.writer, copy.size_bytes, tuple(copy.sources), copy.purpose))
        return copy

    def _is_arriving(self, object_id: ObjectId) -> bool:
        copy = self._local.get(object_id)
        return copy is not None and copy.location is None

    def _keep_local(self, object_id: ObjectId, copy: LocalCopy) -> None:
        """From a secondary copy to one that is kept for the home."""
        assert copy.location is not None
        self._local.remove(object_id)
        self._copies.adopt(object_id, copy.writer, copy.location, self._home(object_id))
        self._copies.describe(object_id, copy.writer, copy.value.contents, copy.wanted)

    def _drop_local(self, object_id: ObjectId) -> int:
        """Give up a secondary copy of an object that lives on. Returns its size if it was here."""
        size_bytes = self._remove_local(object_id)
        self._list_home(object_id, CopyDropped)
        return size_bytes

    def _remove_local(self, object_id: ObjectId) -> int:
        copy = self._local.get(object_id)
        if copy is None or copy.location is None:
            self._end_pull(object_id)
            return 0
        self._local.remove(object_id)
        self.outbox.append(FreeLocation(copy.location))
        return copy.size_bytes

    def _end_pull(self, object_id: ObjectId) -> None:
        copy = self._local.get(object_id)
        assert copy is not None
        self._local.remove(object_id)
        self.outbox.append(CancelPull(object_id, copy.writer))

    # Answering processes and nodes

    def _show(self, process: ProcessId, object_id: ObjectId, copy: LocalCopy) -> None:
        is_evictable = self._local.get(object_id) is copy
        if is_evictable:
            self._local.told(object_id, process)
        self._note_not_waiting(process, object_id)
        self._tell(process, ObjectValue(object_id, copy.shown, is_evictable))

    def _show_kept(self, object_id: ObjectId, writer: bytes, value: Value) -> None:
        """What was asked for lies here, kept for the home, which says that it is the right one."""
        location = self._copies.location(object_id, writer)
        if location is None:
            self._list_home(object_id, CopyFailed, self.node, "it is not there")
            return
        shown = Value(value.state, b"", location, value.contents)
        for process in self._remote_gets.pop(object_id, {}):
            self._give(process, object_id, shown)

    def _tell_knowers(self, object_id: ObjectId, value: Value) -> None:
        """Answer those that want to know only that there is a value."""
        waiting = self._remote_gets.get(object_id)
        if waiting is None:
            return
        for process in [process for process, purpose in waiting.items() if purpose == TO_KNOW]:
            del waiting[process]
            self._give(process, object_id, value)
        if not waiting:
            del self._remote_gets[object_id]

    def _give(self, waiter: bytes, object_id: ObjectId, value: Value, for_now: bool = False) -> None:
        """Answer with a value, or an error; *for_now*: the object has a value, of which the waiter gets no copy."""
        self._note_not_waiting(waiter, object_id)
        answer = ObjectValue(object_id, value, for_now=for_now)
        if waiter == self.node:
            self.object_value(self.node, answer)
        else:
            self._tell(waiter, answer)

    def _note_not_waiting(self, waiter: bytes, object_id: ObjectId) -> None:
        waiting = self._waiting.get(waiter)
        if waiting is not None:
            waiting.pop(object_id, None)
            if not waiting:
                del self._waiting[waiter]

    def _lost(self, object_id: ObjectId, reason: LossReason, where: bytes, detail: str = "") -> Value:
        return Value(FAILED, self._describe_loss(Loss(object_id, reason, where, detail)))
