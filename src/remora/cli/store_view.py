"""Where an array's memory lies, so that a program can prove that nothing was copied."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray


class Place(NamedTuple):
    """The memory behind an array's first byte.

    Attributes:
        pid: The process that looked.
        shared: Whether it is a shared mapping of a file (a memfd is one), not the process's own memory.
        file: Device and inode of that file; the same in every process that maps it.
        offset: Where in the file the array begins.
    """

    pid: int
    shared: bool
    file: str
    offset: int


def place_of(array: NDArray[Any]) -> Place:
    """Finds the mapping that holds the array, by its address in /proc/self/maps."""
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, permissions, offset, device, inode = line.split(maxsplit=5)[:5]
        begin, end = (int(part, 16) for part in span.split("-"))
        if begin <= address < end:
            shared = permissions.endswith("s") and inode != "0"
            return Place(os.getpid(), shared, f"{device}:{inode}", int(offset, 16) + address - begin)
    raise ValueError(f"no mapping of this process holds address {address:#x}")


def copies_after_put(places: Iterable[Place]) -> int:
    """How many copies of one object the places are, beyond the one that was put.

    Shared places with the same file and offset are one memory; a private place is one copy in each process.
    """
    shared = {(place.file, place.offset) for place in places if place.shared}
    private = {(place.pid, place.offset) for place in places if not place.shared}
    return max(0, len(shared) - 1) + len(private)
