"""What nodes are asked to hold at this moment for placement groups, summed up for each node.

The sums are kept with every question and answer: to add them up from all bundles for each group that is tried would
make a thousand groups cost a million steps.
"""

from __future__ import annotations

from collections.abc import Mapping

from remora.base.ids import short
from remora.core.bundle_placement import NodeRoom


class AskedAmounts:
    """Amounts in units by node.

    Example:
        >>> asked = AskedAmounts()
        >>> asked.add(node, {"CPU": 10_000})
        >>> asked.without(node, NodeRoom({"CPU": 40_000}, {"CPU": 40_000})).available
        {'CPU': 30000}
    """

    def __init__(self) -> None:
        self._by_node: dict[bytes, dict[str, int]] = {}

    def add(self, node: bytes, units: Mapping[str, int]) -> None:
        """The node is asked for so much more."""
        at_node = self._by_node.setdefault(node, {})
        for name, amount in units.items():
            at_node[name] = at_node.get(name, 0) + amount
        self._forget_zeros(node)

    def take_back(self, node: bytes, units: Mapping[str, int]) -> None:
        """It has answered, or is not asked any more."""
        self.add(node, {name: -amount for name, amount in units.items()})

    def _forget_zeros(self, node: bytes) -> None:
        left = {name: amount for name, amount in self._by_node[node].items() if amount}
        if left:
            self._by_node[node] = left
        else:
            del self._by_node[node]

    def without(self, node: bytes, room: NodeRoom) -> NodeRoom:
        """The node's *room* without what it is asked for."""
        asked = self._by_node.get(node)
        if asked is None:
            return room
        available = dict(room.available)
        for name, amount in asked.items():
            if name in available:
                available[name] -= amount
        return NodeRoom(room.total, available, room.labels)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AskedAmounts) and self._by_node == other._by_node

    def __repr__(self) -> str:
        return f"<AskedAmounts { {short(node): units for node, units in self._by_node.items()} }>"
