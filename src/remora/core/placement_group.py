"""One placement group, as its manager knows it: where each bundle is, or is to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from remora.base.ids import short
from remora.core.bundle_placement import STRICT_PACK, STRICT_SPREAD, BundleRequest
from remora.messages import placement_groups as m

PHASE_NAMES = ("waits", "is reserved", "is held", "is committed", "in place")


class Place:
    """Where a bundle is, or is to be. ``node`` is empty while it has no place."""

    __slots__ = ("attempt", "node", "phase")

    def __init__(self, node: bytes = b"", attempt: int = 0, phase: int = m.UNPLACED) -> None:
        self.node = node
        self.attempt = attempt
        self.phase = phase

    def __repr__(self) -> str:
        return f"{PHASE_NAMES[self.phase]}{f' at {short(self.node)}' if self.node else ''}"


class Group:
    """A placement group; its bundles do not change, their places do."""

    __slots__ = (
        "attempt",
        "began_s",
        "bundles",
        "created_from_s",
        "creation_s",
        "highest_retry_delay_s",
        "is_infeasible",
        "job",
        "message",
        "not_before_s",
        "places",
        "reason",
        "scheduling_attempts",
        "scheduling_s",
        "state",
        "waits_since_s",
        "was_told",
        "watchers",
    )

    def __init__(self, job: bytes, message: m.CreatePlacementGroup, bundles: list[BundleRequest], now_s: float) -> None:
        self.job = job
        self.message = message
        self.bundles = bundles
        self.places = [Place() for _ in bundles]
        self.state = m.PENDING
        self.attempt = 0
        """The last one."""
        self.watchers: dict[bytes, None] = {}
        self.reason = ""
        """Why it waits, or is removed."""
        self.is_infeasible = False
        self.was_told = False
        """Those who watch know that it may wait for ever."""
        self.not_before_s = 0.0
        """No attempt before this time; 0 when it need not pause."""
        self.waits_since_s = 0.0
        self.created_from_s = now_s
        self.began_s = now_s
        self.creation_s = 0.0
        self.scheduling_s = 0.0
        self.scheduling_attempts = 0
        self.highest_retry_delay_s = 0.0

    @classmethod
    def of_row(cls, row: m.PlacementGroupRow, bundles: list[BundleRequest], now_s: float) -> Group:
        """The group that was stored as *row*."""
        message = m.CreatePlacementGroup(
            0,
            row.group,
            row.bundles,
            row.strategy,
            row.name,
            row.namespace,
            row.detached,
            row.selectors,
        )
        group = cls(row.job, message, bundles, now_s)
        group.state = row.state
        group.places = [
            Place(node, attempt, phase)
            for node, attempt, phase in zip(row.nodes, row.attempts, row.phases, strict=True)
        ]
        group.attempt = row.attempt
        return group

    @property
    def id(self) -> bytes:
        """The id that its creator chose."""
        return self.message.group

    @property
    def name(self) -> str:
        """Empty for a group without one."""
        return self.message.name

    @property
    def namespace(self) -> str:
        """Where its name is looked up."""
        return self.message.namespace

    @property
    def strategy(self) -> str:
        """How its bundles are laid out."""
        return self.message.strategy

    @property
    def detached(self) -> bool:
        """Whether it outlives its job."""
        return self.message.detached

    @property
    def has_attempt(self) -> bool:
        """Whether nodes are asked to hold bundles of it."""
        return any(place.phase in (m.RESERVING, m.HELD) for place in self.places)

    def unplaced(self) -> dict[int, BundleRequest]:
        """The bundles without a place, by index."""
        return {index: self.bundles[index] for index, place in enumerate(self.places) if place.phase == m.UNPLACED}

    def on_node(self, node: bytes) -> list[int]:
        """Which bundles are at the node, or are to be."""
        return [index for index, place in enumerate(self.places) if place.node == node]

    def of_attempt(self, attempt: int, node: bytes = b"") -> list[int]:
        """Which bundles the attempt has placed, on one node or on all."""
        return [
            index
            for index, place in enumerate(self.places)
            if place.node and place.attempt == attempt and (not node or place.node == node)
        ]

    def committing(self) -> set[tuple[int, bytes]]:
        """Attempts and nodes whose commitment was not answered."""
        return {(place.attempt, place.node) for place in self.places if place.phase == m.COMMITTING}

    def shape(self) -> object:
        """Equal for groups of which one can be placed when the other can."""
        occupied = tuple(place.node for place in self.places if place.node)
        bundles = tuple((tuple(one.units.items()), one.conditions) for one in self.unplaced().values())
        return self.strategy, bundles, occupied

    def begin(self, chosen: Mapping[int, bytes], now_s: float) -> None:
        """Ask the chosen nodes for these bundles, in a new attempt."""
        self.attempt += 1
        self.began_s = now_s
        self.reason = ""
        self.is_infeasible = self.was_told = False
        self.waits_since_s = 0.0
        for index, node in chosen.items():
            self.places[index] = Place(node, self.attempt, m.RESERVING)

    def move(self, indices: Iterable[int], before: int, after: int) -> None:
        """These bundles have come further. Those that are further already stay: an answer may come twice."""
        for index in indices:
            if self.places[index].phase == before:
                self.places[index].phase = after

    def unplace(self, indices: Iterable[int]) -> None:
        """These bundles have no place any more."""
        for index in indices:
            self.places[index] = Place()

    def pause(self, now_s: float, first_s: float, longest_s: float) -> None:
        """A node has refused: wait, twice as long as the last time."""
        delay_s = min(longest_s, max(first_s, 2 * self.highest_retry_delay_s))
        self.highest_retry_delay_s = delay_s
        self.not_before_s = now_s + delay_s
        self.reason = "a node had less free than it had reported; it is tried again"

    def created(self, now_s: float) -> None:
        """Every bundle is in place."""
        self.state = m.CREATED
        self.reason = ""
        self.creation_s = self.creation_s or now_s - self.created_from_s
        self.scheduling_s = now_s - self.began_s

    def state_message(self) -> m.PlacementGroupState:
        """What those who watch are told."""
        is_long = self.was_told or self.state in (m.RESCHEDULING, m.REMOVED)
        return m.PlacementGroupState(self.id, self.state, self.reason if is_long else "")

    def row(self) -> m.PlacementGroupRow:
        """What is stored of it."""
        message = self.message
        return m.PlacementGroupRow(
            message.group,
            self.job,
            message.bundles,
            message.strategy,
            message.name,
            message.namespace,
            message.detached,
            message.selectors,
            self.state,
            self.attempt,
            [place.node for place in self.places],
            [place.attempt for place in self.places],
            [place.phase for place in self.places],
        )

    def report(self) -> m.PlacementGroupReport:
        """What people are told."""
        return m.PlacementGroupReport(
            self.row(),
            self.reason,
            self._scheduling_state(),
            self.scheduling_attempts,
            self.creation_s,
            self.scheduling_s,
            self.highest_retry_delay_s,
        )

    def _scheduling_state(self) -> str:
        """In Ray's words."""
        if self.state == m.REMOVED:
            return "REMOVED"
        if self.state == m.CREATED:
            return "FINISHED"
        if self.is_infeasible:
            return "INFEASIBLE"
        return "NO_RESOURCES" if self.reason and self.unplaced() else "QUEUED"

    def describe(self) -> str:
        """A group for people."""
        return f"{self.name!r}" if self.name else self.id.hex()

    def validate(self) -> None:
        """
        Raises:
            AssertionError: a place contradicts itself or the state of the group, or its strategy does not hold.
        """
        assert len(self.places) == len(self.bundles), f"{self!r}: places"
        for place in self.places:
            assert bool(place.node) == (place.phase != m.UNPLACED), f"{self!r}: {place!r}"
            assert place.attempt <= self.attempt, f"{self!r}: attempts"
        nodes = [place.node for place in self.places if place.node]
        assert self.strategy != STRICT_PACK or len(set(nodes)) <= 1, f"{self!r} is on several nodes"
        assert self.strategy != STRICT_SPREAD or len(set(nodes)) == len(nodes), f"{self!r} is twice on a node"
        is_in_place = all(place.phase == m.IN_PLACE for place in self.places)
        assert is_in_place == (self.state == m.CREATED), f"{self!r}: state"

    def __repr__(self) -> str:
        return f"<placement group {self.describe()} {self.strategy} {m.STATE_NAMES[self.state]}: {self.places}>"
