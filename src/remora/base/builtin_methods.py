"""Methods that every actor has, whatever its class: how Ray's programs wait for one, end one and reach into one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from remora.base import runtime


def _ready(instance: object) -> bool:
    return True


def _call(instance: object, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return function(instance, *args, **kwargs)


def _terminate(instance: object) -> None:
    assert runtime.current is not None
    runtime.current.exit_actor()


BUILTIN_METHODS: dict[str, tuple[str, Callable[..., Any]]] = {
    "__ray_ready__": ("", _ready),
    "__ray_call__": ("function, /, *args, **kwargs", _call),
    "__ray_terminate__": ("", _terminate),
}
"""Name to parameters (without the instance) and function, which is given the instance."""


def find_method(instance: object, name: str) -> Callable[..., Any]:
    """The method *name* of an actor's instance, ready to be called.

    Raises:
        AttributeError: the class has no such method.
    """
    builtin = BUILTIN_METHODS.get(name)
    if builtin is not None:
        return functools.partial(builtin[1], instance)
    method: Callable[..., Any] = getattr(instance, name)
    return method
