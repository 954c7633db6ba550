"""Objects that counting cannot free: containers that hold each other, and actors that hold each other's handles.

Counting frees what has no holder; a cycle has holders for ever. Here the holders are followed from those that live by
themselves. Nothing is freed by it: the next message may be a reason to live, so it is for people to look at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from remora.core.counting.entries import ObjectRow
from remora.core.counting.vocabulary import is_container


def leaked_objects(rows: Iterable[ObjectRow], actor_of: Mapping[bytes, bytes]) -> set[bytes]:
    """The ids of objects that only unreachable holders hold.

    *actor_of* tells the creation object of each worker that is an actor which lives by its handles: what it holds is
    reachable when that object is. Every other process lives by itself.

    Example:
        >>> leaked_objects([row(a, holders=[b]), row(b, holders=[a]), row(c, holders=[driver])], {})
        {a, b}
    """
    held_by: dict[bytes, list[bytes]] = {}
    reached: dict[bytes, None] = {}
    ids = set()
    for row in rows:
        ids.add(row.id)
        for holder in row.holders:
            if is_container(holder):
                held_by.setdefault(holder, []).append(row.id)
            elif holder in actor_of:
                held_by.setdefault(actor_of[holder], []).append(row.id)
            else:
                reached[row.id] = None
    todo = list(reached)
    while todo:
        for inner in held_by.get(todo.pop(), ()):
            if inner not in reached:
                reached[inner] = None
                todo.append(inner)
    return ids - reached.keys()
