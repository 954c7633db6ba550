"""What a handle knows of its actor's class: enough to refuse wrong calls, and to travel without the class.

It is made once per class, as MessagePack bytes. Runtimes carry the bytes with handles and names of actors; whoever
makes a handle reads them, and equal bytes are read once per process.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import msgspec

from remora.api.signatures import parameters_of
from remora.base.builtin_methods import BUILTIN_METHODS

METHOD_OPTIONS = "__remora_method_options__"
"""The attribute in which ``@method`` leaves its options on a function."""


class MethodDescription(msgspec.Struct, array_like=True, frozen=True):
    """``parameters`` without ``self``; ``options`` as given to ``@method``, exception classes by their names."""

    parameters: str
    options: dict[str, Any] = {}
    is_generator: bool = False


class ActorDescription(msgspec.Struct, array_like=True, frozen=True):
    """Class name and methods by their names."""

    class_name: str
    methods: dict[str, MethodDescription]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(ActorDescription)


def describe_class(cls: type, class_name: str) -> bytes:
    """The description of *cls*: its methods, those it inherited, and those that every actor has."""
    methods = {name: MethodDescription(parameters) for name, (parameters, _) in BUILTIN_METHODS.items()}
    for name in dir(cls):
        if hasattr(object, name):
            continue
        method = inspect.getattr_static(cls, name)
        if isinstance(method, (staticmethod, classmethod)):
            methods[name] = _describe(method.__func__, isinstance(method, classmethod))
        elif inspect.isroutine(method):
            methods[name] = _describe(method, True)
    return _encoder.encode(ActorDescription(class_name, methods))


@functools.lru_cache(maxsize=1024)
def read_description(description: bytes) -> ActorDescription:
    """What :func:`describe_class` wrote."""
    return _decoder.decode(description)


def is_async_class(cls: type) -> bool:
    """Whether a method is ``async``: then all methods run on one event loop."""
    members = (inspect.getattr_static(cls, name) for name in dir(cls))
    functions = (getattr(member, "__func__", member) for member in members)
    return any(inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one) for one in functions)


def _describe(function: Any, skip_first: bool) -> MethodDescription:
    return MethodDescription(
        parameters_of(function, skip_first=skip_first),
        getattr(function, METHOD_OPTIONS, {}),
        inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function),
    )
