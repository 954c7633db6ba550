"""An array that lies in the store while it is filled, so that nothing is copied when it becomes an object.

It has a mapping of its own. Sealing replaces that in place by a private copy of the sealed object, in one system
call: whoever still has an older, writable view then writes to pages of its own, and neither reaches the object nor
crashes. A read-only mapping was not chosen, since a write through an old view would be a segmentation fault.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from remora.core.arena_layout import PAGE_SIZE_BYTES, round_up_to_pages
from remora.system.memory_mapping import MADV_DONTDUMP, MADV_DONTFORK, Mapping, populate
from remora.system.pinned_memory import Carrier, Pin, PinnedMemory


class StoreArray:
    """The pages of a reserved object, to be filled and sealed.

    Example:
        >>> made = reader.array_in_store(reservation.offset, reservation.size_bytes, keep=reservation)
        >>> array = made.array((1000, 1000), "f8")
        >>> array[:] = 1
        >>> made.seal(keep=ref)
        >>> array.flags.writeable
        False
    """

    def __init__(self, fd: int, read_only_fd: int, offset: int, size_bytes: int, pins: PinnedMemory, keep: Any) -> None:
        if offset % PAGE_SIZE_BYTES:
            raise ValueError(f"a created array needs pages of its own, and {offset} is inside a page")
        self._offset = offset
        self._read_only_fd = read_only_fd
        self._mapping = Mapping(fd, offset, max(PAGE_SIZE_BYTES, round_up_to_pages(size_bytes)), writable=True)
        self._mapping.advise(MADV_DONTDUMP)
        self._mapping.advise(MADV_DONTFORK)
        carrier, pin = pins.pin_mapping(self._mapping, size_bytes, keep)
        self._carrier: Carrier | None = carrier
        self._pin: Pin = pin
        self._arrays: list[weakref.ref[npt.NDArray[Any]]] = []

    def __repr__(self) -> str:
        return f"<StoreArray at {self._offset}, {'sealed' if self._carrier is None else 'open'}>"

    def array(
        self, shape: int | Sequence[int], dtype: npt.DTypeLike, *, at: int = 0, order: str = "C"
    ) -> npt.NDArray[Any]:
        """A writable array over the pages, from *at* bytes after the object's start. Its contents are arbitrary.

        Raises:
            ValueError: it is sealed, or the type holds Python objects, which only this process could follow.
            TypeError: the array does not fit.
        """
        if self._carrier is None:
            raise ValueError("the array is sealed")
        if np.dtype(dtype).hasobject:
            raise ValueError(f"an array of {np.dtype(dtype)} holds Python objects and cannot lie in the store: put it")
        array = np.ndarray(shape, dtype, memoryview(self._carrier), at, order="F" if order == "F" else "C")
        self._arrays.append(weakref.ref(array))
        return array

    def populate(self, start: int, size_bytes: int) -> None:
        """Give these pages their memory, and bring them into the page table, with one call if the kernel has it."""
        populate(self._mapping, start, round_up_to_pages(size_bytes))

    def seal(self, keep: Any) -> Any:
        """The contents stay as they are now. Views keep *keep* from now on, and what they kept so far is returned.

        Arrays that :meth:`array` made become read-only; other views of theirs write to copies of their pages.

        Raises:
            ValueError: it is sealed already.
        """
        if self._carrier is None:
            raise ValueError("the array is sealed already")
        self._mapping.replace_by_private_copy(self._read_only_fd, self._offset)
        for reference in self._arrays:
            array = reference()
            if array is not None:
                array.flags.writeable = False
        kept, self._pin.kept = self._pin.kept, keep
        self._carrier = None
        return kept
