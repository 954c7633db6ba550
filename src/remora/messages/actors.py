"""Actors: made, found, watched and ended through the daemon. Calls of their methods go straight to their worker.

An actor is named by the id of the object that its creation makes; the refs of its handles are refs to that object.
"""

from __future__ import annotations

import msgspec

from remora.messages.objects import Value
from remora.messages.tasks import Argument

PENDING_CREATION = 0
"""Waits for resources and a worker, or its constructor runs for the first time."""
ALIVE = 1
"""Its constructor has returned; the worker takes calls."""
RESTARTING = 2
"""Its worker died; another one is being made."""
DEAD = 3
"""For good."""

ACTOR_STATE_NAMES = {PENDING_CREATION: "pending", ALIVE: "alive", RESTARTING: "restarting", DEAD: "dead"}


class ActorSpec(msgspec.Struct, array_like=True, frozen=True):
    """All that is needed to construct the actor, and again after its worker died.

    ``handle`` is what another process needs to make a handle from a name (class name, methods and their options),
    in the form of the API layer. ``resources`` are held for the actor's life; ``placement`` is what its node must
    have. ``refs`` are the ids nested in the arguments or captured by the class, ``values`` replace placeholders of
    top-level refs, as in ``Task``, and ``stored`` says where large arguments lie.
    """

    class_name: str
    pickled_class: bytes
    arguments: bytes
    handle: bytes = b""
    refs: tuple[bytes, ...] = ()
    values: tuple[Argument, ...] = ()
    stored: Argument | None = None
    resources: dict[str, int] = {}
    placement: dict[str, int] = {}
    strategy: str = ""
    environment: str = ""
    max_restarts: int = 0
    max_task_retries: int = 0
    max_concurrency: int = 1
    max_pending_calls: int = -1
    is_async: bool = False


class CreateActor(msgspec.Struct, array_like=True, tag=80, frozen=True):
    """Process to daemon: make the actor. Its sender is subscribed to the actor's state.

    ``name`` is empty for an actor without one. Answered by ``ActorFound`` when ``request`` is not 0, which a named
    actor needs: the name may be taken, or belong to an actor that ``get_if_exists`` asks for.
    """

    actor: bytes
    spec: ActorSpec
    name: str = ""
    namespace: str = ""
    detached: bool = False
    get_if_exists: bool = False
    request: int = 0


class GetActor(msgspec.Struct, array_like=True, tag=81, frozen=True):
    """Process to daemon: which actor has this name? Answered by ``ActorFound``."""

    request: int
    name: str
    namespace: str


class ActorFound(msgspec.Struct, array_like=True, tag=82, frozen=True):
    """Daemon to process: the actor of the request, or ``error`` with the text of the ``ValueError``.

    ``created`` is false when ``get_if_exists`` found one that was there. ``detached`` handles need not be counted.
    """

    request: int
    actor: bytes = b""
    handle: bytes = b""
    created: bool = False
    detached: bool = False
    error: str = ""


class SubscribeActor(msgspec.Struct, array_like=True, tag=83, frozen=True):
    """Process to daemon: send ``ActorState`` now and at every change."""

    actor: bytes


class UnsubscribeActor(msgspec.Struct, array_like=True, tag=84, frozen=True):
    """Process to daemon: this process has no handle of the actor any more."""

    actor: bytes


class ActorState(msgspec.Struct, array_like=True, tag=85, frozen=True):
    """Daemon to subscriber. ``incarnation`` counts the workers that the actor has had, from 1.

    ``cause`` says why it restarts or is dead; ``error`` is the serialized exception of its constructor, if that is
    why. ``worker``, ``address`` and ``slot`` are those of an ``ALIVE`` actor. Then comes what callers
    must know of its options; ``is_ordered`` is false for async and threaded actors.

    ``waits_for`` answers who asks anew (``SubscribeActor``) about an actor that has no worker: why none was found until
    now. ``is_unknown``: nothing was ever said of this actor, or long ago. Its ``CreateActor`` may still be on its
    way, on another connection than the question.
    """

    actor: bytes
    state: int
    incarnation: int = 0
    worker: bytes = b""
    address: str = ""
    slot: int = 0
    cause: str = ""
    error: Value | None = None
    is_ordered: bool = True
    max_task_retries: int = 0
    max_pending_calls: int = -1
    waits_for: str = ""
    is_unknown: bool = False


class KillActor(msgspec.Struct, array_like=True, tag=86, frozen=True):
    """Process to daemon: end the actor's worker at once; it may restart when ``no_restart`` is false."""

    actor: bytes
    no_restart: bool = True


class ConstructActor(msgspec.Struct, array_like=True, tag=87, frozen=True):
    """Daemon to a worker: you are this actor from now on. Answered by ``ActorConstructed``."""

    actor: bytes
    incarnation: int
    spec: ActorSpec
    name: str = ""
    namespace: str = ""
    gpu_ids: tuple[int, ...] = ()


class ActorConstructed(msgspec.Struct, array_like=True, tag=88, frozen=True):
    """Worker to daemon: the constructor returned, or raised ``error``."""

    actor: bytes
    incarnation: int
    error: Value | None = None


class ActorExiting(msgspec.Struct, array_like=True, tag=89, frozen=True):
    """Worker to daemon, before it ends because ``exit_actor`` was called: the actor is not to be restarted."""

    actor: bytes
    incarnation: int


class EndActor(msgspec.Struct, array_like=True, tag=90, frozen=True):
    """Daemon to the actor's worker: no handle is left. End the calls that are queued, then leave."""

    actor: bytes


class ListActors(msgspec.Struct, array_like=True, tag=91, frozen=True):
    """Process to daemon: the names that are taken, of one namespace or, when it is empty, of all."""

    request: int
    namespace: str = ""


class ActorNames(msgspec.Struct, array_like=True, tag=92, frozen=True):
    """Daemon to process: ``(namespace, name)`` of every live named actor, sorted."""

    request: int
    names: list[tuple[str, str]]


MESSAGES = (
    CreateActor,
    GetActor,
    ActorFound,
    SubscribeActor,
    UnsubscribeActor,
    ActorState,
    KillActor,
    ConstructActor,
    ActorConstructed,
    ActorExiting,
    EndActor,
    ListActors,
    ActorNames,
)
