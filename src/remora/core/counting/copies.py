"""Copies in this node's arena that are kept for somebody, and for whom.

A result is written by a worker for a submitter. Between the two and the object's home somebody must keep it at any
moment: the worker until its reply is acknowledged (another node), or the submitter from the start (same node), then
the home until the object is freed. A copy pulled from elsewhere is kept for the home once that says so. The same
object may be stored twice, by two attempts, so the writer is in the key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from remora.base.ids import NODE_ID_SIZE_BYTES
from remora.core.counting.vocabulary import Effect, FreeLocation, KeepLocation
from remora.messages.objects import Location


class ArenaCopy:
    """One copy: where it lies, who keeps it, and what the heir of its home would want to know."""

    __slots__ = ("contents", "keepers", "location", "wanted")

    def __init__(self, location: Location, keeper: bytes) -> None:
        self.location = location
        self.keepers: dict[bytes, None] = {keeper: None}
        self.contents: list[bytes] = []
        self.wanted = 1
        """On how many nodes the home wants it kept."""


class ArenaCopies:
    """Keepers are process ids, and node ids for the homes."""

    def __init__(self, emit: Callable[[Effect], None]) -> None:
        self._emit = emit
        self._copies: dict[tuple[bytes, bytes], ArenaCopy] = {}

    def add(self, object_id: bytes, writer: bytes, location: Location, keeper: bytes) -> None:
        self._copies[object_id, writer] = ArenaCopy(location, keeper)
        self._emit(KeepLocation(location))

    def adopt(self, object_id: bytes, writer: bytes, location: Location, keeper: bytes) -> None:
        """The same for a copy that was pulled: the directory owns its place already."""
        self._copies[object_id, writer] = ArenaCopy(location, keeper)

    def __contains__(self, key: tuple[bytes, bytes]) -> bool:
        return key in self._copies

    def location(self, object_id: bytes, writer: bytes) -> Location | None:
        """Where the copy lies, if there is one."""
        copy = self._copies.get((object_id, writer))
        return copy.location if copy is not None else None

    def keep(self, object_id: bytes, writer: bytes, keeper: bytes) -> None:
        self._copies[object_id, writer].keepers[keeper] = None

    def describe(self, object_id: bytes, writer: bytes, contents: list[bytes], wanted: int = 1) -> None:
        """What the home says of the copy that it has kept here."""
        copy = self._copies[object_id, writer]
        copy.contents, copy.wanted = contents, wanted

    def release(self, object_id: bytes, writer: bytes, keeper: bytes) -> None:
        """The keeper, if it is one, keeps the copy no more; without keepers the copy is freed."""
        copy = self._copies.get((object_id, writer))
        if copy is None:
            return
        copy.keepers.pop(keeper, None)
        if not copy.keepers:
            del self._copies[object_id, writer]
            self._emit(FreeLocation(copy.location))

    def inherit(self, dead: bytes, heir: bytes) -> None:
        """What was kept for a dead home is kept for its heir."""
        for copy in self._copies.values():
            if dead in copy.keepers:
                del copy.keepers[dead]
                copy.keepers[heir] = None

    def of_keeper(self, keeper: bytes) -> list[tuple[bytes, bytes]]:
        """Id and writer of all that the keeper keeps."""
        return [key for key, copy in self._copies.items() if keeper in copy.keepers]

    def kept_for(self, home: bytes) -> Iterator[tuple[bytes, bytes, ArenaCopy]]:
        """Id, writer and copy of all that the home keeps."""
        for (object_id, writer), copy in self._copies.items():
            if home in copy.keepers:
                yield object_id, writer, copy

    def keys(self) -> list[tuple[bytes, bytes]]:
        """Id and writer of all copies."""
        return list(self._copies)

    def is_kept_for_home(self, object_id: bytes, writer: bytes) -> bool:
        """Whether a node is among the keepers, and not only processes."""
        copy = self._copies.get((object_id, writer))
        return copy is not None and any(len(keeper) == NODE_ID_SIZE_BYTES for keeper in copy.keepers)

    def __len__(self) -> int:
        return len(self._copies)

    def __iter__(self) -> Iterator[tuple[bytes, bytes, tuple[bytes, ...]]]:
        return ((object_id, writer, tuple(copy.keepers)) for (object_id, writer), copy in self._copies.items())
