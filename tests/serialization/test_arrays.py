"""Arrays and other buffers: never copied at get, read-only, and themselves again."""

from __future__ import annotations

import ctypes
import gc
import pickle
import threading
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from remora.base.errors import DeserializationError, SerializationError
from remora.serialization import deserialize, serialize
from remora.serialization.frames import ALIGNMENT_BYTES, Serialized


class Store:
    """Stands for the arena: one carrier per object, read through a read-only memoryview."""

    def __init__(self, serialized: Serialized) -> None:
        size = serialized.size_bytes
        self.memory = np.zeros(size + ALIGNMENT_BYTES, np.uint8)
        start = -self.memory.ctypes.data % ALIGNMENT_BYTES
        self.memory = self.memory[start : start + size]
        for offset, buffer in serialized.parts():
            self.memory.data[offset : offset + len(buffer)] = buffer
        self.carrier = (ctypes.c_char * size).from_address(self.memory.ctypes.data)
        self.view = memoryview(self.carrier).toreadonly()

    def has(self, array: np.ndarray[Any, Any]) -> bool:
        return bool(np.shares_memory(self.memory, array)) or array.size == 0


def through_store(value: Any) -> tuple[Any, Store]:
    store = Store(serialize(value))
    return deserialize(store.view), store


layouts = st.sampled_from(["C", "F", "strided", "reversed", "transposed", "offset"])
dtypes = (
    hnp.scalar_dtypes()
    | hnp.byte_string_dtypes(min_len=1)
    | hnp.unicode_string_dtypes(min_len=1)
    | hnp.array_dtypes(max_size=3, allow_subarrays=True)
)


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    dtype = draw(dtypes)
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
    size = int(np.prod(shape)) * dtype.itemsize
    raw = draw(st.binary(min_size=size, max_size=size)) if dtype.kind in "iufcbmMV" else bytes(size)
    if dtype.kind == "b":
        raw = bytes(byte & 1 for byte in raw)
    array = np.frombuffer(raw, dtype).reshape(shape) if size else np.empty(shape, dtype)
    return in_layout(array, draw(layouts))


def in_layout(array: np.ndarray[Any, Any], layout: str) -> np.ndarray[Any, Any]:
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "strided" and array.ndim:
        return array[..., ::2]
    if layout == "reversed" and array.ndim:
        return array[::-1]
    if layout == "transposed" and array.ndim > 1:
        return np.moveaxis(array, 0, 1)
    if layout == "offset" and array.ndim:
        return array[1:]
    return array


def assert_same(got: np.ndarray[Any, Any], array: np.ndarray[Any, Any]) -> None:
    assert type(got) is type(array)
    assert got.dtype == array.dtype
    assert got.shape == array.shape
    assert got.tobytes() == array.tobytes()
    assert not got.flags.writeable
    if got.size:
        with pytest.raises(ValueError, match="WRITEABLE"):
            got.flags.writeable = True


@given(arrays())
@settings(max_examples=200, deadline=None)
def test_arrays_of_every_dtype_and_layout_come_back_over_the_stored_bytes(array: np.ndarray[Any, Any]) -> None:
    for value, pick in ((array, lambda got: got), ({"x": [array]}, lambda got: got["x"][0])):
        got, store = through_store(value)
        assert_same(pick(got), array)
        assert store.has(pick(got))
        assert_same_inline(pick(deserialize(serialize(value).to_bytes())), array)


def assert_same_inline(got: np.ndarray[Any, Any], array: np.ndarray[Any, Any]) -> None:
    assert got.dtype == array.dtype
    assert got.tobytes() == array.tobytes()
    assert not got.flags.writeable


@pytest.mark.parametrize("order", ["C", "F"])
def test_contiguous_arrays_keep_their_order_and_are_not_copied_when_serialized(order: Any) -> None:
    array = np.asarray(np.arange(24.0).reshape(2, 3, 4), order=order)
    for value in (array, [array]):
        shared = [part for _, part in serialize(value).parts() if np.shares_memory(np.frombuffer(part, "u1"), array)]
        assert len(shared) == 1
    assert through_store(array)[0].flags[f"{order}_CONTIGUOUS"]
    assert through_store([array])[0][0].flags[f"{order}_CONTIGUOUS"]


def test_a_transposed_array_is_not_copied_and_keeps_its_strides() -> None:
    array = np.arange(24.0).reshape(2, 3, 4).transpose(1, 0, 2)
    assert any(np.shares_memory(np.frombuffer(part, "u1"), array) for _, part in serialize(array).parts())
    assert through_store(array)[0].strides == array.strides


def test_buffers_start_at_multiples_of_64() -> None:
    serialized = serialize([np.arange(3), np.arange(5), "x", np.zeros((2, 2))])
    data = serialized.to_bytes()
    for array in deserialize(np.frombuffer(data, "u1").data)[:2]:
        assert (array.ctypes.data - np.frombuffer(data, "u1").ctypes.data) % 64 == 0


@pytest.mark.parametrize("unit", ["D", "s", "ns"])
def test_datetimes_are_not_copied(unit: str) -> None:
    array = np.arange(1000).astype(f"M8[{unit}]")
    for value in (array, [array]):
        assert serialize(value).size_bytes < 8000 + 400
        got, store = through_store(value)
        assert store.has(got if value is array else got[0])


def test_a_view_travels_without_the_rest_of_its_base() -> None:
    base = np.zeros(1_000_000)
    assert serialize(base[10:20]).size_bytes < 1000
    assert serialize([base[::1000]]).size_bytes < 10_000


def test_a_broadcast_array_travels_as_the_elements_that_it_has() -> None:
    array = np.broadcast_to(np.arange(3.0)[:, None, None], (3, 1000, 1000))
    serialized = serialize(array)
    assert serialized.size_bytes < 1000
    got = deserialize(serialized.to_bytes())
    assert got.shape == (3, 1000, 1000)
    assert got[2, 999, 999] == 2.0
    assert not got.flags.writeable


def test_the_same_array_twice_in_a_value_comes_back_as_one() -> None:
    array = np.arange(10)
    got = through_store([array, {"a": array}])[0]
    assert got[0] is got[1]["a"]
    assert serialize([array, array]).size_bytes < serialize([array, array.copy()]).size_bytes


def test_a_slice_of_a_slice_keeps_the_carrier_alive_and_its_end_gives_it_back() -> None:
    for value, pick in (
        (np.arange(1000.0), lambda got: got),
        ([np.arange(1000).astype("M8[ns]")], lambda got: got[0]),
        ([np.asfortranarray(np.ones((30, 30)))], lambda got: got[0]),
    ):
        store = Store(serialize(value))
        carrier, view = store.carrier, store.view
        alive = weakref.ref(carrier)
        piece = pick(deserialize(view))[5:20][3:6]
        del carrier, view, store.carrier, store.view
        gc.collect()
        assert alive() is not None
        del piece
        gc.collect()
        assert alive() is None


@pytest.mark.parametrize("value", [1, "text", {"a": [1]}, bytes(200_000), ["nested", bytes(200_000)], bytes(70_000)])
def test_values_without_arrays_are_read_from_a_carrier_too(value: Any) -> None:
    assert through_store(value)[0] == value


class WithBuffer:
    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer

    def __reduce_ex__(self, protocol: Any) -> Any:
        return WithBuffer, (pickle.PickleBuffer(self.buffer),)


def test_buffers_of_other_classes_are_out_of_band_and_read_only() -> None:
    got, store = through_store([WithBuffer(bytearray(b"abc")), WithBuffer(b"")])
    assert got[0].buffer.readonly
    assert got[0].buffer[0] == ord("a")
    assert store.has(np.frombuffer(got[0].buffer, "u1"))
    assert bytes(got[1].buffer) == b""


def test_a_buffer_with_gaps_is_refused_with_its_place() -> None:
    with pytest.raises(SerializationError, match=r"\[1\].*contiguous"):
        serialize([1, WithBuffer(memoryview(bytes(10))[::2])])


def test_a_failure_beside_buffers_leaves_no_garbage_that_the_collector_stumbles_over() -> None:
    for _ in range(20):
        kept: list[Any] = []
        try:
            serialize([np.arange(10), WithBuffer(memoryview(bytes(10))), threading.Lock(), kept])
        except SerializationError as error:
            kept.append(error)
            kept.append(kept)
        del kept
        gc.collect()


def test_object_arrays_are_ordinary_values() -> None:
    array = np.array([1, "a", None, [2]], dtype=object)
    got = deserialize(serialize(array).to_bytes())
    assert got.dtype == object
    assert list(got) == list(array)


def test_arrays_of_structures_with_objects_are_ordinary_values() -> None:
    array = np.array([(1, "a"), (2, [3])], dtype=[("x", "i4"), ("y", "O")])
    assert list(deserialize(serialize(array).to_bytes())["y"]) == ["a", [3]]


def test_metadata_of_a_dtype_travels() -> None:
    array = np.zeros(3, np.dtype("f8", metadata={"unit": "m"}))
    metadata = deserialize(serialize(array).to_bytes()).dtype.metadata
    assert metadata is None or metadata["unit"] == "m"


def test_variable_width_strings_come_back() -> None:
    string_dtype = getattr(np.dtypes, "StringDType", None)
    if string_dtype is None:
        pytest.skip("numpy 1 has no StringDType")
    array = np.array(["a", "long " * 100, ""], dtype=string_dtype())
    assert list(deserialize(serialize([array]).to_bytes())[0]) == list(array)


@pytest.mark.parametrize("scalar", [np.float64(1.5), np.int8(3), np.datetime64("2024-01-01"), np.str_("x")])
def test_numpy_scalars_keep_their_type(scalar: Any) -> None:
    got = deserialize(serialize(scalar).to_bytes())
    assert got == scalar
    assert type(got) is type(scalar)


def test_a_memmap_comes_back_read_only_over_the_stored_bytes(tmp_path: Any) -> None:
    array = np.memmap(tmp_path / "file", dtype="f8", mode="w+", shape=(10, 10))
    array[:] = 3
    got, store = through_store(array)
    assert isinstance(got, np.memmap)
    assert store.has(got)
    assert not got.flags.writeable
    assert got.sum() == 300


class Named(np.ndarray[Any, Any]):
    pass


class Labelled(np.ndarray[Any, Any]):
    label = ""

    def __reduce__(self) -> Any:
        return labelled, (np.asarray(self), self.label)


def labelled(array: Any, label: str) -> Labelled:
    made: Labelled = array.view(Labelled)
    made.label = label
    return made


def test_subclasses_of_ndarray_keep_their_class_and_what_they_pickle_themselves() -> None:
    got, store = through_store(np.arange(5.0).view(Named))
    assert type(got) is Named
    assert store.has(got)
    mine = np.arange(5.0).view(Labelled)
    mine.label = "km"
    got, store = through_store([mine])
    assert got[0].label == "km"
    assert store.has(got[0])


def test_record_arrays_keep_their_class() -> None:
    array = np.rec.array([(1, 2.0), (3, 4.0)], dtype=[("a", "i4"), ("b", "f8")])
    got = through_store(array)[0]
    assert type(got) is type(array)
    assert list(got.a) == [1, 3]


@pytest.mark.parametrize("mask", [False, [True, False, False, True], np.ma.nomask])
def test_masked_arrays_keep_mask_and_fill_value(mask: Any) -> None:
    array = np.ma.MaskedArray(np.arange(4.0), mask=mask, fill_value=-1)
    got, store = through_store([array])
    assert got[0].tolist() == array.tolist()
    assert got[0].fill_value == -1
    assert store.has(got[0].data)
    assert (got[0].mask is np.ma.nomask) == (array.mask is np.ma.nomask)


def test_a_framed_array_needs_no_pickle() -> None:
    data = serialize(np.zeros((2, 3), "<i4")).to_bytes()
    assert b"numpy" not in data
    assert b"<i4" in data


def test_a_dtype_that_numpy_does_not_know_is_a_clear_error() -> None:
    data = serialize(np.zeros(3, "<i4")).to_bytes().replace(b"<i4", b"<?9")
    with pytest.raises(DeserializationError, match="dtype"):
        deserialize(data)


def test_data_frames_come_back_without_a_copy() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": np.arange(1000.0), "b": np.arange(1000.0) * 2, "n": np.arange(1000)})
    frame["t"] = np.arange(1000).astype("M8[ns]")
    got, store = through_store(frame)
    pandas.testing.assert_frame_equal(got, frame)
    for column in frame:
        assert store.has(got[column].to_numpy()), column
        assert not got[column].to_numpy().flags.writeable
    alive = weakref.ref(store.carrier)
    piece = got["a"].iloc[5:10]
    del got, store.carrier, store.view
    gc.collect()
    assert alive() is not None
    assert piece.sum() == 35
    del piece
    gc.collect()
    assert alive() is None


def test_arrow_tables_come_back_without_a_copy_and_slices_carry_only_their_rows() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table(
        {
            "x": np.arange(100_000.0),
            "s": [str(i) if i % 3 else None for i in range(100_000)],
            "l": pyarrow.array([[i, i] for i in range(100_000)]),
            "d": pyarrow.array([str(i % 5) for i in range(100_000)]).dictionary_encode(),
            "r": pyarrow.array([{"p": i} for i in range(100_000)]),
        }
    )
    got, store = through_store(table)
    assert got.equals(table)
    buffer = got["x"].chunk(0).buffers()[1]
    assert store.has(np.frombuffer(buffer, "f8"))
    assert not buffer.is_mutable
    small = table.slice(50_000, 10)
    serialized = serialize(small)
    assert serialized.size_bytes < 10_000
    assert deserialize(serialized.to_bytes()).equals(small)
    assert serialize([table["s"].chunk(0).slice(3, 2)]).size_bytes < 3_000
    assert deserialize(serialize(table.to_batches()[0]).to_bytes()).equals(table.to_batches()[0])


def test_arrow_memory_stays_while_a_slice_of_it_lives() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    got, store = through_store(pyarrow.array(np.arange(1000.0)))
    alive = weakref.ref(store.carrier)
    piece = got.slice(5, 10).slice(2, 3)
    del got, store.carrier, store.view
    gc.collect()
    assert alive() is not None
    assert piece.to_pylist() == [7.0, 8.0, 9.0]
    del piece
    gc.collect()
    assert alive() is None
