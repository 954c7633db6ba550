"""One side of a link between a node and the head on which nothing is lost or repeated, whatever dies between.

What is said is numbered from 1 and kept until the other side confirms it; what is heard is counted. After the link was
made anew each side tells how much it has heard, and the other goes on from there. The head writes both counts and what
is kept into its store, together with the state that they belong to; a node keeps them in memory, since its own death
is the end of all that it had to say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from remora.messages.links import ForProcess, FromProcess

MARKERS = frozenset((FromProcess, ForProcess))

Unit = tuple[Any, ...]
"""Messages that are one: a marker and the message behind it, or a single message."""


class CountedLink:
    """What one side has said and heard.

    Example:
        >>> link = CountedLink()
        >>> link.say((message,))
        1
        >>> link.unconfirmed_after(0)
        [(message,)]
    """

    def __init__(self, received: int = 0, said: int = 0, kept: Iterable[Unit] = ()) -> None:
        self.received = received
        """How many units were heard and handled."""
        self.said = said
        """The number of the last one that was said."""
        self._kept: dict[int, Unit] = {}
        units = list(kept)
        for number, unit in enumerate(units, said - len(units) + 1):
            self._kept[number] = unit

    def say(self, unit: Unit) -> int:
        """Keep the unit; its number."""
        self.said += 1
        self._kept[self.said] = unit
        return self.said

    def confirmed(self, received: int) -> list[int]:
        """The other side has handled so many; the numbers that need not be kept any more.

        Raises:
            ValueError: it confirms what was never said.
        """
        if received > self.said:
            raise ValueError(f"{received} messages are confirmed, and only {self.said} were said")
        numbers = []
        for number in self._kept:
            if number > received:
                break
            numbers.append(number)
        for number in numbers:
            del self._kept[number]
        return numbers

    def unconfirmed_after(self, received: int) -> list[Unit]:
        """What the other side has not heard, when it has heard so many.

        Raises:
            ValueError: some of that was confirmed and is not kept any more.
        """
        first = self.said - len(self._kept)
        if not first <= received <= self.said:
            raise ValueError(f"{received} messages were heard, but {first + 1} to {self.said} are kept")
        return list(islice(self._kept.values(), received - first, None))

    def kept(self, number: int) -> Unit | None:
        """The unit of this number, while it is not confirmed."""
        return self._kept.get(number)

    @property
    def kept_count(self) -> int:
        """How many units are not confirmed."""
        return len(self._kept)

    def validate(self) -> None:
        """
        Raises:
            AssertionError: what is kept is not the end of what was said.
        """
        first = self.said - len(self._kept) + 1
        assert list(self._kept) == list(range(first, self.said + 1)), f"{self!r}: {list(self._kept)}"

    def __repr__(self) -> str:
        return f"<CountedLink said {self.said}, {len(self._kept)} kept, received {self.received}>"


class UnitReader:
    """Joins each marker with the message behind it, also when a frame ends between them. One for each stream."""

    def __init__(self) -> None:
        self._marker: Any = None

    def read(self, messages: Iterable[Any]) -> Iterator[Unit]:
        """The units that these messages complete."""
        for message in messages:
            marker = self._marker
            if marker is not None:
                self._marker = None
                yield marker, message
            elif type(message) in MARKERS:
                self._marker = message
            else:
                yield (message,)
