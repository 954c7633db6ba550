"""Requests for something that this node does not know, but that a process may have written already.

The home of an unknown id asks the process that made it (or that wrote the copy) with a ping of its own for each
request. When the answer comes, all that was written before it has been read, and the request is looked at again:
what is still unknown is gone. Not chosen: to wait until it is published, which hangs when it was freed meanwhile;
one ping for several requests, whose answer may have been written before the publication of the later ones.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from remora.base.ids import ProcessId


class HoldRequest(msgspec.Struct, frozen=True):
    """*holder* wants to hold the id."""

    id: bytes
    holder: bytes


class GetRequest(msgspec.Struct, frozen=True):
    """*waiter*, a process or node, wants the value; see ``GetObjects`` for the purpose."""

    id: bytes
    waiter: bytes
    purpose: int = 0


class KeepRequest(msgspec.Struct, frozen=True):
    """The home *node* wants the copy kept that *writer* stored."""

    id: bytes
    node: bytes
    writer: bytes
    contents: tuple[bytes, ...] = ()


class DropRequest(msgspec.Struct, frozen=True):
    """*keeper* does not keep the copy that *writer* stored; without an id all that it stored for the keeper."""

    id: bytes
    keeper: bytes
    writer: bytes


Request = HoldRequest | GetRequest | KeepRequest | DropRequest


class Parking:
    """Parked requests, by their number, by the process that was asked, and by id."""

    def __init__(self) -> None:
        self._last_number = 0
        self._parked: dict[int, tuple[ProcessId, Request]] = {}
        self._of_process: dict[ProcessId, dict[int, None]] = {}
        self._of_id: dict[bytes, dict[int, None]] = {}

    def park(self, asked: ProcessId, request: Request) -> int:
        """Returns the number of the ping that must be sent to the process *asked*."""
        self._last_number += 1
        number = self._last_number
        self._parked[number] = (asked, request)
        self._of_process.setdefault(asked, {})[number] = None
        self._of_id.setdefault(request.id, {})[number] = None
        return number

    def take_answered(self, asked: ProcessId, number: int) -> list[Request]:
        """What waited for this answer of the process or an earlier one, in the order of parking."""
        return [self._take(n) for n in list(self._of_process.get(asked, ())) if n <= number]

    def take_of_process(self, asked: ProcessId) -> list[Request]:
        """What waited for the process, which will not answer any more."""
        return [self._take(n) for n in list(self._of_process.get(asked, ()))]

    def take_of_id(self, id: bytes, kinds: type[Request] | tuple[type[Request], ...]) -> list[Request]:
        """What waited for the id, of these kinds."""
        return [self._take(n) for n in list(self._of_id.get(id, ())) if isinstance(self._parked[n][1], kinds)]

    def discard(self, test: Callable[[Request], bool], id: bytes | None = None) -> None:
        """Forget requests, of one id or all, for which *test* says so."""
        numbers = self._parked if id is None else self._of_id.get(id, ())
        for number in list(numbers):
            if test(self._parked[number][1]):
                self._take(number)

    def _take(self, number: int) -> Request:
        asked, request = self._parked.pop(number)
        of_process, of_id = self._of_process[asked], self._of_id[request.id]
        del of_process[number], of_id[number]
        if not of_process:
            del self._of_process[asked]
        if not of_id:
            del self._of_id[request.id]
        return request

    def __len__(self) -> int:
        return len(self._parked)

    def __repr__(self) -> str:
        return f"<Parking: {list(self._parked.values())!r}>"
