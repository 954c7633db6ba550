"""What a view keeps alive stays as long as anything built on the view lives, and not longer."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from remora.system.memory_mapping import Mapping
from remora.system.pinned_memory import PinnedMemory
from remora.system.shared_memory import SharedMemory

SIZE = 1 << 20


class Kept:
    """Stands for the ref."""


@pytest.fixture
def mapping() -> Iterator[Mapping]:
    memory = SharedMemory.create(1 << 36)
    memory.write(0, np.arange(SIZE // 8, dtype="i8").data)
    fd = memory.open_read_only()
    mapping = memory.map_whole(fd, writable=False)
    yield mapping
    mapping.close()
    os.close(fd)
    memory.close()


def array_of(view: memoryview, *args: Any) -> np.ndarray[Any, Any]:
    return np.frombuffer(view, *args)


class Subclass(np.ndarray):  # type: ignore[type-arg]
    """As users have them."""


BUILDERS: dict[str, Callable[[memoryview], Any]] = {
    "memoryview": lambda view: view,
    "slice of a memoryview": lambda view: view[10:][10:20],
    "cast memoryview": lambda view: view.cast("d"),
    "memoryview of a memoryview": lambda view: memoryview(memoryview(view[1:])),
    "pickle buffer": lambda view: pickle.PickleBuffer(view[8:]),
    "raw of a pickle buffer": lambda view: pickle.PickleBuffer(view[8:]).raw(),
    "array": array_of,
    "slice of a slice": lambda view: array_of(view)[5:][::7][3:],
    "element view": lambda view: array_of(view, "i8")[3:4],
    "Fortran order": lambda view: np.ndarray((8, 16), "f8", view, order="F")[1:3],
    "transposed": lambda view: (
        np.ndarray((8, 16), "f8", view).T.reshape(-1, copy=False)[2:]
        if False
        else np.ndarray((8, 16), "f8", view).T[2:]
    ),
    "field of a structured array": lambda view: array_of(view[:2400], [("a", "i4"), ("b", "f8", (2,)), ("c", "i4")])[
        "b"
    ],
    "other type over the same bytes": lambda view: array_of(view).view("f4"),
    "subclass": lambda view: array_of(view).view(Subclass)[3:],
    "broadcast": lambda view: np.broadcast_to(array_of(view[:80], "f8"), (5, 10)),
    "strided": lambda view: np.lib.stride_tricks.sliding_window_view(array_of(view[:80]), 3),
    "memoryview of an array": lambda view: memoryview(array_of(view)[8:]),
    "iterator over an array": lambda view: iter(array_of(view)),
    "array in a container": lambda view: {"deep": [(array_of(view)[1:],)]},
    "out-of-band pickle": lambda view: pickle.loads(
        pickle.dumps(np.zeros(100), protocol=5, buffer_callback=lambda _: None), buffers=[view[:800]]
    )[10:20],
    "recarray": lambda view: array_of(view[:1600], [("x", "f8"), ("y", "f8")]).view(np.recarray).x,
    "masked array": lambda view: np.ma.masked_array(array_of(view, "i8"), mask=False)[4:],
    "flat iterator": lambda view: array_of(view).flat,
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS.keys())
def test_memory_stays_while_anything_built_on_a_view_lives_and_is_given_back_after(
    mapping: Mapping, build: Callable[[memoryview], Any]
) -> None:
    pins = PinnedMemory()
    kept = Kept()
    view = pins.view(mapping.address, SIZE, kept)
    built = build(view)
    del view
    assert pins.drain() == []
    assert [pin.kept for pin in pins.pins()] == [kept]
    del built
    assert pins.drain() == [kept]
    assert len(pins) == 0


def test_a_frame_on_a_view_keeps_it_and_so_does_a_column_of_it(mapping: Mapping) -> None:
    pandas = pytest.importorskip("pandas")
    pins = PinnedMemory()
    view = pins.view(mapping.address, 8000, "kept")
    frame = pandas.DataFrame(np.ndarray((100, 10), "i8", view), copy=False)
    del view
    column = frame[3]
    assert np.shares_memory(column.to_numpy(), np.ndarray(8000, "u1", pins.view(mapping.address, 8000, "other")))
    del frame
    assert pins.drain() == ["other"]
    values = column.to_numpy()[5:]
    del column
    assert pins.drain() == []
    del values
    assert pins.drain() == ["kept"]


def test_an_arrow_buffer_on_a_view_keeps_it(mapping: Mapping) -> None:
    arrow = pytest.importorskip("pyarrow")
    pins = PinnedMemory()
    view = pins.view(mapping.address, 8000, "kept")
    array = arrow.Array.from_buffers(arrow.int64(), 1000, [None, arrow.py_buffer(view)])
    del view
    part = array.slice(10, 20)
    del array
    assert part[0].as_py() == 10
    assert pins.drain() == []
    del part
    assert pins.drain() == ["kept"]


@pytest.mark.parametrize("size", [0, 1, 63, 4096, 4097, 65_537, 1_000_000, SIZE])
def test_a_view_has_the_size_asked_for_and_shows_unsigned_bytes(mapping: Mapping, size: int) -> None:
    view = PinnedMemory().view(mapping.address, size, None)
    assert (view.nbytes, view.format, view.ndim, view.readonly) == (size, "B", 1, True)
    assert bytes(view) == np.arange(SIZE // 8, dtype="i8").tobytes()[:size]


def test_nothing_built_on_a_view_can_be_written_to(mapping: Mapping) -> None:
    view = PinnedMemory().view(mapping.address, SIZE, None)
    array = array_of(view)
    with pytest.raises(TypeError, match="read-only"):
        view[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True


def test_each_view_of_one_object_is_a_pin_of_its_own(mapping: Mapping) -> None:
    pins = PinnedMemory()
    first, second = pins.view(mapping.address, 100, "ref"), pins.view(mapping.address, 100, "ref")
    del first
    assert pins.drain() == ["ref"]
    assert len(pins) == 1
    del second
    assert pins.drain() == ["ref"]


def test_a_mapping_of_one_carrier_goes_with_its_last_view() -> None:
    memory = SharedMemory.create(1 << 36)
    pins = PinnedMemory()
    own = Mapping(memory.fd, 0, 1 << 20, writable=True)
    carrier, pin = pins.pin_mapping(own, 1 << 20, "first")
    array = np.frombuffer(memoryview(carrier), "u1")[7:]
    del carrier
    pin.kept = "second"
    array[:] = 1
    assert f"{own.address:x}-" in Path("/proc/self/maps").read_text()
    del array
    assert pins.drain() == ["second"]
    assert own.address == 0
    memory.close()
