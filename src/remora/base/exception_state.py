"""Exceptions to bytes and back, without calling their constructors.

Pickle rebuilds an exception by calling its class with ``args``. That fails, or makes another message, for every class
whose ``__init__`` takes anything else than what it hands to ``super().__init__``. So an exception that leaves pickling
to ``BaseException`` is taken apart here: class, args, ``__dict__``, and the fields that C classes and ``__slots__``
keep outside of it. A class with a ``__reduce__`` of its own is left to that.
"""

from __future__ import annotations

import io
import pickle
import types
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle

MAX_CHAIN = 16
"""How many exceptions of a chain of causes travel with an exception; its traceback text has them all."""

_State = tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]
"""args, ``__dict__``, and the fields outside of it."""

_FIELD_TYPES = (types.MemberDescriptorType, types.GetSetDescriptorType)
_NOT_FIELDS = frozenset({"args", "with_traceback", "obj"})
"""``obj`` of AttributeError is the user's whole object; Python does not pickle it either."""


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
    replacement: _State = ((), {}, {})

    def reducer_override(self, obj: Any) -> Any:
        if issubclass(type(obj), BaseException) and not _pickles_itself(type(obj)):
            state = self.replacement if obj is self.replaced else _state_of(obj)
            group_args = _state_of(obj)[0][:2] if issubclass(type(obj), BaseExceptionGroup) else ()
            return new_exception, (type(obj), group_args), state, None, None, set_state
        return super().reducer_override(obj)


def _dumps(value: Any, replacement: _State | None = None) -> bytes:
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


def _state_of(exception: BaseException) -> _State:
    return BaseException.__getattribute__(exception, "args"), instance_dict(exception), c_fields(exception)


def set_state(exception: BaseException, state: _State) -> None:
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


def _without_unpicklable(exception: BaseException, left_out: list[str]) -> _State:
    args, attributes, fields = _state_of(exception)
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


def safe_repr(value: Any, limit: int = 200) -> str:
    """``repr(value)``, cut to *limit*, or the type's name when that fails."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a repr is user code
        text = f"<{type(value).__name__}, whose repr failed>"
    return text if len(text) <= limit else text[: limit - 3] + "..."
