"""Remote functions: what ``@remote`` makes of a function."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar, overload

from remora.api.deferred import pending, raise_deferred
from remora.api.init import connect_or_init
from remora.api.options import task_options
from remora.api.signatures import parameters_of, twin_of, wrong_call
from remora.base import runtime
from remora.base.call_sites import note_site
from remora.base.object_ref import ObjectRef
from remora.base.options import TaskOptions

P = ParamSpec("P")
R = TypeVar("R")


class RemoteFunction(Generic[P, R]):
    """A function that runs in a worker when it is called by :meth:`remote`.

    Attributes:
        function: the function itself; call it to run it here.
        name: how errors and ``remora status`` call it.

    Example:
        >>> @remora.remote
        ... def square(x: int) -> int:
        ...     return x * x
        >>> remora.get(square.remote(7))
        49
    """

    # The __dict__ takes the function's name and docstring; what a call needs is in slots.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_parameters",
        "check",
        "default_options",
        "function",
        "given",
        "name",
        "record",
    )

    def __init__(self, function: Callable[P, R], given: dict[str, Any]) -> None:
        """*given*: the options as the user wrote them.

        Raises:
            TypeError, ValueError: an option is wrong, or the function is of a kind that cannot be a task.
        """
        self._set(function, given, name_of(function), parameters_of(function))
        _check_kind(function, self.name, self.default_options)

    def _set(self, function: Callable[P, R], given: dict[str, Any], name: str, parameters: str) -> None:
        self.function = function
        self.name = name
        self.given = given
        self.default_options = task_options(given)
        self.record: Any = None
        self._parameters = parameters
        self.check = twin_of(parameters)
        functools.update_wrapper(self, function)

    # Any argument may be a ref in place of the value: the first form tells the names, the second accepts that.
    @overload
    def remote(self, *args: P.args, **kwargs: P.kwargs) -> ObjectRef[R]: ...
    @overload
    def remote(self, *args: Any, **kwargs: Any) -> ObjectRef[R]: ...
    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function in a worker; returns at once.

        Refs among the arguments arrive as values; refs inside lists or other objects arrive as refs.

        Returns:
            A ref of the result; a list of refs if ``num_returns`` is above 1; None if it is 0.

        Raises:
            TypeError: the arguments do not fit the function's parameters.
        """
        try:
            self.check(*args, **kwargs)
        except TypeError:
            raise wrong_call(self.check, self.name, args, kwargs) from None
        session = runtime.current
        if session is None:
            session = connect_or_init()
        refs = session.submit(self, args, kwargs, self.default_options)
        note_site(refs)
        if pending:
            raise_deferred()
        return refs

    def options(self, **options: Any) -> FunctionWithOptions[P, R]:
        """The same function with other options, given as to :func:`remora.remote`.

        Example:
            >>> square.options(num_cpus=2, name="big square").remote(7)
        """
        return FunctionWithOptions(self, {**self.given, **options})

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"{self.name} is a remote function and cannot be called directly: write {self.name}.remote(...) to run it "
            f"in a worker, or {self.name}.function(...) to run it here"
        )

    def __repr__(self) -> str:
        return f"RemoteFunction({self.name})"

    def __reduce__(self) -> tuple[Any, ...]:
        # The function goes into the state: its globals may name this very object, which has to exist by then.
        # So does what is made of the function: when it names this object, its defaults come after this is set up.
        return RemoteFunction.__new__, (RemoteFunction,), (self.function, self.given, self.name, self._parameters)

    def __setstate__(self, state: tuple[Callable[P, R], dict[str, Any], str, str]) -> None:
        self._set(*state)


class FunctionWithOptions(Generic[P, R]):
    """What :meth:`RemoteFunction.options` returns."""

    __slots__ = ("_function", "_given", "_options")

    def __init__(self, function: RemoteFunction[P, R], given: dict[str, Any]) -> None:
        self._function = function
        self._given = given
        self._options = task_options(given)

    @overload
    def remote(self, *args: P.args, **kwargs: P.kwargs) -> ObjectRef[R]: ...
    @overload
    def remote(self, *args: Any, **kwargs: Any) -> ObjectRef[R]: ...
    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """As :meth:`RemoteFunction.remote`."""
        function = self._function
        try:
            function.check(*args, **kwargs)
        except TypeError:
            raise wrong_call(function.check, function.name, args, kwargs) from None
        session = runtime.current
        if session is None:
            session = connect_or_init()
        refs = session.submit(function, args, kwargs, self._options)
        note_site(refs)
        if pending:
            raise_deferred()
        return refs

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"{self._function!r}.options(...)"

    def __reduce__(self) -> tuple[Any, ...]:
        return FunctionWithOptions, (self._function, self._given)


def name_of(function: Any) -> str:
    """The function's or class's qualified name without the functions around it."""
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", None) or repr(function)
    return str(name).rpartition("<locals>.")[2]


def _check_kind(function: Any, name: str, options: TaskOptions) -> None:
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise ValueError(
            f"{name} is an 'async def' and cannot be a task: make it a method of an actor, or write a function that "
            f"calls asyncio.run({name}(...))"
        )
    if inspect.isgeneratorfunction(function) and options.num_returns == 1:
        raise ValueError(
            f"{name} is a generator, and generators that stream their items are not part of Remora yet: return a "
            "list, or give @remote(num_returns=N) for N items"
        )
