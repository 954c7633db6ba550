"""One epoll object and what to call when a descriptor is ready.

The node daemon runs it as its loop; drivers and workers let whichever thread waits run it
(:mod:`remora.processes.client.leadership`); an asyncio loop can watch ``fileno()`` instead. Not asyncio itself:
a thread that waits for a reply has to read the socket in its own call, without a switch to another thread, and
importing asyncio costs every process 40 ms and 5 MB.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from remora.system.interrupts import check_before_blocking, interruptible, pending

if TYPE_CHECKING:
    from remora.system.timers import Timer, Timers

READABLE = select.EPOLLIN | select.EPOLLRDHUP
WRITABLE = select.EPOLLOUT


class Reactor:
    """Calls ``on_event(mask)`` of each registered descriptor that is ready. One thread at a time may poll."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._on_event: dict[int, Callable[[int], None]] = {}
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._timers: Timers | None = None
        self._timers_lock = threading.Lock()
        self.closed = False
        self.register(self._wake_fd, self._on_wake)

    def fileno(self) -> int:
        """A descriptor that is readable whenever :meth:`poll` has something to do."""
        return self._epoll.fileno()

    def register(self, fd: int, on_event: Callable[[int], None], mask: int = READABLE) -> None:
        """Call ``on_event(mask)`` from now on when *fd* is ready."""
        self._on_event[fd] = on_event
        self._epoll.register(fd, mask)

    def watch_writable(self, fd: int, wanted: bool) -> None:
        """Report *fd* also when it can be written to, or no longer."""
        self._epoll.modify(fd, READABLE | WRITABLE if wanted else READABLE)

    def unregister(self, fd: int) -> None:
        """Forget *fd*; to be called before it is closed."""
        if self._on_event.pop(fd, None) is not None and not self.closed:
            self._epoll.unregister(fd)

    def call_after(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Have whoever polls call *callback* in *delay_s*; from any thread. ``cancel()`` the result to prevent it."""
        with self._timers_lock:
            timers = self._timers
            if timers is None:
                # Late: only streams between nodes need timers, and ctypes costs every other process its import.
                from remora.system.timers import Timer, Timers

                if self.closed:
                    return Timer(0.0, None)
                self._timers = timers = Timers()
                self.register(timers.fd, timers.on_event)
        return timers.call_at(monotonic() + delay_s, callback)

    def poll(self, timeout_s: float = -1) -> int:
        """Wait at most *timeout_s* (negative: for ever) and serve what is ready; how many descriptors were."""
        events = self._epoll.poll(timeout_s)
        if events:
            self.serve(events)
        return len(events)

    @interruptible
    def wait(self, timeout_s: float) -> list[tuple[int, int]]:
        """The ready descriptors, unserved: they are reported again, so an interrupt here loses nothing."""
        if pending:
            check_before_blocking()
        return self._epoll.poll(timeout_s)

    def serve(self, events: list[tuple[int, int]]) -> None:
        """Call the handlers of *events*."""
        on_event = self._on_event
        for fd, mask in events:
            # An earlier handler of this batch may have closed it.
            handler = on_event.get(fd)
            if handler is not None:
                handler(mask)

    def wake(self) -> None:
        """Make a blocked or the next :meth:`poll` return; from any thread."""
        os.eventfd_write(self._wake_fd, 1)

    def _on_wake(self, mask: int) -> None:
        try:
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:  # a handler of the same batch polled itself
            return

    def close(self) -> None:
        """Close the reactor's own descriptors, not the registered ones."""
        if not self.closed:
            self.closed = True
            self._on_event.clear()
            self._epoll.close()
            if self._timers is not None:
                self._timers.close()
            os.close(self._wake_fd)
