"""The life of every actor, and who has which name.

An actor waits for a worker, is constructed in it, takes calls, and is constructed again in another worker when
that one dies, as often as ``max_restarts`` allows. It ends when it is killed, leaves by ``exit_actor``, cannot be
constructed, runs out of restarts, when its last handle is gone, or with its job; the last two do not touch detached
actors. The daemon that owns the name registry (the head's) has one of these.

What met on the way is no error: a worker that was found for an actor that is dead by then is ended again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from remora.base.ids import short
from remora.core.actor import Actor
from remora.core.actor_effects import (
    CancelPlacement,
    CreationSettled,
    Effect,
    KillWorker,
    ReleaseSpec,
    RequestPlacement,
    Send,
)
from remora.core.actor_table import ActorTable
from remora.core.journal import Journal, NoJournal
from remora.messages.actors import (
    ALIVE,
    DEAD,
    PENDING_CREATION,
    RESTARTING,
    ActorConstructed,
    ActorExiting,
    ActorFound,
    ActorNames,
    ActorState,
    ConstructActor,
    CreateActor,
    EndActor,
    GetActor,
    KillActor,
    ListActors,
    SubscribeActor,
    UnsubscribeActor,
)
from remora.messages.objects import Value


class ActorRegistry:
    """Every actor that lives, or whose handles do.

    Example:
        >>> registry = ActorRegistry()
        >>> registry.create(driver, job, CreateActor(actor_id, spec))
        >>> registry.outbox
        [RequestPlacement(actor=..., job=..., spec=...)]
    """

    def __init__(self, journal: Journal | None = None) -> None:
        self.outbox: list[Effect] = []
        """In order. The shell takes what is in it, and leaves an empty list."""
        self.why_waiting: Callable[[bytes], str] = lambda actor: ""
        """Why an actor has no worker; who looks for workers knows."""
        self.table = ActorTable(NoJournal() if journal is None else journal)
        """The actors, as they are found and written down."""

    def process_message(self, process: bytes, job: bytes, message: Any) -> bool:
        """What a process says of actors; false when it is about something else.

        Raises:
            ValueError: it cannot say that.
        """
        kind = type(message)
        if kind is CreateActor:
            self.create(process, job, message)
        elif kind is GetActor:
            self.find(process, message.request, message.name, message.namespace)
        elif kind is SubscribeActor:
            self.subscribe(process, message.actor)
        elif kind is UnsubscribeActor:
            self.unsubscribe(process, message.actor)
        elif kind is KillActor:
            self.kill(message.actor, message.no_restart)
        elif kind is ActorConstructed:
            self.constructed(process, message)
        elif kind is ActorExiting:
            self.exiting(process, message.actor, message.incarnation)
        elif kind is ListActors:
            self.outbox.append(Send(process, ActorNames(message.request, self.names(message.namespace))))
        else:
            return False
        return True

    def create(self, process: bytes, job: bytes, message: CreateActor) -> None:
        """Make the actor; its creator is subscribed.

        Raises:
            ValueError: the id was used before, or a named actor comes without a request number.
        """
        if self.table.is_known(message.actor):
            raise ValueError(f"{short(process)} creates actor {short(message.actor)} twice")
        if message.name and not message.request:
            raise ValueError(f"{short(process)} creates an actor named {message.name!r} and awaits no answer")
        holder = self.table.named(message.namespace, message.name) if message.name else None
        if holder is not None:
            self._answer_taken(process, message, holder)
            return
        actor = Actor.create(job, message)
        self.table.add(actor)
        if message.request:
            found = ActorFound(message.request, actor.id, message.spec.handle, True, message.detached)
            self.outbox.append(Send(process, found))
        self.table.subscribe(process, actor)
        self.outbox.append(RequestPlacement(actor.id, job, actor.spec))

    def placed(self, actor_id: bytes, worker: bytes, address: str, slot: int, gpu_ids: tuple[int, ...] = ()) -> None:
        """A worker was found, and is told to construct the actor."""
        actor = self.table.get(actor_id)
        if actor is None or actor.state.state == DEAD:
            self.outbox.append(KillWorker(worker))
            return
        if actor.state.state == ALIVE or actor.state.worker:
            raise ValueError(f"{actor!r} has a worker")
        actor.incarnation += 1
        actor.state = msgspec.structs.replace(actor.state, worker=worker, address=address, slot=slot)
        self.table.set_worker(actor, worker)
        namespace, name = actor.key
        construct = ConstructActor(actor.id, actor.incarnation, actor.spec, name, namespace, gpu_ids)
        self.outbox.append(Send(worker, construct))

    def unplaceable(self, actor_id: bytes, reason: str) -> None:
        """No worker can ever be found."""
        actor = self.table.get(actor_id)
        if actor is not None and actor.state.state != DEAD:
            self._die(actor, reason)

    def constructed(self, worker: bytes, message: ActorConstructed) -> None:
        """The constructor has returned or raised.

        Raises:
            ValueError: the worker does not construct this actor.
        """
        actor = self._of_worker(worker, message.actor, message.incarnation)
        if actor is None or actor.state.state == DEAD:
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
        actor = self._of_worker(worker, actor_id, incarnation)
        if actor is not None:
            actor.exiting = True
            self.table.changed(actor)

    def worker_died(self, worker: bytes, cause: str) -> None:
        """The process has ended; nothing happens when it was no actor's."""
        actor = self.table.worker_gone(worker)
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
        actor = self.table.get(actor_id)
        if actor is None or actor.state.state == DEAD:
            return
        if no_restart:
            self._end(actor, "it was killed by kill()")
        elif actor.state.worker:
            self.outbox.append(KillWorker(actor.state.worker))

    def handles_gone(self, actor_id: bytes) -> None:
        """The creation object was freed: nobody can call the actor any more. What was called still runs."""
        actor = self.table.get(actor_id)
        if actor is None or actor.detached:
            return
        if actor.state.state != DEAD:
            worker = actor.state.worker
            self._die(actor, "its last handle was dropped")
            if worker:
                self._drain(actor, worker)
            else:
                self.outbox.append(CancelPlacement(actor.id))
        self.table.forget(actor)

    def job_ended(self, job: bytes) -> None:
        """End the job's actors but the detached ones, also those that still end their last calls."""
        for actor in [actor for actor in self.table if actor.job == job and not actor.detached]:
            if actor.state.state != DEAD:
                self._end(actor, "its job ended")
            self.table.forget(actor)
        self.outbox.extend(KillWorker(worker) for worker in self.table.draining_of_job(job))

    def subscribe(self, process: bytes, actor_id: bytes) -> None:
        """Send the state now and at every change."""
        actor = self.table.get(actor_id)
        if actor is not None:
            self.table.subscribe(process, actor)
            state = actor.public_state
            if state.state in (PENDING_CREATION, RESTARTING):
                state = msgspec.structs.replace(state, waits_for=self.why_waiting(actor_id))
        else:
            unknown = "no such actor is known: it ended long ago, or belongs to another session"
            state = self.table.remembered(actor_id) or ActorState(actor_id, DEAD, cause=unknown, is_unknown=True)
        self.outbox.append(Send(process, state))

    def unsubscribe(self, process: bytes, actor_id: bytes) -> None:
        """The process has no handle any more."""
        self.table.unsubscribe(process, actor_id)

    def process_gone(self, process: bytes) -> None:
        """It is subscribed to nothing any more. Its actors live as long as others have handles."""
        self.table.process_gone(process)

    def node_died(self, node: bytes, cause: str) -> None:
        """No process of the node lives. An actor that a process of it created ends, too, unless it is detached.

        Nobody counts the handles of such an actor any more, and so it could never end by itself.
        """
        for actor in [actor for actor in self.table if actor.id.startswith(node) and not actor.detached]:
            if actor.state.state != DEAD:
                self._end(actor, f"the node of the process that created it is gone: {cause}")
            self.table.forget(actor)
        for worker in self.table.workers_of_node(node):
            self.worker_died(worker, cause)
        for process in self.table.subscribers_of_node(node):
            self.process_gone(process)

    def find(self, process: bytes, request: int, name: str, namespace: str) -> None:
        """Answer ``GetActor``."""
        actor = self.table.named(namespace, name)
        if actor is None:
            found = ActorFound(request, error=self.table.names.why_missing(namespace, name))
        else:
            found = ActorFound(request, actor.id, actor.spec.handle, False, actor.detached)
        self.outbox.append(Send(process, found))

    def names(self, namespace: str = "") -> list[tuple[str, str]]:
        """The ``(namespace, name)`` that are taken, of one namespace or, when it is empty, of all; sorted."""
        return self.table.names.taken(namespace)

    def actors(self) -> Iterator[Actor]:
        """All of them, for ``remora status``."""
        return iter(self.table)

    def _answer_taken(self, process: bytes, message: CreateActor, holder: Actor) -> None:
        if message.get_if_exists:
            self.table.subscribe(process, holder)
            self.outbox.append(
                Send(process, ActorFound(message.request, holder.id, holder.spec.handle, False, holder.detached))
            )
            self.outbox.append(Send(process, holder.public_state))
            return
        error = (
            f"the name {message.name!r} is taken in namespace {message.namespace!r} by {holder!r}; "
            "choose another name, or use get_if_exists=True to get that actor"
        )
        self.outbox.append(Send(process, ActorFound(message.request, error=error)))

    def _of_worker(self, worker: bytes, actor_id: bytes, incarnation: int) -> Actor | None:
        """None when the actor is dead and its worker is being killed: that worker is not written down."""
        actor = self.table.of_worker(worker)
        if actor is None and self._is_dead(actor_id):
            return None
        if actor is None or actor.id != actor_id or actor.incarnation != incarnation:
            raise ValueError(f"worker {short(worker)} speaks for actor {short(actor_id)}, but it runs {actor!r}")
        return actor

    def _is_dead(self, actor_id: bytes) -> bool:
        actor = self.table.get(actor_id)
        return self.table.is_known(actor_id) and (actor is None or actor.state.state == DEAD)

    def _tell(self, actor: Actor, state: ActorState) -> None:
        actor.state = state
        self.table.changed(actor)
        self.outbox.extend(Send(process, state) for process in actor.subscribers)

    def _settle(self, actor: Actor, error: Value | None, cause: str) -> None:
        if not actor.is_settled:
            actor.is_settled = True
            self.outbox.append(CreationSettled(actor.id, error, cause))

    def _drain(self, actor: Actor, worker: bytes) -> None:
        self.table.set_draining(worker)
        self.outbox.append(Send(worker, EndActor(actor.id)))

    def _end(self, actor: Actor, cause: str) -> None:
        worker = actor.state.worker
        self._die(actor, cause)
        self.outbox.append(KillWorker(worker) if worker else CancelPlacement(actor.id))

    def _die(self, actor: Actor, cause: str, error: Value | None = None) -> None:
        if actor.key[1]:
            self.table.names.remove(*actor.key)
        self._settle(actor, error, cause)
        self._tell(actor, actor.in_state(DEAD, cause=cause, error=error))
        self.outbox.append(ReleaseSpec(actor.id))
        actor.spec = msgspec.structs.replace(
            actor.spec, pickled_class=b"", arguments=b"", handle=b"", refs=(), values=(), stored=None
        )
        self.table.spec_changed(actor)
        if actor.detached:
            self.table.forget(actor)

    def validate(self) -> None:
        """
        Raises:
            AssertionError: the table does not hold together, or an actor restarted too often.
        """
        self.table.validate()
        for actor in self.table:
            assert actor.spec.max_restarts < 0 or actor.restarts <= actor.spec.max_restarts, f"{actor!r}: restarts"

    def __repr__(self) -> str:
        return f"<ActorRegistry {list(self.table)}>"
