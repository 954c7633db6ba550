"""Calls from threads into the loop: how a thread that does blocking I/O tells the machines what came of it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any

from remora.system.reactor import Reactor


class LoopCalls:
    """Functions that the loop's thread calls, in the order in which they were posted.

    Args:
        reactor: the loop.
        after_batch: called after each batch of functions.

    Example:
        >>> calls = LoopCalls(reactor, machine_is_to_be_looked_at)
        >>> calls.post(machine.chunk_received, number, offset)  # in any thread
    """

    def __init__(self, reactor: Reactor, after_batch: Callable[[], None]) -> None:
        self._reactor = reactor
        self._after_batch = after_batch
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._is_woken = False
        reactor.register(self._fd, self._on_ready)

    def __repr__(self) -> str:
        return f"<LoopCalls {len(self._calls)} waiting>"

    def post(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have the loop call the function soon; from any thread."""
        self._calls.append((function, arguments))
        self.wake()

    def wake(self) -> None:
        """Have ``after_batch`` called soon; from any thread."""
        # Cleared before the batch is taken: whoever finds it set knows that the batch will hold what was appended.
        if not self._is_woken:
            self._is_woken = True
            os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        """Nothing is called any more; no thread may post after this."""
        self._reactor.unregister(self._fd)
        os.close(self._fd)

    def _on_ready(self, mask: int) -> None:
        try:
            os.eventfd_read(self._fd)
        except BlockingIOError:  # a handler of the same batch polled itself
            return
        self._is_woken = False
        calls = self._calls
        while calls:
            function, arguments = calls.popleft()
            function(*arguments)
        self._after_batch()
