"""Which claims to an object stand: the ground truth by which both simulations judge the counting machines.

A fault may excuse a claim, but the excuse must be proved: a claim stands if it is written down at a home that lives,
or if one carrier that covers it is unbroken, all the way to a claim that stands. A cover that leads back to itself
proves nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

from remora.base.ids import ObjectId, ProcessId, process_of
from remora.base.object_ref import FIRST_FINISHED
from remora.core.counting.carriers import ArrivedItem, CallCarrier, Carrier, RunningTask
from remora.core.counting.entries import Entry
from remora.core.counting.process import ProcessRefs
from remora.core.counting.vocabulary import Hold
from remora.messages.objects import Value

Claim = tuple[ProcessId, ObjectId]
Seen = frozenset[Claim]


class ClaimingProcess(Protocol):
    """A simulated process with its real machine."""

    process: ProcessId
    refs: ProcessRefs


P = TypeVar("P", bound=ClaimingProcess)


class StandingClaims(ABC, Generic[P]):
    """What objects contain, and which claims stand; a checker of one kind of simulation says the rest."""

    def __init__(self) -> None:
        self.contents: dict[ObjectId, tuple[ObjectId, ...]] = {}

    # ------------------------------------------------------------------ what a simulation tells

    @abstractmethod
    def _process(self, process: bytes) -> P:
        """The process of this id, living or not."""

    @abstractmethod
    def _counts(self, process: P) -> bool:
        """Whether it lives, and its node was not declared dead."""

    @abstractmethod
    def _lives(self, process: P, object_id: ObjectId) -> bool:
        """Whether the process has a use for its ref."""

    @abstractmethod
    def _needs_no_proof(self, process: P, object_id: ObjectId) -> bool:
        """Whether the claim stands because nothing has gone wrong."""

    @abstractmethod
    def _is_private(self, process: P, object_id: ObjectId) -> bool:
        """Whether the object is here and nobody else knows of it."""

    @abstractmethod
    def _held_for(self, submitter: ProcessId, call: int) -> tuple[ObjectId, ...]:
        """The arguments that a submitter holds for a call."""

    @abstractmethod
    def _has_home(self, object_id: ObjectId) -> bool:
        """Whether a directory answers for what the object contains."""

    @abstractmethod
    def _was_freed(self, object_id: ObjectId) -> bool:
        """Whether its home has let it go."""

    @abstractmethod
    def _entry_of(self, object_id: ObjectId) -> Entry | None:
        """What its home has written down."""

    # ------------------------------------------------------------------ what contains what

    def _has_value(self, object_id: ObjectId, value: Value) -> None:
        if value.state >= FIRST_FINISHED:
            self.contents[object_id] = tuple(ObjectId(content) for content in value.contents)

    def has_cycle(self) -> bool:
        """Whether objects contain each other, beyond one containing itself; these are never freed."""
        state: dict[ObjectId, int] = {}

        def leads_back(object_id: ObjectId) -> bool:
            if object_id in state:
                return state[object_id] == 1
            state[object_id] = 1
            found = any(leads_back(content) for content in self.contents.get(object_id, ()) if content != object_id)
            state[object_id] = 2
            return found

        return any(leads_back(object_id) for object_id in list(self.contents))

    # ------------------------------------------------------------------ which claims stand

    def _stands_if_lives(self, process: P, object_id: ObjectId, seen: Seen) -> bool:
        """A process that let go of what it promised to keep is no excuse."""
        return self._counts(process) and (not self._lives(process, object_id) or self._stands(process, object_id, seen))

    def _stands(self, process: P, object_id: ObjectId, seen: Seen) -> bool:
        if self._needs_no_proof(process, object_id):
            return True
        claim = (process.process, object_id)
        if not self._counts(process) or claim in seen:
            return False
        seen = seen | {claim}
        if self._is_private(process, object_id):
            return True
        ref = process.refs._refs.get(object_id)
        if ref is None or ref.hold is Hold.GONE:
            return False
        if ref.hold is Hold.HELD:
            return True
        return any(self._covers(process, object_id, cover, seen) for cover in ref.covers or ()) or any(
            self._stands(process, outer.id, seen) and self._container_holds(outer.id, object_id, seen)
            for outer in ref.containers or ()
        )

    def _covers(self, process: P, object_id: ObjectId, cover: Carrier, seen: Seen) -> bool:
        if isinstance(cover, RunningTask):
            held = self._held_for(cover.submitter, cover.call)
            return self._kept_by(self._process(cover.submitter), held, object_id, seen)
        if isinstance(cover, ArrivedItem):
            return self._stands_if_lives(self._process(cover.worker), object_id, seen)
        assert isinstance(cover, CallCarrier)
        if cover.is_reply:
            return self._stands_if_lives(self._process(cover.of.worker), object_id, seen)
        return self._kept_by(process, self._held_for(process.process, cover.of.call), object_id, seen)

    def _kept_by(self, submitter: P, held: tuple[ObjectId, ...], object_id: ObjectId, seen: Seen) -> bool:
        """Whether the arguments that the submitter promised to hold keep the object."""
        return self._counts(submitter) and any(
            self._stands_if_lives(submitter, argument, seen) and self._leads_to(submitter, argument, object_id, seen)
            for argument in held
        )

    def _leads_to(
        self,
        process: P,
        object_id: ObjectId,
        target: ObjectId,
        seen: Seen,
        been: frozenset[ObjectId] = frozenset(),
    ) -> bool:
        """Whether the object is the target or contains it, with every home on the way holding what is inside."""
        if object_id == target:
            return True
        if object_id in been:
            return False
        return any(
            self._inside_is_held(process, object_id, content, seen)
            and self._leads_to(process, content, target, seen, been | {object_id})
            for content in self.contents.get(object_id, ())
        )

    def _inside_is_held(self, process: P, object_id: ObjectId, content: ObjectId, seen: Seen) -> bool:
        if self._is_private(process, object_id):
            return self._stands_if_lives(process, content, seen)
        if not self._has_home(object_id):
            return self._was_freed(object_id) or self._stands_if_lives(
                self._process(process_of(object_id)), content, seen
            )
        return self._container_holds(object_id, content, seen)

    def _container_holds(self, container: ObjectId, object_id: ObjectId, seen: Seen) -> bool:
        entry = self._entry_of(container)
        hold = entry.contents.get(object_id, Hold.NONE) if entry is not None else Hold.NONE
        if entry is None or hold in (Hold.NONE, Hold.GONE):
            return False
        if hold is Hold.HELD:
            return True
        return self._stands_if_lives(self._process(entry.publisher), object_id, seen)
