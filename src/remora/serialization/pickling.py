"""One pickler that is used again and again: C pickle with cloudpickle's rules for functions and classes, and ours.

Idle picklers wait in a list; its ``pop`` and ``append`` are atomic, so any thread takes any of them, and a
``__reduce__`` that serializes something itself takes another one. One that raised half-way is dropped, with all that
it points to.
"""

from __future__ import annotations

import copyreg
import pickle
import sys
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any

import cloudpickle

from remora.base.errors import DeserializationError
from remora.base.ids import short
from remora.base.object_ref import ObjectRef
from remora.serialization import reducers
from remora.serialization.frames import Serialized, assemble_pickle

MAX_IDLE_PICKLERS = 8
MAX_KEPT_BYTES = 512
"""A pickler that wrote a longer pickle is dropped: from then on each clearing would cost as much as its memo had
entries then (8 us after 1,000 refs), and a new one costs 1.3 us."""

ResolveRef = Callable[[bytes], ObjectRef[Any]] | dict[Any, ObjectRef[Any]]
"""From an object id to the one ref of this process for it."""


class _Output:
    """The file of a pickler keeps what it is given as it comes: a large ``bytes`` inside a value is not copied."""

    def __init__(self, chunks: list[Any]) -> None:
        self.write = chunks.append


class ValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Collects the refs of a value and its out-of-band buffers beside the pickle."""

    def __init__(self) -> None:
        self.chunks: list[Any] = []
        self.buffers: list[pickle.PickleBuffer] = []
        self.refs: dict[bytes, ObjectRef[Any]] = {}
        super().__init__(_Output(self.chunks), protocol=5, buffer_callback=self.buffers.append)

    def reducer_override(self, obj: Any) -> Any:
        value_class = type(obj)
        if value_class is ObjectRef:
            self.refs[obj.id] = obj
            return load_ref, (obj.id,)
        reducer = reducers.exact_reducers.get(value_class)
        if reducer is not None:
            return reducer(obj)
        if value_class is FunctionType:
            if obj in _own_functions:
                return obj.__name__
            return super().reducer_override(obj)
        if issubclass(value_class, type):
            return super().reducer_override(obj)
        if issubclass(value_class, reducers.base_classes):
            return reducers.reduce_by_base(obj)
        if value_class in _cloudpickle_table or value_class in _copyreg_table:
            return NotImplemented
        return obj.__reduce_ex__(5)


_own_functions: set[Callable[..., Any]] = set()
_cloudpickle_table = cloudpickle.Pickler._dispatch_table
_copyreg_table = copyreg.dispatch_table


def pickle_by_name(function: Callable[..., Any]) -> None:
    """Says of a function of ours that it is found by its name, so that it is not looked up at every pickle."""
    _own_functions.add(function)


_idle_picklers: list[ValuePickler] = []
_c_dump = pickle.Pickler.dump
_c_clear_memo = pickle.Pickler.clear_memo
_get_raw = pickle.PickleBuffer.raw


def pickle_value(value: Any) -> Serialized:
    """The value by pickle, with what it refers to in no other way.

    Raises:
        Exception: whatever the value's classes raise when they are pickled.
    """
    for library in reducers.waiting_libraries:
        if library in sys.modules:
            reducers.register_imported_libraries()
            break
    try:
        pickler = _idle_picklers.pop()
    except IndexError:
        pickler = ValuePickler()
    try:
        _c_dump(pickler, value)
        if pickler.buffers:
            return _assemble(pickler)
    except BaseException:
        _forget(pickler)
        raise
    data = pickler.chunks[0]
    if len(pickler.chunks) > 1:
        return _assemble(pickler)
    serialized = Serialized(len(data), data, [], list(pickler.refs.values()) if pickler.refs else [])
    if len(data) < MAX_KEPT_BYTES and len(_idle_picklers) < MAX_IDLE_PICKLERS:
        _forget(pickler)
        _idle_picklers.append(pickler)
    return serialized


def _assemble(pickler: ValuePickler) -> Serialized:
    chunks = [chunk if type(chunk) is bytes else bytes(chunk) for chunk in pickler.chunks]
    # map, because the frame of a comprehension would keep the buffer that raised (see numpy_arrays._buffer_of).
    buffers = list(map(_get_raw, pickler.buffers))
    return assemble_pickle(chunks, buffers, list(pickler.refs.values()))


def _forget(pickler: ValuePickler) -> None:
    """Empties the pickler; also one that failed, which lives on in the frames of the exception's traceback."""
    _c_clear_memo(pickler)
    pickler.chunks.clear()
    if pickler.buffers:
        pickler.buffers.clear()
    if pickler.refs:
        pickler.refs.clear()
    if pickler.globals_ref:
        pickler.globals_ref.clear()


class _Context(threading.local):
    resolve: Callable[[bytes], ObjectRef[Any]] | None = None


_context = _Context()


def load_ref(object_id: bytes) -> ObjectRef[Any]:
    """The ref of this id in this process; a pickle of a value calls it for every ref in it."""
    resolve = _context.resolve
    if resolve is None:
        raise DeserializationError(
            f"ref {short(object_id)} was pickled inside a value of Remora, and this pickle was loaded outside of it. "
            "Load it with remora.get, or pass the value as an argument",
            object_id=object_id,
        )
    return resolve(object_id)


def load_pickle(data: bytes | memoryview, buffers: list[memoryview], resolve_ref: ResolveRef | None) -> Any:
    """The value of a pickle; refs in it are those that *resolve_ref* gives.

    Raises:
        Exception: whatever the value's classes raise when they are rebuilt.
    """
    if not resolve_ref:
        return pickle.loads(data, buffers=buffers)
    outer = _context.resolve
    _context.resolve = resolve_ref.__getitem__ if type(resolve_ref) is dict else resolve_ref  # type: ignore[assignment]
    try:
        return pickle.loads(data, buffers=buffers)
    finally:
        _context.resolve = outer


pickle_by_name(load_ref)
