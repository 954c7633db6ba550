"""Actors of the cluster that wait for a node, by what decides whether a node can take them: their shape.

When there is news of a node the first of each shape is tried, and the next ones only while that one finds a node: so
ten thousand equal actors that wait cost as much as one. All are tried in the order in which they came, whatever their
shape.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush

from remora.base.bundle_names import group_of
from remora.base.ids import short
from remora.base.resources import Resources
from remora.base.scheduling import decode_strategy
from remora.messages.actors import ActorSpec

NEVER_S = float("inf")


class Placing:
    """An actor that needs a worker."""

    __slots__ = (
        "actor",
        "attempt",
        "group",
        "job",
        "need",
        "node",
        "number",
        "placement",
        "queue",
        "reason",
        "refused_until_s",
        "spec",
        "strategy",
    )

    def __init__(self, actor: bytes, job: bytes, spec: ActorSpec) -> None:
        self.actor = actor
        self.job = job
        self.spec = spec
        self.need = Resources(spec.resources)
        self.placement = Resources(spec.placement)
        self.group = group_of(spec.resources)
        """The placement group that it is to live in, if it is to be one."""
        self.strategy = decode_strategy(spec.strategy)
        self.attempt = 0
        self.node = b""
        self.reason: str | None = ""
        """Why it began to wait, until it is tried; then None, since its queue says why it waits."""
        self.refused_until_s: dict[bytes, float] = {}
        self.number = 0
        """Its place in the order in which actors came to wait."""
        self.queue: ShapeQueue | None = None
        """Where it waits, while it does."""

    @property
    def shape(self) -> tuple[object, ...]:
        """What decides whether a node can take it."""
        return self.need, self.placement, self.spec.strategy, frozenset(self.refused_until_s)

    @property
    def why_waiting(self) -> str:
        """Why it waits; empty when it does not."""
        if self.queue is None:
            return ""
        return self.queue.reason if self.reason is None else self.reason


class ShapeQueue:
    """Waiting actors of one job of which a node can take one when it can take the other, in their order."""

    __slots__ = ("_numbers", "_placings", "reason", "shape")

    def __init__(self, shape: tuple[object, ...]) -> None:
        self.shape = shape
        self.reason = ""
        """Why the ones that were tried wait."""
        self._numbers: list[int] = []
        """Sorted. To insert and to delete moves pointers only: 20 µs among 100,000."""
        self._placings: dict[int, Placing] = {}

    def add(self, placing: Placing) -> None:
        insort(self._numbers, placing.number)
        self._placings[placing.number] = placing

    def remove(self, placing: Placing) -> None:
        del self._numbers[bisect_left(self._numbers, placing.number)]
        del self._placings[placing.number]

    @property
    def first(self) -> Placing:
        return self._placings[self._numbers[0]]

    def __len__(self) -> int:
        return len(self._numbers)


class WaitingPlacings:
    """All that wait."""

    def __init__(self) -> None:
        self._queues: dict[tuple[object, ...], ShapeQueue] = {}
        """By job and shape."""
        self._all: dict[bytes, Placing] = {}
        self._refused: dict[bytes, Placing] = {}
        """Those that nodes have refused lately."""
        self._untried: dict[bytes, Placing] = {}
        """Those that came after the last run, or whose shape has changed."""
        self._last_number = 0

    def add(self, placing: Placing) -> None:
        """It waits from now on, behind all others."""
        self._last_number += 1
        placing.number = self._last_number
        self._all[placing.actor] = placing
        self._enter(placing)

    def _enter(self, placing: Placing) -> None:
        shape = placing.shape
        key = (placing.job, *shape)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = ShapeQueue(shape)
        queue.add(placing)
        placing.queue = queue
        self._untried[placing.actor] = placing
        if placing.refused_until_s:
            self._refused[placing.actor] = placing

    def remove(self, placing: Placing) -> None:
        """It does not wait any more. Nothing happens when it did not."""
        if self._all.pop(placing.actor, None) is not None:
            self._leave(placing)

    def _leave(self, placing: Placing) -> None:
        queue = placing.queue
        assert queue is not None, "what is in no queue does not wait"
        queue.remove(placing)
        if not queue:
            del self._queues[placing.job, *queue.shape]
        placing.queue = None
        self._untried.pop(placing.actor, None)
        self._refused.pop(placing.actor, None)

    def forgive(self, node: bytes) -> None:
        """What the node has refused it may be asked for again."""
        self._drop_refusals(lambda refuser, until_s: refuser == node)

    def drop_old_refusals(self, now_s: float) -> float:
        """Forget what nodes have refused long enough ago; when the next such time is."""
        self._drop_refusals(lambda refuser, until_s: until_s <= now_s)
        times_s = (until_s for placing in self._refused.values() for until_s in placing.refused_until_s.values())
        return min(times_s, default=NEVER_S)

    def _drop_refusals(self, is_over: Callable[[bytes, float], bool]) -> None:
        for placing in list(self._refused.values()):
            left = {node: at_s for node, at_s in placing.refused_until_s.items() if not is_over(node, at_s)}
            if len(left) == len(placing.refused_until_s):
                continue
            placing.reason = placing.why_waiting  # until it is tried in its new queue
            self._leave(placing)
            placing.refused_until_s = left
            self._enter(placing)

    def take_untried(self) -> list[Placing]:
        """Those that were not tried since they came, or since their shape changed. They count as tried now."""
        untried = list(self._untried.values())
        self._untried.clear()
        for placing in untried:
            placing.reason = None
        return untried

    def try_shapes(self, try_one: Callable[[Placing], None]) -> None:
        """Call *try_one* for those that wait, by their order, leaving out the shapes of those that go on waiting."""
        heads = [(queue.first.number, queue) for queue in self._queues.values()]
        heapify(heads)
        while heads:
            _, queue = heappop(heads)
            first = queue.first
            try_one(first)
            if first.queue is None and queue:
                heappush(heads, (queue.first.number, queue))

    def __iter__(self) -> Iterator[Placing]:
        return iter(list(self._all.values()))

    def validate(self) -> None:
        """
        Raises:
            AssertionError: an index does not agree with what waits.
        """
        assert [one.number for one in self] == sorted(one.number for one in self), f"{self!r}: order"
        queued = {}
        for key, queue in self._queues.items():
            assert queue, f"{self!r}: an empty queue"
            assert queue._numbers == sorted(queue._placings), f"{self!r}: numbers"
            for number, placing in queue._placings.items():
                assert (placing.queue, placing.number, key) == (queue, number, (placing.job, *placing.shape)), placing
                queued[placing.actor] = placing
        assert queued == self._all, f"{self!r}: queues"
        assert self._refused == {a: one for a, one in self._all.items() if one.refused_until_s}, f"{self!r}: refused"
        tried = {actor: one for actor, one in self._all.items() if one.reason is None}
        assert tried.keys() == self._all.keys() - self._untried.keys(), f"{self!r}: reasons"

    def __repr__(self) -> str:
        return f"<WaitingPlacings {', '.join(short(actor) for actor in self._all)}>"
