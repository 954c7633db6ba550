"""The half of counting in every driver and worker.

It knows ids, not refs. The client tells it what happens to refs and carriers, under its lock, and afterwards does
what stands in ``outbox``, all of it, in order: ``Send`` to the daemon (``DAEMON``) or to another process, and
``LetGo``. It is told nothing of values without refs, of ids that never left the process, of calls without refs in
their arguments or reply; those cost nothing.

What the client tells:

=====================================  =============================================================================
a ref is about to leave (first time)   ``publish`` (what its value contains first), before the carrier is written
a published pending id got its value   ``resolve``, also when no ref to it lives here any more
a ref instance was made for an id      ``appeared=`` of the call that opens its carrier; else ``appeared``
a weak reference's callback ran        ``died``, at any time later, in batches
a published container was unpickled    ``unpacked``, while a ref to it lives
a call was sent                        ``submitted``; hold what the arguments contain until ``LetGo``
its reply, item, close arrived         ``reply_received``, ``item_received``, ``close_received``, ``handed_back``
a task arrived                         ``task_received``, before anything of it is unpickled
its user code ended                    publish what the result contains; ``result_packed`` while its refs live; let go
                                       of the result, variables, frames and tracebacks; tell the deaths; then
                                       ``task_ended``, whose answer goes into ``Reply.closed``
``ReplyAck``, ``ItemAck`` arrived      ``reply_acked``, ``item_acked``
a peer's socket was read to the end    ``peer_died``
the daemon wrote                       ``acknowledged``, ``publish_acknowledged``, ``pinged``
=====================================  =============================================================================

An id may be listed in a carrier without a ref to it living here, and a live ref may be listed by several.

Example of a worker that keeps a ref which came inside the arguments:
    >>> refs = ProcessRefs(worker)
    >>> refs.task_received(driver, call=7, ids=[ref_id])
    >>> refs.appeared([ref_id])                              # unpickled into an actor's attribute
    >>> refs.task_ended(driver, call=7)                      # reply at once, not closed
    False
    >>> refs.outbox
    [Send(to=b'', message=Register(ids=[ref_id]))]
    >>> refs.acknowledged([ref_id], ok=True)
    >>> refs.outbox[-1]
    Send(to=driver, message=Close(call=7))
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from remora.base.ids import ObjectId, ProcessId, node_of, short
from remora.core.counting.carriers import Carrier, RunningTask
from remora.core.counting.submitted_calls import SubmittedCalls
from remora.core.counting.vocabulary import DAEMON, CountingError, Hold, Send
from remora.messages.counting import DropUnclaimed, Store
from remora.messages.objects import Location
from remora.messages.tasks import Close

WHOLE_REPLY = -1
"""In place of the number of an item."""


class Unacknowledged:
    """What a reply or item carried away: the worker keeps it until the submitter has registered it, or died."""

    __slots__ = ("copies", "ids")

    def __init__(self, ids: tuple[ObjectId, ...]) -> None:
        self.ids = ids
        self.copies: tuple[ObjectId, ...] = ()


class ProcessRefs(SubmittedCalls):
    """Refs and carriers of one process.

    Args:
        process: this process's id.
        own_actor: in an actor's process the id of its creation object, of which it is a holder only while it
            lends its own handle to somebody.
    """

    def __init__(self, process: ProcessId, own_actor: ObjectId | None = None) -> None:
        super().__init__(process, own_actor)
        self._tasks: dict[tuple[ProcessId, int], RunningTask] = {}
        self._unacknowledged: dict[tuple[ProcessId, int, int], Unacknowledged] = {}

    @property
    def is_quiet(self) -> bool:
        """Whether this process may end in order: nobody depends on anything that it keeps for them."""
        return not (self._unacknowledged or self._publications or self._calls or self._tasks or self._items)

    # Tasks that this process runs

    def task_received(self, submitter: ProcessId, call: int, ids: Collection[ObjectId]) -> None:
        """A task with refs arrived; *ids* (a collection) are those that ``submitted`` had.

        Raises:
            CountingError: the task is here already.
        """
        if (submitter, call) in self._tasks:
            raise CountingError(f"{self._tasks[submitter, call]!r} came twice")
        task = self._tasks[submitter, call] = RunningTask(submitter, call, ids)
        for object_id in dict.fromkeys(ids):
            self._ref(object_id).cover(task)

    def result_packed(self, submitter: ProcessId, call: int, contents: Iterable[ObjectId]) -> None:
        """The result was serialized with these refs in it, which live here and are published.

        From here on the machine keeps them for the submitter; the caller may let go of its refs to them, and must
        before ``task_ended``: whatever lives then was kept. Nothing to do when the submitter is dead.

        Raises:
            CountingError: no ref to one of *contents* lives here, or it was never published.
        """
        self._keep_until_acknowledged((submitter, call, WHOLE_REPLY), contents)
        self._run_agenda()

    def task_ended(self, submitter: ProcessId, call: int, stored: Mapping[ObjectId, Location] | None = None) -> bool:
        """User code of the task ended, its variables are gone and their deaths are told; now the reply is sent.

        *stored* are the returns that were written to the arena. When the submitter is dead there is no reply: offer
        the results with ``resolve`` before.

        Returns:
            The reply's ``closed``. When false, ``Close`` follows in the outbox.

        Raises:
            CountingError: it has ended before.
        """
        task = self._tasks.get((submitter, call)) or RunningTask(submitter, call, ())
        if task.ending:
            raise CountingError(f"{task!r} ended twice")
        if not task.orphaned:
            self._store(submitter, call, stored or {})
        if self.own_actor_is_lent:
            self._ref(self._own_actor or ObjectId(b"")).cover(task)
        task.ending = True
        closed = self._may_close(task)
        if closed:
            self._tasks.pop((submitter, call), None)
            self._close(task)
        else:
            self._tasks[submitter, call] = task
        self._run_agenda()
        return closed

    def task_handed_back(self, submitter: ProcessId, call: int) -> None:
        """The task was not started, nothing of it was unpickled, and ``HandedBack`` is about to be sent.

        Raises:
            CountingError: a ref lives here that only this task covers, and that nobody registers.
        """
        task = self._tasks.get((submitter, call))
        if task is None:
            return
        for ref in (self._refs[object_id] for object_id in task.ids):
            if ref.is_live and ref.hold is Hold.NONE and ref.covers == {task: None} and not ref.containers:
                raise CountingError(f"{task!r} was started: it covers {ref!r}")
        del self._tasks[submitter, call]
        self._close(task)

    def item_packed(self, submitter: ProcessId, call: int, item: int, contents: Iterable[ObjectId]) -> None:
        """A generator item with refs in it, which live here and are published, is about to be sent.

        Raises:
            CountingError: as for ``result_packed``.
        """
        self._keep_until_acknowledged((submitter, call, item), contents)
        self._run_agenda()

    def reply_acked(self, submitter: ProcessId, call: int) -> None:
        """``ReplyAck`` came.

        Raises:
            CountingError: no reply to this call awaits one.
        """
        self._acknowledge((submitter, call, WHOLE_REPLY))

    def item_acked(self, submitter: ProcessId, call: int, item: int) -> None:
        """``ItemAck`` came.

        Raises:
            CountingError: no such item awaits one.
        """
        self._acknowledge((submitter, call, item))

    def peer_died(self, peer: ProcessId) -> None:
        """The peer's socket was read to its end, and everything that came was told before."""
        self._worker_died(peer)
        for key in [key for key in self._unacknowledged if key[0] == peer]:
            self._acknowledge(key)
        for task in self._tasks.values():
            task.orphaned = task.orphaned or task.submitter == peer
        if node_of(peer) == node_of(self.process):
            self.outbox.append(Send(DAEMON, DropUnclaimed(peer)))
        self._run_agenda()

    # Steps

    def _reconsider(self, carrier: Carrier) -> None:
        if not isinstance(carrier, RunningTask):
            super()._reconsider(carrier)
        elif self._tasks.get((carrier.submitter, carrier.call)) is carrier and self._may_close(carrier):
            del self._tasks[carrier.submitter, carrier.call]
            self._close(carrier)
            if not carrier.orphaned:
                self.outbox.append(Send(carrier.submitter, Close(carrier.call)))

    def _store(self, submitter: ProcessId, call: int, stored: Mapping[ObjectId, Location]) -> None:
        """Tell where results were written. One for another node is kept here until the reply is acknowledged."""
        same_node = node_of(submitter) == node_of(self.process)
        for object_id, location in stored.items():
            self.outbox.append(Send(DAEMON, Store(object_id, location, submitter if same_node else b"")))
        if stored and not same_node:
            key = (submitter, call, WHOLE_REPLY)
            self._unacknowledged.setdefault(key, Unacknowledged(())).copies = tuple(stored)

    def _keep_until_acknowledged(self, key: tuple[ProcessId, int, int], contents: Iterable[ObjectId]) -> None:
        """Keep what the submitter does not keep itself: the ids that came in the task, it does."""
        task = self._tasks.get(key[:2]) or RunningTask(*key[:2], ())
        kept = tuple(object_id for object_id in dict.fromkeys(contents) if object_id not in task.listed)
        if not kept or task.orphaned:
            return
        for object_id in kept:
            if object_id != self._own_actor and (object_id not in self._refs or not self._refs[object_id].is_grounded):
                raise CountingError(f"a result has {short(object_id)} in it, of which no ref lives here any more")
        self._unacknowledged[key] = Unacknowledged(kept)
        for object_id in kept:
            self._hold(self._ref(object_id))
        if self._own_actor in kept:
            self._register_own_actor()

    def _acknowledge(self, key: tuple[ProcessId, int, int]) -> None:
        unacknowledged = self._unacknowledged.pop(key, None)
        if unacknowledged is None:
            raise CountingError(f"{short(key[0])} acknowledged call {key[1]}, item {key[2]}, which awaits nothing")
        for object_id in unacknowledged.ids:
            self._unhold(self._refs[object_id])
        for object_id in unacknowledged.copies:
            self.drop_copy(object_id, self.process)
        self._run_agenda()

    # Looking

    def validate(self) -> None:
        """Raises AssertionError when an invariant does not hold. Slow; for tests and `remora memory --check`."""
        for object_id, ref in self._refs.items():
            assert not ref.is_live or ref.is_grounded, f"{ref!r} lives here for no reason"
            assert not ref.is_forgettable, f"{ref!r} should have been forgotten"
            assert all(object_id in carrier.ids for carrier in ref.covers or ()), f"{ref!r} is not listed by its covers"
            assert all(outer.hold is Hold.HELD for outer in ref.containers or ()), f"{ref!r}: container not held"
            assert ref.is_wanted or ref.hold is not Hold.GONE, f"{ref!r} should have been forgotten"
        carriers: list[Carrier] = [*self._tasks.values(), *self._items]
        carriers += [carrier for opened in self._calls.values() for carrier in (opened.reply, opened.arguments)]
        for carrier in carriers:
            for object_id in carrier.ids:
                assert carrier in (self._refs[object_id].covers or ()), f"{carrier!r} does not cover {short(object_id)}"
        assert not self._refs_due, "the agenda was not worked off"
        assert not self._carriers_due, "the agenda was not worked off"

    def __repr__(self) -> str:
        return (
            f"<ProcessRefs {short(self.process)}: {len(self._refs)} refs, {len(self._tasks)} tasks, "
            f"{len(self._calls)} calls, {len(self._unacknowledged)} unacknowledged, "
            f"{len(self._publications)} publications>"
        )
