"""One actor, as a registry knows it, and how it is written down."""

from __future__ import annotations

import msgspec

from remora.base.ids import short
from remora.messages.actors import (
    ACTOR_STATE_NAMES,
    ALIVE,
    PENDING_CREATION,
    ActorSpec,
    ActorState,
    CreateActor,
)
from remora.messages.objects import Value


class ActorRecord(msgspec.Struct, array_like=True, frozen=True):
    """All of an actor that changes. Its ``spec`` is written down apart: it is large and nearly never changes."""

    actor: bytes
    job: bytes
    namespace: str
    name: str
    detached: bool
    incarnation: int
    state: ActorState
    restarts: int
    exiting: bool
    is_settled: bool
    is_forgotten: bool
    """Dead, and no handle of it is left: only its state is remembered."""
    subscribers: list[bytes]

    @classmethod
    def of_forgotten(cls, state: ActorState) -> ActorRecord:
        """The record of an actor of which only the state is remembered."""
        return cls(state.actor, b"", "", "", False, state.incarnation, state, 0, False, True, True, [])


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

    def __init__(self, actor: bytes, job: bytes, key: tuple[str, str], detached: bool, spec: ActorSpec) -> None:
        self.id = actor
        self.job = job
        self.key = key
        self.detached = detached
        self.spec = spec
        self.incarnation = 0
        self.state = self.in_state(PENDING_CREATION)
        """What subscribers were told last, with the worker also while that constructs the actor."""
        self.restarts = 0
        self.exiting = False
        self.is_settled = False
        self.subscribers: dict[bytes, None] = {}

    @classmethod
    def create(cls, job: bytes, message: CreateActor) -> Actor:
        """The actor that the message asks for."""
        return cls(message.actor, job, (message.namespace, message.name), message.detached, message.spec)

    @classmethod
    def restore(cls, record: ActorRecord, spec: ActorSpec) -> Actor:
        """The actor that was written down."""
        actor = cls(record.actor, record.job, (record.namespace, record.name), record.detached, spec)
        actor.incarnation = record.incarnation
        actor.state = record.state
        actor.restarts = record.restarts
        actor.exiting = record.exiting
        actor.is_settled = record.is_settled
        actor.subscribers = dict.fromkeys(record.subscribers)
        return actor

    def record(self) -> ActorRecord:
        """What is to be written down, apart from the spec."""
        return ActorRecord(
            self.id,
            self.job,
            *self.key,
            self.detached,
            self.incarnation,
            self.state,
            self.restarts,
            self.exiting,
            self.is_settled,
            False,
            list(self.subscribers),
        )

    @property
    def can_restart(self) -> bool:
        """Whether the death of its worker is not its own."""
        return not self.exiting and (self.spec.max_restarts < 0 or self.restarts < self.spec.max_restarts)

    @property
    def public_state(self) -> ActorState:
        """What others may know: where it lives only when it takes calls there."""
        state = self.state
        return state if state.state == ALIVE else msgspec.structs.replace(state, worker=b"", address="", slot=0)

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
