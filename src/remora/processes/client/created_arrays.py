"""Arrays that ``create`` made: they lie in the store while they are filled, and ``put`` of one copies nothing.

The value's header is written before the user gets the array, so sealing changes no byte. What is registered here is
the array object itself: a copy, a slice or a view of it is an array like any other.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from remora.base.ids import ObjectId
from remora.base.object_ref import STORED, ObjectRef
from remora.core.arena_layout import GROWTH_STEP_BYTES
from remora.messages.objects import Location
from remora.serialization.numpy_arrays import frame_of_new

if TYPE_CHECKING:
    from remora.processes.arena_client import ArenaWriter, Reservation
    from remora.processes.arena_reader import ArenaReader
    from remora.system.store_array import StoreArray

Array = np.ndarray[Any, Any]


class CreatedArray(weakref.ref[Array]):
    """One array that can still be sealed; it is forgotten with the array, also when views of that live on."""

    __slots__ = ("in_store", "key", "location")

    in_store: StoreArray
    key: int
    location: Location


class NewArrayLayout:
    """Where the parts of a value that consists of a new array will lie, in bytes from its start."""

    __slots__ = ("array_start", "dtype", "head", "shape", "size_bytes")

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.shape = shape
        self.dtype = dtype
        self.head, self.array_start, self.size_bytes = frame_of_new(shape, dtype)


class CreatedArrays:
    """The arrays of this process that can still be sealed. All methods want the client's lock.

    Example:
        >>> array, in_store = created.open(NewArrayLayout((10, 10), dtype), reservation, location, reader)
        >>> array[:] = 1
        >>> ref = created.seal(array, object_id)
    """

    def __init__(self) -> None:
        self.by_id: dict[int, CreatedArray] = {}
        self._dead: deque[CreatedArray] = deque()

    def __repr__(self) -> str:
        return f"<CreatedArrays {len(self.by_id)} not sealed>"

    def open(
        self, layout: NewArrayLayout, reservation: Reservation, location: Location, reader: ArenaReader
    ) -> tuple[Array, StoreArray]:
        """The array for the user, in reserved pages of its own. The reservation is kept by whatever is built on it."""
        in_store = reader.array_in_store(reservation.offset, layout.size_bytes, keep=reservation)
        array = in_store.array(layout.shape, layout.dtype, at=layout.array_start)
        created = CreatedArray(array, self._dead.append)
        created.in_store = in_store
        created.key = id(array)
        created.location = location
        self.by_id[created.key] = created
        return array, in_store

    def seal(self, array: object, object_id: ObjectId) -> ObjectRef[Any] | None:
        """Make the array this object, which is to be published; None when it is not one that can be sealed."""
        created = self.by_id.get(id(array))
        if created is None or created() is not array:
            return None
        ref: ObjectRef[Any] = ObjectRef(object_id, STORED, created.location)
        created.in_store.seal(keep=ref)
        del self.by_id[created.key]
        return ref

    def drain(self) -> None:
        """Forget the arrays that died. Their pages are given back when the last view of them is gone, too."""
        while self._dead:
            created = self._dead.popleft()
            if self.by_id.get(created.key) is created:
                del self.by_id[created.key]


def fill_pages(in_store: StoreArray, writer: ArenaWriter, size_bytes: int) -> None:
    """Give every page its memory now: the user writes without a system call, so the kernel's only answer to a full
    machine would be a kill.

    Raises:
        ObjectStoreFullError: the machine has no memory left for the next step.
    """
    for start in range(0, size_bytes, GROWTH_STEP_BYTES):
        step_bytes = min(GROWTH_STEP_BYTES, size_bytes - start)
        if start:
            writer.check_machine(step_bytes, size_bytes)
        in_store.populate(start, step_bytes)
