"""Secondary copies on this node: of values that lie elsewhere, brought here to be read, evictable.

A process that was told where a copy lies may look at it whenever it likes. So before the copy is freed for space,
every such process is asked to release it; the answer says which ones it does not use. A location that was told again
while a question was on its way makes that answer void for this copy.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from enum import IntEnum

from remora.base.ids import ObjectId, ProcessId, short
from remora.core.counting.vocabulary import CountingError
from remora.messages.objects import Location, Value


class Use(IntEnum):
    """What a process knows of a copy's location."""

    TOLD = 0
    ASKED = 1
    """``ReleaseCopies`` was sent to it."""
    TOLD_AGAIN = 2
    """And then it was told the location once more."""
    IN_USE = 3
    """It answered that it looks at the copy; after a while it may be asked again."""


class LocalCopy:
    """One secondary copy; *location* is None while it arrives."""

    __slots__ = ("is_doomed", "is_to_keep", "location", "purpose", "sources", "users", "value", "wanted", "writer")

    def __init__(self, value: Value, writer: bytes, purpose: int) -> None:
        self.value = value
        """As the home told it."""
        self.writer = writer
        self.purpose = purpose
        self.location: Location | None = None
        self.users: dict[ProcessId, Use] = {}
        self.sources: list[bytes] = []
        """From whom the home said to read it."""
        self.is_to_keep = False
        """The home wants it kept once it is here."""
        self.wanted = 1
        """On how many nodes, then."""
        self.is_doomed = False
        """Its users were asked to release it; the last one that does so frees it."""

    @property
    def size_bytes(self) -> int:
        return self.value.location.size_bytes if self.value.location is not None else 0

    @property
    def shown(self) -> Value:
        """The value as processes of this node are told it; only when it is here."""
        return Value(self.value.state, b"", self.location, self.value.contents)

    def __repr__(self) -> str:
        state = "arriving" if self.location is None else "here"
        return f"<{state}, told to [{', '.join(map(short, self.users))}]>"


class LocalCopies:
    """All of a node, those first that were told least recently."""

    def __init__(self) -> None:
        self._copies: dict[ObjectId, LocalCopy] = {}
        self._settled_bytes = 0
        """For so many bytes there is nobody left to ask: all that can be freed for them is asked for already."""
        self._questions: dict[ProcessId, deque[list[tuple[ObjectId, LocalCopy]]]] = {}
        """Per process: what ``ReleaseCopies`` it has not answered asked for."""
        self._in_use: list[tuple[ProcessId, LocalCopy]] = []

    def get(self, object_id: ObjectId) -> LocalCopy | None:
        return self._copies.get(object_id)

    def add(self, object_id: ObjectId, copy: LocalCopy) -> None:
        self._copies[object_id] = copy

    def arrived(self, object_id: ObjectId, location: Location) -> None:
        """It is here now, whole."""
        self._copies[object_id].location = location
        self._settled_bytes = 0

    def remove(self, object_id: ObjectId) -> None:
        if self._copies.pop(object_id).location is not None:
            self._settled_bytes = 0

    def told(self, object_id: ObjectId, process: ProcessId) -> None:
        """The process knows the location now."""
        copy = self._copies[object_id] = self._copies.pop(object_id)
        known = copy.users.get(process)
        is_asked = known in (Use.ASKED, Use.TOLD_AGAIN)
        if copy.is_doomed or known is Use.IN_USE:
            # What counted as being freed stays, or what could not be freed can be. Any other copy was not needed
            # before and is needed less now.
            self._settled_bytes = 0
        copy.users[process] = Use.TOLD_AGAIN if is_asked else Use.TOLD
        copy.is_doomed = False

    def choose(self, size_bytes: int) -> tuple[list[ObjectId], dict[ProcessId, list[ObjectId]]]:
        """What to free for so many bytes: copies that nobody uses at once, then those to ask users for.

        It is asked at every message while the store is short of space. So all copies are looked at only when more is
        lacking than before, or when something has happened to one that makes a difference.
        """
        if size_bytes <= self._settled_bytes:
            return [], {}
        whole = [(object_id, copy) for object_id, copy in self._copies.items() if copy.location is not None]
        unused: list[ObjectId] = []
        found_bytes = 0
        for object_id, copy in whole:
            if found_bytes < size_bytes and not copy.users:
                unused.append(object_id)
                found_bytes += copy.size_bytes
        questions: dict[ProcessId, list[ObjectId]] = {}
        for object_id, copy in whole:
            if found_bytes < size_bytes and copy.users and Use.IN_USE not in copy.users.values():
                self._doom(object_id, copy, questions)
                found_bytes += copy.size_bytes
        for process, ids in questions.items():
            asked = [(object_id, self._copies[object_id]) for object_id in ids]
            self._questions.setdefault(process, deque()).append(asked)
        self._settled_bytes = 0 if unused else size_bytes
        return unused, questions

    def _doom(self, object_id: ObjectId, copy: LocalCopy, questions: dict[ProcessId, list[ObjectId]]) -> None:
        copy.is_doomed = True
        for process, use in copy.users.items():
            if use is Use.TOLD:
                copy.users[process] = Use.ASKED
                questions.setdefault(process, []).append(object_id)

    def answered(self, process: ProcessId, released: Iterable[bytes]) -> list[ObjectId]:
        """The process released some of what it was asked for. Returns what nobody uses any more and is to be freed.

        Raises:
            CountingError: it was not asked.
        """
        questions = self._questions.get(process)
        if not questions:
            raise CountingError(f"process {short(process)} released copies that it was not asked for")
        self._settled_bytes = 0
        asked = questions.popleft()
        if not questions:
            del self._questions[process]
        gone = set(released)
        unused = []
        for object_id, copy in asked:
            if copy.users.get(process) is Use.ASKED and object_id in gone:
                del copy.users[process]
            elif process in copy.users:
                self._stays(copy, process)
            if copy.is_doomed and not copy.users and self._copies.get(object_id) is copy:
                unused.append(object_id)
        return unused

    def _stays(self, copy: LocalCopy, process: ProcessId) -> None:
        is_in_use = copy.users[process] is Use.ASKED
        copy.users[process] = Use.IN_USE if is_in_use else Use.TOLD
        copy.is_doomed = False
        if is_in_use:
            self._in_use.append((process, copy))

    @property
    def has_refusals(self) -> bool:
        """Whether a process has said that it uses a copy, and was not forgiven yet."""
        return bool(self._in_use)

    def ask_again(self) -> None:
        """Whoever used a copy may be asked for it again."""
        self._settled_bytes = 0
        for process, copy in self._in_use:
            if copy.users.get(process) is Use.IN_USE:
                copy.users[process] = Use.TOLD
        self._in_use.clear()

    def forget_process(self, process: ProcessId) -> list[ObjectId]:
        """The process has ended. Returns as `answered` does."""
        self._questions.pop(process, None)
        self._settled_bytes = 0
        unused = []
        for object_id, copy in self._copies.items():
            if copy.users.pop(process, None) is not None and copy.is_doomed and not copy.users:
                unused.append(object_id)
        return unused

    def __len__(self) -> int:
        return len(self._copies)

    def __iter__(self) -> Iterator[tuple[ObjectId, LocalCopy]]:
        return iter(list(self._copies.items()))
