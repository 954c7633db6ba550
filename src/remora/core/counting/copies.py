"""Copies in this node's arena that are kept for somebody, and for whom.

A result is written by a worker for a submitter. Between the two and the object's home somebody must keep it at any
moment: the worker until its reply is acknowledged (another node), or the submitter from the start (same node), then
the home until the object is freed. A copy pulled from elsewhere is kept for the home once that says so. The same
object may be stored twice, by two attempts, so the writer is in the key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from remora.base.ids import NODE_ID_SIZE_BYTES
from remora.core.counting.vocabulary import Effect, FreeLocation, KeepLocation
from remora.messages.objects import Location


class KeptCopy(msgspec.Struct, frozen=True):
    """A copy that a home has kept here, with what its heir would want to know."""

    id: bytes
    writer: bytes
    location: Location
    contents: list[bytes]
    wanted: int
    """On how many nodes it is to be kept."""


class ArenaCopies:
    """Keepers are process ids, and node ids for the homes."""

    def __init__(self, emit: Callable[[Effect], None]) -> None:
        self._emit = emit
        self._copies: dict[tuple[bytes, bytes], tuple[Location, dict[bytes, None]]] = {}
        self._described: dict[tuple[bytes, bytes], tuple[list[bytes], int]] = {}
        """What homes on other nodes have said of their copies: contents, and on how many nodes they are kept."""

    def add(self, object_id: bytes, writer: bytes, location: Location, keeper: bytes) -> None:
        self._copies[object_id, writer] = (location, {keeper: None})
        self._emit(KeepLocation(location))

    def adopt(self, object_id: bytes, writer: bytes, location: Location, keeper: bytes) -> None:
        """The same for a copy that was pulled: the directory owns its place already."""
        self._copies[object_id, writer] = (location, {keeper: None})

    def __contains__(self, key: tuple[bytes, bytes]) -> bool:
        return key in self._copies

    def location(self, object_id: bytes, writer: bytes) -> Location | None:
        """Where the copy lies, if there is one."""
        copy = self._copies.get((object_id, writer))
        return copy[0] if copy is not None else None

    def keep(self, object_id: bytes, writer: bytes, keeper: bytes) -> None:
        self._copies[object_id, writer][1][keeper] = None

    def describe(self, object_id: bytes, writer: bytes, contents: list[bytes], wanted: int = 1) -> None:
        """What the home says of the copy that it has kept here."""
        self._described[object_id, writer] = (contents, wanted)

    def release(self, object_id: bytes, writer: bytes, keeper: bytes) -> None:
        """The keeper, if it is one, keeps the copy no more; without keepers the copy is freed."""
        location, keepers = self._copies.get((object_id, writer), (None, {}))
        keepers.pop(keeper, None)
        if location is not None and not keepers:
            del self._copies[object_id, writer]
            if self._described:
                self._described.pop((object_id, writer), None)
            self._emit(FreeLocation(location))

    def inherit(self, dead: bytes, heir: bytes) -> None:
        """What was kept for a dead home is kept for its heir."""
        for _, keepers in self._copies.values():
            if dead in keepers:
                del keepers[dead]
                keepers[heir] = None

    def of_keeper(self, keeper: bytes) -> list[tuple[bytes, bytes]]:
        """Id and writer of all that the keeper keeps."""
        return [key for key, (_, keepers) in self._copies.items() if keeper in keepers]

    def kept_for(self, home: bytes) -> Iterator[KeptCopy]:
        """All that the home keeps."""
        for key, (location, keepers) in self._copies.items():
            if home in keepers:
                contents, wanted = self._described.get(key, ([], 1))
                yield KeptCopy(*key, location, contents, wanted)

    def keys(self) -> list[tuple[bytes, bytes]]:
        """Id and writer of all copies."""
        return list(self._copies)

    def is_kept_for_home(self, object_id: bytes, writer: bytes) -> bool:
        """Whether a node is among the keepers, and not only processes."""
        _, keepers = self._copies.get((object_id, writer), (None, {}))
        return any(len(keeper) == NODE_ID_SIZE_BYTES for keeper in keepers)

    def __len__(self) -> int:
        return len(self._copies)

    def __iter__(self) -> Iterator[tuple[bytes, bytes, tuple[bytes, ...]]]:
        return ((object_id, writer, tuple(keepers)) for (object_id, writer), (_, keepers) in self._copies.items())
