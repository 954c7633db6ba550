"""The calls that this process submits: their replies and items, and when their arguments may be let go."""

from __future__ import annotations

from collections.abc import Iterable

from remora.base.ids import ObjectId, ProcessId, short
from remora.core.counting.carriers import ArrivedItem, CallCarrier, Carrier, OpenCall
from remora.core.counting.publications import Publications
from remora.core.counting.vocabulary import CountingError, Hold, LetGo, Send
from remora.messages.counting import ItemAck
from remora.messages.tasks import ReplyAck


class SubmittedCalls(Publications):
    """:class:`Publications` and open calls; see :class:`~remora.core.counting.process.ProcessRefs`."""

    def __init__(self, process: ProcessId, own_actor: ObjectId | None) -> None:
        super().__init__(process, own_actor)
        self._calls: dict[tuple[ProcessId, int], OpenCall] = {}
        self._items: dict[ArrivedItem, None] = {}

    def submitted(self, worker: ProcessId, call: int, ids: Iterable[ObjectId]) -> None:
        """A call is sent whose arguments contain refs: nested ones, captured ones, and those in inlined values.

        Raises:
            CountingError: an earlier attempt of the call at this worker is not closed yet; wait for its ``LetGo``.
        """
        if (worker, call) in self._calls:
            raise CountingError(f"{self._calls[worker, call]!r} is not closed and cannot be submitted again")
        opened = self._calls[worker, call] = OpenCall(worker, call, ids)
        if self._own_actor in opened.listed:
            opened.lends_own_actor = True
            self._lend_own_actor()

    def reply_received(
        self,
        worker: ProcessId,
        call: int,
        contents: Iterable[ObjectId] = (),
        closed: bool = True,
        appeared: Iterable[ObjectId] = (),
        remote_copies: Iterable[ObjectId] = (),
    ) -> None:
        """The reply came to a call with refs in its arguments, or with refs, or not closed, or on another node.

        Before this: ``resolve`` the returns that were published; ``publish`` the stored ones that live; ``drop_copy``
        those of this node that nobody has. *contents* are the ids in all returns. *appeared* are those of which
        an instance was made because a private return holds them. *remote_copies* are the returns stored on
        another node.

        Raises:
            CountingError: the call was replied to before.
        """
        opened = self._calls.get((worker, call))
        if opened is None:
            opened = self._calls[worker, call] = OpenCall(worker, call, ())
        elif opened.replied:
            raise CountingError(f"{opened!r} got a second reply")
        copies = tuple(remote_copies)
        opened.replied = opened.reply.ending = opened.arguments.ending = True
        opened.closed = closed
        opened.owes_ack = self._cover_arrived(contents, opened, opened.reply) or bool(copies)
        for object_id in copies:
            if object_id in self._publications:
                self._publications[object_id].calls.append(opened)
                opened.copies_awaited += 1
        self.appeared(appeared)
        self._settle(opened)
        self._run_agenda()

    def item_received(
        self,
        worker: ProcessId,
        call: int,
        item: int,
        contents: Iterable[ObjectId],
        appeared: Iterable[ObjectId] = (),
    ) -> None:
        """A generator item with refs in it came."""
        carrier = ArrivedItem(worker, call, item)
        if self._cover_arrived(contents, self._calls.get((worker, call)), carrier):
            self._items[carrier] = None
        self.appeared(appeared)
        self._reconsider(carrier)
        self._run_agenda()

    def close_received(self, worker: ProcessId, call: int) -> None:
        """``Close`` came.

        Raises:
            CountingError: the call has no reply yet, or was closed.
        """
        opened = self._calls.get((worker, call))
        if opened is None or not opened.replied or opened.closed:
            raise CountingError(f"{short(worker)} closed call {call}, which is {opened!r}")
        opened.closed = True
        self._settle(opened)
        self._run_agenda()

    def handed_back(self, worker: ProcessId, call: int) -> None:
        """The worker returned the call unstarted: at that worker it is closed."""
        opened = self._calls.get((worker, call))
        if opened is not None:
            self._end_call(opened)
            self._run_agenda()

    def has_open_calls(self, worker: ProcessId) -> bool:
        """Whether something of a call to the worker is not settled: its socket is not to be closed then."""
        return any(key[0] == worker for key in self._calls) or any(item.worker == worker for item in self._items)

    def _cover_arrived(self, contents: Iterable[ObjectId], opened: OpenCall | None, carrier: Carrier) -> bool:
        """Cover the ids of a reply or item. Returns whether the worker keeps any of them for us.

        It does not keep those that came to it in the task itself: this process holds what contains them until the
        call is settled. Such an id may still be new here, out of a value that was inlined unread.
        """
        owes_ack = False
        for object_id in dict.fromkeys(contents):
            ref = self._ref(object_id)
            if opened is None or object_id not in opened.listed:
                ref.cover(carrier)
                owes_ack = True
            elif ref.hold is not Hold.HELD and not ref.covers and not ref.containers:
                ref.cover(opened.arguments)
        return owes_ack

    def _settle(self, opened: OpenCall) -> None:
        """Acknowledge the reply, and let the arguments go, as soon as each is right."""
        if not opened.replied or opened.copies_awaited or not self._may_close(opened.reply):
            return
        self._close(opened.reply)
        if opened.owes_ack:
            opened.owes_ack = False
            self.outbox.append(Send(opened.worker, ReplyAck(opened.call)))
        if opened.closed and self._may_close(opened.arguments):
            self._end_call(opened)

    def _end_call(self, opened: OpenCall) -> None:
        if self._calls.pop((opened.worker, opened.call), None) is None:
            return
        self._close(opened.arguments)
        if opened.lends_own_actor:
            self._unhold(self._ref(self._own_actor or ObjectId(b"")))
        self.outbox.append(LetGo(opened.worker, opened.call))

    def _acknowledge_item(self, carrier: ArrivedItem) -> None:
        if carrier in self._items and self._may_close(carrier):
            del self._items[carrier]
            self._close(carrier)
            self.outbox.append(Send(carrier.worker, ItemAck(carrier.call, carrier.item)))

    def _worker_died(self, worker: ProcessId) -> None:
        """Its calls are closed, with or without a reply; what came in the replies is covered by nobody's promise."""
        for opened in [opened for opened in self._calls.values() if opened.worker == worker]:
            opened.replied = opened.closed = opened.reply.ending = opened.arguments.ending = True
            opened.owes_ack = False
            self._settle(opened)

    def _reconsider(self, carrier: Carrier) -> None:
        if isinstance(carrier, CallCarrier):
            self._settle(carrier.of)
        elif isinstance(carrier, ArrivedItem):
            self._acknowledge_item(carrier)
