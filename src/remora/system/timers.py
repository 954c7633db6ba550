"""Calls at a later time, from an epoll loop: one timer descriptor, which is readable when the next call is due.

A descriptor and not a time-out of ``poll``, because a reactor may be polled by whoever waits, or watched by an
asyncio loop: nobody has to ask when the next timer is due.
"""

from __future__ import annotations

import ctypes
import functools
import heapq
import itertools
import os
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_NANOSECONDS = 1_000_000_000
LOCK_TIMEOUT_S = 0.5


class _Interval(ctypes.Structure):
    """``struct itimerspec``: the interval of repetition, which stays 0, and the time of the first expiration."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("value_s", ctypes.c_long),
        ("value_ns", ctypes.c_long),
    )


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


class Timer:
    """One call to come."""

    __slots__ = ("callback", "time_s")

    def __init__(self, time_s: float, callback: Callable[[], None] | None) -> None:
        self.time_s = time_s
        self.callback = callback

    def cancel(self) -> None:
        """Do not call. Cancelling what was called or cancelled does no harm."""
        self.callback = None


class Timers:
    """The calls to come of one reactor. Any thread may add one; they are called by the thread that polls."""

    def __init__(self) -> None:
        self.fd: int = _libc().timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            error = ctypes.get_errno()
            raise OSError(error, f"no timer descriptor: {os.strerror(error)}")
        self._lock = threading.Lock()
        self._order = itertools.count()
        self._heap: list[tuple[float, int, Timer]] = []

    def __repr__(self) -> str:
        return f"<Timers {len(self._heap)} to come>"

    def call_at(self, time_s: float, callback: Callable[[], None]) -> Timer:
        """Call *callback* at *time_s* of the monotonic clock, or soon when that is over."""
        timer = Timer(time_s, callback)
        with self._lock:
            if self.fd < 0:
                return timer  # the reactor is closed: nobody polls
            heapq.heappush(self._heap, (time_s, next(self._order), timer))
            if self._heap[0][2] is timer:
                self._arm()
        return timer

    def on_event(self, mask: int) -> None:
        """The descriptor is readable: make the calls that are due."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:  # set to a later time since
            return
        due = []
        with self._lock:
            now_s = monotonic()
            while self._heap and (self._heap[0][0] <= now_s or self._heap[0][2].callback is None):
                due.append(heapq.heappop(self._heap)[2])
            self._arm()
        for timer in due:
            # An earlier call of this batch may have cancelled it.
            callback, timer.callback = timer.callback, None
            if callback is not None:
                callback()

    def close(self) -> None:
        """Forget all calls."""
        # Not waited for without end: in a forked child the thread that held it may be no more.
        is_held = self._lock.acquire(timeout=LOCK_TIMEOUT_S)
        self._heap.clear()
        os.close(self.fd)
        self.fd = -1
        if is_held:
            self._lock.release()

    def _arm(self) -> None:
        when_ns = 0  # disarms
        if self._heap:
            when_ns = max(1, int(self._heap[0][0] * _NANOSECONDS))
        interval = _Interval(0, 0, *divmod(when_ns, _NANOSECONDS))
        if _libc().timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, ctypes.byref(interval), None):
            error = ctypes.get_errno()
            raise OSError(error, f"a timer could not be set: {os.strerror(error)}")
