"""Which actors there are, by id, name, worker and subscriber, and how all of that is written down."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from remora.base.ids import short
from remora.core.actor import Actor, ActorRecord
from remora.core.actor_names import ActorNameTable
from remora.core.journal import Journal
from remora.messages.actors import ALIVE, DEAD, ActorSpec, ActorState

REMEMBERED_DEAD = 1000
"""Dead actors of which no handle is left that are still known, so that late questions get a real answer."""

ACTOR = "actor"
ACTOR_SPEC = "actor_spec"
DRAINING = "draining"
"""Kinds of rows in the journal; the key of a draining one is its worker."""

NO_SPEC = ActorSpec(class_name="", pickled_class=b"", arguments=b"")
"""Of an actor that is dead and forgotten, while its worker ends its last calls."""


class ActorTable:
    """The actors of a registry, which says when what of them changed."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._actors: dict[bytes, Actor] = {}
        self.names = ActorNameTable()
        self._by_worker: dict[bytes, Actor] = {}
        """Workers that construct or run an actor, or end the last calls of one that is dead."""
        self._draining: set[bytes] = set()
        self._subscriptions: dict[bytes, dict[bytes, None]] = {}
        self._remembered: dict[bytes, ActorState] = {}

    def get(self, actor_id: bytes) -> Actor | None:
        """The actor, unless it is dead and forgotten."""
        return self._actors.get(actor_id)

    def named(self, namespace: str, name: str) -> Actor | None:
        """The living actor of this name."""
        holder = self.names.get(namespace, name)
        return self._actors[holder] if holder is not None else None

    def remembered(self, actor_id: bytes) -> ActorState | None:
        """The last state of an actor that is dead and forgotten, if that was not long ago."""
        return self._remembered.get(actor_id)

    def is_known(self, actor_id: bytes) -> bool:
        """Whether the id was used."""
        return actor_id in self._actors or actor_id in self._remembered

    def __iter__(self) -> Iterator[Actor]:
        return iter(list(self._actors.values()))

    # ------------------------------------------------------------------ changes

    def add(self, actor: Actor) -> None:
        """A new one, whose name is free."""
        self._actors[actor.id] = actor
        if actor.key[1]:
            self.names.add(*actor.key, actor.id)
        self.changed(actor)
        self.spec_changed(actor)

    def changed(self, actor: Actor) -> None:
        """Something of it, but not its spec, is to be written down again."""
        self._journal.touch(ACTOR, actor.id)

    def spec_changed(self, actor: Actor) -> None:
        """Its spec is to be written down again."""
        self._journal.touch(ACTOR_SPEC, actor.id)

    def forget(self, actor: Actor) -> None:
        """It is dead, and nobody can call it: only its state is remembered, for a while."""
        for process in actor.subscribers:
            self._subscriptions[process].pop(actor.id, None)
        del self._actors[actor.id]
        self.changed(actor)
        self.spec_changed(actor)
        self._remembered[actor.id] = actor.state
        if len(self._remembered) > REMEMBERED_DEAD:
            oldest = next(iter(self._remembered))
            del self._remembered[oldest]
            self._journal.touch(ACTOR, oldest)

    # ------------------------------------------------------------------ workers

    def of_worker(self, worker: bytes) -> Actor | None:
        """The actor that the worker constructs or runs, or whose last calls it ends."""
        return self._by_worker.get(worker)

    def set_worker(self, actor: Actor, worker: bytes) -> None:
        """The worker is this actor from now on."""
        self._by_worker[worker] = actor
        self.changed(actor)

    def set_draining(self, worker: bytes) -> None:
        """The worker was told to leave by itself."""
        self._draining.add(worker)
        self._journal.touch(DRAINING, worker)

    def worker_gone(self, worker: bytes) -> Actor | None:
        """The process has ended; the actor that it was."""
        if worker in self._draining:
            self._draining.discard(worker)
            self._journal.touch(DRAINING, worker)
        return self._by_worker.pop(worker, None)

    def workers_of_node(self, node: bytes) -> list[bytes]:
        """The node's workers that are actors."""
        return [worker for worker in self._by_worker if worker.startswith(node)]

    def draining_of_job(self, job: bytes) -> list[bytes]:
        """Workers that end the last calls of the job's actors."""
        return [worker for worker in self._draining if self._by_worker[worker].job == job]

    # ------------------------------------------------------------------ subscribers

    def subscribe(self, process: bytes, actor: Actor) -> None:
        """The process is told every state of the actor."""
        actor.subscribers[process] = None
        self._subscriptions.setdefault(process, {})[actor.id] = None
        self.changed(actor)

    def unsubscribe(self, process: bytes, actor_id: bytes) -> None:
        """Not any more."""
        self._drop_subscriber(process, actor_id)
        subscribed = self._subscriptions.get(process)
        if subscribed is not None:
            subscribed.pop(actor_id, None)
            if not subscribed:
                del self._subscriptions[process]

    def process_gone(self, process: bytes) -> None:
        """It is subscribed to nothing any more."""
        for actor_id in self._subscriptions.pop(process, {}):
            self._drop_subscriber(process, actor_id)

    def subscribers_of_node(self, node: bytes) -> list[bytes]:
        """The node's processes that are subscribed to something."""
        return [process for process in self._subscriptions if process.startswith(node)]

    def _drop_subscriber(self, process: bytes, actor_id: bytes) -> None:
        actor = self._actors.get(actor_id)
        if actor is not None and process in actor.subscribers:
            del actor.subscribers[process]
            self.changed(actor)

    # ------------------------------------------------------------------ writing down

    def record(self, actor_id: bytes) -> ActorRecord | None:
        """What is to be written down of the actor, apart from its spec; None when it is not known any more."""
        actor = self._actors.get(actor_id)
        if actor is not None:
            return actor.record()
        state = self._remembered.get(actor_id)
        return ActorRecord.of_forgotten(state) if state is not None else None

    def spec(self, actor_id: bytes) -> ActorSpec | None:
        """The spec to be written down."""
        actor = self._actors.get(actor_id)
        return actor.spec if actor is not None else None

    def draining(self, worker: bytes) -> ActorRecord | None:
        """The actor whose last calls the worker ends."""
        return self._by_worker[worker].record() if worker in self._draining else None

    def restore(
        self, records: Iterable[ActorRecord], specs: dict[bytes, ActorSpec], draining: dict[bytes, ActorRecord]
    ) -> None:
        """Take over what was written down. To be called once, on an empty table."""
        for record in records:
            if record.is_forgotten:
                self._remembered[record.actor] = record.state
            else:
                self._restore(Actor.restore(record, specs[record.actor]))
        for worker, record in draining.items():
            self._by_worker[worker] = self._actors.get(record.actor) or Actor.restore(record, NO_SPEC)
            self._draining.add(worker)

    def _restore(self, actor: Actor) -> None:
        self._actors[actor.id] = actor
        if actor.key[1] and actor.state.state != DEAD:
            self.names.add(*actor.key, actor.id)
        if actor.state.worker:
            self._by_worker[actor.state.worker] = actor
        for process in actor.subscribers:
            self._subscriptions.setdefault(process, {})[actor.id] = None

    def validate(self) -> None:
        """
        Raises:
            AssertionError: names, workers or subscriptions do not agree with the actors.
        """
        named = {actor.key: actor.id for actor in self if actor.key[1] and actor.state.state != DEAD}
        assert named == self.names.holders(), f"{self!r}: names"
        for actor in self:
            assert actor.state.state != ALIVE or self._by_worker[actor.state.worker] is actor, f"{actor!r}: worker"
            assert all(actor.id in self._subscriptions[process] for process in actor.subscribers), f"{actor!r}"
        for process, subscribed in self._subscriptions.items():
            assert all(process in self._actors[actor_id].subscribers for actor_id in subscribed), short(process)
        assert all(self._by_worker[worker].state.state == DEAD for worker in self._draining), f"{self!r}: draining"
        assert len(self._remembered) <= REMEMBERED_DEAD

    def __repr__(self) -> str:
        return f"<ActorTable {list(self)}>"
