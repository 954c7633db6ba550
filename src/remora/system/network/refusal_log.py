"""What strangers do at an open port, in a log that they cannot fill."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable

REMEMBERED_KINDS = 4096
WITHOUT_SECRET = "it does not know the secret of this cluster"


def print_line(line: str) -> None:
    """To standard error, which is a daemon's log."""
    print(line, file=sys.stderr, flush=True)


class RefusalLog:
    """Reports each kind of trouble once per address, and counts after that."""

    def __init__(self, report: Callable[[str], None] = print_line) -> None:
        self._report = report
        self.counts: Counter[tuple[str, str]] = Counter()
        """How often, by address and kind. Those beyond the first thousands are counted together as ``others``."""

    def __repr__(self) -> str:
        return f"<RefusalLog {self.counts.total()} refusals of {len(self.counts)} kinds>"

    def note(self, host: str, kind: str) -> None:
        """A connection from *host* came to nothing because of *kind*, a clause that goes after a colon."""
        key = (host, kind)
        if key not in self.counts and len(self.counts) >= REMEMBERED_KINDS:
            key = ("others", kind)
        if key not in self.counts and len(self.counts) >= 2 * REMEMBERED_KINDS:
            key = ("others", "more kinds of trouble than are remembered")
        self.counts[key] += 1
        if self.counts[key] == 1:
            self._report(f"refused a connection from {key[0]}: {kind} (more of these are counted, not written here)")
