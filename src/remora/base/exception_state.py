"""What an exception consists of, read and set without calling its constructor, and exceptions from bytes.

Pickle rebuilds an exception by calling its class with ``args``. That fails, or makes another message, for every class
whose ``__init__`` takes anything else than what it hands to ``super().__init__``. So an exception that leaves pickling
to ``BaseException`` is taken apart here: class, args, ``__dict__``, and the fields that C classes and ``__slots__``
keep outside of it. A class with a ``__reduce__`` of its own is left to that. The way to
bytes is :mod:`remora.base.exception_pickle`, apart because it needs cloudpickle, which costs 13 ms to import.
"""

from __future__ import annotations

import pickle
import types
from collections.abc import Callable
from typing import Any

State = tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]
"""args, ``__dict__``, and the fields outside of it."""

_FIELD_TYPES = (types.MemberDescriptorType, types.GetSetDescriptorType)
_NOT_FIELDS = frozenset({"args", "with_traceback", "obj"})
"""``obj`` of AttributeError is the user's whole object; Python does not pickle it either."""


def unpickle_exception(data: bytes) -> BaseException:
    """The exception that :func:`pickle_exception` took apart, with its chain of causes.

    Raises:
        Exception: whatever rebuilding it raises, most often because its module is missing here.
    """
    links = pickle.loads(data)
    first: BaseException | None = None
    outer: BaseException | None = None
    for position, (pickled, relation) in enumerate(links):
        try:
            exception = pickle.loads(pickled)
        except Exception:  # pickling and unpickling run user code; a chain may end early, its first may not
            if position == 0:
                raise
            break
        if not isinstance(exception, BaseException):
            raise TypeError(f"the pickle of an exception gave a {type(exception).__name__}")
        if outer is None:
            first = exception
        elif relation == "cause":
            outer.__cause__ = exception
        else:
            outer.__context__ = exception
        outer = exception
    if first is None:
        raise ValueError("the pickle of an exception is empty")
    return first


def state_of(exception: BaseException) -> State:
    """What :func:`set_state` takes."""
    return BaseException.__getattribute__(exception, "args"), instance_dict(exception), c_fields(exception)


def set_state(exception: BaseException, state: State) -> None:
    """Gives an exception of :func:`new_exception` its content."""
    args, attributes, fields = state
    BaseException.__setattr__(exception, "args", args)
    BaseException.__getattribute__(exception, "__dict__").update(attributes)
    set_c_fields(exception, fields)


def new_exception(exception_class: type[BaseException], args: tuple[Any, ...] = ()) -> BaseException:
    """An instance from the nearest ``__new__`` that is written in C, which demands nothing."""
    if issubclass(exception_class, BaseExceptionGroup):
        return BaseExceptionGroup.__new__(exception_class, *args[:2])
    for base in exception_class.__mro__:
        make: Callable[..., BaseException] | None = vars(base).get("__new__")
        if isinstance(make, types.BuiltinFunctionType):
            try:
                made: BaseException = make(exception_class)
            except TypeError:  # the memory layout is that of another base; its __new__ comes later
                continue
            return made
    return BaseException.__new__(exception_class)


def instance_dict(exception: BaseException) -> dict[str, Any]:
    """A copy of the instance's ``__dict__``, past any ``__getattribute__`` of its class."""
    return dict(BaseException.__getattribute__(exception, "__dict__"))


def c_fields(exception: BaseException) -> dict[str, Any]:
    """What the instance keeps in C fields (``errno``, ``value``, ``name`` ...) and in ``__slots__``."""
    fields: dict[str, Any] = {}
    for base in type(exception).__mro__:
        for name, descriptor in vars(base).items():
            if not isinstance(descriptor, _FIELD_TYPES) or name in _NOT_FIELDS or name in fields:
                continue
            if name.startswith("__") and name.endswith("__"):
                continue
            try:
                fields[name] = descriptor.__get__(exception, type(exception))
            except AttributeError:
                continue
    return fields


def set_c_fields(exception: BaseException, fields: dict[str, Any]) -> None:
    """Gives the instance the fields that :func:`c_fields` read; those that refuse a value keep their own."""
    for name, value in fields.items():
        try:
            BaseException.__setattr__(exception, name, value)
        except (AttributeError, TypeError):
            continue


def safe_repr(value: Any, limit: int = 200) -> str:
    """``repr(value)``, cut to *limit*, or the type's name when that fails."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a repr is user code
        text = f"<{type(value).__name__}, whose repr failed>"
    return text if len(text) <= limit else text[: limit - 3] + "..."
