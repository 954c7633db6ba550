"""Connections that nobody has proved anything on yet: few at a time, each for a short time.

When there are too many, the oldest goes, not the newest: a peer that means it has said what it must a moment after it
connected, so a flood of silent connections displaces itself and does not lock anybody out.
"""

from __future__ import annotations

import itertools
import resource
from collections.abc import Callable
from time import monotonic

from remora.system.reactor import Reactor

FEWEST = 128
MOST = 2048
TIMEOUT_S = 5.0


def limit_by_descriptors() -> int:
    """How many half-open connections this process can have without want for what it is there for."""
    return max(FEWEST, min(MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4))


class HalfOpenConnections:
    """Counts them by address, and ends those that are too many or too slow.

    An entry is a function: called with True when there were too many, False when its time was up. It closes the
    connection; the entry is forgotten before the call. One address may have half of *total_limit*, which by default is
    what the limit of descriptors leaves room for.
    """

    def __init__(
        self,
        reactor: Reactor,
        total_limit: int | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._reactor = reactor
        self.total_limit = limit_by_descriptors() if total_limit is None else total_limit
        self.address_limit = self.total_limit // 2
        self._timeout_s = timeout_s
        self._numbers = itertools.count()
        # In the order of their arrival, so the first is the oldest.
        self._entries: dict[int, tuple[float, str, Callable[[bool], None]]] = {}
        self._of_address: dict[str, dict[int, None]] = {}
        self._is_timing = False

    def __repr__(self) -> str:
        return f"<HalfOpenConnections {len(self._entries)} of {len(self._of_address)} addresses>"

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, host: str, end: Callable[[bool], None]) -> int:
        """A connection from *host*; its number for :meth:`remove`. May end an older one."""
        of_address = self._of_address.setdefault(host, {})
        if len(of_address) >= self.address_limit:
            self._end(next(iter(of_address)), True)
            of_address = self._of_address.setdefault(host, {})
        elif len(self._entries) >= self.total_limit:
            self.end_oldest()
            of_address = self._of_address.setdefault(host, {})
        number = next(self._numbers)
        self._entries[number] = (monotonic() + self._timeout_s, host, end)
        of_address[number] = None
        self._watch()
        return number

    def remove(self, number: int) -> None:
        """The connection is ready, or has ended."""
        entry = self._entries.pop(number, None)
        if entry is not None:
            of_address = self._of_address[entry[1]]
            del of_address[number]
            if not of_address:
                del self._of_address[entry[1]]

    def end_oldest(self) -> bool:
        """Make room; whether there was one to end."""
        for number in self._entries:
            self._end(number, True)
            return True
        return False

    def end_all(self) -> None:
        """End every one, as slow."""
        for number in list(self._entries):
            if number in self._entries:
                self._end(number, False)

    def _end(self, number: int, too_many: bool) -> None:
        _, _, end = self._entries[number]
        self.remove(number)
        end(too_many)

    def _watch(self) -> None:
        if not self._is_timing and self._entries:
            self._is_timing = True
            due_s = next(iter(self._entries.values()))[0]
            self._reactor.call_after(max(0.0, due_s - monotonic()), self._on_timer)

    def _on_timer(self) -> None:
        self._is_timing = False
        now_s = monotonic()
        while self._entries:
            number, (due_s, _, _) = next(iter(self._entries.items()))
            if due_s > now_s:
                break
            self._end(number, False)
        self._watch()
