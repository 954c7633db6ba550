"""Values to bytes and back."""

from __future__ import annotations

import ctypes
import pickle
import struct
from collections.abc import Callable
from typing import Any

from remora.base.errors import DeserializationError, RemoraError
from remora.serialization import reducers
from remora.serialization.diagnosis import loading_error, pickling_error
from remora.serialization.failures import deserialize_error
from remora.serialization.frames import (
    ALIGNMENT_BYTES,
    HEADER_SIZE_BYTES,
    KIND_ARRAY,
    KIND_BYTES,
    KIND_ERROR,
    KIND_PICKLE,
    Serialized,
    bytes_frame,
    read_header,
)
from remora.serialization.pickling import ResolveRef, load_pickle, pickle_value

LARGE_BYTES = 1 << 16
"""From this size on a ``bytes`` is not copied into a pickle first."""
COPY_WITHOUT_GIL_BYTES = 1 << 16

_dumps = pickle.dumps
_loads = pickle.loads

PLAIN_CLASSES = frozenset({int, float, bool, str, type(None), complex})
"""Exact classes whose pickle needs nothing of ours."""

_data_of_none = _dumps(None, 5)
_none = Serialized(len(_data_of_none), _data_of_none)


def serialize(value: Any, *, name: str = "the value") -> Serialized:
    """The value as bytes, with the refs in it.

    Runs user code (``__reduce__``, ``__getstate__``): call it under no lock. Any thread, and again from within itself.

    Args:
        value: anything that cloudpickle can pickle.
        name: what the value is called in an error.

    Raises:
        SerializationError: it cannot be pickled; the message says which part of it.

    Example:
        >>> deserialize(serialize([1, 2]).to_bytes())
        [1, 2]
    """
    value_class = type(value)
    if value is None:
        return _none
    if value_class in PLAIN_CLASSES:
        data = _dumps(value, 5)
        return Serialized(len(data), data)
    if value_class is bytes:
        if len(value) >= LARGE_BYTES:
            return bytes_frame(value)
        data = _dumps(value, 5)
        return Serialized(len(data), data)
    framer = reducers.framers.get(value_class)
    if framer is not None:
        framed = framer(value)
        if framed is not None:
            return framed
    try:
        return pickle_value(value)
    except RemoraError:
        raise
    except Exception as error:
        raise pickling_error(value, error, name) from error


def serialize_function(function: Callable[..., Any] | type) -> Serialized:
    """A function or class as bytes, with the refs that it captured.

    One from an importable module goes by its name, one from ``__main__`` or from inside a function by its content.

    Raises:
        SerializationError: something that it captured cannot be pickled.
    """
    name = getattr(function, "__qualname__", None) or type(function).__name__
    kind = "class" if isinstance(function, type) else "function"
    try:
        return pickle_value(function)
    except RemoraError:
        raise
    except Exception as error:
        raise pickling_error(function, error, f"{kind} {name!r}") from error


def deserialize(
    data: bytes | memoryview,
    resolve_ref: ResolveRef | None = None,
    *,
    object_id: bytes = b"",
    writable: bool = False,
) -> Any:
    """The value of bytes that :func:`serialize` made.

    Arrays and other buffers in it are slices of *data*, which stays alive as long as any of them, and are read-only;
    give a read-only memoryview.

    Args:
        data: the whole value and nothing else.
        resolve_ref: from an object id to this process's ref; not needed when the value has no refs.
        object_id: for errors.
        writable: arrays and other buffers are copied out of *data* and can be written to, also those that could not
            where they were serialized.

    Returns:
        the value. That of a serialized error is the exception object, a new one at every call.

    Raises:
        DeserializationError: the bytes are damaged, or a class of the value cannot be rebuilt here.
    """
    # A view over a ctypes array has the format "<c" and compares unequal to bytes.
    start = data[:1] if type(data) is bytes else bytes(data[:1])
    if start == b"\x80":
        try:
            if resolve_ref:
                return load_pickle(data, [], resolve_ref)
            return _loads(data)
        except RemoraError:
            raise
        except Exception as error:
            raise loading_error(data, error, object_id) from error
    return _deserialize_frame(data, resolve_ref, object_id, writable)


def _deserialize_frame(
    data: bytes | memoryview, resolve_ref: ResolveRef | None, object_id: bytes, writable: bool
) -> Any:
    kind, flags, count, length = read_header(data, object_id=object_id)
    if length > len(data):
        raise _truncated(data, object_id)
    if kind == KIND_ARRAY:
        from remora.serialization.numpy_arrays import load_array

        try:
            array = load_array(data, flags, count, length)
        except (ValueError, IndexError, struct.error) as error:
            raise _truncated(data, object_id) from error
        return array.copy(order="K") if writable else array
    if kind == KIND_BYTES:
        if ALIGNMENT_BYTES + length > len(data):
            raise _truncated(data, object_id)
        return _copy_bytes(memoryview(data)[ALIGNMENT_BYTES : ALIGNMENT_BYTES + length])
    if kind == KIND_PICKLE:
        pickled, buffers = _split_pickle(data, count, length, object_id)
        if writable and buffers:
            from remora.serialization.numpy_arrays import writable_copy

            buffers = [writable_copy(buffer) for buffer in buffers]
        try:
            return load_pickle(pickled, buffers, resolve_ref)
        except RemoraError:
            raise
        except Exception as error:
            raise loading_error(pickled, error, object_id) from error
    if kind == KIND_ERROR:
        return deserialize_error(data)
    raise DeserializationError(f"a value has the unknown kind {kind}", object_id=object_id)


def _split_pickle(
    data: bytes | memoryview, count: int, length: int, object_id: bytes
) -> tuple[memoryview, list[memoryview]]:
    view = memoryview(data).cast("B").toreadonly()
    start = HEADER_SIZE_BYTES + 16 * count
    if start + length > len(view):
        raise _truncated(data, object_id)
    table = struct.unpack_from(f"<{2 * count}Q", data, HEADER_SIZE_BYTES)
    buffers = []
    for position in range(0, 2 * count, 2):
        offset, size = table[position], table[position + 1]
        if offset + size > len(view):
            raise _truncated(data, object_id)
        buffers.append(view[offset : offset + size])
    return view[start : start + length], buffers


def _truncated(data: bytes | memoryview, object_id: bytes) -> DeserializationError:
    return DeserializationError(
        f"the value has {len(data)} bytes, fewer than its header says: it was damaged on its way", object_id=object_id
    )


# Prototypes of our own: attributes of ctypes.pythonapi are shared by the whole process.
_new_bytes = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t)(
    ("PyBytes_FromStringAndSize", ctypes.pythonapi)
)
_bytes_address = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object)(("PyBytes_AsString", ctypes.pythonapi))


def _copy_bytes(view: memoryview) -> bytes:
    """A ``bytes`` with the content of *view*; a large one is copied while other threads run.

    ``bytes(view)`` would hold the GIL for all of it, 25 ms for 256 MB. The C API allows to fill a new object that
    nobody else has yet.
    """
    if len(view) < COPY_WITHOUT_GIL_BYTES:
        return bytes(view)
    import numpy as np

    value: bytes = _new_bytes(None, len(view))
    target = (ctypes.c_char * len(view)).from_address(_bytes_address(value))
    np.copyto(np.frombuffer(memoryview(target), np.uint8), np.frombuffer(view, np.uint8))
    return value
