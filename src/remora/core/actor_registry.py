"""The life of every actor, and who has which name.

An actor waits for a worker, is constructed in it, takes calls, and is constructed again in another worker when
that one dies, as often as ``max_restarts`` allows. It ends when it is killed, leaves by ``exit_actor``, cannot be
constructed, runs out of restarts, when its last handle is gone, or with its job; the last two do not touch detached
actors. The daemon that owns the name registry (the head's) has one of these.

What met on the way is no error: a worker that was found for an actor that is dead by then is ended again.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from remora.base.ids import short
from remora.core.actor_names import ActorNameTable
from remora.messages.actors import (
    ACTOR_STATE_NAMES,
    ALIVE,
    DEAD,
    PENDING_CREATION,
    RESTARTING,
    ActorConstructed,
    ActorFound,
    ActorSpec,
    ActorState,
    ConstructActor,
    CreateActor,
    EndActor,
)
from remora.messages.objects import Value

REMEMBERED_DEAD = 1000
"""Dead actors of which no handle is left that are still known, so that late questions get a real answer."""


class Send(msgspec.Struct, frozen=True):
    """Send the message to the process."""

    process: bytes
    message: ActorFound | ActorState | ConstructActor | EndActor


class RequestPlacement(msgspec.Struct, frozen=True):
    """Find a worker for the actor (``LeaseTable.request_actor``); tell ``placed`` or ``unplaceable``."""

    actor: bytes
    job: bytes
    spec: ActorSpec


class CancelPlacement(msgspec.Struct, frozen=True):
    """The actor needs no worker any more (``LeaseTable.requester_gone``)."""

    actor: bytes


class KillWorker(msgspec.Struct, frozen=True):
    """End the process at once."""

    process: bytes


class CreationSettled(msgspec.Struct, frozen=True):
    """The creation object of the actor has its value: none, or the *error* of the constructor, or a *cause*."""

    actor: bytes
    error: Value | None
    cause: str


class ReleaseSpec(msgspec.Struct, frozen=True):
    """The actor is dead for good: what its arguments hold may go."""

    actor: bytes


Effect = Send | RequestPlacement | CancelPlacement | KillWorker | CreationSettled | ReleaseSpec


class Actor:
    """What the registry knows of an actor."""

    __slots__ = (
        "detached",
        "exiting",
        "id",
        "incarnation",
        "is_settled",
        "job",
        "key",
        "restarts",
        "spec",
        "state",
        "subscribers",
    )

    def __init__(self, job: bytes, message: CreateActor) -> None:
        self.id = message.actor
        self.job = job
        self.key = (message.namespace, message.name)
        self.detached = message.detached
        self.spec = message.spec
        self.incarnation = 0
        self.state = self.in_state(PENDING_CREATION)
        """What subscribers were told last, with the worker also while that constructs the actor."""
        self.restarts = 0
        self.exiting = False
        self.is_settled = False
        self.subscribers: dict[bytes, None] = {}

    @property
    def can_restart(self) -> bool:
        """Whether the death of its worker is not its own."""
        return not self.exiting and (self.spec.max_restarts < 0 or self.restarts < self.spec.max_restarts)

    def in_state(
        self,
        state: int,
        worker: bytes = b"",
        address: str = "",
        slot: int = 0,
        cause: str = "",
        error: Value | None = None,
    ) -> ActorState:
        """The message that says that it is in this state."""
        spec = self.spec
        is_ordered = spec.max_concurrency == 1 and not spec.is_async
        options = (is_ordered, spec.max_task_retries, spec.max_pending_calls)
        return ActorState(self.id, state, self.incarnation, worker, address, slot, cause, error, *options)

    def __repr__(self) -> str:
        name = f" {self.key[1]!r}" if self.key[1] else ""
        state = ACTOR_STATE_NAMES[self.state.state]
        return f"<actor {short(self.id)}{name} ({self.spec.class_name}) {state}, worker {self.incarnation}>"


class ActorRegistry:
    """Every actor that lives, or whose handles do.

    Example:
        >>> registry = ActorRegistry()
        >>> registry.create(driver, job, CreateActor(actor_id, spec))
        >>> registry.outbox
        [RequestPlacement(actor=..., job=..., spec=...)]
    """

    def __init__(self) -> None:
        self.outbox: list[Effect] = []
        """In order. The daemon takes what is in it, and leaves an empty list."""
        self._actors: dict[bytes, Actor] = {}
        self._names = ActorNameTable()
        self._by_worker: dict[bytes, Actor] = {}
        """Workers that construct or run an actor, or end the last calls of one that is dead."""
        self._draining: set[bytes] = set()
        """Workers that were told to leave by themselves."""
        self._subscriptions: dict[bytes, dict[bytes, None]] = {}
        self._remembered: dict[bytes, ActorState] = {}

    def create(self, process: bytes, job: bytes, message: CreateActor) -> None:
        """Make the actor; its creator is subscribed.

        Raises:
            ValueError: the id was used before, or a named actor comes without a request number.
        """
        if message.actor in self._actors or message.actor in self._remembered:
            raise ValueError(f"{short(process)} creates actor {short(message.actor)} twice")
        if message.name and not message.request:
            raise ValueError(f"{short(process)} creates an actor named {message.name!r} and awaits no answer")
        holder = self._names.get(message.namespace, message.name) if message.name else None
        if holder is not None:
            self._answer_taken(process, message, self._actors[holder])
            return
        actor = self._actors[message.actor] = Actor(job, message)
        if message.name:
            self._names.add(message.namespace, message.name, actor.id)
        if message.request:
            found = ActorFound(message.request, actor.id, message.spec.handle, True, message.detached)
            self.outbox.append(Send(process, found))
        self._subscribe(process, actor)
        self.outbox.append(RequestPlacement(actor.id, job, actor.spec))

    def placed(self, actor_id: bytes, worker: bytes, address: str, slot: int, gpu_ids: tuple[int, ...] = ()) -> None:
        """A worker was found, and is told to construct the actor."""
        actor = self._actors.get(actor_id)
        if actor is None or actor.state.state == DEAD:
            self.outbox.append(KillWorker(worker))
            return
        if actor.state.state == ALIVE or actor.state.worker:
            raise ValueError(f"{actor!r} has a worker")
        actor.incarnation += 1
        actor.state = msgspec.structs.replace(actor.state, worker=worker, address=address, slot=slot)
        self._by_worker[worker] = actor
        namespace, name = actor.key
        construct = ConstructActor(actor.id, actor.incarnation, actor.spec, name, namespace, gpu_ids)
        self.outbox.append(Send(worker, construct))

    def unplaceable(self, actor_id: bytes, reason: str) -> None:
        """No worker can ever be found."""
        actor = self._actors.get(actor_id)
        if actor is not None and actor.state.state != DEAD:
            self._die(actor, reason)

    def constructed(self, worker: bytes, message: ActorConstructed) -> None:
        """The constructor has returned or raised.

        Raises:
            ValueError: the worker does not construct this actor.
        """
        actor = self._of_worker(worker, message.actor, message.incarnation)
        if actor.state.state == DEAD:
            return
        if actor.state.state == ALIVE:
            raise ValueError(f"{actor!r} was constructed twice")
        if message.error is not None:
            self._die(actor, "its constructor raised an exception", message.error)
            self._drain(actor, worker)
            return
        self._settle(actor, None, "")
        state = actor.state
        self._tell(actor, actor.in_state(ALIVE, worker, state.address, state.slot))

    def exiting(self, worker: bytes, actor_id: bytes, incarnation: int) -> None:
        """``exit_actor`` was called: the end of this worker is the end of the actor.

        Raises:
            ValueError: the worker does not run this actor.
        """
        self._of_worker(worker, actor_id, incarnation).exiting = True

    def worker_died(self, worker: bytes, cause: str) -> None:
        """The process has ended; nothing happens when it was no actor's."""
        self._draining.discard(worker)
        actor = self._by_worker.pop(worker, None)
        if actor is None or actor.state.state == DEAD:
            return
        if not actor.can_restart:
            self._die(actor, "exit_actor was called" if actor.exiting else cause)
            return
        actor.restarts += 1
        self._tell(actor, actor.in_state(RESTARTING, cause=cause))
        self.outbox.append(RequestPlacement(actor.id, actor.job, actor.spec))

    def kill(self, actor_id: bytes, no_restart: bool) -> None:
        """End its worker; with *no_restart* the actor is dead at once. Nothing happens to a dead one."""
        actor = self._actors.get(actor_id)
        if actor is None or actor.state.state == DEAD:
            return
        if no_restart:
            self._end(actor, "it was killed by kill()")
        elif actor.state.worker:
            self.outbox.append(KillWorker(actor.state.worker))

    def handles_gone(self, actor_id: bytes) -> None:
        """The creation object was freed: nobody can call the actor any more. What was called still runs."""
        actor = self._actors.get(actor_id)
        if actor is None or actor.detached:
            return
        if actor.state.state != DEAD:
            worker = actor.state.worker
            self._die(actor, "its last handle was dropped")
            if worker:
                self._drain(actor, worker)
            else:
                self.outbox.append(CancelPlacement(actor.id))
        self._forget(actor)

    def job_ended(self, job: bytes) -> None:
        """End the job's actors but the detached ones, also those that still end their last calls."""
        for actor in [actor for actor in self._actors.values() if actor.job == job and not actor.detached]:
            if actor.state.state != DEAD:
                self._end(actor, "its job ended")
            self._forget(actor)
        for worker in self._draining:
            if self._by_worker[worker].job == job:
                self.outbox.append(KillWorker(worker))

    def subscribe(self, process: bytes, actor_id: bytes) -> None:
        """Send the state now and at every change."""
        actor = self._actors.get(actor_id)
        if actor is not None:
            self._subscribe(process, actor)
            state = self._public_state(actor)
        else:
            unknown = "no such actor is known: it ended long ago, or belongs to another session"
            state = self._remembered.get(actor_id) or ActorState(actor_id, DEAD, cause=unknown)
        self.outbox.append(Send(process, state))

    def unsubscribe(self, process: bytes, actor_id: bytes) -> None:
        """The process has no handle any more."""
        actor = self._actors.get(actor_id)
        if actor is not None:
            actor.subscribers.pop(process, None)
        self._subscriptions.get(process, {}).pop(actor_id, None)

    def process_gone(self, process: bytes) -> None:
        """It is subscribed to nothing any more. Its actors live as long as others have handles."""
        for actor_id in self._subscriptions.pop(process, {}):
            actor = self._actors.get(actor_id)
            if actor is not None:
                actor.subscribers.pop(process, None)

    def find(self, process: bytes, request: int, name: str, namespace: str) -> None:
        """Answer ``GetActor``."""
        holder = self._names.get(namespace, name)
        if holder is None:
            found = ActorFound(request, error=self._names.why_missing(namespace, name))
        else:
            actor = self._actors[holder]
            found = ActorFound(request, actor.id, actor.spec.handle, False, actor.detached)
        self.outbox.append(Send(process, found))

    def names(self, namespace: str = "") -> list[tuple[str, str]]:
        """The ``(namespace, name)`` that are taken, of one namespace or, when it is empty, of all; sorted."""
        return self._names.taken(namespace)

    def actors(self) -> Iterator[Actor]:
        """All of them, for ``remora status``."""
        return iter(self._actors.values())

    def _answer_taken(self, process: bytes, message: CreateActor, holder: Actor) -> None:
        if message.get_if_exists:
            self._subscribe(process, holder)
            self.outbox.append(
                Send(process, ActorFound(message.request, holder.id, holder.spec.handle, False, holder.detached))
            )
            self.outbox.append(Send(process, self._public_state(holder)))
            return
        error = (
            f"the name {message.name!r} is taken in namespace {message.namespace!r} by {holder!r}; "
            "choose another name, or use get_if_exists=True to get that actor"
        )
        self.outbox.append(Send(process, ActorFound(message.request, error=error)))

    def _of_worker(self, worker: bytes, actor_id: bytes, incarnation: int) -> Actor:
        actor = self._by_worker.get(worker)
        if actor is None or actor.id != actor_id or actor.incarnation != incarnation:
            raise ValueError(f"worker {short(worker)} speaks for actor {short(actor_id)}, but it runs {actor!r}")
        return actor

    def _subscribe(self, process: bytes, actor: Actor) -> None:
        actor.subscribers[process] = None
        self._subscriptions.setdefault(process, {})[actor.id] = None

    def _public_state(self, actor: Actor) -> ActorState:
        state = actor.state
        return state if state.state == ALIVE else msgspec.structs.replace(state, worker=b"", address="", slot=0)

    def _tell(self, actor: Actor, state: ActorState) -> None:
        actor.state = state
        self.outbox.extend(Send(process, state) for process in actor.subscribers)

    def _settle(self, actor: Actor, error: Value | None, cause: str) -> None:
        if not actor.is_settled:
            actor.is_settled = True
            self.outbox.append(CreationSettled(actor.id, error, cause))

    def _drain(self, actor: Actor, worker: bytes) -> None:
        self._draining.add(worker)
        self.outbox.append(Send(worker, EndActor(actor.id)))

    def _end(self, actor: Actor, cause: str) -> None:
        worker = actor.state.worker
        self._die(actor, cause)
        self.outbox.append(KillWorker(worker) if worker else CancelPlacement(actor.id))

    def _die(self, actor: Actor, cause: str, error: Value | None = None) -> None:
        if actor.key[1]:
            self._names.remove(*actor.key)
        self._settle(actor, error, cause)
        self._tell(actor, actor.in_state(DEAD, cause=cause, error=error))
        self.outbox.append(ReleaseSpec(actor.id))
        actor.spec = msgspec.structs.replace(
            actor.spec, pickled_class=b"", arguments=b"", handle=b"", refs=(), values=(), stored=None
        )
        if actor.detached:
            self._forget(actor)

    def _forget(self, actor: Actor) -> None:
        for process in actor.subscribers:
            self._subscriptions[process].pop(actor.id, None)
        del self._actors[actor.id]
        self._remembered[actor.id] = actor.state
        if len(self._remembered) > REMEMBERED_DEAD:
            del self._remembered[next(iter(self._remembered))]

    def validate(self) -> None:
        """
        Raises:
            AssertionError: names, workers or subscriptions do not agree with the actors.
        """
        named = {actor.key: actor.id for actor in self._actors.values() if actor.key[1] and actor.state.state != DEAD}
        assert named == self._names.holders(), f"{self!r}: names"
        for actor in self._actors.values():
            assert actor.state.state != ALIVE or self._by_worker[actor.state.worker] is actor, f"{actor!r}: worker"
            assert actor.spec.max_restarts < 0 or actor.restarts <= actor.spec.max_restarts, f"{actor!r}: restarts"
            assert all(actor.id in self._subscriptions[process] for process in actor.subscribers), f"{actor!r}"
        for process, subscribed in self._subscriptions.items():
            assert all(process in self._actors[actor_id].subscribers for actor_id in subscribed), short(process)
        assert all(self._by_worker[worker].state.state == DEAD for worker in self._draining), f"{self!r}: draining"
        assert len(self._remembered) <= REMEMBERED_DEAD

    def __repr__(self) -> str:
        return f"<ActorRegistry {list(self._actors.values())}>"
