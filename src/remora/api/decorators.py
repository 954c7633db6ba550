"""``@remote`` and ``@method``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from remora.api.actor_class import ActorClass
from remora.api.actor_description import METHOD_OPTIONS
from remora.api.options import method_options
from remora.api.remote_function import RemoteFunction

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


class RemoteDecorator(Protocol):
    """What ``remote(num_cpus=2)`` returns: it makes a class or a function remote."""

    # A class is callable, too; the first form that fits is taken.
    @overload
    def __call__(self, target: type[T]) -> ActorClass[T]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, target: Callable[P, R]) -> RemoteFunction[P, R]: ...


@overload
def remote(target: type[T], /) -> ActorClass[T]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: Callable[P, R], /) -> RemoteFunction[P, R]: ...
@overload
def remote(**options: Any) -> RemoteDecorator: ...
def remote(*target: Any, **options: Any) -> Any:
    """Make a function a task, or a class an actor class. As ``@remote``, as ``@remote(...)`` or as ``remote(f)``.

    Options of functions: ``num_returns``, ``num_cpus``, ``num_gpus``, ``memory`` (bytes), ``resources``,
    ``max_retries``, ``retry_exceptions``, ``name``, ``runtime_env``, ``scheduling_strategy``, ``label_selector``.

    Options of classes: ``num_cpus``, ``num_gpus``, ``memory``, ``resources``, ``max_restarts``,
    ``max_task_retries``, ``max_concurrency``, ``max_pending_calls``, ``concurrency_groups``, ``name``,
    ``namespace``, ``get_if_exists``, ``lifetime``, ``runtime_env``, ``scheduling_strategy``, ``label_selector``.

    Type checkers: mypy does not follow decorators of classes; ``Counter = remora.remote(PlainCounter)`` it does.

    Raises:
        TypeError: the target is neither a function nor a class, or an option has the wrong type.
        ValueError: an option is unknown or out of range, or the target is ``async`` or remote already.

    Example:
        >>> @remora.remote(num_cpus=2, num_returns=2)
        ... def divide(a: int, b: int) -> tuple[int, int]:
        ...     return divmod(a, b)
        >>> quotient, rest = divide.remote(7, 2)
    """
    if not target:
        if not options:
            raise TypeError("@remote() has neither a target nor options: write @remote, or @remote(num_cpus=2)")
        return lambda target: _make_remote(target, options)
    if len(target) > 1 or options:
        raise TypeError("remote() takes one function or class, or options: write remote(**options)(function)")
    return _make_remote(target[0], {})


def _make_remote(target: Any, given: dict[str, Any]) -> Any:
    if isinstance(target, (RemoteFunction, ActorClass)):
        raise ValueError(f"{target!r} is remote already: use .options(...) for other options")
    if isinstance(target, type):
        return ActorClass(target, given)
    if isinstance(target, (staticmethod, classmethod)) or not callable(target):
        raise TypeError(f"remote() was given {target!r}, a {type(target).__name__}: it takes a function or a class")
    return RemoteFunction(target, given)


@overload
def method(function: F, /) -> F: ...
@overload
def method(**options: Any) -> Callable[[F], F]: ...
def method(*function: Any, **options: Any) -> Any:
    """Give a method of an actor class options of its own.

    Parameters:
        options: ``num_returns``, ``max_task_retries``, ``retry_exceptions``, ``concurrency_group``, ``name``.

    Raises:
        TypeError, ValueError: an option is wrong or unknown.

    Example:
        >>> @remora.remote
        ... class Numbers:
        ...     @remora.method(num_returns=2)
        ...     def bounds(self) -> tuple[int, int]:
        ...         return 0, 9
    """
    if function:
        raise TypeError("method() takes only options: write @method(num_returns=2); without options leave it out")
    checked = method_options(options)
    described = {name: getattr(checked, name) for name in checked.__struct_fields__ if options.get(name) is not None}
    if isinstance(described.get("retry_exceptions"), frozenset):
        described["retry_exceptions"] = sorted(described["retry_exceptions"])

    def mark(target: F) -> F:
        setattr(target, METHOD_OPTIONS, described)
        return target

    return mark
