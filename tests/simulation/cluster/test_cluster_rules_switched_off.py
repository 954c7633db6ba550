"""Rules of the machines switched off, one at a time: a simulation that does not notice would not see a mistake."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from remora.base.ids import NodeId, ObjectId, ProcessId
from remora.core.counting.directory import Directory
from remora.core.counting.entries import Entry
from remora.core.counting.parking import HoldRequest
from remora.core.counting.process import ProcessRefs
from remora.core.head import Head, Identity
from remora.core.head_links import ToNode
from remora.core.journal import Change
from remora.core.lease_routing import LeaseRouter
from remora.core.leases import LeaseTable
from remora.core.pulls import PullManager
from remora.core.submission import Submission
from remora.core.task_queue import LeasedWorker
from remora.messages.leases import LeaseGranted
from remora.messages.links import LeaseRejected
from remora.messages.objects import CopiesReleased
from remora.testing.cluster_network import Violation
from remora.testing.cluster_programs import MIXES
from remora.testing.cluster_simulation import failures
from remora.testing.cluster_stories import ClusterStory, tell
from remora.testing.cluster_world import Machines

SEEDS = 150


class ClosesAtOnce(ProcessRefs):
    """A call is closed although refs of it live on."""

    def _may_close(self, task: Any) -> bool:
        return True


class AcknowledgesUnkept(Directory):
    """A publication is acknowledged before its copy elsewhere is kept."""

    def _acknowledge_publication(self, object_id: ObjectId, entry: Entry) -> None:
        if entry.acknowledge is not None:
            self._acknowledge_to(entry.acknowledge, object_id)
            entry.acknowledge = None


class ForgetsRemoteHolders(Directory):
    """What processes of other nodes hold does not count."""

    def _add_holder(self, request: HoldRequest, final: bool = False) -> None:
        super()._add_holder(request, final)
        entry = self._entries.get(ObjectId(request.id))
        if entry is not None and request.holder[:4] != self.node:
            entry.holders.pop(request.holder, None)


class TakesAwayWhatIsUsed(Directory):
    """A copy is freed for space although a process looks at it."""

    def copies_released(self, process: ProcessId, message: CopiesReleased) -> None:
        asked = [object_id for object_id, copy in self._local if process in copy.users]
        super().copies_released(process, CopiesReleased(list(asked)))


class ExportsAtHomeOnly(Directory):
    """What is pickled outside of Remora is not held on other nodes than the driver's."""

    def _is_running(self, job: ProcessId) -> bool:
        return job in self._processes


class ExportsForEver(Directory):
    """What was pickled outside of Remora stays when the job ends on another node."""

    def job_ended(self, job: ProcessId) -> None:
        pass


class DoesNotMourn(Directory):
    """Nobody is told that the home of what he waits for is dead."""

    def node_dead(self, node: NodeId, heir: NodeId, now_s: float) -> None:
        self._dead_nodes.add(node)


class LosesRejected(LeaseRouter):
    """What another node had no room for is asked for nowhere else."""

    def rejected(self, node: bytes, message: LeaseRejected, now_s: float) -> None:
        pass


class KeepsLeasesOfTheDead(LeaseRouter):
    """Leases of a dead node are not broken."""

    def node_died(self, node: bytes, cause: str, now_s: float) -> None:
        for record in self._processes.values():
            record.leases = {number: lease for number, lease in record.leases.items() if lease.node != node}
        super().node_died(node, cause, now_s)


class KeepsDeadWorkers(LeaseTable):
    """The resources of a dead worker are not free again."""

    def worker_died(self, process: bytes, cause: str, now_s: float, running: bytes = b"") -> None:
        self.pool.died(process)
        self.requester_gone(process, now_s)


class KeepsLeasesOfTheGone(LeaseTable):
    """The workers of a process that has ended are not taken from it."""

    def requester_gone(self, process: bytes, now_s: float) -> None:
        pass


class RetriesWithoutEnd(Submission[Any]):
    """What a dead worker had begun costs no retry."""

    def worker_died(self, worker: LeasedWorker[Any], running_call: int | None, cause: str) -> None:
        super().worker_died(worker, None, cause)


class DropsGrants(Submission[Any]):
    """A worker that nothing waits for any more is not given back."""

    def granted(self, grant: LeaseGranted) -> tuple[LeasedWorker[Any], Sequence[Any]]:
        worker, records = super().granted(grant)
        if not records:
            worker.close()
        return worker, records


class WritesLate(Head):
    """What a turn has changed is written down with the next turn, after it was told."""

    def __init__(self, identity: Identity) -> None:
        super().__init__(identity)
        self.late: list[Change] = []

    def end_turn(self) -> tuple[list[Change], list[ToNode]]:
        changes, effects = super().end_turn()
        before, self.late = self.late, changes
        return before, effects


class SaysItOnce(Head):
    """What was said to a node and not confirmed is not said again by the next head."""

    def restore(self, rows: Iterable[tuple[str, bytes, bytes]], now_s: float) -> None:
        super().restore(rows, now_s)
        for node in self.links.nodes():
            self.links._links[node]._kept.clear()


class SharesNames(Head):
    """A name that is taken is given to the next one as well."""

    def __init__(self, identity: Identity) -> None:
        super().__init__(identity)
        table: Any = self.registry.table
        table.named = lambda namespace, name: None
        table.names.add = lambda namespace, name, actor: None
        table.names.remove = lambda namespace, name: None
        table.names.holders = lambda: {
            one.key: one.id for one in self.registry.actors() if one.key[1] and one.state.state != 3
        }


class ForgetsChunks(PullManager):
    """What a broken stream was asked for is not asked for again."""

    def stream_closed(self, source: NodeId, stream: int, reason: str, now_s: float) -> None:
        self._streams[source].streams[stream].outstanding.clear()
        super().stream_closed(source, stream, reason, now_s)


class NeverRegisters(ProcessRefs):
    """Acknowledgements are taken for granted: a ref is released while it is being registered."""

    def _register(self, ref: Any) -> None:
        super()._register(ref)
        self.acknowledged([ref.id], ok=True)


RULES: dict[str, Callable[[], Machines]] = {
    "calls are closed when their refs are registered": lambda: Machines(refs=ClosesAtOnce),
    "processes of other nodes are holders": lambda: Machines(directory=ForgetsRemoteHolders),
    "what was pickled outside stays": lambda: Machines(directory=ExportsAtHomeOnly),
    "what was pickled outside goes with the job": lambda: Machines(directory=ExportsForEver),
    "what is in use stays": lambda: Machines(directory=TakesAwayWhatIsUsed),
    "dead homes have heirs": lambda: Machines(directory=DoesNotMourn),
    "what was rejected is asked for elsewhere": lambda: Machines(router=LosesRejected),
    "leases of dead nodes break": lambda: Machines(router=KeepsLeasesOfTheDead),
    "resources of dead workers are free": lambda: Machines(table=KeepsDeadWorkers),
    "leases end with their holder": lambda: Machines(table=KeepsLeasesOfTheGone),
    "a death costs a retry": lambda: Machines(submission=RetriesWithoutEnd),
    "workers without work are given back": lambda: Machines(submission=DropsGrants),
    "what is told was written": lambda: Machines(head=WritesLate),
    "what is not confirmed is said again": lambda: Machines(head=SaysItOnce),
    "a name has one actor": lambda: Machines(head=SharesNames),
    "what broke off is asked for again": lambda: Machines(pulls=ForgetsChunks),
    "registering is awaited": lambda: Machines(refs=NeverRegisters),
}

BEST_MIX = {
    "what is in use stays": "read",
    "what broke off is asked for again": "read",
    "what is not confirmed is said again": "actors",
    "a death costs a retry": "burst",
}


@pytest.mark.parametrize("rule", RULES)
def test_a_cluster_without_this_rule_is_seen_to_fail(rule: str) -> None:
    first, step = (MIXES.index(BEST_MIX[rule]), len(MIXES)) if rule in BEST_MIX else (0, 1)
    found = next(failures(first, SEEDS, RULES[rule], step), None)
    assert found is not None, f"{SEEDS} seeds do not miss the rule: {rule}"


def test_a_story_fails_when_publications_are_acknowledged_before_their_copies_are_kept() -> None:
    story = ClusterStory.read(Path(__file__).parent / "stories" / "large-result-with-refs-inside.txt")
    with pytest.raises(Violation, match="is lost, and nothing died"):
        tell(story, machines=Machines(directory=AcknowledgesUnkept))
