"""One side of a link between a node and the head on which nothing is lost or repeated, whatever dies between.

What is said is numbered from 1 and kept until the other side confirms it; what is heard is counted. After the link was
made anew each side tells how much it has heard, and the other goes on from there. The head writes both counts and what
is kept into its store, together with the state that they belong to; a node keeps them in memory, since its own death
is the end of all that it had to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

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


def split_units(messages: Iterable[Any], markers: frozenset[type]) -> list[Unit]:
    """Join each marker with the message behind it.

    Raises:
        ValueError: a marker is the last message.
    """
    units: list[Unit] = []
    marker: Any = None
    for message in messages:
        if marker is not None:
            units.append((marker, message))
            marker = None
        elif type(message) in markers:
            marker = message
        else:
            units.append((message,))
    if marker is not None:
        raise ValueError(f"{marker!r} is followed by nothing")
    return units
