"""Puts together what a node tells for ``remora status``: its processes and their calls, what waits for workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from remora.core.arena_records import ArenaUsage
from remora.core.lease import Lease
from remora.messages import inspection as m
from remora.processes.daemon.connected import ConnectedProcess
from remora.processes.daemon.workers import StartedWorker

if TYPE_CHECKING:
    from remora.processes.daemon.main import NodeDaemon


class StatusBuilder:
    """One answer; *reports* are what the processes said of themselves, by process."""

    def __init__(self, daemon: NodeDaemon, reports: Mapping[bytes, m.ProcessReport]) -> None:
        self._daemon = daemon
        self._reports = reports
        self._leases = {lease.worker.process: lease for lease in daemon.workers.leases.leases()}

    def build(self, number: int, node: m.NodeReport, now_s: float) -> m.NodeStatus:
        """The whole answer."""
        daemon = self._daemon
        drivers = [self._driver(connected) for connected in daemon.processes if connected.role == "driver"]
        workers = [self._worker(worker) for worker in daemon.workers.workers()]
        waiting = [
            m.WaitingLease(one.requester, one.resources, one.count, now_s - one.since_s, one.reason)
            for one in daemon.workers.router.waiting(now_s)
        ]
        store = store_usage(daemon.objects.arena.usage())
        return m.NodeStatus(number, node, store, drivers + workers, waiting, self._transfers())

    def _transfers(self) -> m.TransferReport | None:
        if self._daemon.cluster is None:
            return None
        now = self._daemon.cluster.transfers.statistics()
        return m.TransferReport(
            now.received_bytes,
            now.sent_bytes,
            now.pulls,
            now.pulls_in_flight,
            now.in_flight_bytes,
            now.sources,
            now.readers,
        )

    def _driver(self, connected: ConnectedProcess) -> m.ProcessStatus:
        report = self._reports.get(connected.process)
        submitted, calls = (report.submitted, report.calls) if report is not None else ([], [])
        return m.ProcessStatus(
            connected.process, connected.pid, "driver", report is not None, "driver", submitted=submitted, calls=calls
        )

    def _worker(self, worker: StartedWorker) -> m.ProcessStatus:
        process = worker.process
        lease = self._leases.get(process)
        state = _state_of(worker, lease)
        requester = lease.claim.requester.process if lease is not None else b""
        actor, leased_to = (requester, b"") if lease is not None and lease.claim.demand.dedicated else (b"", requester)
        report = self._reports.get(process)
        if report is None:
            last = self._daemon.workers.last_function(worker) if lease is not None else ""
            running = [last] if last else []
            has_answered = worker.connected is None
            return m.ProcessStatus(
                process, worker.pid, state, has_answered, "", running, leased_to=leased_to, actor=actor
            )
        return m.ProcessStatus(
            process,
            worker.pid,
            state,
            True,
            "",
            report.running,
            report.received,
            report.submitted,
            leased_to,
            actor,
            report.running_tasks,
            report.calls,
        )


def _state_of(worker: StartedWorker, lease: Lease | None) -> str:
    if worker.connected is None:
        return "starting"
    if lease is None:
        return "idle"
    if lease.blocked:
        return "blocked"
    return "actor" if lease.claim.demand.dedicated else "leased"


def actor_of_workers(daemon: NodeDaemon) -> dict[bytes, bytes]:
    """The actor of each worker of this node that is one."""
    leases = daemon.workers.leases.leases()
    return {lease.worker.process: lease.claim.requester.process for lease in leases if lease.claim.demand.dedicated}


def store_usage(usage: ArenaUsage) -> m.StoreUsage:
    """The arena's numbers as a message."""
    return m.StoreUsage(
        usage.limit_bytes,
        usage.used_bytes,
        usage.reserved_bytes,
        usage.lost_bytes,
        usage.free_bytes,
        usage.warm_bytes,
    )
