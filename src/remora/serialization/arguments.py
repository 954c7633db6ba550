"""The arguments of a call. Refs at top level are left out of the pickle: their values take their places.

The pickle is ``(args, kwargs)``, or with refs at top level ``(args, kwargs, positions, names)``: the positions in
``args`` and the names in ``kwargs``, both None there, that the values fill, positions first.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

from remora.base.errors import DeserializationError, RemoraError
from remora.base.object_ref import ObjectRef
from remora.serialization.diagnosis import arguments_error
from remora.serialization.frames import Serialized
from remora.serialization.pickling import ResolveRef, pickle_value
from remora.serialization.values import PLAIN_CLASSES, deserialize

_dumps = pickle.dumps
_loads = pickle.loads

MAX_PLAIN_ARGUMENTS = 8
_data_of_none = _dumps(((), {}), 5)
_no_arguments = Serialized(len(_data_of_none), _data_of_none)


def serialize_arguments(
    args: tuple[Any, ...], kwargs: dict[str, Any], *, function_name: str = "", parameter_names: Sequence[str] = ()
) -> tuple[Serialized, list[ObjectRef[Any]]]:
    """The arguments as bytes, and the refs at top level, whose values the function gets in their order.

    Args:
        args: positional arguments.
        kwargs: arguments by name.
        function_name: for errors.
        parameter_names: names of the positional parameters, for errors.

    Raises:
        SerializationError: an argument cannot be pickled; the message has its name and the place inside it.
    """
    if not kwargs:
        if not args:
            return _no_arguments, []
        if len(args) <= MAX_PLAIN_ARGUMENTS:
            for value in args:
                if type(value) not in PLAIN_CLASSES:
                    break
            else:
                data = _dumps((args, kwargs), 5)
                return Serialized(len(data), data), []
    top_level = [value for value in args if type(value) is ObjectRef]
    structure: tuple[Any, ...] = (args, kwargs)
    if top_level or ObjectRef in map(type, kwargs.values()):
        structure = _take_refs_out(args, kwargs)
        top_level += [kwargs[name] for name in structure[3]]
    try:
        return pickle_value(structure), top_level
    except RemoraError:
        raise
    except Exception as error:
        raise arguments_error(structure[0], structure[1], error, function_name, parameter_names) from error


def _take_refs_out(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    positions = [position for position, value in enumerate(args) if type(value) is ObjectRef]
    names = [name for name, value in kwargs.items() if type(value) is ObjectRef]
    args = tuple([None if type(value) is ObjectRef else value for value in args])
    kwargs = {name: None if type(value) is ObjectRef else value for name, value in kwargs.items()}
    return args, kwargs, positions, names


def deserialize_arguments(
    data: bytes | memoryview, values: Sequence[Any] = (), resolve_ref: ResolveRef | None = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """``(args, kwargs)`` to call the function with.

    Args:
        data: what :func:`serialize_arguments` made.
        values: of the refs at top level, in their order.
        resolve_ref: from an object id to this process's ref, for refs inside arguments.

    Raises:
        DeserializationError: a class of an argument cannot be rebuilt here.
    """
    if data == _data_of_none:
        return (), {}
    loaded = deserialize(data, resolve_ref)
    if len(loaded) == 2:
        args, kwargs = loaded
        return args, kwargs
    args, kwargs, positions, names = loaded
    if len(values) != len(positions) + len(names):
        raise DeserializationError(
            f"the arguments have {len(positions) + len(names)} refs at top level, but {len(values)} values came"
        )
    filled = list(args)
    for position, value in zip(positions, values):
        filled[position] = value
    for name, value in zip(names, values[len(positions) :]):
        kwargs[name] = value
    return tuple(filled), kwargs
