"""numpy arrays of every dtype and layout as bytes that are not copied, at top level without any pickle.

numpy's own reduction copies ``datetime64``, strided and transposed arrays into the pickle, and they come back writable.
Here an array is brought into C order by transposing, and copied only if no transposition does it (a strided view, a
negative step); axes that repeat one element (``broadcast_to``) travel as that element.

Arrays come back read-only, and cannot be made writable: ``frombuffer`` keeps the read-only memoryview as their base.
(``ndarray(buffer=...)`` does not: it keeps what lies under the memoryview, and that is writable to numpy.)
"""

from __future__ import annotations

import math
import pickle
import struct
from typing import Any, cast

import numpy as np

from remora.base.errors import DeserializationError
from remora.serialization.frames import (
    FLAG_FORTRAN,
    HEADER_SIZE_BYTES,
    KIND_ARRAY,
    MAGIC,
    VERSION,
    Serialized,
    align,
    pack_header,
)
from remora.serialization.pickling import pickle_by_name, pickle_value
from remora.serialization.reducers import register_framer, register_reducer

Array = np.ndarray[Any, Any]

_PLAIN_TYPE_NUMBERS = frozenset({*range(17), 18, 19, 20, 21, 22, 23})
"""bool to complex long double, bytes, str, void, datetime64, timedelta64, float16; 17 is object."""
_MAX_DIMENSIONS = 64

_pack_dimensions = [struct.Struct(f"<{count}QB").pack for count in range(_MAX_DIMENSIONS + 1)]
_unpack_dimensions = [struct.Struct(f"<{count}QB").unpack_from for count in range(_MAX_DIMENSIONS + 1)]
_dtypes: dict[bytes, np.dtype[Any]] = {}


def register() -> None:
    """Has arrays taken apart by this module."""
    register_framer(np.ndarray, frame_array)
    pickle_by_name(rebuild_array)
    register_reducer(np.ndarray, reduce_array)
    register_reducer(np.ndarray, reduce_subclass, subclasses=True)
    register_reducer(np.ma.MaskedArray, reduce_masked)


def frame_array(array: Array) -> Serialized | None:
    """The whole array as a value without a pickle; None when its dtype or its layout needs one."""
    dtype = array.dtype
    flags = array.flags
    if dtype.num not in _PLAIN_TYPE_NUMBERS or dtype.names is not None or not dtype.itemsize or dtype.metadata:
        return None
    if flags.c_contiguous:
        order = 0
        flat = array.reshape(-1)
    elif flags.f_contiguous:
        order = FLAG_FORTRAN
        flat = array.T.reshape(-1)
    else:
        return None
    size_bytes = array.nbytes
    head = _array_head(dtype, array.shape, order, size_bytes)
    offset = align(len(head))
    if not size_bytes:
        return Serialized(offset, head.ljust(offset, b"\0"), [], [])
    return Serialized(offset + size_bytes, None, [(0, head), (offset, flat.view(np.uint8).data)], [])


def _array_head(dtype: np.dtype[Any], shape: tuple[int, ...], order: int, size_bytes: int) -> bytes:
    name = dtype.str.encode()
    return (
        pack_header(MAGIC, VERSION, KIND_ARRAY, order, len(shape), size_bytes)
        + _pack_dimensions[len(shape)](*shape, len(name))
        + name
    )


def frame_of_new(shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[bytes, int, int]:
    """How a C-ordered array that is not filled yet will lie in a value.

    Returns:
        what stands before the elements, and where these start and end, in bytes from the start of the value.
    """
    if dtype.num in _PLAIN_TYPE_NUMBERS and dtype.names is None and dtype.itemsize and not dtype.metadata:
        size_bytes = math.prod(shape) * dtype.itemsize
        head = _array_head(dtype, shape, 0, size_bytes)
        return head, align(len(head)), align(len(head)) + size_bytes
    # The pickle of an array of this kind says all but where its elements are; no page of the array is touched.
    like = pickle_value(np.empty(shape, dtype))
    parts = like.parts()
    if not math.prod(shape) * dtype.itemsize:
        return like.to_bytes(), align(like.size_bytes), align(like.size_bytes)
    head = Serialized(0, None, parts[:-1]).to_bytes()
    return head, parts[-1][0], like.size_bytes


def load_array(data: bytes | memoryview, flags: int, dimensions: int, size_bytes: int) -> Array:
    """The array of a framed value: read-only, over *data* itself."""
    *shape, name_length = _unpack_dimensions[dimensions](data, HEADER_SIZE_BYTES)
    name_start = HEADER_SIZE_BYTES + 8 * dimensions + 1
    dtype = _dtype_named(bytes(data[name_start : name_start + name_length]))
    order = "F" if flags & FLAG_FORTRAN else "C"
    if not size_bytes:
        return _empty(tuple(shape), dtype, order)
    offset = align(name_start + name_length)
    array = np.frombuffer(data, dtype, size_bytes // dtype.itemsize, offset)
    if dimensions == 1:
        return array
    return array.reshape(shape, order=cast(Any, order))


def _dtype_named(name: bytes) -> np.dtype[Any]:
    dtype = _dtypes.get(name)
    if dtype is None:
        try:
            dtype = np.dtype(name.decode("ascii"))
        except (TypeError, ValueError) as error:
            raise DeserializationError(f"an array has the dtype {name!r}, which numpy does not know here") from error
        if len(_dtypes) < 1000:
            _dtypes[name] = dtype
    return dtype


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any], order: str) -> Array:
    array: Array = np.empty(shape, dtype, order=cast(Any, order))
    array.flags.writeable = False
    return array


def reduce_array(array: Array) -> Any:
    """The array inside a larger value, its memory out of band."""
    dtype = array.dtype
    if dtype.num not in _PLAIN_TYPE_NUMBERS or dtype.hasobject or not dtype.itemsize:
        return NotImplemented
    has_name = dtype.names is None and not dtype.metadata
    described = dtype.str if has_name else dtype
    if array.flags.c_contiguous:
        return rebuild_array, (_buffer_of(array), described, array.shape)
    stored, axes = _in_c_order(array)
    full_shape = array.shape if stored.size != array.size else None
    return rebuild_array, (_buffer_of(stored), described, stored.shape, axes, full_shape)


def _buffer_of(array: Array) -> pickle.PickleBuffer:
    # Over the array, never over a memoryview of it: CPython 3.11 crashes when the collector meets a PickleBuffer over
    # a memoryview in a garbage cycle, such as that of an exception and the frames it was raised in.
    return pickle.PickleBuffer(cast(Any, array.reshape(-1).view(np.uint8)))


def _in_c_order(array: Array) -> tuple[Array, tuple[int, ...]]:
    """The array transposed so that it is in C order, and the axes that transpose it back."""
    if array.size:
        repeated = tuple(
            slice(0, 1) if step == 0 and length > 1 else slice(None) for step, length in zip(array.strides, array.shape)
        )
        array = array[repeated]
    steps = [abs(step) for step in array.strides]
    axes = sorted(range(array.ndim), key=lambda axis: -steps[axis])
    back = [0] * len(axes)
    for position, axis in enumerate(axes):
        back[axis] = position
    return np.ascontiguousarray(array.transpose(axes)), tuple(back)


def rebuild_array(
    buffer: Any,
    described: str | np.dtype[Any],
    shape: tuple[int, ...],
    axes: tuple[int, ...] | None = None,
    full_shape: tuple[int, ...] | None = None,
) -> Array:
    """The array of :func:`reduce_array`: over *buffer* itself, and read-only unless that is a :func:`writable_copy`."""
    dtype = np.dtype(described)
    owner = getattr(buffer, "obj", None)
    is_own = isinstance(owner, WritableMemory)
    if is_own:
        buffer = owner  # pickle has made the view of it read-only if the array was so where it was written
    if len(buffer):
        array = np.frombuffer(buffer, dtype).reshape(shape)
    else:
        array = np.empty(shape, dtype)
        array.flags.writeable = is_own
    if axes is not None:
        array = array.transpose(axes)
    if full_shape is not None:
        array = np.broadcast_to(array, full_shape)
        if is_own:
            array = array.copy()
    return array


class WritableMemory(np.ndarray[Any, np.dtype[np.uint8]]):
    """The memory of one buffer of a value that is its receiver's own."""


def writable_copy(buffer: memoryview) -> memoryview:
    """A copy of *buffer*, of which :func:`rebuild_array` makes a writable array. Other threads run meanwhile."""
    memory = WritableMemory(len(buffer), np.uint8)
    np.copyto(memory, np.frombuffer(buffer, np.uint8) if len(buffer) else memory)
    return memory.data


_RECONSTRUCTION = ("__reduce__", "__reduce_ex__", "__setstate__", "__getstate__")


def reduce_subclass(array: Array) -> Any:
    """An instance of a subclass, such as a memmap, as a view of a plain array, unless its class pickles itself."""
    subclass = type(array)
    if any(getattr(subclass, name, None) is not getattr(np.ndarray, name, None) for name in _RECONSTRUCTION):
        return NotImplemented
    if array.dtype.hasobject or not array.dtype.itemsize:
        return NotImplemented
    return view_as, (array.view(np.ndarray), subclass)


def view_as(array: Array, subclass: type[Array]) -> Array:
    """The array as an instance of *subclass*."""
    return array.view(subclass)


def reduce_masked(array: np.ma.MaskedArray[Any, Any]) -> Any:
    """A masked array by its data and its mask, both out of band."""
    if array.dtype.hasobject:
        return NotImplemented
    mask = None if array.mask is np.ma.nomask else array.mask
    return rebuild_masked, (np.asarray(array.data), mask, array.fill_value, array.hardmask)


def rebuild_masked(data: Array, mask: Array | None, fill_value: Any, hard_mask: bool) -> np.ma.MaskedArray[Any, Any]:
    """The masked array of :func:`reduce_masked`."""
    return np.ma.MaskedArray(data, np.ma.nomask if mask is None else mask, fill_value=fill_value, hard_mask=hard_mask)
