"""What this process has told the home of its own objects: published, resolved, exported, lent.

A publication with contents is answered once the home holds them. Until then they are wanted here, and whatever
covers them here stays open.
"""

from __future__ import annotations

from collections.abc import Iterable

from remora.base.ids import ObjectId, ProcessId, node_of, process_of, short
from remora.core.counting.carriers import OpenCall
from remora.core.counting.ref_table import RefTable
from remora.core.counting.vocabulary import DAEMON, CountingError, Hold, Send
from remora.messages.counting import DropCopy, Export, Pong, Publish, Resolve
from remora.messages.objects import Value


class Publication:
    """An unanswered ``Publish`` or ``Resolve``: what the value contains, and the calls whose results it is."""

    __slots__ = ("calls", "contents")

    def __init__(self, contents: tuple[ObjectId, ...]) -> None:
        self.contents = contents
        self.calls: list[OpenCall] = []


class Publications(RefTable):
    """A :class:`RefTable` that can also publish; see :class:`~remora.core.counting.process.ProcessRefs`."""

    def __init__(self, process: ProcessId, own_actor: ObjectId | None) -> None:
        super().__init__(own_actor)
        self.process = process
        self._publications: dict[ObjectId, Publication] = {}
        self._exported: set[ObjectId] = set()

    @property
    def own_actor_is_lent(self) -> bool:
        """Whether a call that ends now must be told to ``task_ended``, although it had no refs in it.

        This process has sent its own handle away and is not yet its holder; the running calls cover that.
        """
        own = self._refs.get(self._own_actor) if self._own_actor else None
        return own is not None and own.is_wanted and not own.is_safe

    def publish(self, id: ObjectId, value: Value, writer: ProcessId | None = None) -> None:
        """The id leaves this process for the first time; a live ``ObjectRef`` of it exists here.

        ``value.state`` is ``PENDING`` when there is no value yet. *writer* is the process that wrote a stored
        value, unless this one did. Published ids inside the value come first.

        Raises:
            CountingError: the id is known here as published already, or another process made it.
        """
        known = self._refs.get(id)
        published = id in self._publications or (known is not None and known.hold is not Hold.NONE)
        if process_of(id) != self.process or published:
            raise CountingError(f"{short(self.process)} cannot publish {short(id)}: {known or 'not its own'}")
        ref = self._ref(id)
        ref.hold = Hold.HELD
        ref.instances += 1
        self._tell_value(Publish(id, value, writer or b""))

    def resolve(self, id: ObjectId, value: Value, writer: ProcessId | None = None) -> None:
        """A pending id that was published has its value or error, whether or not a ref to it lives here.

        A worker whose submitter died resolves the results in its place; the home drops what nobody holds.
        """
        self._tell_value(Resolve(id, value, writer or b""))

    def export(self, id: ObjectId) -> None:
        """The published ref was pickled outside of our serializers: it is held until the job ends."""
        if id in self._exported:
            return
        self._exported.add(id)
        ref = self._ref(id)
        self._hold(ref)
        if ref.hold is Hold.NONE:
            self._register(ref)
        self.outbox.append(Send(DAEMON, Export([id])))

    def drop_copy(self, id: ObjectId, writer: ProcessId) -> None:
        """A result of this process arrived as a copy on this node, and no ref to it lives or was published."""
        self.outbox.append(Send(DAEMON, DropCopy(id, writer)))

    def publish_acknowledged(self, ids: Iterable[ObjectId]) -> None:
        """``PublishAck`` came.

        Raises:
            CountingError: an id that was not published with contents, or was acknowledged before.
        """
        ids = list(ids)
        for object_id in ids:
            if object_id not in self._publications:
                raise CountingError(f"the daemon acknowledged the publication of {short(object_id)}, which awaits none")
        for object_id in ids:
            publication = self._publications.pop(object_id)
            for content in publication.contents:
                ref = self._refs[content]
                ref.publications -= 1
                self._refs_due.append(ref)
            for call in publication.calls:
                call.copies_awaited -= 1
                self._carriers_due.append(call.reply)
        self._run_agenda()

    def pinged(self, number: int) -> None:
        """``Ping`` came; everything published so far goes before the answer."""
        self.outbox.append(Send(DAEMON, Pong(number)))

    def _tell_value(self, message: Publish | Resolve) -> None:
        """Send it; when it will be acknowledged, its contents are wanted here till then."""
        value = message.value
        contents = tuple(ObjectId(object_id) for object_id in dict.fromkeys(value.contents))
        if contents or (value.location is not None and value.location.node != node_of(self.process)):
            if message.id in self._publications:
                raise CountingError(f"the value of {short(message.id)} was told twice")
            self._publications[ObjectId(message.id)] = Publication(contents)
            for object_id in contents:
                self._ref(object_id).publications += 1
        self.outbox.append(Send(DAEMON, message))
        if self._own_actor in contents:
            self._register_own_actor()

    def _lend_own_actor(self) -> None:
        self._hold(self._ref(self._own_actor or ObjectId(b"")))
        self._register_own_actor()

    def _register_own_actor(self) -> None:
        own = self._ref(self._own_actor or ObjectId(b""))
        if own.hold is Hold.NONE:
            self._register(own)
