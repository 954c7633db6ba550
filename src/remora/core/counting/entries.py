"""What the home knows of an object."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import msgspec

from remora.base.ids import ObjectId, ProcessId, short
from remora.base.object_ref import INLINE, STATE_NAMES
from remora.core.counting.spread import Spread
from remora.core.counting.vocabulary import Hold
from remora.messages.objects import Location, Value


class LossReason(Enum):
    """Why an object has no value and will never have one."""

    UNKNOWN = "it was freed, or never published, before anybody else held it"
    MAKER_DIED = "the process that should make it died"
    COPY_LOST = "the process that stored it died before the value was kept"
    NODE_DIED = "it lay on a node that died, and nowhere else"
    UNREACHABLE = "no node that has it could be read"
    NO_ROOM = "the node that wants to read it could not take a copy"


class Loss(msgspec.Struct, frozen=True):
    """An object that is lost, or for one node only (``UNREACHABLE``, ``NO_ROOM``).

    *where* is the process or node that died, that made it, or that failed last; *detail* says more of how it failed.
    """

    id: bytes
    reason: LossReason
    where: bytes
    detail: str = ""


DescribeLoss = Callable[[Loss], bytes]
"""Makes the serialized error that stands for the object's value."""

NO_CONTENTS: dict[ObjectId, Hold] = {}
"""Shared by all that contain nothing, never written to."""


class Entry:
    """One published object at its home.

    States are those of values: pending, then inline, stored or failed. Spilling, spilled and restoring will be told
    apart by fields beside ``copy``; counting does not look at them.
    """

    __slots__ = (
        "acknowledge",
        "asked",
        "contents",
        "copy",
        "holders",
        "publisher",
        "spread",
        "value",
        "waiters",
        "writer",
    )

    def __init__(self, publisher: ProcessId, value: Value) -> None:
        self.value = value
        self.publisher = publisher
        """Who told the value."""
        self.writer: bytes = publisher
        """Who wrote it to the arena."""
        self.holders: dict[bytes, None] = {publisher: None}
        self.contents = NO_CONTENTS
        """Ids inside the value, and whether their homes have written this object down as their holder."""
        self.asked = 0
        """How many of them have not answered."""
        self.copy = Hold.NONE
        """For a value that another process stored: whether the node where it lies keeps it for this home."""
        self.spread: Spread | None = None
        """Copies on further nodes, if there are any."""
        self.acknowledge: ProcessId | None = None
        """The process that waits until contents and copy are held."""
        self.waiters: dict[bytes, int] | None = None
        """Processes of this node, and other nodes, that wait for the value, and for which purpose."""

    @property
    def can_be_read(self) -> bool:
        """Whether there is a value to give away, or an error."""
        return self.value.state >= INLINE and self.copy is not Hold.ASKED

    def __repr__(self) -> str:
        holders = ", ".join(map(short, self.holders))
        return f"<{STATE_NAMES[self.value.state]}, held by [{holders}]>"


class ObjectRow(msgspec.Struct, frozen=True, gc=False):
    """One object for `remora memory`.

    A stored value lies in ``location``; ``kept``, ``cached`` and ``arriving`` are the nodes with further copies.
    """

    id: bytes
    state: str
    size_bytes: int
    holders: tuple[bytes, ...]
    contents: tuple[bytes, ...]
    waiters: int
    location: Location | None = None
    kept: tuple[bytes, ...] = ()
    cached: tuple[bytes, ...] = ()
    arriving: tuple[bytes, ...] = ()


def row_of(id: ObjectId, entry: Entry) -> ObjectRow:
    """The entry as a row."""
    location, spread = entry.value.location, entry.spread
    return ObjectRow(
        id,
        STATE_NAMES[entry.value.state],
        len(entry.value.data) if location is None else location.size_bytes,
        tuple(entry.holders),
        tuple(entry.contents),
        len(entry.waiters or ()),
        location,
        *((tuple(spread.kept), tuple(spread.complete), tuple(spread.receiving)) if spread is not None else ()),
    )
