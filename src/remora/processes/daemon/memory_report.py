"""Puts together what ``remora memory`` shows: each object, who holds it, from which line, and where each byte is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from heapq import nlargest
from typing import TYPE_CHECKING

from remora.base.ids import ObjectId, ProcessId, process_of
from remora.base.object_ref import STATE_NAMES, STORED
from remora.core.counting.entries import ObjectRow
from remora.core.counting.leaks import leaked_objects
from remora.core.counting.vocabulary import is_container, is_process
from remora.messages import inspection as m
from remora.messages.actors import DEAD
from remora.processes.daemon.status_report import actor_names, store_usage

if TYPE_CHECKING:
    from remora.processes.daemon.main import NodeDaemon

EVERYTHING = 1 << 60


class MemoryBuilder:
    """One answer; *reports* are what the processes said of themselves, by process."""

    def __init__(self, daemon: NodeDaemon, reports: Mapping[bytes, m.ProcessReport]) -> None:
        self._daemon = daemon
        self._reports = reports
        self._actors = {actor.id: actor for actor in daemon.actors.registry.actors()}
        self._names = actor_names(daemon)
        self._pids: dict[bytes, int] = {worker.process: worker.pid for worker in daemon.workers.workers()}
        for connected in daemon.processes:
            self._pids[connected.process] = connected.pid
            self._names.setdefault(connected.process, connected.role)
        self._sites: dict[tuple[bytes, bytes], str] = {}
        self._views: Counter[bytes] = Counter()
        self._viewed_bytes: Counter[bytes] = Counter()
        for process, report in reports.items():
            self._read(process, report)

    def _read(self, process: bytes, report: m.ProcessReport) -> None:
        for ref in report.refs:
            if ref.site:
                self._sites[process, ref.id] = report.sites[ref.site]
        for pin in report.pins:
            self._views[pin.id] += pin.views
            self._viewed_bytes[pin.id] += pin.size_bytes

    def build(self, max_objects: int) -> m.MemoryReport:
        """The whole report, with at most *max_objects* objects beside the leaked ones."""
        objects = self._daemon.objects
        usage = objects.arena.usage()
        rows = list(objects.directory.rows())
        stored = self._stored_bytes(rows)
        leaked = leaked_objects(rows, self._actor_of())
        listed = {row.id: row for row in nlargest(max_objects, rows, key=lambda row: row.size_bytes)}
        listed.update((row.id, row) for row in rows if row.id in leaked)
        stored_bytes = sum(stored.values())
        return m.MemoryReport(
            store_usage(usage),
            [self._object(row, stored.get(row.id, 0), row.id in leaked) for row in listed.values()],
            self._processes(),
            len(rows),
            sum(row.size_bytes for row in rows if row.id not in stored),
            stored_bytes,
            usage.used_bytes - stored_bytes,
        )

    def _stored_bytes(self, rows: list[ObjectRow]) -> dict[bytes, int]:
        """What each object takes of the store."""
        objects = self._daemon.objects
        block_bytes = {block.offset: block.size_bytes for block in objects.arena.largest_blocks(EVERYTHING)}
        found = {}
        for row in rows:
            if row.state != STATE_NAMES[STORED]:
                continue
            value = objects.directory.value_of(ObjectId(row.id))
            if value is not None and value.location is not None:
                found[row.id] = block_bytes[value.location.offset]
        return found

    def _actor_of(self) -> dict[bytes, bytes]:
        """The creation object of each worker that lives as long as its actor's handles do."""
        return {
            actor.state.worker: actor.id
            for actor in self._actors.values()
            if actor.state.worker and not actor.detached and actor.state.state != DEAD
        }

    def _object(self, row: ObjectRow, store_bytes: int, is_leaked: bool) -> m.ObjectReport:
        actor = self._actors.get(row.id)
        return m.ObjectReport(
            row.id,
            row.state,
            row.size_bytes,
            store_bytes,
            [self._holder(row.id, holder) for holder in row.holders],
            list(row.contents),
            self._views[row.id],
            self._viewed_bytes[row.id],
            is_leaked,
            f"actor {actor.spec.class_name}" if actor is not None else "",
        )

    def _holder(self, object_id: bytes, holder: bytes) -> m.Holder:
        if is_container(holder):
            return m.Holder(holder, "container")
        process = holder if is_process(holder) else process_of(holder)
        kind = "process" if is_process(holder) else "exported"
        name = self._names.get(process, "ended, forgotten soon")
        return m.Holder(process, kind, self._pids.get(process, 0), name, self._sites.get((process, object_id), ""))

    def _processes(self) -> list[m.ProcessMemory]:
        """Those that are there, and those that are gone and whose objects are still there."""
        arena = self._daemon.objects.arena
        written = arena.published_by()
        there = [connected.process for connected in self._daemon.processes if connected.role != "inspector"]
        gone = [process for process in written if process not in self._pids]
        found = []
        for process in [*there, *gone]:
            report = self._reports.get(process)
            pins = report.pins if report is not None else []
            found.append(
                m.ProcessMemory(
                    process,
                    self._pids.get(process, 0),
                    self._names.get(process, "ended"),
                    report is not None or process in gone,
                    written.get(process, 0),
                    arena.reserved_by(ProcessId(process)),
                    len(report.refs) + report.omitted_refs if report is not None else 0,
                    sum(pin.views for pin in pins),
                    sum(pin.size_bytes for pin in pins),
                    report.private_bytes if report is not None else 0,
                )
            )
        return found
