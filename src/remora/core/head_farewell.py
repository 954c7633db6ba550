"""The last word of a head, which ends with the node beside it when that leaves in order.

A connection of a process that ends may take with it what it has not delivered. So the leaving node, which ends the
head as soon as it hears that it has left, hears so only when all other nodes have heard it, or after a while.
"""

from __future__ import annotations

from collections.abc import Iterable

from remora.base.ids import short
from remora.messages.head import NodeDead

PATIENCE_S = 1.0
"""Shorter than the node waits for its answer."""


class Farewell:
    """Who must hear that the head's node has left, before that does."""

    def __init__(self) -> None:
        self.node = b""
        """The node that leaves; empty while it stays."""
        self._word: NodeDead | None = None
        self._awaited: set[bytes] = set()
        self._due_s = 0.0

    def begin(self, word: NodeDead, others: Iterable[bytes], now_s: float) -> None:
        """The head's node has left, which was said to the others."""
        self.node = word.departure.node
        self._word = word
        self._awaited = set(others)
        self._due_s = now_s + PATIENCE_S

    def heard(self, node: bytes) -> None:
        """The node has confirmed all that was said to it, or is gone."""
        self._awaited.discard(node)

    def take(self, now_s: float) -> NodeDead | None:
        """What is to be said to the leaving node now, once."""
        if self._word is None or (self._awaited and now_s < self._due_s):
            return None
        word, self._word = self._word, None
        return word

    def __repr__(self) -> str:
        return (
            f"<Farewell of {short(self.node) or 'nobody'}, awaits {', '.join(map(short, self._awaited)) or 'nobody'}>"
        )
