"""What this node knows of each node: what it has, what of it is free, how much waits there.

Reports of others come late, so a view is a guess that this node improves by what it does itself: what it has asked a
node for and has not been answered counts as taken (``asked``), what it was granted is taken, what it gave back is
free. The next report replaces the guess. A node reports when something has changed there, and then no more: so what
it may have counted already is not counted here again, or it would be wrong for as long as nothing changes.
``revision`` counts whatever may change a decision, so that a node which had no room is asked again only when there is
news of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from remora.base.ids import short
from remora.base.resources import Resources

_NOTHING: Mapping[str, int] = {}
_NO_LABELS: Mapping[str, str] = {}

REMEMBERED_DEAD = 1000
"""Of nodes that died before these only the death is known: a cluster that runs for months may see many."""


class NodeView:
    """One node. Amounts are units; they may not be changed from outside."""

    __slots__ = (
        "address",
        "asked",
        "available",
        "death_cause",
        "heard_s",
        "is_alive",
        "labels",
        "node",
        "queue_length",
        "reports",
        "revision",
        "total",
    )

    def __init__(self, node: bytes) -> None:
        self.node = node
        self.address = ""
        self.total: Mapping[str, int] = {}
        self.available: Mapping[str, int] = {}
        """By its last report and by what this node has done since."""
        self.asked: dict[str, int] = {}
        """What this node has asked it for and has no answer to."""
        self.labels: Mapping[str, str] = {}
        self.queue_length = 0
        """Requests for workers that wait there."""
        self.is_alive = True
        self.death_cause = ""
        self.heard_s = 0.0
        self.reports = 0
        """How many were heard."""
        self.revision = 0

    def may_ever_run(self, required: Resources) -> bool:
        """Whether it has so much in all."""
        return required.fits_into(self.total)

    def has_room(self, need: Resources) -> bool:
        """Whether it has so much free, as far as is known here."""
        available, asked = self.available, self.asked
        return all(amount <= available.get(name, 0) - asked.get(name, 0) for name, amount in need.units.items())

    def use_with(self, need: Resources) -> float:
        """How full it would be, from 0 to 1: the fullest of the resources that *need* takes of it."""
        fullest = 0.0
        for name, amount in need.units.items():
            total = self.total.get(name, 0)
            if total:
                taken = total - self.available.get(name, 0) + self.asked.get(name, 0) + amount
                fullest = max(fullest, taken / total)
        return fullest

    def __str__(self) -> str:
        """For messages to people."""
        return f"node {self.node.hex()}" + (f" ({self.address})" if self.address else "")

    def __repr__(self) -> str:
        state = "alive" if self.is_alive else "dead"
        return f"<NodeView {short(self.node)} {state} {dict(self.available)} of {dict(self.total)} asked={self.asked}>"


class ClusterView:
    """All nodes that were ever heard of. Their numbers are never used again, so a dead one stays dead.

    Example:
        >>> view = ClusterView()
        >>> view.report(node, address="10.0.0.2:7000", total={"CPU": 40_000}, available={"CPU": 20_000}, now_s=1.0)
        >>> view.get(node).has_room(Resources.of(num_cpus=2))
        True
    """

    def __init__(self) -> None:
        self._nodes: dict[bytes, NodeView] = {}
        self._alive: list[NodeView] = []
        self._described_dead: dict[bytes, None] = {}
        """The dead of which more than their death is known, in the order of their ends."""
        self.revision = 0
        """Counts the news of all nodes."""

    def report(
        self,
        node: bytes,
        *,
        address: str = "",
        total: Mapping[str, int],
        available: Mapping[str, int],
        labels: Mapping[str, str] | None = None,
        queue_length: int = 0,
        now_s: float,
    ) -> None:
        """The node was heard of. Nothing happens when it is dead: a late report of its life."""
        view = self._nodes.get(node)
        if view is None:
            view = self._nodes[node] = NodeView(node)
            self._alive = sorted([*self._alive, view], key=lambda one: one.node)
        if not view.is_alive:
            return
        view.address = address or view.address
        view.total = total
        view.available = available
        view.labels = labels if labels is not None else view.labels
        view.queue_length = queue_length
        view.heard_s = now_s
        view.reports += 1
        self.touch(view)

    def died(self, node: bytes, cause: str) -> None:
        """The node is no member any more, also if it was never heard of."""
        view = self._nodes.setdefault(node, NodeView(node))
        if view.is_alive:
            self._described_dead[node] = None
        view.is_alive = False
        view.death_cause = cause
        view.available = {}
        view.asked = {}
        self._alive = [one for one in self._alive if one is not view]
        if len(self._described_dead) > REMEMBERED_DEAD:
            self._forget_all_but_the_death(next(iter(self._described_dead)))
        self.touch(view)

    def _forget_all_but_the_death(self, node: bytes) -> None:
        del self._described_dead[node]
        view = self._nodes[node]
        view.address = view.death_cause = ""
        view.total, view.labels = _NOTHING, _NO_LABELS

    def touch(self, view: NodeView) -> None:
        """There is news of the node."""
        view.revision += 1
        self.revision += 1

    def ask(self, node: bytes, need: Resources, count: int = 1) -> None:
        """The node is being asked for *count* times *need*; negative when it answered."""
        view = self._nodes[node]
        if not view.is_alive:
            return
        for name, amount in need.units.items():
            left = view.asked.get(name, 0) + count * amount
            if left:
                view.asked[name] = left
            else:
                view.asked.pop(name, None)

    def take(self, node: bytes, need: Resources, count: int = 1) -> None:
        """*count* times *need* of the node are in use now, by our own doing; negative when they are free again.

        What is free again is news of the node, but never more than it has.
        """
        view = self._nodes.get(node)
        if view is None or not view.is_alive:
            return
        available = dict(view.available)
        for name, amount in need.units.items():
            available[name] = min(view.total.get(name, 0), available.get(name, 0) - count * amount)
        view.available = available
        if count < 0:
            self.touch(view)

    def get(self, node: bytes) -> NodeView | None:
        """What is known of the node, alive or dead; None when it was never heard of."""
        return self._nodes.get(node)

    def is_dead(self, node: bytes) -> bool:
        """Whether the node was declared dead."""
        view = self._nodes.get(node)
        return view is not None and not view.is_alive

    def alive(self) -> list[NodeView]:
        """The living nodes by their numbers. Not to be changed."""
        return self._alive

    def __iter__(self) -> Iterator[NodeView]:
        return iter(self._nodes.values())

    def validate(self) -> None:
        """
        Raises:
            AssertionError: an index does not agree with the nodes.
        """
        assert self._alive == sorted((v for v in self if v.is_alive), key=lambda one: one.node), f"{self!r}: alive"
        for view in self:
            assert all(amount > 0 for amount in view.asked.values()), f"{view!r} owes answers that nobody asked for"
            assert view.is_alive or not view.asked, f"{view!r} is dead and asked for something"

    def __repr__(self) -> str:
        return f"<ClusterView {list(self)}>"
