"""Exceptions to bytes: taken apart by :mod:`remora.base.exception_state`, in whatever chain or group they come."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from typing import Any

import cloudpickle

from remora.base.exception_state import State, new_exception, safe_repr, set_state, state_of

MAX_CHAIN = 16
"""How many exceptions of a chain of causes travel with an exception; its traceback text has them all."""


def pickle_exception(exception: BaseException) -> tuple[bytes, list[str]]:
    """The exception with its chain as bytes, and the names of what had to be left out.

    Raises:
        Exception: whatever pickling the exception's class raises.
    """
    links: list[tuple[bytes, str]] = []
    left_out: list[str] = []
    for position, (link, relation) in enumerate(_chain(exception)):
        try:
            links.append((_pickle_one(link, left_out), relation))
        except Exception:  # pickling and unpickling run user code; a chain may end early, its first may not
            if position == 0:
                raise
            break
    return pickle.dumps(links, 5), left_out


def _chain(exception: BaseException) -> Iterator[tuple[BaseException, str]]:
    """The exception, then what Python would print above it, nearest first."""
    link: BaseException | None = exception
    relation = ""
    seen: set[int] = set()
    while link is not None and id(link) not in seen and len(seen) < MAX_CHAIN:
        seen.add(id(link))
        yield link, relation
        cause: BaseException | None = BaseException.__getattribute__(link, "__cause__")
        if cause is not None:
            link, relation = cause, "cause"
        elif BaseException.__getattribute__(link, "__suppress_context__"):
            link = None
        else:
            link, relation = BaseException.__getattribute__(link, "__context__"), "context"


def _pickle_one(exception: BaseException, left_out: list[str]) -> bytes:
    try:
        return _dumps(exception)
    except Exception:
        if _pickles_itself(type(exception)):
            raise
        return _dumps(exception, _without_unpicklable(exception, left_out))


class _ExceptionPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Takes every exception inside the value apart, so that members of a group and attributes travel as well."""

    replaced: BaseException | None = None
    replacement: State = ((), {}, {})

    def reducer_override(self, obj: Any) -> Any:
        if issubclass(type(obj), BaseException) and not _pickles_itself(type(obj)):
            state = self.replacement if obj is self.replaced else state_of(obj)
            group_args = state_of(obj)[0][:2] if issubclass(type(obj), BaseExceptionGroup) else ()
            return new_exception, (type(obj), group_args), state, None, None, set_state
        return super().reducer_override(obj)


def _dumps(value: Any, replacement: State | None = None) -> bytes:
    file = io.BytesIO()
    pickler = _ExceptionPickler(file, protocol=5)
    if replacement is not None:
        pickler.replaced, pickler.replacement = value, replacement
    pickler.dump(value)
    return file.getvalue()


def _pickles_itself(exception_class: type[BaseException]) -> bool:
    """Whether a class outside the builtins says how its exceptions are pickled."""
    if exception_class.__reduce_ex__ is not object.__reduce_ex__:
        return True
    for base in exception_class.__mro__:
        if "__reduce__" in vars(base):
            return bool(base.__module__ != "builtins")
    return False


def _without_unpicklable(exception: BaseException, left_out: list[str]) -> State:
    args, attributes, fields = state_of(exception)
    kept_args = []
    for position, value in enumerate(args):
        if _is_picklable(value):
            kept_args.append(value)
        else:
            kept_args.append(safe_repr(value))
            left_out.append(f"args[{position}]")
    kept_attributes = {name: value for name, value in attributes.items() if _is_picklable(value)}
    kept_fields = {name: value for name, value in fields.items() if _is_picklable(value)}
    left_out.extend(name for name in attributes if name not in kept_attributes)
    left_out.extend(name for name in fields if name not in kept_fields)
    return tuple(kept_args), kept_attributes, kept_fields


def _is_picklable(value: Any) -> bool:
    try:
        _dumps(value)
    except Exception:  # noqa: BLE001 - pickling runs user code, which may raise anything
        return False
    return True
