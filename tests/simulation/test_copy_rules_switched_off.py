"""The same for copies on several nodes and for the heirs of dead homes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from remora.base.ids import NodeId, ObjectId, ProcessId
from remora.core.counting.directory import Directory
from remora.core.counting.entries import Entry, LossReason
from remora.core.counting.local_copies import LocalCopies, Use
from remora.core.counting.rebuilding import Rebuild
from remora.core.counting.spread import Spread
from remora.messages.copies import CopyKept, FreeCopies, HomeReport, NodeResolve
from remora.messages.objects import OfferValues, Value
from remora.testing.counting_client import SimulatedClient
from remora.testing.counting_mutants import Mutant
from remora.testing.counting_world import World

STORIES = Path(__file__).parent / "stories"


class Unchecked(Directory):
    """Its own invariants must not be what catches it."""

    def validate(self) -> None:
        pass


# Rules of the reader's node


class PullsOnWhenFreed(Unchecked):
    def free_copies(self, node: NodeId, message: FreeCopies) -> None:
        super().free_copies(node, FreeCopies([i for i in message.ids if not self._is_arriving(ObjectId(i))]))


class FreesCopiesInUse(Unchecked):
    def evict(self, size_bytes: int) -> int:
        for _, copy in self._local:
            copy.users.clear()
        return super().evict(size_bytes)


class TakesAnOldAnswerForANewTelling(Unchecked):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._local = _ForgetsThatItToldAgain()


class _ForgetsThatItToldAgain(LocalCopies):
    def told(self, object_id: ObjectId, process: ProcessId) -> None:
        copy = self.get(object_id)
        before = copy.users.get(process) if copy is not None else None
        super().told(object_id, process)
        if copy is not None and before is Use.ASKED:
            copy.users[process] = Use.ASKED


# Rules of the home


class DoesNotFreeCopies(Unchecked):
    def _free_spread(self, object_id: ObjectId, entry: Entry) -> None:
        entry.spread = None


class ForgetsKeepersOfFreedObjects(Unchecked):
    def copy_kept(self, node: NodeId, message: CopyKept) -> None:
        if message.id in self._entries:
            super().copy_kept(node, message)


class LetsReadersReadInCircles(Unchecked):
    def _lend(self, node: NodeId, object_id: ObjectId, entry: Entry, detail: str = "") -> None:
        entry.spread = entry.spread or _Circular()
        super()._lend(node, object_id, entry, detail)

    def _keep_enough(self, object_id: ObjectId, entry: Entry) -> None:
        if entry.spread is not None and not isinstance(entry.spread, _Circular):
            wanted, entry.spread = entry.spread.wanted, _Circular()
            entry.spread.wanted = wanted
        super()._keep_enough(object_id, entry)


class _Circular(Spread):
    def _reads(self, node: NodeId, from_node: NodeId) -> bool:
        return node == from_node


class LosesValuesWithTheirPrimaryCopy(Unchecked):
    def _promote(self, object_id: ObjectId, entry: Entry) -> None:
        assert entry.value.location is not None
        spread, entry.spread = entry.spread, None
        self._lose(object_id, entry, LossReason.NODE_DIED, entry.value.location.node)
        entry.spread = spread
        self._acknowledge_publication(object_id, entry)
        self._wake(object_id, entry)


class RefusesResultsFromAfar(Unchecked):
    def node_resolve(self, node: NodeId, message: NodeResolve) -> None:
        self._acknowledge_to(ProcessId(message.writer), ObjectId(message.id))


# Rules of heirs


class DropsContainersOfDeadHomes(Unchecked):
    def _forget_node(self, node: NodeId) -> None:
        for object_id, holder in self._held_from(node):
            self._drop([object_id], holder)


class _ReportsLess(Unchecked):
    left_out = ""

    def _make_report(self, dead: NodeId, values: list[tuple[bytes, Value]]) -> HomeReport:
        return msgspec.structs.replace(super()._make_report(dead, values), **{self.left_out: []})


class DoesNotReportHolders(_ReportsLess):
    left_out = "held"


class DoesNotReportCopies(_ReportsLess):
    left_out = "copies"


class DoesNotReportValues(Unchecked):
    def offer_values(self, process: ProcessId, message: OfferValues) -> None:
        super().offer_values(process, OfferValues(message.nodes, []))


class DoesNotReportContents(_ReportsLess):
    left_out = "contained"


class ReportsBeforeItsProcessesAnswer(Unchecked):
    def _begin_succession(self, dead: NodeId, heir: NodeId, now_s: float) -> None:
        super()._begin_succession(dead, heir, now_s)
        if dead in self._asking:
            self._report(dead)


class RebuildsWithoutWaiting(Unchecked):
    def _begin_succession(self, dead: NodeId, heir: NodeId, now_s: float) -> None:
        alive, self._alive_nodes = self._alive_nodes, [self.node]
        super()._begin_succession(dead, heir, now_s)
        self._alive_nodes = alive

    def _take_report(self, rebuild: Rebuild, node: NodeId, report: HomeReport) -> None:
        if node == self.node:
            super()._take_report(rebuild, node, report)


class HandlesRequestsBeforeTheRebuild(Unchecked):
    def node_message(self, node: NodeId, message: msgspec.Struct) -> None:
        self._held_back = _NobodyIsHeldBack()
        super().node_message(node, message)


class _NobodyIsHeldBack(dict[Any, Any]):
    def __contains__(self, node: object) -> bool:
        return False

    def setdefault(self, node: Any, default: Any = None) -> Any:
        return default


class DoesNotAskTheHeirAgain(Unchecked):
    def _awaited_values(self, numbers: set[NodeId]) -> list[tuple[ObjectId, int]]:
        return []


class HeirAnswersForTheLastOnly(Unchecked):
    def _range(self, dead: NodeId) -> list[NodeId]:
        return [dead]


class LeavesCopiesToDeadHomes(Unchecked):
    def _begin_succession(self, dead: NodeId, heir: NodeId, now_s: float) -> None:
        kept = list(self._copies.of_keeper(dead))
        super()._begin_succession(dead, heir, now_s)
        for object_id, writer in kept:
            if (object_id, writer) in self._copies:
                self._copies.keep(object_id, writer, dead)


class HoldsContentsAnew(Unchecked):
    """What a container holds at other homes is not released when it turns out to be lost."""

    def _hold_contents(self, object_id: ObjectId, entry: Entry, picture: Any) -> None:
        picture.inside_of = {content: None for content in picture.inside_of if content in entry.value.contents}
        super()._hold_contents(object_id, entry, picture)


# Rules of processes


class ReleasesWhatItLooksAt(World):
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        for client in self.clients.values():
            client.__class__ = _LooksAway


class _LooksAway(SimulatedClient):
    def _release_copies(self, ids: Iterable[ObjectId]) -> None:
        viewed, self.viewed = self.viewed, set()
        places = dict(self.shown)
        super()._release_copies(list(ids))
        self.viewed, self.shown = viewed, places


MUTANTS = [
    Mutant(PullsOnWhenFreed, "read-freed"),
    Mutant(FreesCopiesInUse, "read-evict"),
    Mutant(TakesAnOldAnswerForANewTelling, "read-told-again"),
    Mutant(DoesNotFreeCopies, "read-chain"),
    Mutant(ForgetsKeepersOfFreedObjects),
    Mutant(LetsReadersReadInCircles, "read-circle"),
    Mutant(LosesValuesWithTheirPrimaryCopy, "copy-takes-place"),
    Mutant(RefusesResultsFromAfar, "orphan-result-afar"),
    Mutant(DropsContainersOfDeadHomes, "heir-container"),
    Mutant(DoesNotReportHolders, "heir-copy"),
    Mutant(DoesNotReportCopies, "heir-copy"),
    Mutant(DoesNotReportValues, "heir-value"),
    Mutant(DoesNotReportContents, "heir-container heir-lost"),
    Mutant(ReportsBeforeItsProcessesAnswer, "heir-value"),
    Mutant(RebuildsWithoutWaiting, "heir-copy"),
    Mutant(HandlesRequestsBeforeTheRebuild, "heir-early"),
    Mutant(DoesNotAskTheHeirAgain, "heir-copy"),
    Mutant(HeirAnswersForTheLastOnly, "heir-chain"),
    Mutant(LeavesCopiesToDeadHomes, "copies heir-container"),
    Mutant(HoldsContentsAnew, "heir-lost"),
    Mutant(ReleasesWhatItLooksAt, "read-evict"),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.part.__name__)
def test_a_rule_switched_off_is_caught(mutant: Mutant) -> None:
    assert mutant.break_something(STORIES) is not None
