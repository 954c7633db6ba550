from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from store_use import MB, eventually, is_given_back, used_bytes

import remora


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    remora.init(num_cpus=2, object_store_memory=512 * MB)
    yield
    remora.shutdown()


@pytest.fixture(autouse=True)
def everything_is_given_back(session: None) -> Iterator[None]:
    yield
    gc.collect()
    assert is_given_back()


def lies_in_the_store(array: np.ndarray[Any, Any]) -> bool:
    """Whether the array's memory is the memory file's, which /proc names."""
    address = array.__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, end = (int(part, 16) for part in line.split(maxsplit=1)[0].split("-"))
            if start <= address < end:
                return "remora-arena" in line and line.split()[1].startswith("r--")
    return False


LAYOUTS = {
    "C": lambda array: array,
    "Fortran": np.asfortranarray,
    "transposed": lambda array: array.T,
    "strided": lambda array: array[::2, 1::2],
    "reversed": lambda array: array[::-1],
    "broadcast": lambda array: np.broadcast_to(array[0], (5, *array[0].shape)),
}
DTYPES = ["?", "i1", "u2", ">i4", "f2", "f8", "g", "c16", "S7", "U5", "V3", "M8[ns]", "m8[s]"]


def sample(dtype: str, rows: int = 4, columns: int = 110_000) -> np.ndarray[Any, Any]:
    numbers = np.arange(rows * columns).reshape(rows, columns) % 100
    if dtype.startswith("V"):
        return np.frombuffer(numbers.astype("u1").repeat(3).tobytes(), dtype).reshape(rows, columns)
    return numbers.astype(dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_array_of_every_dtype_and_layout_is_read_without_a_copy(dtype: str, layout: str) -> None:
    array = LAYOUTS[layout](sample(dtype))
    alone, inside = remora.get([remora.put(array), remora.put({"key": [(array, "beside it", bytes(200_000))]})])
    for got in (alone, inside["key"][0][0]):
        assert got.dtype == array.dtype
        assert np.array_equal(got, array)
        assert lies_in_the_store(got)
        with pytest.raises(ValueError, match="WRITEABLE"):
            got.flags.writeable = True


def test_structured_arrays_and_subclasses_are_read_without_a_copy() -> None:
    records = np.zeros(100_000, np.dtype([("key", "i4"), ("value", "f8", (2,))]))
    masked = np.ma.MaskedArray(np.arange(100_000), np.arange(100_000) % 2)
    got_records, got_masked = remora.get(remora.put((records, masked)))
    assert (got_records["key"] == 0).all()
    assert got_masked.sum() == masked.sum()
    assert lies_in_the_store(got_records)
    assert lies_in_the_store(got_masked.data)


def test_data_frames_and_arrow_tables_are_read_without_a_copy() -> None:
    pandas, arrow = pytest.importorskip("pandas"), pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"number": np.arange(50_000), "half": np.arange(50_000) / 2})
    table = arrow.table({"number": np.arange(50_000)})
    got_frame, got_table = remora.get(remora.put([frame, table]))
    pandas.testing.assert_frame_equal(got_frame, frame)
    assert got_table.equals(table)
    assert lies_in_the_store(got_frame["half"].to_numpy())
    assert lies_in_the_store(got_table["number"].chunk(0).to_numpy())
    copied = remora.get(remora.put(frame), copy=True)
    copied.loc[0, "half"] = 9.0
    assert copied["half"][0] == 9.0


def test_small_arrays_cannot_be_written_to_either() -> None:
    got = remora.get(remora.put([np.arange(3)]))[0]
    with pytest.raises(ValueError, match="read-only"):
        got[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        got.flags.writeable = True


def test_what_is_the_same_object_in_a_value_is_the_same_object_in_its_copy() -> None:
    array = np.arange(100_000)
    got = remora.get(remora.put({"first": array, "second": [array]}))
    assert got["first"] is got["second"][0]


def test_bytes_arrive_equal_with_one_copy() -> None:
    before = used_bytes()
    value = bytes(range(256)) * (4096 * 50)
    ref = remora.put(value)
    assert used_bytes() < before + len(value) + 8 * MB
    assert remora.get(ref) == value


@pytest.mark.parametrize("value", [b"", "", [], np.empty(0), np.empty((3, 0), "M8[s]"), bytearray()])
def test_values_of_0_bytes_come_back(value: Any) -> None:
    got = remora.get(remora.put(value))
    assert type(got) is type(value)
    assert len(got) == len(value)


# ---------------------------------------------------------------------- copies that are the caller's own


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("count", [10, 100_000])
def test_get_with_copy_gives_arrays_that_can_be_written_to(count: int, layout: str) -> None:
    array = LAYOUTS[layout](np.zeros((10, count // 10)))
    for ref in (remora.put(array), remora.put([array])):
        own = remora.get(ref, copy=True)
        one = own if isinstance(own, np.ndarray) else own[0]
        one[...] = 1
        value = remora.get(ref)
        assert not np.any(value if isinstance(value, np.ndarray) else value[0])


def test_a_copy_of_what_was_read_only_where_it_was_put_can_be_written_to() -> None:
    read_only = remora.get(remora.put(np.zeros(100_000)))
    (own, empty) = remora.get(remora.put([read_only, np.empty((0, 3))]), copy=True)
    own[0] = 1
    assert empty.flags.writeable
    assert read_only[0] == 0


def test_a_copy_keeps_nothing_of_the_store() -> None:
    (own,) = remora.get(remora.put([np.ones(8 * MB)]), copy=True)
    assert is_given_back()
    assert own.sum() == 8 * MB


# ---------------------------------------------------------------------- how long memory stays


@pytest.mark.parametrize(
    "slices",
    [
        lambda array: array[10:][5:20],
        lambda array: array.reshape(2, -1)[1].view("u1")[::3],
        lambda array: memoryview(array)[100:200],
        lambda array: np.lib.stride_tricks.sliding_window_view(array, 3)[7],
        lambda array: array[1:].T[np.newaxis, 2:9].ravel(),
    ],
)
def test_a_slice_of_a_slice_keeps_the_memory_after_the_ref_is_gone_and_its_end_gives_it_back(slices: Any) -> None:
    ref = remora.put(np.full(4 * MB, 7.0))
    part = slices(remora.get(ref))
    expected = bytes(part)
    del ref
    for _ in range(5):
        remora.put(np.zeros(MB))  # would lie where the object was
    assert used_bytes() > 32 * MB
    assert bytes(part) == expected
    del part
    assert is_given_back()


def test_a_view_stays_readable_when_it_dies_in_another_thread_and_in_garbage_cycles() -> None:
    got: list[Any] = [remora.get(remora.put(np.ones(4 * MB)))]
    got.append(got)
    thread = threading.Thread(target=got[0][1:].sum)
    thread.start()
    thread.join()
    assert used_bytes() > 32 * MB
    del got
    gc.collect()
    assert is_given_back()


def test_a_ref_keeps_the_object_when_no_view_does() -> None:
    ref = remora.put(np.ones(4 * MB))
    for _ in range(3):
        assert remora.get(ref)[-1] == 1
    assert used_bytes() > 32 * MB


# ---------------------------------------------------------------------- between processes


@remora.remote
class Keeper:
    def keep(self, array: np.ndarray[Any, Any]) -> bool:
        self.kept = array[1:][1:]
        return lies_in_the_store(array) and not array.flags.writeable

    def total(self) -> float:
        return float(self.kept.sum())

    def put(self, count: int) -> list[remora.ObjectRef[Any]]:
        return [remora.put(np.full(count, 2.0))]

    def is_alive(self) -> bool:
        return True

    def drop(self) -> None:
        del self.kept


def test_an_actor_that_keeps_a_view_of_its_argument_keeps_the_memory() -> None:
    keeper = Keeper.remote()
    ref = remora.put(np.ones(4 * MB))
    assert remora.get(keeper.keep.remote(ref))
    del ref
    for _ in range(5):
        remora.put(np.zeros(MB))
    assert remora.get(keeper.total.remote()) == 4 * MB - 2
    assert used_bytes() > 32 * MB
    remora.get(keeper.drop.remote())
    assert is_given_back()


def test_a_view_that_an_actor_keeps_ends_with_the_actor() -> None:
    keeper = Keeper.remote()
    assert remora.get(keeper.keep.remote(np.ones(4 * MB)))
    assert used_bytes() > 32 * MB
    remora.kill(keeper)
    assert is_given_back()


def has_ended(keeper: Any) -> bool:
    try:
        return not remora.get(keeper.is_alive.remote())
    except remora.exceptions.RayActorError:
        return True


def test_an_object_outlives_the_process_that_made_it() -> None:
    keeper = Keeper.remote()
    (ref,) = remora.get(keeper.put.remote(4 * MB))
    remora.kill(keeper)
    assert eventually(lambda: has_ended(keeper))
    assert remora.get(ref).sum() == 8 * MB


@remora.remote
def doubled(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array * 2


@remora.remote(num_returns=2)
def halves(array: np.ndarray[Any, Any]) -> Any:
    middle = len(array) // 2
    return array[:middle], {"rest": array[middle:]}


def test_large_results_lie_in_the_store_and_pass_on_from_task_to_task() -> None:
    first, second = halves.remote(doubled.remote(doubled.remote(np.ones(100_000))))
    got = remora.get(first)
    assert lies_in_the_store(got)
    assert (got == 4).all()
    rest = remora.get(second)["rest"]
    assert lies_in_the_store(rest)
    assert (rest == 4).all()


def test_a_large_argument_becomes_an_object_by_itself_and_goes_with_the_call() -> None:
    assert remora.get(doubled.remote(np.ones(4 * MB)))[-1] == 2
    assert is_given_back()


# ---------------------------------------------------------------------- the store


def test_whatever_fits_the_free_bytes_can_be_put_however_they_are_scattered() -> None:
    refs = [remora.put(np.ones(2 * MB, "u1")) for _ in range(200)]
    assert refs
    del refs[::2]
    one = remora.put(np.ones(250 * MB, "u1"))
    assert used_bytes() > 400 * MB
    assert remora.get(one)[-1] == 1
    assert all(remora.get(ref)[-1] == 1 for ref in refs)


def test_a_value_larger_than_the_store_is_refused_and_others_are_stored() -> None:
    with pytest.raises(remora.exceptions.ObjectStoreFullError, match="larger than the whole store"):
        remora.put(np.zeros(600 * MB, "u1"))
    assert remora.get(remora.put(np.ones(MB)))[-1] == 1
