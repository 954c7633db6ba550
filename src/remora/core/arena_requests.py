"""Who waits for space, first come first served, and what is done to find some.

The first request is placed into warm pages if a range is large enough, else into cold offsets. For those the limit
and the machine must allow growth; when they do not, warm pages are punched out, at most a growth step at a time so
that the daemon is never long in one system call; when even that is not enough, reserved space is asked back, and
then the request waits for frees until its deadline. Later requests wait behind it: a large object is not starved
by a stream of small ones.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import Any, NamedTuple

from remora.base.ids import ProcessId
from remora.core.arena_growth import Growth, GrowthMeter
from remora.core.arena_layout import GROWTH_STEP_BYTES
from remora.core.arena_records import PunchHoles, ReadMemory, SpaceRequest
from remora.core.arena_space import ArenaSpace

MEMORY_POLL_S = 0.1
"""How often the machine's memory is read again while a request waits for it."""


class Grant(NamedTuple):
    """The request has its space."""

    request: SpaceRequest
    offset: int
    size_bytes: int
    fresh: bool


class _Readiness(enum.Enum):
    READY = "ready"
    IN_PROGRESS = "in progress"
    IMPOSSIBLE = "impossible"


class SpaceQueue:
    """The queue of requests, and the steps towards space for the first one."""

    def __init__(self, space: ArenaSpace, outbox: list[Any]) -> None:
        self.waiting: deque[SpaceRequest] = deque()
        self.growth = GrowthMeter()
        self.wants_reserved_back = False
        self._space = space
        self._outbox = outbox
        self._is_reading = False

    def __repr__(self) -> str:
        return f"<SpaceQueue {len(self.waiting)} waiting, {self.growth!r}>"

    def next_grant(self, now_s: float) -> Grant | None:
        """Place the first request, or take the next step towards space for it and return None."""
        self.wants_reserved_back = False
        if not self.waiting:
            return None
        request = self.waiting[0]
        request.short_of_memory = False
        for size_bytes in dict.fromkeys((request.size_bytes, request.minimum_bytes)):
            offset = self._space.take_warm(request.process, size_bytes)
            if offset is not None:
                return self._granted(request, offset, size_bytes, fresh=False)
            readiness = self._prepare_growth(request, size_bytes, now_s)
            if readiness is _Readiness.READY:
                offset = self._space.take_cold(size_bytes)
                self.growth.grew(size_bytes)
                return self._granted(request, offset, size_bytes, fresh=True)
            if readiness is _Readiness.IN_PROGRESS:
                return None
        self.wants_reserved_back = True
        return None

    def memory_read(self, now_s: float, available_bytes: int, resident_bytes: int) -> None:
        """The answer to ``ReadMemory``. A machine that is short gets warm pages back, asked for or not."""
        self._is_reading = False
        promised_bytes = max(0, self._space.committed_bytes - resident_bytes)
        self.growth.memory_read(now_s, available_bytes, promised_bytes)
        if available_bytes < 0 and not self._space.punching:
            self._punch(-available_bytes, spare=ProcessId(b""))

    def punched(self) -> None:
        """The answer to ``PunchHoles``."""
        self.growth.shrank(self._space.punched())

    def poll_memory(self, now_s: float) -> None:
        """Read again when the first request waits for memory of the machine and some time has passed."""
        poll_at_s = self.next_poll_s()
        if poll_at_s is not None and now_s >= poll_at_s:
            self._read_memory()

    def next_poll_s(self) -> float | None:
        """When :meth:`poll_memory` has something to do."""
        if not self.waiting or not self.waiting[0].short_of_memory or self._is_reading:
            return None
        return self.growth.read_at_s + MEMORY_POLL_S

    def take_expired(self, now_s: float) -> list[SpaceRequest]:
        """Remove and return the requests whose deadline has come, but not one that is just getting its space."""
        in_progress = self.waiting[0] if self.waiting and (self._is_reading or self._space.punching) else None
        expired = [request for request in self.waiting if request.deadline_s <= now_s and request is not in_progress]
        for request in expired:
            self.waiting.remove(request)
        return expired

    def drop_process(self, process: ProcessId) -> None:
        """The process is gone, and so are its requests."""
        self.waiting = deque(request for request in self.waiting if request.process != process)

    def _granted(self, request: SpaceRequest, offset: int, size_bytes: int, *, fresh: bool) -> Grant:
        self.waiting.popleft()
        return Grant(request, offset, size_bytes, fresh)

    def _prepare_growth(self, request: SpaceRequest, size_bytes: int, now_s: float) -> _Readiness:
        space = self._space
        if space.free_bytes < size_bytes:
            return _Readiness.IMPOSSIBLE
        if self._is_reading or space.punching:
            return _Readiness.IN_PROGRESS
        growth = self.growth.may_grow(size_bytes, now_s)
        if growth is Growth.READ_FIRST:
            self._read_memory()
            return _Readiness.IN_PROGRESS
        missing_room = size_bytes - self.growth.room_bytes if growth is Growth.NO_ROOM else 0
        if missing_room > space.warm_bytes:
            request.short_of_memory = True
            return _Readiness.IMPOSSIBLE
        has_cold = space.has_cold(size_bytes)
        missing_offsets = 0 if has_cold else space.warm_bytes
        over_limit = space.committed_bytes + size_bytes - space.limit_bytes
        if max(missing_room, missing_offsets, over_limit) > 0:
            self._punch(max(missing_room, missing_offsets, over_limit), spare=request.process)
            return _Readiness.IN_PROGRESS
        return _Readiness.READY if has_cold else _Readiness.IMPOSSIBLE

    def _punch(self, size_bytes: int, spare: ProcessId) -> None:
        ranges = self._space.punch(min(size_bytes, GROWTH_STEP_BYTES), spare)
        if ranges:
            self._outbox.append(PunchHoles(ranges))

    def _read_memory(self) -> None:
        self._is_reading = True
        self._outbox.append(ReadMemory())
