"""Objects that counting cannot free: containers that hold each other, and actors that hold each other's handles.

Counting frees what has no holder; a cycle has holders for ever. Here the holders are followed from those that live by
themselves. Nothing is freed by it: the next message may be a reason to live, so it is for people to look at.
"""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Mapping

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
    steps = search_leaks(rows, actor_of)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: set[bytes] = end.value
            return found


def search_leaks(rows: Iterable[ObjectRow], actor_of: Mapping[bytes, bytes]) -> Generator[None, None, set[bytes]]:
    """The same in small steps, for a daemon that has other things to do between them; the result is its value."""
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
        yield
    todo = list(reached)
    while todo:
        for inner in held_by.get(todo.pop(), ()):
            if inner not in reached:
                reached[inner] = None
                todo.append(inner)
            yield
    return ids - reached.keys() if len(reached) < len(ids) else set()


def leaked_in_cluster(suspects: Mapping[bytes, Collection[bytes]]) -> set[bytes]:
    """Which objects are leaked, of those that their homes suspect because no process that they know of reaches them.

    *suspects* tells the objects that hold each of them. One that is held by an object which nobody suspects is
    reachable: that object's home knows why it lives, or cannot be asked.

    Example:
        >>> leaked_in_cluster({a: [b], b: [a], c: [reachable]})
        {a, b}
    """
    held_by: dict[bytes, list[bytes]] = {}
    reached: dict[bytes, None] = {}
    for object_id, holders in suspects.items():
        for holder in holders:
            if holder in suspects:
                held_by.setdefault(holder, []).append(object_id)
            else:
                reached[object_id] = None
    todo = list(reached)
    while todo:
        for inner in held_by.get(todo.pop(), ()):
            if inner not in reached:
                reached[inner] = None
                todo.append(inner)
    return suspects.keys() - reached.keys()
