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
        >>> if budget.has_room_for(50_000):
        ...     budget.hold(ObjectRef(object_id, INLINE, data), 50_000)
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._watches: dict[int, _Watch] = {}
        self._gone: deque[_Watch] = deque()
        self._note_death = self._gone.append

    def __repr__(self) -> str:
        return f"<InlineBudget {self.held_bytes} of {self.limit_bytes} bytes>"

    def has_room_for(self, size_bytes: int) -> bool:
        """Whether the value fits with those that are held."""
        if self._gone:
            self._forget_dead()
        return self.held_bytes + size_bytes <= self.limit_bytes

    def hold(self, ref: ObjectRef[Any], size_bytes: int) -> None:
        """The ref has a value of this size in this process, until it dies."""
        if self._gone:
            self._forget_dead()
        watch = _Watch(ref, self._note_death)
        watch.size_bytes = size_bytes
        self._watches[id(watch)] = watch
        self.held_bytes += size_bytes

    def _forget_dead(self) -> None:
        gone = self._gone
        while gone:
            watch = gone.popleft()
            self.held_bytes -= watch.size_bytes
            del self._watches[id(watch)]
