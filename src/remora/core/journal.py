"""What of the head's state changed since it was last written down.

A machine touches ``(kind, key)`` whenever what it would write down under that name is another value now, or none.
At the end of a turn the head asks for the present value of what was touched, so ten changes of one actor cost one row.
"""

from __future__ import annotations

import msgspec


class Change(msgspec.Struct, frozen=True):
    """Set the row, or remove it when ``value`` is None."""

    kind: str
    key: bytes
    value: bytes | None


class Journal:
    """Rows that changed, in the order of their first change."""

    def __init__(self) -> None:
        self._touched: dict[tuple[str, bytes], None] = {}

    def touch(self, kind: str, key: bytes) -> None:
        """The row must be written again."""
        self._touched[kind, key] = None

    def take(self) -> list[tuple[str, bytes]]:
        """The touched rows; none is touched then."""
        touched = list(self._touched)
        self._touched.clear()
        return touched

    def __bool__(self) -> bool:
        return bool(self._touched)

    def __repr__(self) -> str:
        return f"<Journal of {len(self._touched)} rows>"


class NoJournal(Journal):
    """For a machine whose state ends with its process."""

    def touch(self, kind: str, key: bytes) -> None:
        """Nothing is written down."""
