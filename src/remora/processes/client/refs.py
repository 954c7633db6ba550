"""The refs of this process that others know of: the shell around :class:`~remora.core.counting.process.ProcessRefs`.

A ref that never leaves the process is not known here at all. One that leaves gets a weak reference whose callback is
``deque.append``: no Python code of ours runs when a ref dies, wherever that is. All methods want the client's lock.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from remora.base.ids import NodeId, ObjectId, ProcessId
from remora.base.object_ref import BORROWED, FAILED, IMMEDIATE, INLINE, PENDING, STORED, ObjectRef
from remora.core.counting.process import ProcessRefs
from remora.core.counting.vocabulary import DAEMON, Send
from remora.messages.objects import Location, Value
from remora.serialization import serialize

ELSEWHERE = NodeId(bytes(4))
"""The node of a value of which others are told only that it lies somewhere: they ask for it."""


class CopyLocation(Location, frozen=True):
    """Where a copy lies that may leave this node when space lacks: only who asked the daemon for it may look there."""


class ErrorForNow(bytes):
    """Why a value could not be brought to this node. It is told to who asked until then; others are told ``location``,
    and who reads the ref after that asks again."""

    location: Location


class Watch(weakref.ref[ObjectRef[Any]]):
    """Tells that the ref with this id died here."""

    __slots__ = ("id",)
    id: ObjectId


class Refs:
    """Publishes refs, finds or makes the instance of an id, and carries out what the counting machine says.

    ``later(function)`` calls it without the lock.
    """

    def __init__(
        self,
        process: ProcessId,
        send_to_daemon: Callable[[Any], None],
        send_to_process: Callable[[ProcessId, Any], None],
        later: Callable[[Callable[[], None]], None],
        own_actor: ObjectId | None = None,
    ) -> None:
        self.machine = ProcessRefs(process, own_actor)
        self._send_to_daemon = send_to_daemon
        self._send_to_process = send_to_process
        self._watches: dict[bytes, Watch] = {}
        self._dead: deque[Watch] = deque()
        self.on_died: Callable[[list[ObjectId]], None] = lambda ids: None
        """Told of refs that died; a new one with the same id may live already."""
        self._kept: dict[tuple[bytes, int], tuple[ObjectRef[Any], ...]] = {}
        self._when_let_go: dict[tuple[bytes, int], Callable[[], None]] = {}
        self._later = later
        self.may_move = False
        """Whether values may leave this node's store while their refs live: copies of other nodes' objects do."""

    # ------------------------------------------------------------------ instances

    def live(self) -> list[ObjectRef[Any]]:
        """Every ref of this process that others know of."""
        return [ref for watch in list(self._watches.values()) if (ref := watch()) is not None]

    @property
    def is_idle(self) -> bool:
        """Whether no ref here could die unnoticed."""
        return not self._watches

    def find(self, object_id: bytes) -> ObjectRef[Any] | None:
        """The live ref with this id, if it was ever published."""
        watch = self._watches.get(object_id)
        return watch() if watch is not None else None

    def known_values(self, nodes: Collection[bytes]) -> list[tuple[bytes, Value]]:
        """The ids of these homes whose values this process has itself, outside of the store."""
        return [
            (ref.id, value_of(ref))
            for ref in self.live()
            if ref.id[:4] in nodes and ref.state in (INLINE, FAILED, IMMEDIATE) and type(ref.data) is not ErrorForNow
        ]

    def instances(self, ids: Iterable[bytes]) -> tuple[list[ObjectRef[Any]], list[ObjectId]]:
        """The refs of *ids*, made where there was none, and the ids of those that were made."""
        refs, appeared = [], []
        for object_id in ids:
            watch = self._watches.get(object_id)
            ref = watch() if watch is not None else None
            if ref is None:
                ref = ObjectRef(ObjectId(object_id), BORROWED, published=True)
                self._watch(ref)
                appeared.append(ref.id)
            refs.append(ref)
        return refs, appeared

    def adopt(self, ids: Iterable[bytes]) -> list[ObjectRef[Any]]:
        """The refs of ids that came in a carrier which the machine knows already."""
        refs, appeared = self.instances(ids)
        if appeared:
            self.machine.appeared(appeared)
            self.carry_out()
        return refs

    def load(self, id: bytes) -> ObjectRef[Any]:
        """The ref of an id that came in a pickle which is not ours."""
        (ref,), appeared = self.instances([id])
        for object_id in appeared:
            self.machine.loaded(object_id)
            self.carry_out()
        return ref

    def unpack(self, container: ObjectRef[Any]) -> dict[Any, ObjectRef[Any]]:
        """The refs inside the value of *container*, which is about to be deserialized."""
        contents = container.contents
        if type(contents[0]) is ObjectRef:
            return {ref.id: ref for ref in contents}
        refs, appeared = self.instances(contents)
        self.machine.unpacked(container.id, [ref.id for ref in refs], appeared)
        self.carry_out()
        return {ref.id: ref for ref in refs}

    def drain(self) -> None:
        """Tell the machine which refs have died since the last time."""
        dead = self._dead
        if not dead:
            return
        ids = []
        while dead:
            watch = dead.popleft()
            if self._watches.get(watch.id) is watch:
                del self._watches[watch.id]
            ids.append(watch.id)
        self.machine.died(ids)
        self.carry_out()
        self.on_died(ids)

    def _watch(self, ref: ObjectRef[Any]) -> None:
        watch = Watch(ref, self._dead.append)
        watch.id = ref.id
        self._watches[ref.id] = watch

    # ------------------------------------------------------------------ publishing

    def publish(self, ref: ObjectRef[Any], writer: ProcessId | None = None) -> None:
        """Make the ref known to its home, and before it those inside its value. Again does nothing."""
        if ref.published:
            return
        todo = [ref]
        while todo:
            current = todo[-1]
            missing = [inner for inner in current.contents if not inner.published and inner is not current]
            if missing and not current.published:
                todo += missing
                continue
            todo.pop()
            if not current.published:
                current.published = True
                self._watch(current)
                self.machine.publish(current.id, value_of(current), writer if current is ref else None)
        self.carry_out()

    def resolve(self, ref: ObjectRef[Any], writer: ProcessId | None = None) -> None:
        """A published ref that was pending has its value."""
        self.machine.resolve(ref.id, value_of(ref), writer)
        self.carry_out()

    def export(self, ref: ObjectRef[Any]) -> None:
        """The ref was pickled by something that is not ours: the job holds it to its end."""
        self.publish(ref)
        self.machine.export(ref.id)
        self.carry_out()

    # ------------------------------------------------------------------ carriers

    def call_sent(self, worker: ProcessId, call: int, ids: Collection[bytes], kept: tuple[ObjectRef[Any], ...]) -> None:
        """A call with refs leaves; *kept* live until the worker has closed it."""
        self._kept[worker, call] = kept
        self.machine.submitted(worker, call, [ObjectId(object_id) for object_id in ids])

    def reply_arrived(
        self,
        worker: ProcessId,
        call: int,
        contents: Iterable[bytes],
        closed: bool,
        appeared: Iterable[ObjectId],
        remote_copies: Iterable[ObjectId] = (),
    ) -> None:
        """After the returns were filled."""
        ids = [ObjectId(object_id) for object_id in contents]
        self.machine.reply_received(worker, call, ids, closed, appeared, remote_copies)
        self.carry_out()

    def when_let_go(self, worker: ProcessId, call: int, function: Callable[[], None]) -> None:
        """Call *function* when the call is settled and closed. To be asked before its reply is told."""
        self._when_let_go[worker, call] = function

    def _let_go(self, key: tuple[bytes, int]) -> None:
        self._kept.pop(key, None)
        function = self._when_let_go.pop(key, None)
        if function is not None:
            self._later(function)

    def close_received(self, worker: ProcessId, call: int) -> None:
        """``Close`` came."""
        self.machine.close_received(worker, call)
        self.carry_out()

    def handed_back(self, worker: ProcessId, call: int) -> None:
        """The worker returned a call with refs unstarted."""
        self.machine.handed_back(worker, call)
        self.carry_out()

    def peer_died(self, peer: ProcessId) -> None:
        """The connection to or from the process was read to its end, and it is dead."""
        self.machine.peer_died(peer)
        self.carry_out()

    def task_ended(
        self,
        submitter: ProcessId,
        call: int,
        contents: list[ObjectRef[Any]],
        stored: Mapping[ObjectId, Location],
    ) -> bool:
        """The variables of the task are gone. Returns the reply's ``closed``; the reply is to be sent at once."""
        for ref in contents:
            self.publish(ref)
        if contents:
            self.machine.result_packed(submitter, call, [ref.id for ref in contents])
            contents.clear()  # the machine keeps them now; what still lives after this was kept by the user
        self.drain()
        return self.machine.task_ended(submitter, call, stored)

    def task_orphaned(
        self, submitter: ProcessId, call: int, returns: list[Value], contents: list[ObjectRef[Any]]
    ) -> None:
        """The same when the submitter is dead: others may hold its refs, so the home is offered what they wait for."""
        for ref in contents:
            self.publish(ref)
        for item, value in enumerate(returns):
            self.machine.resolve(ObjectId(submitter + call.to_bytes(4, "big") + item.to_bytes(4, "big")), value)
        contents.clear()
        self.drain()
        self.machine.task_ended(submitter, call, {})
        self.carry_out()

    def carry_out(self) -> None:
        """Do what the machine left in its outbox."""
        outbox = self.machine.outbox
        if not outbox:
            return
        self.machine.outbox = []
        for effect in outbox:
            if type(effect) is Send:
                if effect.to == DAEMON:
                    self._send_to_daemon(effect.message)
                else:
                    self._send_to_process(ProcessId(effect.to), effect.message)
            else:
                self._let_go((effect.worker, effect.call))  # type: ignore[union-attr]


def value_of(ref: ObjectRef[Any]) -> Value:
    """What this process knows of the ref, as others are told it."""
    state = ref.state
    if state == IMMEDIATE:
        return Value(INLINE, serialize(ref.data).to_bytes())
    if state == PENDING:
        return Value(PENDING)
    data: Any = ref.data.location if type(ref.data) is ErrorForNow else ref.data
    if state == BORROWED or (state == FAILED and isinstance(data, Location)):
        state = STORED  # on another node
    contents = [inner if isinstance(inner, bytes) else inner.id for inner in ref.contents]
    if state == STORED:
        location: Location = data
        if type(location) is CopyLocation:
            location = Location(ELSEWHERE, 0, location.size_bytes)
        return Value(STORED, b"", location, contents)
    return Value(state, data, None, contents)
