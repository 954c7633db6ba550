"""Says why a value cannot be pickled, or not be rebuilt. Slow, and used only after it failed.

The walk goes down from the value to a part that fails although none of its own parts does. Which of many parts fails
is found by halving, so a list of a million is pickled about twice, not a million times.
"""

from __future__ import annotations

import functools
import pickle
import pickletools
import time
import types
from collections.abc import Iterator, Sequence
from typing import Any

from remora.base.errors import DeserializationError, SerializationError
from remora.base.exception_state import safe_repr
from remora.base.ids import short
from remora.base.task_failure import safe_str
from remora.serialization.pickling import pickle_value

MAX_TRIES = 3_000
MAX_DEPTH = 60
MAX_SECONDS = 5.0
"""When one of these is used up, the path ends where the walk is then."""

Part = tuple[str, Any]
"""How a part is reached from its whole, and the part."""


def pickling_error(value: Any, error: Exception, name: str) -> SerializationError:
    """The error to raise for *value*, which *name* calls, when pickling it raised *error*."""
    return _described(find_fault(value, error, name))


def arguments_error(
    args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception, function_name: str, parameter_names: Sequence[str]
) -> SerializationError:
    """The error to raise for the arguments of a call."""
    parts: list[Part] = []
    for position, value in enumerate(args):
        name = repr(parameter_names[position]) if position < len(parameter_names) else str(position)
        parts.append((f"argument {name}", value))
    parts += [(f"argument {name!r}", value) for name, value in kwargs.items()]
    of_function = f" of {function_name}" if function_name else ""
    search = _Search()
    for name, value in search.failing(parts):
        fault = search.descend(value, 0)
        if fault is not None:
            path, reason = fault
            return _described((_join(f"{name}{of_function}", path), reason))
    return _described((f"the arguments{of_function}", _reason(error)))


def find_fault(value: Any, error: Exception, name: str) -> tuple[str, str]:
    """The path to the part of *value* that cannot be pickled, and why it cannot."""
    if isinstance(error, RecursionError):
        return name, _reason(error)
    fault = _Search().descend(value, 0)
    if fault is None:
        return name, _reason(error)
    return _join(name, fault[0]), fault[1]


def _join(name: str, path: str) -> str:
    return f"{name} -> {path.lstrip(' .')}" if path else name


def _described(fault: tuple[str, str]) -> SerializationError:
    path, reason = fault
    if "recursion" in reason:
        advice = "The value is nested too deep: pass it in flat form, or as several objects"
    else:
        advice = (
            "Leave it out (__getstate__), make it inside the task, or keep it in an actor; "
            "locks, sockets, open files and generators belong to one process"
        )
    return SerializationError(path=path, reason=reason, advice=advice)


def _reason(error: BaseException) -> str:
    text = safe_str(error)
    named = type(error).__name__
    return text if isinstance(error, TypeError | pickle.PicklingError) and text else f"{named}: {text}"


class _Search:
    def __init__(self) -> None:
        self.tries = 0
        self.deadline_s = time.monotonic() + MAX_SECONDS
        self.visited: dict[int, Any] = {}

    def problem_with(self, value: Any) -> str | None:
        """What pickling the value raises; None when it works, or when too much was tried already.

        The exception itself is not handed on: through its traceback it would make garbage cycles of our frames.
        """
        self.tries += 1
        if self.tries > MAX_TRIES or time.monotonic() > self.deadline_s:
            return None
        try:
            pickle_value(value)
        except Exception as error:  # noqa: BLE001 - pickling runs user code, which may raise anything
            return _reason(error)
        return None

    def failing(self, parts: Sequence[Part]) -> Iterator[Part]:
        """Those parts that cannot be pickled, in their order."""
        if not parts or self.problem_with([part for _, part in parts]) is None:
            return
        if len(parts) == 1:
            yield parts[0]
            return
        middle = len(parts) // 2
        yield from self.failing(parts[:middle])
        yield from self.failing(parts[middle:])

    def descend(self, value: Any, depth: int) -> tuple[str, str] | None:
        """Path and reason of the first fault below *value*; None when it only fails through something seen before."""
        self.visited[id(value)] = value
        is_at_fault = True
        if depth < MAX_DEPTH:
            for label, part in self.failing(list(parts_of(value))):
                is_at_fault = False
                if id(part) in self.visited:
                    continue
                fault = self.descend(part, depth + 1)
                if fault is not None:
                    return label + fault[0], fault[1]
        if not is_at_fault:
            return None
        problem = self.problem_with(value)
        return None if problem is None else ("", problem)


def parts_of(value: Any) -> Iterator[Part]:
    """The parts that a pickle of *value* pickles, each with its label."""
    if isinstance(value, dict) and type(value).__reduce_ex__ is object.__reduce_ex__:
        for key, part in list(value.items()):
            yield f"[{safe_repr(key, 40)}]", part
        for key in list(value):
            yield f" key {safe_repr(key, 40)}", key
    if isinstance(value, list | tuple):
        for position, part in enumerate(value):
            yield f"[{position}]", part
    elif isinstance(value, set | frozenset):
        for part in list(value):
            yield f"{{{safe_repr(part, 40)}}}", part
    elif isinstance(value, types.FunctionType):
        yield from _parts_of_function(value)
    elif isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
        yield ".__func__", value.__func__
    elif isinstance(value, functools.partial):
        yield ".func", value.func
        yield ".args", value.args
        yield ".keywords", value.keywords
    elif isinstance(value, type):
        for name, part in list(vars(value).items()):
            if not isinstance(part, types.GetSetDescriptorType | types.MemberDescriptorType):
                yield f".{name}", part
        return
    elif isinstance(value, staticmethod | classmethod):
        yield "", value.__func__
    elif isinstance(value, property):
        yield ".fget", value.fget
        yield ".fset", value.fset
        yield ".fdel", value.fdel
    if type(value) not in _BUILTIN_CONTAINERS:
        yield from _parts_of_instance(value)


_BUILTIN_CONTAINERS = frozenset(
    {dict, list, tuple, set, frozenset, types.FunctionType, types.MethodType, functools.partial, str, int, float, bytes}
)


def _parts_of_function(function: types.FunctionType) -> Iterator[Part]:
    name = function.__qualname__
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or ()):
        try:
            yield f" captured variable {variable!r} of function {name!r}", cell.cell_contents
        except ValueError:  # the cell is empty
            continue
    for variable in _names_used(function.__code__):
        if variable in function.__globals__:
            yield f" global variable {variable!r} used by function {name!r}", function.__globals__[variable]
    for part in function.__defaults__ or ():
        yield f" default {safe_repr(part, 40)} of a parameter of function {name!r}", part
    keyword_defaults: dict[str, Any] = function.__kwdefaults__ or {}
    for parameter, part in keyword_defaults.items():
        yield f" default of parameter {parameter!r} of function {name!r}", part
    for attribute in function.__dict__:
        yield f".{attribute}", function.__dict__[attribute]


def _names_used(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_used(constant)


def _parts_of_instance(value: Any) -> Iterator[Part]:
    """What ``__reduce_ex__`` says that the value is made of."""
    try:
        reduced = value.__reduce_ex__(5)
    except Exception:  # noqa: BLE001 - user code; then the value itself is at fault
        return
    if not isinstance(reduced, tuple):
        return
    _, args, state, *_ = (*reduced, None, None, None)
    attribute_dicts: tuple[Any, ...] = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    named = False
    for attribute_dict in attribute_dicts:
        if isinstance(attribute_dict, dict):
            named = True
            for name, part in attribute_dict.items():
                yield f".{name}", part
    if not named and state is not None:
        yield " state", state
    for position, part in enumerate(args if isinstance(args, tuple) else ()):
        if not isinstance(part, type):
            yield f" constructor argument {position}", part
    if len(reduced) > 3 and reduced[3] is not None and not isinstance(value, list):
        yield " items", list(reduced[3])
    if len(reduced) > 4 and reduced[4] is not None and not isinstance(value, dict):
        yield " items", dict(reduced[4])


def loading_error(data: bytes | memoryview, error: Exception, object_id: bytes) -> DeserializationError:
    """The error to raise when the pickle *data* could not be loaded."""
    named = classes_in(data)
    what = f"object {short(object_id)}" if object_id else "a value"
    if named:
        what += f" (a {named[0]}{', with ' + ', '.join(named[1:4]) if len(named) > 1 else ''})"
    reason = f"{type(error).__name__}: {safe_str(error)}"
    return DeserializationError(
        f"{what} cannot be rebuilt in this process: {reason}. {_loading_advice(error)}",
        object_id=object_id,
        type_name=named[0] if named else "",
    )


def _loading_advice(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return (
            f"The module {error.name!r} must be importable in every process that reads the value: install it there, "
            "or start the program from the folder it is in"
        )
    if isinstance(error, AttributeError | ImportError):
        return "The class or function must exist under the same name in every process: is the code there older?"
    if isinstance(error, pickle.UnpicklingError | EOFError):
        return "The pickle is damaged, or its class wrote something that it cannot read"
    return "The error comes from the class's own code (__init__, __setstate__ or what __reduce__ names)"


def classes_in(data: bytes | memoryview) -> list[str]:
    """Names of the classes and functions that the pickle refers to, in their order, ours left out."""
    names: list[str] = []
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(bytes(data)):
            if isinstance(argument, str) and opcode.name.endswith("UNICODE"):
                strings.append(argument)
            elif opcode.name == "STACK_GLOBAL" and len(strings) >= 2:
                name = f"{strings[-2]}.{strings[-1]}"
                if name not in names and not name.startswith(("remora.serialization", "copyreg.", "cloudpickle.")):
                    names.append(name)
    except Exception:  # noqa: BLE001 - damaged bytes; what was found before is still worth saying
        return names
    return names
