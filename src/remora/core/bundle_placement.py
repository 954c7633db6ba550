"""Which node each bundle of a placement group goes to.

Whether bundles fit at all is a packing problem, for which nobody knows a fast answer in all cases. So the cases that
occur are decided exactly (one node for all, different nodes for all, a first guess that works), and the rest by a
search that gives up after ``SEARCH_STEPS``: for a few bundles it has looked at everything by then.

GPUs count by their sum: a node whose free GPUs are in pieces says no to the reservation, and another try follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from remora.base.resources import Resources, describe_units, why_never
from remora.base.scheduling import LabelCondition, why_no_labels

PACK = "PACK"
SPREAD = "SPREAD"
STRICT_PACK = "STRICT_PACK"
STRICT_SPREAD = "STRICT_SPREAD"
STRATEGIES = (PACK, SPREAD, STRICT_PACK, STRICT_SPREAD)

SEARCH_STEPS = 2_000
"""About 10 ms on one core, during which the manager does nothing else."""

Units = Mapping[str, int]


class NodeRoom(msgspec.Struct, frozen=True):
    """What a node has in all, and free, in units; and its labels."""

    total: Units
    available: Units
    labels: Mapping[str, str] = {}


class BundleRequest(msgspec.Struct, frozen=True):
    """What a bundle needs, and what the labels of its node must be."""

    units: Units
    conditions: tuple[LabelCondition, ...] = ()


class NoRoom(msgspec.Struct, frozen=True):
    """The bundles cannot be placed now, and *reason* says why; *is_never*: nor on these nodes when they are empty."""

    reason: str
    is_never: bool


class _Room:
    """A node while bundles are put on it."""

    __slots__ = ("count", "free", "labels", "node", "total")

    def __init__(self, node: bytes, free: Units, total: Units, labels: Mapping[str, str], count: int) -> None:
        self.node = node
        self.free = dict(free)
        self.total = total
        self.labels = labels
        self.count = count
        """Bundles of this group that are there."""

    def takes(self, bundle: BundleRequest) -> bool:
        free = self.free
        return all(amount <= free.get(name, 0) for name, amount in bundle.units.items()) and all(
            condition.matches(self.labels) for condition in bundle.conditions
        )

    def put(self, bundle: BundleRequest) -> None:
        self.count += 1
        for name, amount in bundle.units.items():
            self.free[name] = self.free.get(name, 0) - amount

    def take_away(self, bundle: BundleRequest) -> None:
        self.count -= 1
        for name, amount in bundle.units.items():
            self.free[name] += amount

    def free_share(self, names: Iterable[str]) -> float:
        """How much of these resources is free here, as the mean of shares of what there is."""
        shares = [self.free.get(name, 0) / self.total[name] for name in names if self.total.get(name)]
        return sum(shares) / len(shares) if shares else 0.0


def choose_nodes(
    bundles: Mapping[int, BundleRequest],
    strategy: str,
    nodes: Mapping[bytes, NodeRoom],
    occupied: Sequence[bytes] = (),
) -> dict[int, bytes] | NoRoom:
    """A node for each bundle, or why there is none.

    *bundles* are those to place, by index; *occupied* says where the others of the group are, one entry for each: what
    is placed again after the death of a node has to suit those that live.

    Raises:
        ValueError: there is no such strategy, or no bundle.

    Example:
        >>> two = {0: BundleRequest({"CPU": 10_000}), 1: BundleRequest({"CPU": 10_000})}
        >>> choose_nodes(two, "STRICT_PACK", {b"node": NodeRoom({"CPU": 20_000}, {"CPU": 20_000})})
        {0: b'node', 1: b'node'}
    """
    place = _PLACE.get(strategy)
    if place is None or not bundles:
        raise ValueError(f"{len(bundles)} bundles cannot be placed by {strategy!r}")
    found = place(bundles, _rooms(nodes, occupied, lambda room: room.available))
    if found is not None:
        return found
    if place(bundles, _rooms(nodes, occupied, lambda room: room.total)) is not None:
        return NoRoom(f"{_needs(bundles, strategy)}, and so much is not free now", is_never=False)
    return NoRoom(_why_never(bundles, strategy, nodes, occupied), is_never=True)


def _rooms(
    nodes: Mapping[bytes, NodeRoom], occupied: Sequence[bytes], free: Callable[[NodeRoom], Units]
) -> list[_Room]:
    return [
        _Room(node, free(room), room.total, room.labels, occupied.count(node)) for node, room in sorted(nodes.items())
    ]


# ------------------------------------------------------------------ the four strategies


def _pack_strictly(bundles: Mapping[int, BundleRequest], rooms: list[_Room]) -> dict[int, bytes] | None:
    """All on one node, where the others are, or where the least is left over."""
    rooms = [room for room in rooms if room.count] or rooms
    together = _together(bundles.values())
    able = [room for room in rooms if room.takes(together)]
    if not able:
        return None
    best = min(able, key=lambda room: room.free_share(together.units))
    return dict.fromkeys(bundles, best.node)


def _spread_strictly(bundles: Mapping[int, BundleRequest], rooms: list[_Room]) -> dict[int, bytes] | None:
    """Each on a node of its own: a matching, by augmenting paths, the roomiest nodes first."""
    names = _names(bundles)
    rooms = sorted((room for room in rooms if not room.count), key=lambda room: -room.free_share(names))
    able = {index: [room for room in rooms if room.takes(bundle)] for index, bundle in bundles.items()}
    holder: dict[bytes, int] = {}

    def find(index: int, seen: set[bytes]) -> bool:
        for room in able[index]:
            if room.node not in holder:
                holder[room.node] = index
                return True
        for room in able[index]:
            if room.node not in seen:
                seen.add(room.node)
                if find(holder[room.node], seen):
                    holder[room.node] = index
                    return True
        return False

    for index in sorted(bundles, key=lambda index: len(able[index])):
        if not find(index, set()):
            return None
    return {index: node for node, index in holder.items()}


def _spread(bundles: Mapping[int, BundleRequest], rooms: list[_Room]) -> dict[int, bytes] | None:
    """Each on a node of its own if that can be, else as evenly as it goes."""
    names = _names(bundles)
    return _spread_strictly(bundles, rooms) or _search(
        bundles, rooms, lambda room: (room.count, -room.free_share(names))
    )


def _pack(bundles: Mapping[int, BundleRequest], rooms: list[_Room]) -> dict[int, bytes] | None:
    """On as few nodes as a greedy choice finds: the node that takes most of what is left, again and again."""
    names = _names(bundles)
    left = _largest_first(bundles, rooms)
    found: dict[int, bytes] = {}
    unused = list(rooms)
    while left and unused:
        best, taken = max(
            ((room, _fill(room, left, bundles)) for room in unused),
            key=lambda pair: (len(pair[1]), bool(pair[0].count), -pair[0].free_share(names)),
        )
        if not taken:
            break
        for index in taken:
            found[index] = best.node
            left.remove(index)
        unused.remove(best)
    if not left:
        return found
    return _search(bundles, rooms, lambda room: (-room.count, room.free_share(names)))


def _fill(room: _Room, indices: list[int], bundles: Mapping[int, BundleRequest]) -> list[int]:
    """Which of these bundles the node takes together, the first ones first."""
    taken = []
    for index in indices:
        if room.takes(bundles[index]):
            room.put(bundles[index])
            taken.append(index)
    for index in taken:
        room.take_away(bundles[index])
    return taken


_PLACE: dict[str, Callable[[Mapping[int, BundleRequest], list[_Room]], dict[int, bytes] | None]] = {
    PACK: _pack,
    SPREAD: _spread,
    STRICT_PACK: _pack_strictly,
    STRICT_SPREAD: _spread_strictly,
}


# ------------------------------------------------------------------ searching


def _search(
    bundles: Mapping[int, BundleRequest], rooms: list[_Room], rank: Callable[[_Room], tuple[float, float]]
) -> dict[int, bytes] | None:
    """Try nodes for the hardest bundle first, in the order of *rank*, and go back when one does not fit."""
    if not _is_enough(bundles, rooms):
        return None
    order = _largest_first(bundles, rooms)
    chosen: list[_Room] = []
    untried: list[Iterator[_Room]] = []

    def candidates(index: int) -> Iterator[_Room]:
        return iter(sorted((room for room in rooms if room.takes(bundles[index])), key=rank))

    untried.append(candidates(order[0]))
    for _ in range(SEARCH_STEPS):
        room = next(untried[-1], None)
        if room is None:
            untried.pop()
            if not untried:
                return None
            chosen.pop().take_away(bundles[order[len(chosen)]])
            continue
        room.put(bundles[order[len(chosen)]])
        chosen.append(room)
        if len(chosen) == len(order):
            return {index: room.node for index, room in zip(order, chosen, strict=True)}
        untried.append(candidates(order[len(chosen)]))
    return None


def _is_enough(bundles: Mapping[int, BundleRequest], rooms: list[_Room]) -> bool:
    """Whether the nodes together have so much, and each bundle fits somewhere: most cases without room end here."""
    together = _together(bundles.values()).units
    if any(amount > sum(max(0, room.free.get(name, 0)) for room in rooms) for name, amount in together.items()):
        return False
    return all(any(room.takes(bundle) for room in rooms) for bundle in bundles.values())


def _largest_first(bundles: Mapping[int, BundleRequest], rooms: list[_Room]) -> list[int]:
    """Bundles with the fewest nodes first, and of those the ones that need the largest share of a node."""
    most: dict[str, int] = {}
    for room in rooms:
        for name, amount in room.total.items():
            most[name] = max(amount, most.get(name, 0))

    def size(index: int) -> float:
        return max(
            (amount / most[name] for name, amount in bundles[index].units.items() if most.get(name)), default=0.0
        )

    able = {index: sum(room.takes(bundle) for room in rooms) for index, bundle in bundles.items()}
    return sorted(bundles, key=lambda index: (able[index], -size(index), index))


def _together(bundles: Iterable[BundleRequest]) -> BundleRequest:
    units: dict[str, int] = {}
    conditions: dict[LabelCondition, None] = {}
    for bundle in bundles:
        for name, amount in bundle.units.items():
            units[name] = units.get(name, 0) + amount
        conditions.update(dict.fromkeys(bundle.conditions))
    return BundleRequest(units, tuple(conditions))


def _names(bundles: Mapping[int, BundleRequest]) -> set[str]:
    return {name for bundle in bundles.values() for name in bundle.units}


# ------------------------------------------------------------------ saying why


def _needs(bundles: Mapping[int, BundleRequest], strategy: str) -> str:
    count = f"{len(bundles)} bundles need" if len(bundles) > 1 else "its bundle needs"
    where = {
        STRICT_PACK: " on one node",
        STRICT_SPREAD: f" on {len(bundles)} different nodes" if len(bundles) > 1 else " on a node of its own",
    }
    return f"{count} {describe_units(_together(bundles.values()).units)}{where.get(strategy, '')}"


def _why_never(
    bundles: Mapping[int, BundleRequest], strategy: str, nodes: Mapping[bytes, NodeRoom], occupied: Sequence[bytes]
) -> str:
    if not nodes:
        return "there is no node"
    rooms = _rooms(nodes, occupied, lambda room: room.total)
    for index, bundle in sorted(bundles.items()):
        if any(room.takes(bundle) for room in rooms):
            continue
        meeting = [room for room in rooms if all(condition.matches(room.labels) for condition in bundle.conditions)]
        if not meeting:
            return f"bundle {index}: {why_no_labels(bundle.conditions, [room.labels for room in rooms])}"
        return f"bundle {index}: {why_never(Resources(bundle.units), [room.total for room in meeting])}"
    if strategy == STRICT_SPREAD:
        in_use = f", {len(set(occupied))} of which have other bundles of it" if occupied else ""
        return f"{_needs(bundles, strategy)}, and there are {len(nodes)} nodes{in_use}"
    if strategy == STRICT_PACK:
        return f"{_needs(bundles, strategy)}, and no node has so much that may be used"
    return f"{_needs(bundles, strategy)}, and the nodes have no such room together"
