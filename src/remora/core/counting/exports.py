"""Refs that were pickled outside of Remora: nobody can count them, so a node holds those of its processes for the job.

The holder is a member of the node whose process pickled the ref, registered at the home before that process lets go:
both take the same way, so there is no moment in between. On the node of the driver it goes with the driver, on any
other one when the head says that the job has ended, or when the driver's node is dead. It dies with its own node, too.
"""

from __future__ import annotations

from remora.base.ids import NodeId, ObjectId, ProcessId, node_of
from remora.core.counting.entries import DescribeLoss
from remora.core.counting.heirs import Heirs
from remora.core.counting.parking import HoldRequest
from remora.core.counting.vocabulary import exports_of, is_exports, job_of_exports
from remora.messages.counting import Export

REMEMBERED_JOBS = 1000
"""Ended jobs of other nodes' drivers that are remembered although they have no process here."""


class Exports(Heirs):
    """All but the processes of the node. :class:`~remora.core.counting.directory.Directory` is the whole."""

    def __init__(self, node: NodeId, describe_loss: DescribeLoss) -> None:
        super().__init__(node, describe_loss)
        self._ended_jobs: dict[ProcessId, None] = {}
        """Jobs of drivers of other nodes, the last one last. Workers of them, and detached actors, may still pickle."""

    def export(self, process: ProcessId, message: Export) -> None:
        job = self._processes[process]
        for object_id in message.ids if self._is_running(job) else ():
            self._hold(ObjectId(object_id), exports_of(job, self.node))

    def job_ended(self, job: ProcessId) -> None:
        """The driver of the job, which is on another node, has ended."""
        self._ended_jobs[job] = None
        if len(self._ended_jobs) > REMEMBERED_JOBS:
            in_use = set(self._processes.values())
            oldest = next((ended for ended in self._ended_jobs if ended not in in_use), None)
            if oldest is not None:
                del self._ended_jobs[oldest]
        self._drop_exports(job)

    def _is_running(self, job: ProcessId) -> bool:
        if node_of(job) == self.node:
            return job in self._processes
        return job not in self._ended_jobs and node_of(job) not in self._dead_nodes

    def _drop_exports(self, job: ProcessId) -> None:
        member = exports_of(job, self.node)
        self._parking.discard(lambda r: isinstance(r, HoldRequest) and r.holder == member)
        self._drop(list(self._held_by.get(member, ())), member)

    def _forget_node(self, node: NodeId) -> None:
        super()._forget_node(node)
        for member in [member for member in self._held_by if is_exports(member)]:
            if node_of(job_of_exports(member)) == node:
                self._drop_exports(job_of_exports(member))
