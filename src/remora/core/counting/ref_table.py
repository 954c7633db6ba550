"""Which refs live in this process, what grounds each of them, and when one is registered or released.

A ref that is not held at its home is grounded by open carriers or by a held container. Nothing is sent for it
until one of these is about to end. Deciding again after an event goes through an agenda instead of recursion:
containers may be nested as deep as the user likes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

from remora.base.ids import ObjectId
from remora.core.counting.carriers import Carrier, CountedRef
from remora.core.counting.vocabulary import DAEMON, CountingError, Effect, Hold, Send
from remora.messages.counting import Register, Release

T = TypeVar("T")


class Agenda(Generic[T]):
    """What is to be looked at again, each once, in the order in which it became due."""

    __slots__ = ("_items", "_queued")

    def __init__(self) -> None:
        self._items: deque[T] = deque()
        self._queued: set[T] = set()

    def append(self, item: T) -> None:
        if item not in self._queued:
            self._queued.add(item)
            self._items.append(item)

    def extend(self, items: Iterable[T]) -> None:
        for item in items:
            self.append(item)

    def popleft(self) -> T:
        item = self._items.popleft()
        self._queued.discard(item)
        return item

    def __bool__(self) -> bool:
        return bool(self._items)


class RefTable(ABC):
    """The refs of one process. :class:`~remora.core.counting.process.ProcessRefs` adds the carriers.

    ``outbox`` holds effects in the order in which they must be done; the shell takes them all at once.
    """

    def __init__(self, own_actor: ObjectId | None) -> None:
        self.outbox: list[Effect] = []
        self._own_actor = own_actor
        self._refs: dict[ObjectId, CountedRef] = {}
        self._refs_due: Agenda[CountedRef] = Agenda()
        self._carriers_due: Agenda[Carrier] = Agenda()

    def become_actor(self, own_actor: ObjectId) -> None:
        """This process is an actor from now on; no ref to it lives here yet."""
        self._own_actor = own_actor

    def appeared(self, ids: Iterable[ObjectId]) -> None:
        """A new ``ObjectRef`` instance of each of these lives here, and no call tells in which carrier it came.

        What is neither covered nor held is registered at once.
        """
        for object_id in ids:
            ref = self._ref(object_id)
            ref.instances += 1
            if ref.is_live and not ref.is_grounded:
                self._register(ref)
            self._refs_due.append(ref)
        self._run_agenda()

    def loaded(self, id: ObjectId) -> None:
        """A new ``ObjectRef`` instance lives here that came in no carrier, but in a pickle which is not ours.

        It is registered at once: a call that waits here may list it, too, but may be handed back before it starts.
        """
        ref = self._ref(id)
        ref.instances += 1
        if ref.hold is Hold.NONE:
            self._register(ref)
        self._refs_due.append(ref)
        self._run_agenda()

    def died(self, ids: Iterable[ObjectId]) -> None:
        """The ``ObjectRef`` instance of each of these died, at some time; a newer one may live already."""
        for object_id in ids:
            ref = self._ref(object_id)
            ref.instances -= 1
            self._refs_due.append(ref)
        self._run_agenda()

    def unpacked(self, container: ObjectId, ids: Iterable[ObjectId], appeared: Iterable[ObjectId] = ()) -> None:
        """The published *container*'s value, with these refs inside, was deserialized here.

        To be told while a ref to the container still lives, each time, also for refs that were here before.
        *appeared* are the ids for which this made a new instance.
        """
        source = self._refs.get(container)
        if source is not None:
            for object_id in ids:
                if object_id != container:
                    self._cover_as_unpacked(self._ref(object_id), source)
        self.appeared(appeared)

    def acknowledged(self, ids: Iterable[ObjectId], ok: bool) -> None:
        """``Ack`` came.

        Raises:
            CountingError: an id that was not asked for.
        """
        ids = list(ids)
        for object_id in ids:
            if object_id not in self._refs or self._refs[object_id].hold is not Hold.ASKED:
                raise CountingError(
                    f"the daemon acknowledged {self._refs.get(object_id, object_id)!r}, which awaits no answer"
                )
        for object_id in ids:
            ref = self._refs[object_id]
            ref.hold = Hold.HELD if ok else Hold.GONE
            self._refs_due.append(ref)
        self._run_agenda()

    def _ref(self, id: ObjectId) -> CountedRef:
        ref = self._refs.get(id)
        if ref is None:
            ref = self._refs[id] = CountedRef(id, id == self._own_actor)
        return ref

    def _cover_as_unpacked(self, ref: CountedRef, container: CountedRef) -> None:
        """A held container covers what is taken out of it; one that is only covered itself passes its covers on.

        Were the second covered by the container too, it would lose its cover with the container's own.
        """
        if container.hold is Hold.HELD:
            ref.take_out_of(container)
            return
        for carrier in container.covers or ():
            ref.cover(carrier)
        for outer in container.containers or ():
            if outer is not ref:
                ref.take_out_of(outer)

    def _may_close(self, carrier: Carrier) -> bool:
        """Whether all that lives of the carrier is held; asks for the registrations that miss.

        Another cover is no excuse: two carriers could each be excused by the other.
        """
        return self._all_safe(self._refs[object_id] for object_id in carrier.ids)

    def _all_safe(self, refs: Iterable[CountedRef]) -> bool:
        safe = True
        for ref in refs:
            if ref.is_wanted and not ref.is_safe:
                safe = False
                if ref.is_live and ref.hold is Hold.NONE:
                    self._register(ref)
        return safe

    def _close(self, carrier: Carrier) -> None:
        ids, carrier.ids = carrier.ids, {}
        for object_id in ids:
            ref = self._refs[object_id]
            ref.uncover(carrier)
            self._forget_if_possible(ref)

    def _hold(self, ref: CountedRef) -> None:
        ref.holds += 1

    def _unhold(self, ref: CountedRef) -> None:
        ref.holds -= 1
        self._refs_due.append(ref)

    def _register(self, ref: CountedRef) -> None:
        ref.hold = Hold.ASKED
        self._tell_daemon(Register, ref.id)

    def _tell_daemon(self, kind: type[Register] | type[Release], id: ObjectId) -> None:
        last = self.outbox[-1] if self.outbox else None
        if type(last) is Send and isinstance(last.message, kind):
            last.message.ids.append(id)
        else:
            self.outbox.append(Send(DAEMON, kind([id])))

    def _run_agenda(self) -> None:
        # All refs before a carrier: looking at a carrier looks at all its ids, and ten thousand of them may be due.
        while self._refs_due or self._carriers_due:
            while self._refs_due:
                self._weigh(self._refs_due.popleft())
            if self._carriers_due:
                self._reconsider(self._carriers_due.popleft())

    @abstractmethod
    def _reconsider(self, carrier: Carrier) -> None:
        """Close the carrier, which awaits nothing but registrations, if these have been answered."""

    def _weigh(self, ref: CountedRef) -> None:
        """Something about the ref has changed: let go on what waited for it, and release it if nobody wants it."""
        self._carriers_due.extend(carrier for carrier in ref.covers or () if carrier.ending)
        if ref.is_wanted:
            self._refs_due.extend(outer for outer in ref.containers or () if not outer.is_wanted)
            return
        if ref.hold is Hold.HELD and self._may_release(ref):
            ref.hold = Hold.NONE
            self._tell_daemon(Release, ref.id)
        elif ref.hold is Hold.GONE:
            ref.hold = Hold.NONE
        if ref.hold is Hold.NONE:
            self._detach(ref)
            self._forget_if_possible(ref)

    def _may_release(self, ref: CountedRef) -> bool:
        """Whether all that lives of what was unpacked from it is held; asks for the registrations that miss."""
        return self._all_safe(ref.unpacked or ())

    def _detach(self, ref: CountedRef) -> None:
        for outer in ref.containers or ():
            if outer.unpacked is not None:
                outer.unpacked.pop(ref, None)
            self._refs_due.append(outer)
        ref.containers = None
        for inner in ref.unpacked or ():
            if inner.containers is not None:
                inner.containers.pop(ref, None)
            self._forget_if_possible(inner)
        ref.unpacked = None

    def _forget_if_possible(self, ref: CountedRef) -> None:
        if ref.is_forgettable and self._refs.get(ref.id) is ref:
            del self._refs[ref.id]
