"""What a process remembers of refs and of the carriers in which they came.

A :class:`CountedRef` says how one id stands here; a carrier lists the ids that came in it. Each points to the
other, so that closing a carrier looks only at its own ids, and the death of a ref only at its own carriers.
A carrier lists its ids until it is closed, whether or not refs to them live: its sender keeps them that long.
"""

from __future__ import annotations

from collections.abc import Iterable

from remora.base.ids import ObjectId, ProcessId, short
from remora.core.counting.vocabulary import Hold


class Carrier:
    """Something with refs in it that this process has received and not closed."""

    __slots__ = ("ending", "ids")

    def __init__(self) -> None:
        self.ids: dict[ObjectId, None] = {}
        self.ending = False
        """Everything is done but for the registrations that the close waits for."""


class RunningTask(Carrier):
    """A task that runs here, or has ended with refs kept and not closed yet."""

    __slots__ = ("call", "listed", "orphaned", "submitter")

    def __init__(self, submitter: ProcessId, call: int, listed: Iterable[ObjectId]) -> None:
        super().__init__()
        self.submitter = submitter
        self.call = call
        self.listed = frozenset(listed)
        """Ids in the task itself, as against those unpacked from its containers: the submitter holds these."""
        self.orphaned = False

    def __repr__(self) -> str:
        return f"task {self.call} of {short(self.submitter)}"


class ArrivedItem(Carrier):
    """A generator item that is not acknowledged."""

    __slots__ = ("call", "item", "worker")

    def __init__(self, worker: ProcessId, call: int, item: int) -> None:
        super().__init__()
        self.worker = worker
        self.call = call
        self.item = item
        self.ending = True

    def __repr__(self) -> str:
        return f"item {self.item} of call {self.call}"


class CallCarrier(Carrier):
    """One of the two carriers of a call that this process submitted: its reply, or its own arguments."""

    __slots__ = ("is_reply", "of")

    def __init__(self, of: OpenCall, is_reply: bool) -> None:
        super().__init__()
        self.of = of
        self.is_reply = is_reply

    def __repr__(self) -> str:
        return f"{'reply to' if self.is_reply else 'arguments of'} call {self.of.call}"


class OpenCall:
    """A call that this process submitted: open until its reply is settled and the worker has closed the task."""

    __slots__ = (
        "arguments",
        "call",
        "closed",
        "copies_awaited",
        "lends_own_actor",
        "listed",
        "owes_ack",
        "replied",
        "reply",
        "worker",
    )

    def __init__(self, worker: ProcessId, call: int, listed: Iterable[ObjectId]) -> None:
        self.worker = worker
        self.call = call
        self.listed = frozenset(listed)
        self.reply = CallCarrier(self, is_reply=True)
        self.arguments = CallCarrier(self, is_reply=False)
        """Ids that came back out of the arguments: the arguments, which this process holds, keep them."""
        self.replied = False
        self.owes_ack = False
        self.closed = False
        self.copies_awaited = 0
        self.lends_own_actor = False

    def __repr__(self) -> str:
        state = "settling" if self.replied and self.closed else "replied" if self.replied else "open"
        return f"<call {self.call} to {short(self.worker)}: {state}>"


class CountedRef:
    """How one published id stands in this process."""

    __slots__ = ("containers", "covers", "hold", "holds", "id", "instances", "is_own_actor", "publications", "unpacked")

    def __init__(self, id: ObjectId, is_own_actor: bool) -> None:
        self.id = id
        self.is_own_actor = is_own_actor
        self.instances = 0
        """Live ``ObjectRef`` instances, so 0 or 1 and for a moment more or less: deaths are told late."""
        self.holds = 0
        """Unacknowledged replies and items with the id, and 1 for ever when it was exported."""
        self.publications = 0
        """Unacknowledged publications of containers with the id: till then the home may not hold it for them."""
        self.hold = Hold.NONE
        self.covers: dict[Carrier, None] | None = None
        """Open carriers that list the id."""
        self.containers: dict[CountedRef, None] | None = None
        """Containers held here out of whose values the id was taken."""
        self.unpacked: dict[CountedRef, None] | None = None
        """The other direction of ``containers``."""

    @property
    def is_live(self) -> bool:
        """Whether it must be held before what covers it ends. An actor's own process never keeps its actor."""
        return self.holds > 0 or (self.instances > 0 and not self.is_own_actor)

    @property
    def is_wanted(self) -> bool:
        """Whether this process must not release it."""
        return self.publications > 0 or self.is_live

    @property
    def is_safe(self) -> bool:
        """Whether nothing is lost here when everything that covers it ends."""
        return self.hold is Hold.HELD or self.hold is Hold.GONE

    @property
    def is_grounded(self) -> bool:
        """Whether there is a reason why the id may be used here that lasts until it is held."""
        return self.hold is not Hold.NONE or bool(self.covers) or bool(self.containers)

    @property
    def is_forgettable(self) -> bool:
        """Whether nothing is known that another event could need."""
        return not (self.instances or self.is_wanted or self.hold or self.covers or self.containers or self.unpacked)

    def cover(self, carrier: Carrier) -> None:
        carrier.ids[self.id] = None
        if self.covers is None:
            self.covers = {}
        self.covers[carrier] = None

    def uncover(self, carrier: Carrier) -> None:
        if self.covers:
            self.covers.pop(carrier, None)

    def take_out_of(self, container: CountedRef) -> None:
        if self.containers is None:
            self.containers = {}
        if container.unpacked is None:
            container.unpacked = {}
        self.containers[container] = None
        container.unpacked[self] = None

    def __repr__(self) -> str:
        covers = ", ".join(map(repr, self.covers or ()))
        return (
            f"<{short(self.id)}: {self.hold.name.lower()}, {self.instances} live, {self.holds} holds, "
            f"{self.publications} publications, covered by [{covers}]>"
        )
