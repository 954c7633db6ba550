"""What a process wants of values that are not in it: asked for once, for the most urgent purpose, as long as it can use
them.

Pure, and called by the client under its lock. The daemon answers each question once; what it answers is a matter of the
refs, which are not known here.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

TO_READ = 0
"""Why a value is asked for: to be read here. The smaller number is the more urgent one."""
AS_ARGUMENT = 1
"""It will be read by a task that waits for it."""
TO_KNOW = 3
"""Only whether there is one; it stays where it is."""
_NOT_ASKED = 4


class WantedValues:
    """The values that one process asks for, waits for and uses, by the ids of their objects.

    Example:
        >>> wanted = WantedValues()
        >>> wanted.ask([b"id"], TO_KNOW), wanted.ask([b"id"], TO_READ), wanted.ask([b"id"], TO_READ)
        ([b'id'], [b'id'], [])
    """

    __slots__ = ("_asked", "_in_use", "when_made")

    def __init__(self) -> None:
        self._asked: dict[bytes, int] = {}
        """The unanswered questions, and for which purpose."""
        self._in_use: dict[bytes, int] = {}
        """Ids whose copies may not leave this node, by how many threads are about to read them."""
        self.when_made: set[bytes] = set()
        """Ids of calls' returns that somebody waits for: if they come to be on another node, they are fetched."""

    def ask(self, ids: Iterable[bytes], purpose: int) -> list[bytes]:
        """Those that the daemon must be asked for now: not for this or a more urgent purpose already."""
        asked = self._asked
        to_ask = [object_id for object_id in dict.fromkeys(ids) if asked.get(object_id, _NOT_ASKED) > purpose]
        asked.update(dict.fromkeys(to_ask, purpose))
        return to_ask

    def answered(self, object_id: bytes, is_here: bool) -> None:
        """The daemon told the value, or where it is: that answers who only wants to know."""
        if is_here or self._asked.get(object_id) == TO_KNOW:
            self._asked.pop(object_id, None)

    def made(self, object_id: bytes) -> bool:
        """A call's return has its value. Whether somebody waits for it to be here."""
        if object_id not in self.when_made:
            return False
        self.when_made.discard(object_id)
        return True

    def died(self, ids: Iterable[bytes]) -> list[bytes]:
        """No ref of these is left here. Those that the daemon still looks for: it need not."""
        asked = self._asked
        return [object_id for object_id in ids if asked.pop(object_id, None) is not None] if asked else []

    def begin_use(self, object_id: bytes) -> None:
        """A thread is about to read the value: what is here of it, or comes here, stays meanwhile."""
        self._in_use[object_id] = self._in_use.get(object_id, 0) + 1

    def end_use(self, object_id: bytes) -> None:
        """It has read the value, or has given up.

        Raises:
            KeyError: nobody uses it.
        """
        self._in_use[object_id] -= 1
        if not self._in_use[object_id]:
            del self._in_use[object_id]

    def is_in_use(self, object_id: bytes) -> bool:
        """Whether a thread is about to read the value."""
        return object_id in self._in_use

    def may_leave(self, ids: Iterable[bytes], viewed: Container[bytes]) -> list[bytes]:
        """The copies of these that the node may give up; *viewed* are those that something here looks at."""
        return [object_id for object_id in ids if object_id not in self._in_use and object_id not in viewed]

    @property
    def is_idle(self) -> bool:
        """Whether nothing is wanted."""
        return not (self._asked or self._in_use or self.when_made)

    def validate(self) -> None:
        """
        Raises:
            AssertionError: something is used by nobody, or asked for without a purpose.
        """
        assert all(count > 0 for count in self._in_use.values()), f"{self!r}: used by nobody"
        assert all(purpose < _NOT_ASKED for purpose in self._asked.values()), f"{self!r}: asked for nothing"

    def __repr__(self) -> str:
        return f"<WantedValues asked={len(self._asked)} when_made={len(self.when_made)} in_use={len(self._in_use)}>"
