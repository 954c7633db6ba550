"""How much memory values take that are kept in this process, outside of the store.

Only values from 4 KB on are counted: the bookkeeping of a smaller one would cost more than a tenth of its ``put``,
and a million of them is what a process can hold anyway.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any

from remora.base.object_ref import ObjectRef

COUNTED_FROM_BYTES = 4 << 10
LIMIT_BYTES = 256 << 20


class _Watch(weakref.ref[ObjectRef[Any]]):
    __slots__ = ("size_bytes",)
    size_bytes: int


class InlineBudget:
    """Whether one more value may be kept inline. All methods want the client's lock.

    Example:
        >>> budget.try_hold(ref, 50_000)  # counts until the ref dies
        True
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self._counted_bytes = 0
        self._watches: set[_Watch] = set()
        self._gone: deque[_Watch] = deque()
        self._note_death = self._gone.append

    def __repr__(self) -> str:
        return f"<InlineBudget {self._counted_bytes} of {self.limit_bytes} bytes>"

    @property
    def held_bytes(self) -> int:
        """The values of living refs together."""
        if self._gone:
            self._forget_dead()
        return self._counted_bytes

    def try_hold(self, ref: ObjectRef[Any], size_bytes: int) -> bool:
        """Count the value of this ref until the ref dies; false, and not counted, when there is no room for it."""
        if self._gone:
            self._forget_dead()
        if self._counted_bytes + size_bytes > self.limit_bytes:
            return False
        self._count(ref, size_bytes)
        return True

    def hold(self, ref: ObjectRef[Any], size_bytes: int) -> None:
        """Count the value of this ref, which is here already, until the ref dies."""
        if self._gone:
            self._forget_dead()
        self._count(ref, size_bytes)

    def _count(self, ref: ObjectRef[Any], size_bytes: int) -> None:
        watch = _Watch(ref, self._note_death)
        watch.size_bytes = size_bytes
        self._watches.add(watch)
        self._counted_bytes += size_bytes

    def _forget_dead(self) -> None:
        gone = self._gone
        while gone:
            watch = gone.popleft()
            self._counted_bytes -= watch.size_bytes
            self._watches.remove(watch)
