"""Actor classes: what ``@remote`` makes of a class."""

from __future__ import annotations

import functools
from typing import Any, Generic, NoReturn, TypeVar

from remora.api.actor_description import describe_class, is_async_class
from remora.api.actors import ActorHandle, RemoteActor
from remora.api.deferred import pending, raise_deferred
from remora.api.init import connect_or_init
from remora.api.options import actor_options
from remora.api.remote_function import name_of
from remora.api.signatures import parameters_of, twin_of, wrong_call
from remora.base import runtime
from remora.base.call_sites import note_site
from remora.base.options import ActorOptions

T = TypeVar("T")


class ActorClass(Generic[T]):
    """A class whose instances live in workers of their own; :meth:`remote` makes one.

    Attributes:
        cls: the class itself; call it to make an instance here.
        name: how errors and ``remora status`` call it.

    Example:
        >>> @remora.remote
        ... class Counter:
        ...     def __init__(self, start: int = 0):
        ...         self.value = start
        ...     def increment(self, by: int = 1) -> int:
        ...         self.value += by
        ...         return self.value
        >>> counter = Counter.remote(start=3)
        >>> remora.get(counter.increment.remote())
        4
    """

    def __init__(self, cls: type[T], given: dict[str, Any]) -> None:
        """*given*: the options as the user wrote them.

        Raises:
            TypeError, ValueError: an option is wrong.
        """
        self._set(cls, given, name_of(cls), parameters_of(cls))

    def _set(self, cls: type[T], given: dict[str, Any], name: str, parameters: str) -> None:
        self.cls = cls
        self.name = name
        self.given = given
        self.default_options = actor_options(given)
        self.record: Any = None
        self._parameters = parameters
        self.check = twin_of(parameters)
        functools.update_wrapper(self, cls, updated=())

    @functools.cached_property
    def description(self) -> bytes:
        """What a handle knows of the class; see :mod:`remora.api.actor_description`."""
        return describe_class(self.cls, self.name)

    @functools.cached_property
    def is_async(self) -> bool:
        """Whether a method is ``async``: then all methods run on one event loop."""
        return is_async_class(self.cls)

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle[T]:
        """Make an actor; returns at once, before the constructor has run.

        Arguments are passed as to a remote function. An error of the constructor is raised by calls of methods.

        Raises:
            TypeError: the arguments do not fit the constructor's parameters.
            ActorAlreadyExistsError: the name is taken.
        """
        return self._create(args, kwargs, self.default_options)

    def options(self, **options: Any) -> ActorClassWithOptions[T]:
        """The same class with other options, given as to :func:`remora.remote`.

        Example:
            >>> counter = Counter.options(name="visits", max_restarts=1).remote()
        """
        return ActorClassWithOptions(self, {**self.given, **options})

    def _create(self, args: tuple[Any, ...], kwargs: dict[str, Any], options: ActorOptions) -> ActorHandle[T]:
        try:
            self.check(*args, **kwargs)
        except TypeError:
            raise wrong_call(self.check, self.name, args, kwargs) from None
        session = runtime.current or connect_or_init()
        creation, description = session.create_actor(self, args, kwargs, options)
        note_site(creation)
        handle: ActorHandle[T] = ActorHandle(RemoteActor(creation, description))
        if pending:
            raise_deferred()
        return handle

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"{self.name} is an actor class and cannot be called directly: write {self.name}.remote(...) to make an "
            f"actor, or {self.name}.cls(...) to make an instance here"
        )

    def __mro_entries__(self, bases: tuple[Any, ...]) -> NoReturn:
        raise TypeError(
            f"{self.name} is an actor class and cannot be inherited from: inherit from the plain class "
            f"({self.name}.cls), and decorate the subclass with @remora.remote"
        )

    def __repr__(self) -> str:
        return f"ActorClass({self.name})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The class goes into the state: its methods' globals may name this very object, which has to exist by then.
        # So does what is made of the class: when it names this object, it is still an empty one when this is set up.
        return ActorClass.__new__, (ActorClass,), (self.cls, self.given, self.name, self._parameters)

    def __setstate__(self, state: tuple[type[T], dict[str, Any], str, str]) -> None:
        self._set(*state)


class ActorClassWithOptions(Generic[T]):
    """What :meth:`ActorClass.options` returns."""

    __slots__ = ("_actor_class", "_given", "_options")

    def __init__(self, actor_class: ActorClass[T], given: dict[str, Any]) -> None:
        self._actor_class = actor_class
        self._given = given
        self._options = actor_options(given)

    def remote(self, *args: Any, **kwargs: Any) -> ActorHandle[T]:
        """As :meth:`ActorClass.remote`."""
        return self._actor_class._create(args, kwargs, self._options)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._actor_class(*args, **kwargs)

    def __repr__(self) -> str:
        return f"{self._actor_class!r}.options(...)"

    def __reduce__(self) -> tuple[Any, ...]:
        return ActorClassWithOptions, (self._actor_class, self._given)
