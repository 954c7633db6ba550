from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from store_use import MB, eventually, is_given_back, used_bytes

import remora
from remora.base.errors import ObjectStoreFullError


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    remora.init(num_cpus=1, object_store_memory=512 * MB)
    yield
    remora.shutdown()


@pytest.fixture(autouse=True)
def everything_is_given_back(session: None) -> Iterator[None]:
    yield
    assert is_given_back()


@remora.remote
def total_of(array: np.ndarray[Any, Any]) -> float:
    return float(array.sum())


def test_an_array_that_is_filled_in_the_store_becomes_an_object_without_taking_more_of_it() -> None:
    array = remora.create((10, MB), "float64")
    array[:] = 1.0
    before = used_bytes()
    ref = remora.put(array)
    got = remora.get(ref)
    assert used_bytes() == before
    assert got.shape == (10, MB)
    assert got.flags.c_contiguous
    assert remora.get(total_of.remote(ref)) == 10 * MB


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (3, "i4"),
        ((), "f8"),
        ((2, 0, 3), "f4"),
        ((5, 5), "M8[ns]"),
        ((100, 1000), "c16"),
        ((7,), np.dtype([("key", "i4"), ("value", "f8", (2,))])),
        ((0,), np.dtype([("key", "i4")])),
        ((4,), "S11"),
        ((2,) * 20, "?"),
    ],
)
def test_every_shape_and_dtype_without_python_objects_can_be_created(shape: Any, dtype: Any) -> None:
    array = remora.create(shape, dtype)
    array[...] = np.ones((), dtype)
    got = remora.get(remora.put(array))
    assert (got.dtype, got.shape) == (array.dtype, array.shape)
    assert (got == array).all()


def test_a_sealed_array_and_its_object_cannot_be_written_to() -> None:
    array = remora.create(1000)
    array[:] = 1
    ref = remora.put(array)
    for one in (array, remora.get(ref)):
        with pytest.raises(ValueError, match="read-only"):
            one[0] = 2
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        remora.get(ref).flags.writeable = True


def test_views_from_before_the_seal_do_not_reach_the_object() -> None:
    array = remora.create(100_000)
    array[:] = 1
    view, raw = array[10:], memoryview(array)
    ref = remora.put(array)
    view[:] = 2
    raw[0] = 2.0
    assert (remora.get(ref) == 1).all()


def test_a_sealed_array_is_put_again_as_a_copy() -> None:
    array = remora.create(100_000)
    array[:] = 1
    first, second = remora.put(array), remora.put(array)
    assert first != second
    assert (remora.get(second) == 1).all()


def test_a_slice_or_a_copy_of_a_created_array_is_copied_and_the_array_stays_open() -> None:
    array = remora.create(100_000)
    array[:] = 1
    refs = [remora.put(one) for one in (array[:50_000], array.copy(), array.view(), [array])]
    array[:] = 2
    for ref in refs[:3]:
        assert (remora.get(ref) == 1).all()
    assert (remora.get(refs[3])[0] == 1).all()
    assert (remora.get(remora.put(array)) == 2).all()


def test_passed_as_an_argument_a_created_array_is_an_ordinary_value() -> None:
    array = remora.create(100_000)
    array[:] = 1
    result = total_of.remote(array)
    array[:] = 2
    assert remora.get(result) == 100_000
    assert (remora.get(remora.put(array)) == 2).all()


def test_an_array_that_is_dropped_unsealed_gives_its_space_back() -> None:
    array = remora.create(100 * MB, "u1")
    array[:] = 1
    assert used_bytes() > 100 * MB
    del array
    assert is_given_back()


def test_the_space_of_an_unsealed_array_stays_while_a_view_of_it_lives() -> None:
    array = remora.create(100 * MB, "u1")
    part = array[10:][10:20]
    del array
    for _ in range(3):
        remora.put(np.zeros(MB))
    part[:] = 1
    assert used_bytes() > 100 * MB
    del part
    assert is_given_back()


def test_the_object_lives_as_long_as_the_array_that_was_sealed() -> None:
    array = remora.create(100 * MB, "u1")
    array[:] = 7
    ref = remora.put(array)
    del ref
    for _ in range(3):
        remora.put(np.zeros(MB))
    assert (array[:: MB // 4] == 7).all()
    assert used_bytes() > 100 * MB
    del array
    assert is_given_back()


def test_an_array_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ObjectStoreFullError, match="larger than the whole store"):
        remora.create(1 << 40, "u1")


@remora.remote
def made_by_a_task(count: int) -> list[remora.ObjectRef[Any]]:
    array = remora.create(count)
    array[:] = 3
    return [remora.put(array)]


def test_a_task_can_create_arrays_too() -> None:
    (ref,) = remora.get(made_by_a_task.remote(MB))
    assert eventually(lambda: bool((remora.get(ref) == 3).all()))
