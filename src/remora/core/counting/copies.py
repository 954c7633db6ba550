"""Copies in this node's arena that are kept for somebody, and for whom.

A result is written by a worker for a submitter. Between the two and the object's home somebody must keep it at any
moment: the worker until its reply is acknowledged (another node), or the submitter from the start (same node), then
the home until the object is freed. A copy pulled from elsewhere is kept for the home once that says so. The same
object may be stored twice, by two attempts, so the writer is in the key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from remora.core.counting.vocabulary import Effect, FreeLocation, KeepLocation
from remora.messages.objects import Location


class ArenaCopies:
    """Keepers are process ids, and node ids for the homes."""

    def __init__(self, emit: Callable[[Effect], None]) -> None:
        self._emit = emit
        self._copies: dict[tuple[bytes, bytes], tuple[Location, dict[bytes, None]]] = {}

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

    def release(self, object_id: bytes, writer: bytes, keeper: bytes) -> None:
        """The keeper, if it is one, keeps the copy no more; without keepers the copy is freed."""
        location, keepers = self._copies.get((object_id, writer), (None, {}))
        keepers.pop(keeper, None)
        if location is not None and not keepers:
            del self._copies[object_id, writer]
            self._emit(FreeLocation(location))

    def of_keeper(self, keeper: bytes) -> list[tuple[bytes, bytes]]:
        """Id and writer of all that the keeper keeps."""
        return [key for key, (_, keepers) in self._copies.items() if keeper in keepers]

    def __len__(self) -> int:
        return len(self._copies)

    def __iter__(self) -> Iterator[tuple[bytes, bytes, tuple[bytes, ...]]]:
        return ((object_id, writer, tuple(keepers)) for (object_id, writer), (_, keepers) in self._copies.items())
