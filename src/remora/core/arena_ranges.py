"""A set of ranges of bytes that knows its neighbours and its sizes.

Ranges that touch become one. Two sorted lists (by start, by size) give the best fit and the neighbours in O(log n);
an insertion moves pointers in one ``memmove``, which for the thousands of ranges that occur costs less than the
Python steps of any tree.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from itertools import pairwise


class RangeSet:
    """Ranges ``(start, size)`` in bytes, none touching another."""

    __slots__ = ("_by_size", "_sizes", "_starts", "total_bytes")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._sizes: dict[int, int] = {}
        self._by_size: list[tuple[int, int]] = []
        self.total_bytes = 0

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Every ``(start, size)``, by start."""
        return ((start, self._sizes[start]) for start in self._starts)

    def __repr__(self) -> str:
        return f"<RangeSet {len(self)} ranges, {self.total_bytes} bytes>"

    def add(self, start: int, size: int) -> None:
        """Add a range, which may touch others but overlap none.

        Raises:
            ValueError: a part of it is here already.
        """
        if size <= 0:
            raise ValueError(f"a range of {size} bytes at {start} cannot be added")
        position = bisect_left(self._starts, start)
        after = self._starts[position] if position < len(self._starts) else None
        before = self._starts[position - 1] if position else None
        end = start + size
        before_end = before + self._sizes[before] if before is not None else -1
        if before_end > start or (after is not None and after < end):
            raise ValueError(f"bytes {start} to {end} overlap a range that is in the set")
        if before is not None and before_end == start:
            self._delete(before)
            start = before
        if after is not None and after == end:
            end += self._sizes[after]
            self._delete(after)
        self._insert(start, end - start)

    def remove(self, start: int, size: int) -> None:
        """Take out a part of one range.

        Raises:
            ValueError: not all of it is here.
        """
        whole = self._range_at(start)
        end = start + size
        if size <= 0 or whole is None or whole + self._sizes[whole] < end:
            raise ValueError(f"bytes {start} to {end} are not all in the set")
        whole_end = whole + self._sizes[whole]
        self._delete(whole)
        if whole < start:
            self._insert(whole, start - whole)
        if end < whole_end:
            self._insert(end, whole_end - end)

    def discard(self, start: int, size: int) -> None:
        """Take out whatever of these bytes is here."""
        end = start + size
        first = self._range_at(start)
        position = bisect_left(self._starts, start if first is None else first)
        touched: list[tuple[int, int]] = []
        for candidate in self._starts[position:]:
            if candidate >= end:
                break
            touched.append((max(candidate, start), min(candidate + self._sizes[candidate], end)))
        for part_start, part_end in touched:
            self.remove(part_start, part_end - part_start)

    def covers(self, start: int, size: int) -> bool:
        """Whether all these bytes are here."""
        whole = self._range_at(start)
        return whole is not None and whole + self._sizes[whole] >= start + size

    def best_fit(self, size: int) -> int | None:
        """The start of the smallest range of at least *size* bytes; of equals the lowest."""
        position = bisect_left(self._by_size, (size, -1))
        return self._by_size[position][1] if position < len(self._by_size) else None

    def take(self, size: int) -> int | None:
        """Take *size* bytes from the front of the best fit, or return None when no range is large enough."""
        start = self.best_fit(size)
        if start is not None:
            self.remove(start, size)
        return start

    def take_smallest(self, at_most: int) -> tuple[int, int]:
        """Take the smallest range, or its first *at_most* bytes.

        Raises:
            IndexError: the set is empty.
        """
        size, start = self._by_size[0]
        size = min(size, at_most)
        self.remove(start, size)
        return start, size

    def validate(self) -> None:
        """Raise when the lists do not agree or ranges touch."""
        if sorted(self._by_size) != self._by_size or sorted((s, a) for a, s in self._sizes.items()) != self._by_size:
            raise AssertionError("the list by size does not agree with the sizes")
        if sorted(self._sizes) != self._starts or sum(self._sizes.values()) != self.total_bytes:
            raise AssertionError("starts or total do not agree with the sizes")
        ranges = list(self)
        for (start, size), (next_start, _) in pairwise(ranges):
            if start + size >= next_start:
                raise AssertionError(f"range {start}+{size} touches the next one at {next_start}")

    def _range_at(self, offset: int) -> int | None:
        position = bisect_right(self._starts, offset) - 1
        if position < 0:
            return None
        start = self._starts[position]
        return start if offset < start + self._sizes[start] else None

    def _insert(self, start: int, size: int) -> None:
        insort(self._starts, start)
        insort(self._by_size, (size, start))
        self._sizes[start] = size
        self.total_bytes += size

    def _delete(self, start: int) -> None:
        size = self._sizes.pop(start)
        del self._starts[bisect_left(self._starts, start)]
        del self._by_size[bisect_left(self._by_size, (size, start))]
        self.total_bytes -= size
