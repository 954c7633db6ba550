"""Stored objects that the daemon has not been told of yet, because nobody else needs to know them.

An object that is cut from an extent and dropped soon costs no message then, and its warm pages are cut again at once.
It is published when its ref leaves the process, when space is asked for, and at the latest at the next look (50 ms),
so that spilling and ``remora memory`` see it. Until then it ends with its process, as everything that only this
process knows.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from remora.base.object_ref import ObjectRef


class _Watch(weakref.ref[ObjectRef[Any]]):
    __slots__ = ("offset",)
    offset: int


class YoungObjects:
    """By where they lie. All methods want the client's lock.

    ``publish(ref)`` tells the daemon of one, ``release(offset)`` gives back the space of one that died.
    """

    def __init__(self, publish: Callable[[ObjectRef[Any]], None], release: Callable[[int], None]) -> None:
        self._publish = publish
        self._release = release
        self._watches: dict[int, _Watch] = {}
        self._dead: deque[_Watch] = deque()
        self._note_death = self._dead.append

    def __repr__(self) -> str:
        return f"<YoungObjects {len(self._watches)}>"

    def __len__(self) -> int:
        return len(self._watches)

    def add(self, ref: ObjectRef[Any], offset: int) -> None:
        """The object was just written there and has this ref."""
        watch = self._watches[offset] = _Watch(ref, self._note_death)
        watch.offset = offset

    def published(self, offset: int) -> None:
        """The daemon has been told, or will be, of the object that lies there, if it was one of these."""
        self._watches.pop(offset, None)

    def drain(self) -> None:
        """Give back the space of those that died."""
        while self._dead:
            watch = self._dead.popleft()
            if self._watches.get(watch.offset) is watch:
                del self._watches[watch.offset]
                self._release(watch.offset)

    def publish_all(self) -> None:
        """Tell the daemon of those that live."""
        self.drain()
        for watch in list(self._watches.values()):
            ref = watch()
            if ref is not None:
                self._publish(ref)
