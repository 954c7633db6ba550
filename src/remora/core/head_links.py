"""The head's links to all members: what was said to each and is not confirmed, and what of each was handled."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from remora.base.ids import short
from remora.core.counted_link import CountedLink, Unit
from remora.core.journal import Journal
from remora.messages.head import Confirm
from remora.messages.node_wire import decode_node_body
from remora.messages.wire import HEADER_SIZE_BYTES, encode_frame

LINK = "link"
SAID = "said"
"""The key of such a row is the node's id and the number of the unit."""


class LinkRecord(msgspec.Struct, array_like=True, frozen=True):
    """The counts of one link, as they are written down."""

    received: int
    said: int


class ToNode(msgspec.Struct, frozen=True):
    """Send the messages to the node, if it has a stream now."""

    node: bytes
    messages: Unit


class HeadLinks:
    """One :class:`CountedLink` for each member."""

    def __init__(self, journal: Journal) -> None:
        self.outbox: list[ToNode] = []
        """In order. To be sent only after what the journal has was written down."""
        self._journal = journal
        self._links: dict[bytes, CountedLink] = {}
        self._to_confirm: dict[bytes, None] = {}

    def open(self, node: bytes) -> None:
        """The node has joined; nothing happens when it had before."""
        if node not in self._links:
            self._links[node] = CountedLink()
            self._journal.touch(LINK, node)

    def close(self, node: bytes) -> None:
        """The node is no member any more."""
        link = self._links.pop(node, None)
        if link is None:
            return
        self._to_confirm.pop(node, None)
        self._journal.touch(LINK, node)
        for number in link.confirmed(link.said):
            self._journal.touch(SAID, said_key(node, number))

    def say(self, node: bytes, *unit: Any) -> None:
        """Say it, and keep it until it is confirmed. What is said to a node that has gone is lost with it."""
        link = self._links.get(node)
        if link is not None:
            number = link.say(unit)
            self._journal.touch(LINK, node)
            self._journal.touch(SAID, said_key(node, number))
            self.outbox.append(ToNode(node, unit))

    def mention(self, node: bytes, message: Any) -> None:
        """Say something that is not counted."""
        self.outbox.append(ToNode(node, (message,)))

    def nodes(self) -> list[bytes]:
        """All members."""
        return list(self._links)

    def heard(self, node: bytes) -> None:
        """One more unit of the node is handled, in this turn."""
        self._links[node].received += 1
        self._to_confirm[node] = None
        self._journal.touch(LINK, node)

    def confirmed(self, node: bytes, received: int) -> None:
        """The node has handled so many.

        Raises:
            ValueError: so many were never said.
        """
        for number in self._links[node].confirmed(received):
            self._journal.touch(SAID, said_key(node, number))

    def keeps(self, node: bytes) -> bool:
        """Whether the node has not confirmed all that was said to it."""
        return self._links[node].kept_count > 0

    def received(self, node: bytes) -> int:
        """How many units of the node were handled."""
        return self._links[node].received

    def say_again(self, node: bytes, received: int) -> list[Unit]:
        """What the node has not heard, for its new stream; what was about to be sent on the old one is not sent.

        Raises:
            ValueError: it has confirmed more than that before.
        """
        units = self._links[node].unconfirmed_after(received)
        self.outbox[:] = [effect for effect in self.outbox if effect.node != node]
        return units

    def confirm(self) -> None:
        """Tell every node how much of it was handled; to be called at the end of a turn."""
        for node in self._to_confirm:
            self.mention(node, Confirm(self._links[node].received))
        self._to_confirm.clear()

    # ------------------------------------------------------------------ writing down

    def record(self, node: bytes) -> LinkRecord | None:
        """The counts to be written down."""
        link = self._links.get(node)
        return LinkRecord(link.received, link.said) if link is not None else None

    def said(self, key: bytes) -> bytes | None:
        """The unit to be written down under this row's key; None when it is confirmed."""
        link = self._links.get(key[:4])
        unit = link.kept(int.from_bytes(key[4:], "big")) if link is not None else None
        return bytes(encode_frame(list(unit))) if unit is not None else None

    def restore(self, records: dict[bytes, LinkRecord], said: Iterable[tuple[bytes, bytes]]) -> None:
        """Take over what was written down."""
        kept: dict[bytes, list[Unit]] = {}
        for key, value in sorted(said):
            kept.setdefault(key[:4], []).append(tuple(decode_node_body(value[HEADER_SIZE_BYTES:])))
        for node, record in records.items():
            self._links[node] = CountedLink(record.received, record.said, kept.get(node, ()))

    def validate(self) -> None:
        """
        Raises:
            AssertionError: a link does not hold together.
        """
        for link in self._links.values():
            link.validate()

    def __repr__(self) -> str:
        links = ", ".join(f"{short(node)}: {link!r}" for node, link in self._links.items())
        return f"<HeadLinks {links}>"


def said_key(node: bytes, number: int) -> bytes:
    """The key of the row of one unit; keys sort as the numbers do."""
    return node + number.to_bytes(8, "big")
