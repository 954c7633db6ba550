"""Actor handles and their methods: what a user has in hand of an actor."""

from __future__ import annotations

from typing import Any, Generic, NoReturn, TypeVar

from remora.api.actor_description import MethodDescription, read_description
from remora.api.deferred import pending, raise_deferred
from remora.api.init import connect_or_init
from remora.api.options import method_options
from remora.api.signatures import twin_of, wrong_call
from remora.base import runtime
from remora.base.call_sites import note_site
from remora.base.ids import ActorId
from remora.base.object_ref import ObjectRef
from remora.base.options import MethodOptions
from remora.base.suggest import did_you_mean

T = TypeVar("T")


class RemoteActor:
    """What a handle and the methods taken from it share; it refers to neither, so a handle dies with its last name.

    Attributes:
        id: the id of the object that the actor's creation makes.
        creation: the ref to that object; it keeps the actor alive.
        class_name: as errors name it.
        description: see :mod:`remora.api.actor_description`.
        state: belongs to the runtime.
    """

    __slots__ = ("__weakref__", "class_name", "creation", "description", "id", "methods", "state")

    def __init__(self, creation: ObjectRef[Any], description: bytes) -> None:
        self.id = ActorId(creation.id)
        self.creation = creation
        self.description = description
        read = read_description(description)
        self.class_name = read.class_name
        self.methods = read.methods
        self.state: Any = None


class ActorHandle(Generic[T]):
    """A handle of an actor: its methods are attributes, called with ``.remote(...)``.

    It can be passed to tasks and actors. The actor ends when the last handle is gone, wherever it was.

    Example:
        >>> counter = Counter.remote()
        >>> remora.get(counter.increment.remote(5))
        5
    """

    # One attribute with a name that no class of a user's has: all others belong to the actor's methods.
    _remora_actor: RemoteActor

    def __init__(self, actor: RemoteActor) -> None:
        self._remora_actor = actor

    def __getattr__(self, name: str) -> ActorMethod:
        """The method of that name. It is kept, so that later accesses cost a plain attribute."""
        if name == "_remora_actor":  # half-made, by copy or pickle
            raise AttributeError(name)
        actor = self._remora_actor
        described = actor.methods.get(name)
        if described is None:
            _refuse_attribute(actor, name)
        method = ActorMethod(actor, name, described)
        self.__dict__[name] = method
        return method

    @property
    def _actor_id(self) -> ActorId:
        """The actor's id, 16 bytes. Programs for Ray use this name and the next."""
        return self._remora_actor.id

    @property
    def _ray_actor_id(self) -> ActorId:
        return self._remora_actor.id

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"{self!r} is an actor handle and cannot be called: call a method, as handle.method.remote(...)"
        )

    def __dir__(self) -> list[str]:
        return sorted([*self._remora_actor.methods, *object.__dir__(self)])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and self._remora_actor.id == other._remora_actor.id

    def __hash__(self) -> int:
        return hash(self._remora_actor.id)

    def __repr__(self) -> str:
        return f"Actor({self._remora_actor.class_name}, {self._remora_actor.id.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_handle, (self._remora_actor.creation, self._remora_actor.description)


def rebuild_handle(creation: ObjectRef[Any], description: bytes) -> ActorHandle[Any]:
    """The handle of the actor that *creation* points to; pickled handles name this function."""
    return ActorHandle(RemoteActor(creation, description))


class ActorMethod:
    """A method of an actor, bound to it.

    Attributes:
        name: the method's name in the class.

    Example:
        >>> increment = counter.increment
        >>> remora.get([increment.remote(1), increment.remote(2)])
        [1, 3]
    """

    __slots__ = ("actor", "check", "default_options", "described", "name", "record")

    def __init__(self, actor: RemoteActor, name: str, described: MethodDescription) -> None:
        self.actor = actor
        self.name = name
        self.described = described
        self.check = twin_of(described.parameters)
        self.default_options = method_options(described.options)
        self.record: Any = None
        _check_kind(self, self.default_options)

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Call the method in the actor; returns at once.

        Calls of one caller run in the order in which it made them, unless the actor is async or threaded.

        Returns:
            An ``ObjectRef`` of the result; a list of refs if ``num_returns`` is above 1; None if it is 0.

        Raises:
            TypeError: the arguments do not fit the method's parameters.
        """
        try:
            self.check(*args, **kwargs)
        except TypeError:
            raise wrong_call(self.check, full_name(self), args, kwargs) from None
        session = runtime.current
        if session is None:
            session = connect_or_init()
        refs = session.submit_method(self.actor, self, args, kwargs, self.default_options)
        note_site(refs)
        if pending:
            raise_deferred()
        return refs

    def options(self, **options: Any) -> MethodWithOptions:
        """The same method with other options: ``num_returns``, ``name``, ``max_task_retries`` ...

        Example:
            >>> low, high = handle.bounds.options(num_returns=2).remote()
        """
        return MethodWithOptions(self, method_options({**self.described.options, **options}))

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"{full_name(self)} runs in the actor and cannot be called directly: write handle.{self.name}.remote(...)"
        )

    def __repr__(self) -> str:
        return f"ActorMethod({full_name(self)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_method, (self.actor.creation, self.actor.description, self.name)


class MethodWithOptions:
    """What :meth:`ActorMethod.options` returns."""

    __slots__ = ("_method", "_options")

    def __init__(self, method: ActorMethod, options: MethodOptions) -> None:
        _check_kind(method, options)
        self._method = method
        self._options = options

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """As :meth:`ActorMethod.remote`."""
        method = self._method
        try:
            method.check(*args, **kwargs)
        except TypeError:
            raise wrong_call(method.check, full_name(method), args, kwargs) from None
        session = runtime.current
        if session is None:
            session = connect_or_init()
        refs = session.submit_method(method.actor, method, args, kwargs, self._options)
        note_site(refs)
        if pending:
            raise_deferred()
        return refs

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._method(*args, **kwargs)

    def __repr__(self) -> str:
        return f"{self._method!r}.options(...)"


def full_name(method: ActorMethod) -> str:
    """``Class.method``, as errors name it."""
    return f"{method.actor.class_name}.{method.name}"


def _rebuild_method(creation: ObjectRef[Any], description: bytes, name: str) -> ActorMethod:
    method: ActorMethod = getattr(rebuild_handle(creation, description), name)
    return method


def _check_kind(method: ActorMethod, options: MethodOptions) -> None:
    if method.described.is_generator and options.num_returns == 1:
        raise ValueError(
            f"{full_name(method)} is a generator, and generators that stream their items are not part of Remora yet: "
            "return a list, or give @remora.method(num_returns=N) for N items"
        )


def _refuse_attribute(actor: RemoteActor, name: str) -> NoReturn:
    own = [method for method in actor.methods if not method.startswith("_")]
    advice = did_you_mean(name, own) if own and not name.startswith("__") else ""
    raise AttributeError(
        f"actor class {actor.class_name} has no method {name!r}. {advice} "
        "(Attributes of an actor can only be read by its methods.)"
    )
