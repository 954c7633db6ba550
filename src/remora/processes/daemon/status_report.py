"""Puts together what ``remora status`` shows: processes and their calls, actors, what waits for workers, the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from remora.core.arena_records import ArenaUsage
from remora.core.lease import Lease
from remora.messages import inspection as m
from remora.messages.actors import ACTOR_STATE_NAMES, DEAD
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
        self._names = actor_names(daemon)

    def build(self, node: m.NodeReport, now_s: float) -> m.StatusReport:
        """The whole report."""
        daemon = self._daemon
        drivers = [self._driver(connected) for connected in daemon.processes if connected.role == "driver"]
        workers = [self._worker(worker) for worker in daemon.workers.workers()]
        waiting = [
            m.WaitingLease(one.requester, one.resources, one.count, now_s - one.since_s, one.reason)
            for one in daemon.workers.leases.waiting()
        ]
        return m.StatusReport(
            node, store_usage(daemon.objects.arena.usage()), drivers + workers, self._actors(), waiting
        )

    def _driver(self, connected: ConnectedProcess) -> m.ProcessStatus:
        report = self._reports.get(connected.process)
        submitted = report.submitted if report is not None else []
        return m.ProcessStatus(
            connected.process, connected.pid, "driver", report is not None, "driver", submitted=submitted
        )

    def _worker(self, worker: StartedWorker) -> m.ProcessStatus:
        process = worker.process
        lease = self._leases.get(process)
        state = _state_of(worker, lease)
        leased_to = b"" if lease is None or lease.claim.demand.dedicated else lease.claim.requester.process
        name = self._names.get(process, "")
        report = self._reports.get(process)
        if report is None:
            last = self._daemon.workers.last_function(worker) if lease is not None else ""
            running = [last] if last else []
            has_answered = worker.connected is None
            return m.ProcessStatus(process, worker.pid, state, has_answered, name, running, leased_to=leased_to)
        return m.ProcessStatus(
            process, worker.pid, state, True, name, report.running, report.received, report.submitted, leased_to
        )

    def _actors(self) -> list[m.ActorStatus]:
        pid_of = self._daemon.workers.pid_of
        return [
            m.ActorStatus(
                actor.id,
                actor.spec.class_name,
                actor.key[1],
                actor.key[0],
                ACTOR_STATE_NAMES[actor.state.state],
                pid_of(actor.state.worker) if actor.state.worker and actor.state.state != DEAD else 0,
                actor.restarts,
                actor.state.cause,
            )
            for actor in self._daemon.actors.registry.actors()
        ]


def _state_of(worker: StartedWorker, lease: Lease | None) -> str:
    if worker.connected is None:
        return "starting"
    if lease is None:
        return "idle"
    if lease.blocked:
        return "blocked"
    return "actor" if lease.claim.demand.dedicated else "leased"


def actor_names(daemon: NodeDaemon) -> dict[bytes, str]:
    """The class of each worker that is an actor."""
    actors = daemon.actors.registry.actors()
    return {actor.state.worker: actor.spec.class_name for actor in actors if actor.state.worker}


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
