"""Views of mapped memory that keep something alive until the last of them is gone.

numpy collapses chains of views, so a weak reference to an array or a memoryview may fire while arrays built on it
are in use. What every view keeps alive is the object that gave out the buffer in the first place. That is a
``ctypes`` array here, one for each object and each get, the **carrier**; and only the carrier is watched.
"""

from __future__ import annotations

import ctypes
import weakref
from collections import deque
from pickle import PickleBuffer
from typing import Any

from remora.system.memory_mapping import Mapping

_MIN_CARRIER_BITS = 12
_BUCKET_BITS = 4

Carrier = ctypes.Array[ctypes.c_char]


class Pin(weakref.ref[Carrier]):
    """Watches one carrier. ``mapping`` is one that only this carrier's views look through, else None."""

    __slots__ = ("kept", "mapping", "size_bytes")

    kept: Any
    mapping: Mapping | None
    size_bytes: int


class PinnedMemory:
    """All carriers of a process.

    Any thread may let a view go: that only appends to a deque. :meth:`pin` and :meth:`drain` are called under the
    client's lock; what :meth:`drain` returns is to be dropped after the lock, since dropping may run other code.

    Example:
        >>> pins = PinnedMemory()
        >>> view = pins.view(address, 100, keep=ref)
        >>> del view
        >>> pins.drain()
        [ref]
    """

    def __init__(self) -> None:
        self._pins: dict[int, Pin] = {}  # by id(pin): a carrier cannot be hashed, and so its weak references cannot
        self._gone: deque[Pin] = deque()
        self._append_gone = self._gone.append

    def __len__(self) -> int:
        return len(self._pins)

    def __repr__(self) -> str:
        return f"<PinnedMemory {len(self)} carriers, {len(self._gone)} of them gone>"

    def view(self, address: int, size_bytes: int, keep: Any) -> memoryview:
        """The memory at *address*, read-only, of unsigned bytes; *keep* stays alive as long as anything built on it."""
        carrier = _carrier_type(size_bytes).from_address(address)
        self._pin(carrier, size_bytes, keep, None)
        return PickleBuffer(memoryview(carrier).toreadonly()[:size_bytes]).raw()

    def pin_mapping(self, mapping: Mapping, size_bytes: int, keep: Any) -> tuple[Carrier, Pin]:
        """A carrier over *mapping*, which is closed when everything built on the carrier is gone.

        The pin's ``kept`` may be replaced while the carrier lives.
        """
        carrier = (ctypes.c_char * size_bytes).from_address(mapping.address)
        return carrier, self._pin(carrier, size_bytes, keep, mapping)

    def drain(self) -> list[Any]:
        """What was kept by carriers that are gone now."""
        kept = []
        while self._gone:
            pin = self._gone.popleft()
            del self._pins[id(pin)]
            if pin.mapping is not None:
                pin.mapping.close()
            kept.append(pin.kept)
        return kept

    def pins(self) -> list[Pin]:
        """Every carrier's pin, those of carriers that are gone but not drained too."""
        return list(self._pins.values())

    def _pin(self, carrier: Carrier, size_bytes: int, keep: Any, mapping: Mapping | None) -> Pin:
        pin = Pin(carrier, self._append_gone)
        pin.kept = keep
        pin.size_bytes = size_bytes
        pin.mapping = mapping
        self._pins[id(pin)] = pin
        return pin


_carrier_types: dict[int, type[Carrier]] = {}


def _carrier_type(size_bytes: int) -> type[Carrier]:
    """An array type of at least *size_bytes*, one of 16 for each power of two.

    A ctypes type is some microseconds of work and a kilobyte, so not each size gets its own; the view is cut to size.
    """
    grain_bits = max(_MIN_CARRIER_BITS, size_bytes.bit_length() - _BUCKET_BITS)
    rounded_bytes = -(-size_bytes >> grain_bits) << grain_bits
    found = _carrier_types.get(rounded_bytes)
    if found is None:
        found = _carrier_types[rounded_bytes] = ctypes.c_char * rounded_bytes
    return found
