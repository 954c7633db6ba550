"""How values of particular classes are taken apart, for classes that pickle itself does not treat well enough.

A library's reducers are registered when a value is serialized and the library is already there: importing Remora
imports none of them.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

from remora.serialization.frames import Serialized

Reducer = Callable[[Any], Any]
"""Takes a value, returns what ``__reduce_ex__`` may return, or ``NotImplemented`` to leave it to pickle."""
Framer = Callable[[Any], "Serialized | None"]
"""Takes a whole value, returns it serialized without any pickle, or None to have it pickled."""

exact_reducers: dict[type, Reducer] = {}
"""By exact class."""
base_reducers: dict[type, Reducer] = {}
"""By base class, asked in order for values of subclasses."""
base_classes: tuple[type, ...] = ()
framers: dict[type, Framer] = {}
"""By exact class, for values at top level."""

_library_modules = {"numpy": "remora.serialization.numpy_arrays", "pyarrow.lib": "remora.serialization.arrow"}
"""Library to the module of ours that registers reducers for it."""
waiting_libraries: tuple[str, ...] = tuple(_library_modules)
"""Those that were not imported yet when it was last looked."""


def register_reducer(value_class: type, reducer: Reducer, *, subclasses: bool = False) -> None:
    """Has values of *value_class* taken apart by *reducer*, from now on and in this process.

    Args:
        value_class: the class.
        reducer: returns what ``__reduce_ex__`` may return, or ``NotImplemented``.
        subclasses: whether values of subclasses go to it too; else the class must be the exact one.

    Example:
        >>> register_reducer(Table, lambda table: (Table.open, (table.path,)))
    """
    global base_classes
    if subclasses:
        base_reducers[value_class] = reducer
        base_classes = tuple(base_reducers)
    else:
        exact_reducers[value_class] = reducer


def unregister_reducer(value_class: type) -> None:
    """Takes back :func:`register_reducer`; a class that has none is no error."""
    global base_classes
    exact_reducers.pop(value_class, None)
    base_reducers.pop(value_class, None)
    base_classes = tuple(base_reducers)


def register_framer(value_class: type, framer: Framer) -> None:
    """Has values of exactly this class, at top level, serialized by *framer*."""
    framers[value_class] = framer


def register_imported_libraries() -> None:
    """Registers the reducers of every library that was imported since the last look."""
    global waiting_libraries
    imported = [library for library in waiting_libraries if library in sys.modules]
    for library in imported:
        importlib.import_module(_library_modules[library]).register()
    waiting_libraries = tuple([library for library in waiting_libraries if library not in imported])


def reduce_by_base(value: Any) -> Any:
    """What the reducer of the first fitting base class returns."""
    for base_class, reducer in base_reducers.items():
        if issubclass(type(value), base_class):
            return reducer(value)
    return NotImplemented
