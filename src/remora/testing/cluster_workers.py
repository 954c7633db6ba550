"""Workers and leases of one node of a simulated cluster: the real table and router, and processes that start some time.

Does what ``processes/daemon/workers.py`` does, with a fake zygote: a worker says hello when the world lets it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from remora.base.ids import ProcessId
from remora.base.resources import Resources
from remora.core.cluster_view import ClusterView
from remora.core.lease import ActorDelayed, ActorPlaced, ActorUnplaceable, Send
from remora.core.lease_routing import LeaseRouter
from remora.core.leases import LeaseTable
from remora.core.node_jobs import NodeJobs
from remora.core.routed_requests import ToNode
from remora.core.worker_pool import StartWorker, StopWorker
from remora.messages import leases as m
from remora.messages.links import FromProcess, StartJob
from remora.messages.session import JobEnvironment, SessionEnded

if TYPE_CHECKING:
    from remora.testing.cluster_daemon import SimulatedDaemon


class StartedWorker:
    """A worker process from the decision to start it until its end was noticed."""

    __slots__ = ("end_cause", "has_said_hello", "job", "number", "process")

    def __init__(self, number: int, process: ProcessId, job: ProcessId) -> None:
        self.number = number
        self.process = process
        self.job = job
        self.has_said_hello = False
        self.end_cause = ""


class SimulatedWorkers:
    """Stands where the daemon's ``WorkerService`` stands; the same names for the same things."""

    def __init__(self, daemon: SimulatedDaemon, total: Resources, labels: dict[str, str]) -> None:
        self._daemon = daemon
        self._world = daemon.world
        machines = daemon.world.machines
        self.leases: LeaseTable = machines.table(total, warm=0, max_workers=64, node=daemon.node)
        self.view = ClusterView()
        self.router: LeaseRouter = machines.router(self.leases, self.view, daemon.node, labels, daemon.address)
        self._jobs = NodeJobs()
        self._jobs_told: dict[bytes, set[bytes]] = {}
        self.started: dict[int, StartedWorker] = {}
        self._by_process: dict[bytes, StartedWorker] = {}
        self.slots: dict[int, bytes] = {}
        """Per worker: the id of the task that it began last."""
        self.on_placed: Callable[[ActorPlaced], None] = lambda effect: None
        self.on_unplaceable: Callable[[bytes, str], None] = lambda actor, reason: None
        self.on_delayed: Callable[[bytes, str], None] = lambda actor, reason: None

    # ------------------------------------------------------------------ messages

    def on_message(self, process: ProcessId, job: ProcessId, message: Any) -> None:
        """A message about leases from a process of this node."""
        now_s = self._world.now_s
        if isinstance(message, m.RequestLease):
            self.router.request(process, job, message, now_s=now_s)
        elif isinstance(message, m.ReturnLease):
            self.router.returned(process, message.leases, now_s)
        elif isinstance(message, m.CancelRequest):
            self.router.cancel(process, message.request, now_s)
        else:
            assert isinstance(message, m.WorkerState), f"no process says {message!r}"
            if message.state == m.WORKER_BLOCKED:
                self.leases.blocked(process, now_s)
            elif message.state == m.WORKER_RUNNING:
                self.leases.unblocked(process, now_s)
            else:
                self.leases.worker_idle(process, now_s)
        self.carry_out()

    def start_job(self, job: bytes, environment: JobEnvironment) -> None:
        """The driver has told where its modules are; again changes nothing."""
        if self._jobs.start(job, environment):
            self.leases.job_started(job)
            self.carry_out()

    def know_job(self, job: bytes, environment: JobEnvironment) -> None:
        """An actor of the job comes here, whose driver may be gone."""
        self._jobs.know(job, environment)

    def end_job(self, job: bytes, now_s: float) -> None:
        """The driver has ended: so does what runs for it here, but its actors."""
        for told in self._jobs_told.values():
            told.discard(job)
        self.router.process_gone(job, now_s)
        self.router.job_ended(job, now_s)
        self._jobs.ended(job, self._is_in_use(job))
        self.carry_out()

    def _is_in_use(self, job: bytes) -> bool:
        return any(worker.job == job for worker in self.started.values()) or self.leases.awaits_worker_of(job)

    def tick(self, now_s: float) -> None:
        """Periodic decisions of the lease table."""
        self.router.tick(now_s)
        self.carry_out()
        self._jobs.forget_unused(self._is_in_use)

    def unused_jobs(self) -> list[ProcessId]:
        """Jobs that are known here and have nothing here."""
        return [job for job in self._jobs.of_node(b"") if not self._is_in_use(job)]

    def jobs_of(self, node: bytes) -> list[ProcessId]:
        """The jobs whose drivers are, or were, on the node."""
        return self._jobs.of_node(node)

    def node_dead(self, node: bytes) -> None:
        """The node needs to be told of no job any more."""
        self._jobs_told.pop(node, None)

    def set_name(self, process: bytes, name: str) -> None:
        """What a worker prints is of no interest here."""

    # ------------------------------------------------------------------ processes

    def waiting_to_start(self) -> list[StartedWorker]:
        """Workers that were forked and have not said hello."""
        return [worker for worker in self.started.values() if not worker.has_said_hello]

    def say_hello(self, worker: StartedWorker) -> None:
        """The process runs, and takes calls."""
        now_s = self._world.now_s
        worker.has_said_hello = True
        self._daemon.connect(worker.process, worker.job, worker.number)
        address = f"/{worker.number}"
        self.leases.worker_ready(worker.number, worker.process, address, worker.number, now_s)
        self.carry_out()

    def start_failed(self, worker: StartedWorker, cause: str) -> None:
        """The process ended before it said hello."""
        self._forget(worker)
        self.leases.worker_start_failed(worker.number, worker.end_cause or cause, self._world.now_s)
        self.carry_out()

    def kill(self, process: bytes, cause: str = "") -> None:
        """End a worker at once."""
        worker = self._by_process.get(process)
        if worker is None:
            return
        worker.end_cause = cause
        if worker.has_said_hello:
            self._world.end_process(worker.process, cause or "it is killed by its daemon")
        else:
            self.start_failed(worker, cause or "it was killed")

    def worker_ended(self, process: ProcessId, cause: str) -> bool:
        """Its connection was read to the end and it is dead; False when it is no worker."""
        worker = self._by_process.get(process)
        if worker is None:
            return False
        self._forget(worker)
        now_s = self._world.now_s
        running = self.slots.pop(worker.number, bytes(12))
        self.leases.worker_died(process, worker.end_cause or cause, now_s, running)
        self.router.process_gone(process, now_s)
        return True

    def _forget(self, worker: StartedWorker) -> None:
        del self.started[worker.number], self._by_process[worker.process]
        self._jobs.no_longer_used(worker.job, self._is_in_use(worker.job))

    # ------------------------------------------------------------------ doing what the machines say

    def carry_out(self) -> None:
        """Empty the outbox."""
        self.router.settle(self._world.now_s)
        outbox = self.router.outbox
        while outbox:
            effects = outbox[:]
            outbox.clear()
            for effect in effects:
                self._do(effect)
            self.router.settle(self._world.now_s)

    def _do(self, effect: Any) -> None:
        if isinstance(effect, Send):
            self._daemon.send(effect.process, effect.message)
        elif isinstance(effect, StartWorker):
            self._start(effect)
        elif isinstance(effect, StopWorker):
            self._stop(effect)
        elif isinstance(effect, ToNode):
            self._to_node(effect)
        elif isinstance(effect, ActorPlaced):
            self.on_placed(effect)
        elif isinstance(effect, ActorUnplaceable):
            self.on_unplaceable(effect.actor, effect.reason)
        else:
            assert isinstance(effect, ActorDelayed), f"a daemon cannot do {effect!r}"
            self.on_delayed(effect.actor, effect.reason)

    def _start(self, effect: StartWorker) -> None:
        if self._jobs.environment(effect.job) is None:
            self.leases.worker_start_failed(effect.number, "its job has ended", self._world.now_s)
            return
        worker = StartedWorker(effect.number, self._daemon.next_process(), ProcessId(effect.job))
        self.started[effect.number] = self._by_process[worker.process] = worker
        self.slots.pop(effect.number, None)

    def _stop(self, effect: StopWorker) -> None:
        worker = self.started.get(effect.number)
        if worker is None:
            return
        if worker.has_said_hello and not effect.force and effect.process:
            self._daemon.send(effect.process, SessionEnded("this worker is not needed any more"))
        elif worker.has_said_hello:
            self._world.end_process(worker.process, "it is not needed any more")
        else:
            self.start_failed(worker, "it was stopped")

    def _to_node(self, effect: ToNode) -> None:
        marker = effect.marker
        if isinstance(effect.message, m.RequestLease) and isinstance(marker, FromProcess):
            told = self._jobs_told.setdefault(effect.node, set())
            environment = self._jobs.environment(marker.job)
            if environment is not None and (marker.job not in told or self._jobs.has_ended(marker.job)):
                told.add(marker.job)
                self._daemon.send_node(effect.node, StartJob(marker.job, environment))
        unit = (effect.message,) if marker is None else (marker, effect.message)
        self._daemon.send_node(effect.node, *unit)
