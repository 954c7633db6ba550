"""Cuts objects from an extent: what a process does without asking its daemon.

Freed space is kept by its exact size, so that a cut is a dictionary look-up and a ``pop``; pieces are never joined.
What that leaves unused is small: when nothing is cut from the extent any more it starts anew, and when it gets too
full it goes back to the daemon, which sees its pages free again.
"""

from __future__ import annotations

from collections import defaultdict

from remora.core.arena_layout import PAGE_SIZE_BYTES, footprint_of, round_up_to_pages

SMALL_RUN_BYTES = 64 << 10
"""Objects that share pages are cut from runs of pages of this size."""


class ExtentCutter:
    """One extent, from ``offset``, of ``size_bytes``.

    ``mapped`` is a note of the writer's, whether it has the pages in its page table.
    """

    __slots__ = (
        "_end",
        "_free_pages",
        "_free_small",
        "_next_page",
        "_run_end",
        "_run_next",
        "_touched_end",
        "cuts",
        "mapped",
        "offset",
        "size_bytes",
    )

    def __init__(self, offset: int, size_bytes: int, *, mapped: bool = False, fresh: bool = True) -> None:
        self.offset = offset
        self.size_bytes = size_bytes
        self.mapped = mapped
        self.cuts: dict[int, int] = {}
        self._end = offset + size_bytes
        self._touched_end = offset if fresh else self._end
        self._start_anew()

    def __repr__(self) -> str:
        return f"<ExtentCutter {self.offset}+{self.size_bytes}, {len(self.cuts)} cuts>"

    def cut(self, size_bytes: int, *, own_pages: bool = False) -> tuple[int, bool] | None:
        """Space for *size_bytes*: its offset, and whether its pages were used before. None when there is none.

        *own_pages* gives a small object pages that it shares with none, as every large one has.
        """
        footprint = footprint_of(size_bytes)
        if own_pages:
            footprint = round_up_to_pages(footprint)
        offset = self._cut_small(footprint) if footprint % PAGE_SIZE_BYTES else self._cut_pages(footprint)
        if offset is None:
            return None
        self.cuts[offset] = footprint
        used_before = offset + footprint <= self._touched_end
        if not used_before:
            self._touched_end = offset + footprint
        return offset, used_before

    def give_back(self, offset: int) -> None:
        """The object at *offset* is gone.

        Raises:
            KeyError: nothing was cut there.
        """
        footprint = self.cuts.pop(offset)
        if not self.cuts:
            self._start_anew()
        elif (offset | footprint) % PAGE_SIZE_BYTES:
            self._free_small[footprint].append(offset)
        else:
            self._free_pages[footprint].append(offset)

    def validate(self) -> None:
        """Raise when two cuts overlap, or free space is cut, or one page belongs to a large object and another."""
        free = [
            (offset, size)
            for sizes in (self._free_small, self._free_pages)
            for size, at in sizes.items()
            for offset in at
        ]
        unused = [(self._run_next, self._run_end - self._run_next), (self._next_page, self._end - self._next_page)]
        cursor = self.offset
        for offset, size in sorted([*self.cuts.items(), *free, *(one for one in unused if one[1])]):
            if offset < cursor:
                raise AssertionError(f"{self!r}: {offset}+{size} overlaps what ends at {cursor}")
            cursor = offset + size
        if cursor > self._end:
            raise AssertionError(f"{self!r}: cuts end at {cursor}")

    def _start_anew(self) -> None:
        self._free_pages: defaultdict[int, list[int]] = defaultdict(list)
        self._free_small: defaultdict[int, list[int]] = defaultdict(list)
        self._next_page = self.offset
        self._run_next = self._run_end = self.offset

    def _cut_pages(self, footprint: int) -> int | None:
        free = self._free_pages.get(footprint)
        if free:
            return free.pop()
        return self._next_pages(footprint)

    def _cut_small(self, footprint: int) -> int | None:
        free = self._free_small.get(footprint)
        if free:
            return free.pop()
        if self._run_next + footprint > self._run_end and not self._start_run(footprint):
            return None
        offset = self._run_next
        self._run_next += footprint
        return offset

    def _start_run(self, footprint: int) -> bool:
        left = self._end - self._next_page
        size = max(round_up_to_pages(footprint), min(SMALL_RUN_BYTES, left))
        start = self._next_pages(size)
        if start is None:
            return False
        self._run_next, self._run_end = start, start + size
        return True

    def _next_pages(self, size_bytes: int) -> int | None:
        offset = self._next_page
        if offset + size_bytes > self._end:
            return None
        self._next_page += size_bytes
        return offset
