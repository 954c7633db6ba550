"""What an actor registry asks its shell to do."""

from __future__ import annotations

import msgspec

from remora.messages.actors import ActorFound, ActorNames, ActorSpec, ActorState, ConstructActor, EndActor
from remora.messages.objects import Value


class Send(msgspec.Struct, frozen=True):
    """Send the message to the process."""

    process: bytes
    message: ActorFound | ActorNames | ActorState | ConstructActor | EndActor


class RequestPlacement(msgspec.Struct, frozen=True):
    """Find a worker for the actor; tell ``placed`` or ``unplaceable``."""

    actor: bytes
    job: bytes
    spec: ActorSpec


class CancelPlacement(msgspec.Struct, frozen=True):
    """The actor needs no worker any more."""

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
