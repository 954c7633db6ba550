"""Puts together what a node tells for ``remora memory``: each object, who holds it, and where each byte is.

Built in small steps, because a node may have a million objects and must serve leases and heartbeats meanwhile. So it
is no picture of one moment: an object that is freed between two steps is there in the one and not in the other.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator, Mapping
from heapq import heappush, heappushpop
from typing import TYPE_CHECKING

from remora.base.ids import NODE_ID_SIZE_BYTES, ProcessId, make_process_id, node_of
from remora.core.counting.entries import ObjectRow
from remora.core.counting.leaks import search_leaks
from remora.core.counting.vocabulary import DETACHED, is_container, is_process, job_of_exports
from remora.core.pull_records import Pull
from remora.messages import inspection as m
from remora.processes.daemon.status_report import actor_of_workers, store_usage

if TYPE_CHECKING:
    from remora.processes.daemon.main import NodeDaemon

Steps = Generator[None, None, m.NodeMemory]
"""To be resumed until its value is there. A step takes some microseconds."""

GONE = "ended, forgotten soon"


class MemoryBuilder:
    """One answer; *reports* are what the processes said of themselves, by process."""

    def __init__(self, daemon: NodeDaemon, question: m.DescribeNode, reports: Mapping[bytes, m.ProcessReport]) -> None:
        self._daemon = daemon
        self._question = question
        self._reports = reports
        self._directory = daemon.objects.directory
        self._arena = daemon.objects.arena
        self._actors = actor_of_workers(daemon)
        self._names: dict[bytes, str] = {}
        self._pids: dict[bytes, int] = {worker.process: worker.pid for worker in daemon.workers.workers()}
        for connected in daemon.processes:
            self._pids[connected.process] = connected.pid
            self._names[connected.process] = connected.role
        itself = make_process_id(int.from_bytes(daemon.node, "big"), 0)
        self._names[itself] = "daemon (copies)"
        self._pids[itself] = os.getpid()
        self._sites: dict[tuple[bytes, bytes], str] = {}
        self._views: Counter[bytes] = Counter()
        self._viewed_bytes: Counter[bytes] = Counter()
        self._foreign: dict[bytes, m.ForeignUse] = {}
        self._largest: list[tuple[int, int, ObjectRow]] = []
        self._primary_offsets: set[int] = set()
        self._primary_bytes = 0
        self._inline_bytes = 0
        self._total_objects = 0

    def steps(self, node: m.NodeReport) -> Steps:
        """The whole answer."""
        for process, report in self._reports.items():
            yield from self._read(process, report)
        rows: list[ObjectRow] = []
        for object_id in self._directory.ids():
            row = self._directory.row(object_id)
            if row is not None:
                rows.append(row)
                self._add(row)
            yield
        leaked = yield from search_leaks(rows, self._question.actor_workers)
        listed = {row.id: row for _, _, row in self._largest}
        if leaked:
            listed.update((row.id, row) for row in rows if row.id in leaked)
        objects = []
        for row in listed.values():
            objects.append(self._object(row, row.id in leaked))
            yield
        kept_bytes = yield from self._kept_bytes()
        cached_bytes = sum(self._arena.block_bytes(location.offset) for location in self._directory.cached_copies())
        usage = self._arena.usage()
        unclaimed_bytes = usage.used_bytes - self._primary_bytes - kept_bytes - cached_bytes
        return m.NodeMemory(
            self._question.number,
            node,
            store_usage(usage),
            m.StoreContents(self._primary_bytes, kept_bytes, cached_bytes, unclaimed_bytes),
            objects,
            self._processes(),
            list(self._foreign.values()),
            self._pulls(),
            self._total_objects,
            self._inline_bytes,
        )

    def _read(self, process: bytes, report: m.ProcessReport) -> Generator[None, None, None]:
        foreign = m.ForeignUse(process, report.sites, [], [])
        for ref in report.refs:
            if 0 < ref.site < len(report.sites):
                self._sites[process, ref.id] = report.sites[ref.site]
                if node_of(ref.id) != self._daemon.node:
                    foreign.refs.append(ref)
            yield
        for pin in report.pins:
            if pin.id and node_of(pin.id) != self._daemon.node:
                foreign.pins.append(pin)
            else:
                self._views[pin.id] += pin.views
                self._viewed_bytes[pin.id] += pin.size_bytes
            yield
        if foreign.refs or foreign.pins:
            self._foreign[process] = foreign

    def _add(self, row: ObjectRow) -> None:
        self._total_objects += 1
        location = row.location
        if location is None:
            self._inline_bytes += row.size_bytes
        elif location.node == self._daemon.node:
            self._primary_offsets.add(location.offset)
            self._primary_bytes += self._arena.block_bytes(location.offset)
        limit = self._question.max_objects
        candidate = (row.size_bytes, self._total_objects, row)
        if len(self._largest) < limit:
            heappush(self._largest, candidate)
        elif limit:
            heappushpop(self._largest, candidate)

    def _kept_bytes(self) -> Generator[None, None, int]:
        """Copies that homes have kept here, beside the primary ones of this node's own objects."""
        kept_bytes = 0
        for object_id, writer in self._directory.kept_copies():
            location = self._directory.home_copy(object_id, writer)
            if location is not None and location.offset not in self._primary_offsets:
                kept_bytes += self._arena.block_bytes(location.offset)
            yield
        return kept_bytes

    def _object(self, row: ObjectRow, is_leaked: bool) -> m.ObjectReport:
        location = row.location
        is_here = location is not None and location.node == self._daemon.node
        # A job that pickled the ref outside of Remora on many nodes is one holder to people.
        holders = dict.fromkeys(self._holder(row.id, holder) for holder in row.holders)
        return m.ObjectReport(
            row.id,
            row.state,
            row.size_bytes,
            self._arena.block_bytes(location.offset) if location is not None and is_here else 0,
            list(holders),
            list(row.contents),
            self._views[row.id],
            self._viewed_bytes[row.id],
            is_leaked,
            "",
            location.node if location is not None else b"",
            _copies(row),
        )

    def _holder(self, object_id: bytes, holder: bytes) -> m.Holder:
        if is_container(holder):
            return m.Holder(holder, "container")
        if holder.endswith(DETACHED) and len(holder) == NODE_ID_SIZE_BYTES + len(DETACHED):
            return m.Holder(holder, "detached")
        process = ProcessId(holder) if is_process(holder) else job_of_exports(holder)
        kind = "process" if is_process(holder) else "exported"
        if node_of(process) != self._daemon.node:
            return m.Holder(process, kind)
        name = self._names.get(process, GONE)
        return m.Holder(process, kind, self._pids.get(process, 0), name, self._sites.get((process, object_id), ""))

    def _processes(self) -> list[m.ProcessMemory]:
        """Those that are there, and those that are gone and whose objects are still there."""
        written = self._arena.published_by()
        there = [connected.process for connected in self._daemon.processes if connected.role != "inspector"]
        # The daemon itself, and those that have ended: nobody can ask them.
        others = [process for process in written if process not in there]
        found = []
        for process in [*there, *others]:
            report = self._reports.get(process)
            pins = report.pins if report is not None else []
            found.append(
                m.ProcessMemory(
                    process,
                    self._pids.get(process, 0),
                    self._names.get(process, "ended"),
                    report is not None or process in others,
                    written.get(process, 0),
                    self._arena.reserved_by(ProcessId(process)),
                    len(report.refs) + report.omitted_refs if report is not None else 0,
                    sum(pin.views for pin in pins),
                    sum(pin.size_bytes for pin in pins),
                    report.private_bytes if report is not None else 0,
                    self._actors.get(process, b""),
                )
            )
        return found

    def _pulls(self) -> list[m.PullReport]:
        cluster = self._daemon.cluster
        return [_pull_report(pull) for pull in cluster.transfers.pulls.pulls()] if cluster is not None else []


def _copies(row: ObjectRow) -> list[m.CopyReport]:
    kinds = (("kept", row.kept), ("cached", row.cached), ("arriving", row.arriving))
    return [m.CopyReport(node, kind) for kind, nodes in kinds for node in nodes]


def _pull_report(pull: Pull) -> m.PullReport:
    return m.PullReport(
        pull.id,
        pull.source or b"",
        pull.state.name.lower(),
        pull.purpose.name.lower(),
        pull.size_bytes,
        pull.received_bytes,
    )
