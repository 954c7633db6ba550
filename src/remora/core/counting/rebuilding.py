"""What all living nodes report of a dead home's ids, joined: the picture from which its heir makes new entries."""

from __future__ import annotations

from collections.abc import Iterable

from remora.base.ids import NodeId, ObjectId
from remora.base.object_ref import FAILED
from remora.core.counting.entries import Entry
from remora.core.counting.spread import Receiver, Spread
from remora.messages.copies import HomeReport, ReportedCopy
from remora.messages.objects import Location, Value


class Picture:
    """One object as the reports show it."""

    __slots__ = ("copies", "holders", "inside_of", "values")

    def __init__(self) -> None:
        self.holders: dict[bytes, None] = {}
        self.copies: list[tuple[NodeId, ReportedCopy]] = []
        self.values: list[Value] = []
        self.inside_of: dict[ObjectId, None] = {}
        """What other homes hold for this object, because it contained that."""

    def value(self) -> Value | None:
        """A value that processes know; an error only if nobody knows more."""
        return next((value for value in self.values if value.state != FAILED), next(iter(self.values), None))

    def writer(self) -> bytes | None:
        """Whose copy is the value, when two attempts have stored one: that which the home kept, or lent."""
        whole = sorted((not copy.kept, copy.writer) for _, copy in self.copies if copy.whole)
        return whole[0][1] if whole else None

    def spread(self, writer: bytes) -> Spread:
        """All copies that this writer stored."""
        spread = Spread()
        for node, copy in self.copies:
            if copy.writer != writer:
                continue
            spread.wanted = max(spread.wanted, copy.wanted)
            if copy.kept:
                spread.kept[node] = None
            elif copy.whole:
                spread.complete[node] = None
            else:
                receiver = spread.receiving[node] = Receiver()
                receiver.sources = [NodeId(source) for source in copy.sources]
        return spread


class Rebuild:
    """This node is the heir of a dead home, and waits for reports, its own included."""

    __slots__ = ("awaited", "reports")

    def __init__(self, awaited: Iterable[NodeId]) -> None:
        self.awaited = set(awaited)
        self.reports: list[tuple[NodeId, HomeReport]] = []


def join(reports: Iterable[tuple[NodeId, HomeReport]]) -> dict[ObjectId, Picture]:
    """The picture of each object that any report speaks of."""
    pictures: dict[ObjectId, Picture] = {}

    def picture(object_id: bytes) -> Picture:
        return pictures.setdefault(ObjectId(object_id), Picture())

    for node, report in reports:
        for object_id, holder in report.held:
            picture(object_id).holders[holder] = None
        for copy in report.copies:
            picture(copy.id).copies.append((node, copy))
        for object_id, value in report.values:
            picture(object_id).values.append(value)
        for container, content in report.contained:
            picture(container).inside_of[ObjectId(content)] = None
    return pictures


def stored_entry(entry: Entry, picture: Picture, writer: bytes, dead: NodeId) -> None:
    """Give the entry the value that *writer* stored; its primary copy is on the dead node until another is one."""
    copy = next(copy for _, copy in picture.copies if copy.writer == writer and copy.whole)
    location = copy.value.location
    size_bytes = location.size_bytes if location is not None else 0
    entry.value = Value(copy.value.state, b"", Location(dead, 0, size_bytes), copy.value.contents)
    entry.writer = writer
    entry.spread = picture.spread(writer)
