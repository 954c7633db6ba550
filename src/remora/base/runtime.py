"""The one interface between what users call and what does it.

The API layer checks what the user gave and calls ``current``; a runtime is the client of a session
(:mod:`remora.processes.client`) or the calling process itself (:mod:`remora.processes.local_mode`). This module is in
`base` because both sides of it know it: `api` calls it, and a driver, a worker and local mode put themselves into it.

Threads: any method may be called by any thread. A runtime trusts that its arguments were checked by the API layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import msgspec

from remora.base.ids import ActorId
from remora.base.object_ref import ObjectRef

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike

    from remora.base.options import ActorOptions, MethodOptions, TaskOptions
    from remora.base.placement_groups import PlacementGroups

Refs = ObjectRef[Any] | list[ObjectRef[Any]] | None
"""What a call returns: one ref, ``num_returns`` refs when that is above 1, None when it is 0."""

ActorFound = tuple[ObjectRef[Any], bytes]
"""The ref of an actor's creation and the ``description`` that its class was created with: what a handle is made of."""


KeyValueResult = tuple[int, bytes, list[bytes]]
"""Count, value and keys: which of them mean something depends on the operation."""


class Function(Protocol):
    """What a runtime sees of a remote function. ``record`` is None until the runtime keeps something there."""

    function: Callable[..., Any]
    name: str
    record: Any


class Class(Protocol):
    """What a runtime sees of an actor class.

    ``description`` is for the API layer of whoever gets a handle (class name, methods); a runtime carries it as it is.
    """

    cls: Any
    name: str
    record: Any

    @property
    def is_async(self) -> bool: ...

    @property
    def description(self) -> bytes: ...


class Actor(Protocol):
    """What a runtime sees of an actor, shared by its handle and the methods taken from it.

    ``creation`` is the ref that keeps the actor alive, ``id`` its object id. ``state`` is None until the runtime
    keeps something there.
    """

    id: ActorId
    creation: ObjectRef[Any]
    class_name: str
    state: Any


class Method(Protocol):
    """What a runtime sees of a method of one actor. ``record`` is None until the runtime keeps something there."""

    name: str
    record: Any


class NodeInformation(msgspec.Struct, frozen=True, kw_only=True):
    """One node of the cluster; ``resources`` are all that it has, in ones."""

    node_id: str
    is_alive: bool
    hostname: str
    address: str
    resources: dict[str, float]
    labels: dict[str, str] = {}
    death_reason: str = ""


class ContextInformation(msgspec.Struct, frozen=True, kw_only=True):
    """Where the calling code runs. Ids are hexadecimal; those of tasks and actors are None outside of one."""

    job_id: str
    node_id: str
    worker_id: str
    namespace: str
    session_directory: str = ""
    task_id: str | None = None
    task_name: str | None = None
    function_name: str | None = None
    actor_id: str | None = None
    actor_name: str | None = None
    assigned_resources: dict[str, float] = {}
    gpu_ids: tuple[int, ...] = ()
    was_reconstructed: bool = False
    is_cancelled: bool = False
    is_driver: bool = True
    runtime_env: dict[str, Any] = {}


class Runtime(Protocol):
    """What the API layer calls. Times are seconds; a timeout of None waits for ever, 0 looks and returns at once."""

    @property
    def is_connected(self) -> bool:
        """False once the session has ended, however it ended."""
        ...

    # ------------------------------------------------------------------ objects

    def put(self, value: object, owner: Actor | None = None, copies: int = 1) -> ObjectRef[Any]:
        """A new object, kept on *copies* nodes. *value* is never a ref. *owner* is accepted for Ray's sake."""
        ...

    def get_one(self, ref: ObjectRef[Any], timeout_s: float | None, copy: bool = False) -> Any:
        """The value, or its error raised. *copy*: a writable value of the caller's own.

        Raises:
            GetTimeoutError: the timeout came first.
        """
        ...

    def get_many(self, refs: list[ObjectRef[Any]], timeout_s: float | None, copy: bool = False) -> list[Any]:
        """The values in order; of several errors the first in the list is raised, as soon as it is known."""
        ...

    def wait(
        self, refs: list[ObjectRef[Any]], num_returns: int, timeout_s: float | None, fetch_local: bool
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Exactly *num_returns* finished refs, or fewer at the timeout, and the others; both in the order given.

        The refs are distinct. That they are refs is only known after an attribute of each was read: an
        ``AttributeError`` tells the API layer to look which one is not.
        """
        ...

    def create(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray[Any, Any]:
        """A writable array that lies in the object store already; ``put`` of it seals it without a copy."""
        ...

    # ------------------------------------------------------------------ tasks and actors

    def submit(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any], options: TaskOptions) -> Refs:
        """Run the function somewhere. The arguments fit its signature."""
        ...

    def create_actor(
        self, actor_class: Class, args: tuple[Any, ...], kwargs: dict[str, Any], options: ActorOptions
    ) -> ActorFound:
        """A new actor, or with ``get_if_exists`` the one that has the name.

        Raises:
            ActorAlreadyExistsError: the name is taken.
        """
        ...

    def submit_method(
        self,
        actor: Actor,
        method: Method,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        options: MethodOptions,
    ) -> Refs:
        """Call a method of an actor. The arguments fit its signature. *options* are stable per method."""
        ...

    def cancel(self, ref: ObjectRef[Any], force: bool, recursive: bool) -> None:
        """Ask that the task which makes *ref* ends; nothing if it has ended.

        Raises:
            ValueError: *force* for a method of an actor.
        """
        ...

    def kill(self, actor: Actor, no_restart: bool) -> None:
        """End the actor's process at once; what is queued fails."""
        ...

    def get_actor(self, name: str, namespace: str | None) -> ActorFound:
        """The live actor of that name; *namespace* None is the caller's own.

        Raises:
            ValueError: there is none.
        """
        ...

    def list_named_actors(self, all_namespaces: bool) -> list[tuple[str, str]]:
        """``(namespace, name)`` of every live named actor."""
        ...

    def current_actor(self) -> ActorFound | None:
        """The actor whose method is running; None outside of one."""
        ...

    def exit_actor(self) -> NoReturn:
        """Leave the running method and end its actor for good.

        Raises:
            TypeError: no method of an actor is running here.
        """
        ...

    @property
    def placement_groups(self) -> PlacementGroups:
        """All about placement groups."""
        ...

    # ------------------------------------------------------------------ session

    def context(self) -> ContextInformation:
        """Where the calling code runs."""
        ...

    def nodes(self) -> list[NodeInformation]:
        """Every node that was ever in the cluster."""
        ...

    def cluster_resources(self) -> dict[str, float]:
        """All that the living nodes have, in ones."""
        ...

    def available_resources(self) -> dict[str, float]:
        """What of it nobody holds now."""
        ...

    def key_value(
        self, operation: int, namespace: bytes, key: bytes, value: bytes, overwrite: bool, by_prefix: bool
    ) -> KeyValueResult:
        """One operation on the internal key-value store, ``KEY_PUT`` to ``KEY_LIST`` of its messages."""
        ...

    def address_info(self) -> dict[str, Any]:
        """What ``init`` tells about the session: ``address``, ``session_dir``, ``node_id`` ..."""
        ...

    def shutdown(self) -> None:
        """Leave the session, and end it if this process started it. Calling it again does nothing."""
        ...


current: Runtime | None = None
"""The runtime of this process. A driver sets it in ``init``, a worker before it runs anything of the user's."""
