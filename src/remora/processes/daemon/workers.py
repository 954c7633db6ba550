"""The node's workers: who gets which (:class:`~remora.core.leases.LeaseTable`), starting them, hearing how they end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

from remora.base.configuration import NodeConfiguration, WorkerConfiguration, worker_socket_name, worker_sockets_name
from remora.base.errors import describe_exit
from remora.base.ids import NodeId, ProcessId, short
from remora.base.resources import Resources
from remora.core.cluster_view import ClusterView
from remora.core.lease import ActorDelayed, ActorPlaced, ActorUnplaceable, Send
from remora.core.lease_routing import LeaseRouter
from remora.core.leases import LeaseTable
from remora.core.node_jobs import NodeJobs
from remora.core.routed_requests import ToNode
from remora.core.worker_pool import StartWorker, StopWorker
from remora.messages import leases as m
from remora.messages.children import Exited, Forked, ForkFailed, Preloaded
from remora.messages.session import JobEnvironment, SessionEnded
from remora.processes.daemon.connected import ConnectedProcess, ConnectedProcesses
from remora.processes.daemon.output import OutputForwarder
from remora.processes.zygote_client import ZygoteClient, ZygoteEnded
from remora.system.reactor import Reactor
from remora.system.slot_page import SLOT_COUNT, SlotPage

EXIT_GRACE_S = 5.0
"""How long the exit handlers of a worker that leaves may take."""
PRELOADED_MODULES = ["remora.processes.worker.main"]


class StartedWorker:
    """A worker process from the decision to start it until it was reaped."""

    __slots__ = ("connected", "end_cause", "job", "number", "pid", "process", "slot")

    def __init__(self, number: int, process: ProcessId, slot: int, job: bytes) -> None:
        self.number = number
        self.job = job
        self.process = process
        self.slot = slot
        self.pid = 0
        self.connected: ConnectedProcess | None = None
        self.end_cause = ""
        """Why it was killed, if that says more than how it died."""


class WorkerService:
    """Workers and leases of one node.

    ``on_worker_ended(worker, cause)`` is called when a worker that had said hello is dead and its connection read to
    the end; ``on_placed`` and ``on_unplaceable`` tell the actors' side about its requests.
    """

    def __init__(
        self,
        configuration: NodeConfiguration,
        total: Resources,
        reactor: Reactor,
        processes: ConnectedProcesses,
        slots: SlotPage,
    ) -> None:
        self._configuration = configuration
        self._reactor = reactor
        self._processes = processes
        self._slots = slots
        node = NodeId(configuration.node.to_bytes(4, "big"))
        self.leases = LeaseTable(total, node=node)
        self.view = ClusterView()
        self.router = LeaseRouter(self.leases, self.view, node, configuration.labels)
        self._zygote = ZygoteClient(configuration)
        reactor.register(self._zygote.fileno(), self._on_zygote)
        self._zygote.preload(PRELOADED_MODULES)
        self.output = OutputForwarder(reactor, processes, slots)
        self._jobs = NodeJobs()
        self._workers: dict[int, StartedWorker] = {}
        self._by_process: dict[bytes, StartedWorker] = {}
        self._now_s: Callable[[], float] = lambda: 0.0
        self.on_worker_ended: Callable[[ConnectedProcess, str], None] = lambda connected, cause: None
        self.on_placed: Callable[[ActorPlaced], None] = lambda effect: None
        self.on_unplaceable: Callable[[bytes, str], None] = lambda actor, reason: None
        self.on_delayed: Callable[[bytes, str], None] = lambda actor, reason: None
        self.on_to_node: Callable[[ToNode], None] = lambda effect: None

    def use_clock(self, now_s: Callable[[], float]) -> None:
        """The clock of the loop, for what the zygote reports."""
        self._now_s = now_s

    # ------------------------------------------------------------------ messages

    def on_message(self, connected: ConnectedProcess, message: Any, now_s: float) -> None:
        """A message about leases."""
        process = connected.process
        kind = type(message)
        leases = self.leases
        if kind is m.RequestLease:
            self.router.request(process, connected.job, message, now_s=now_s)
        elif kind is m.ReturnLease:
            self.router.returned(process, message.leases, now_s)
        elif kind is m.KillLeased:
            self.router.kill(process, message, now_s)
        elif kind is m.CancelRequest:
            self.router.cancel(process, message.request, now_s)
        elif kind is m.WorkerState:
            if message.state == m.WORKER_BLOCKED:
                leases.blocked(process, now_s)
            elif message.state == m.WORKER_RUNNING:
                leases.unblocked(process, now_s)
            else:
                leases.worker_idle(process, now_s)
        else:
            raise ValueError(f"{connected!r} sent {message!r}, which only a daemon says")
        self.carry_out()

    def start_job(self, job: ProcessId, environment: JobEnvironment) -> None:
        """The driver has told where its modules are; again changes nothing."""
        if not self._jobs.start(job, environment):
            return
        self.output.set_job(job, environment.log_to_driver)
        if environment.modules:
            # Before the first worker is asked for: whoever is forked has them, at no cost of his own.
            self._zygote.preload(environment.modules)
        self.leases.job_started(job)
        self.carry_out()

    def know_job(self, job: ProcessId, environment: JobEnvironment) -> None:
        """An actor of the job comes here, whose driver may be gone: workers can be made for it, none is kept warm."""
        if self._jobs.know(job, environment):
            self.output.set_job(job, environment.log_to_driver)

    def end_job(self, job: bytes, now_s: float) -> None:
        """The driver has ended: so does what runs for it here, but its actors."""
        self.router.process_gone(job, now_s)
        self.router.job_ended(job, now_s)
        if self._jobs.ended(job, self._is_in_use(job)):
            self.output.forget_job(job)
        self.carry_out()

    def _is_in_use(self, job: bytes) -> bool:
        return any(worker.job == job for worker in self._workers.values()) or self.leases.awaits_worker_of(job)

    def has_ended(self, job: bytes) -> bool:
        """Whether the job has ended, and is known here because something of it lives on."""
        return self._jobs.has_ended(job)

    def job_environment(self, job: bytes) -> JobEnvironment | None:
        """What the job's driver has told, if it runs."""
        return self._jobs.environment(job)

    def namespace_of(self, job: bytes, default: str) -> str:
        """Where the names of the job's actors are looked up."""
        environment = self._jobs.environment(job)
        return environment.namespace if environment is not None else default

    def jobs_of(self, node: bytes) -> list[ProcessId]:
        """The jobs whose drivers are, or were, on the node."""
        return self._jobs.of_node(node)

    def spare(self, pid: int) -> None:
        """Child *pid* of the daemon is no worker, and not to be ended as the orphan of one."""
        self._zygote.spare(pid)

    def number_of(self, process: bytes) -> int | None:
        """The number of the worker with this id, if it runs."""
        worker = self._by_process.get(process)
        return worker.number if worker is not None else None

    def on_hello(self, connected: ConnectedProcess, now_s: float) -> StartedWorker | None:
        """A worker says hello; None when none with this id was started."""
        worker = self._by_process.get(connected.process)
        if worker is None:
            return None
        worker.connected = connected
        connected.worker_number = worker.number
        return worker

    def worker_serves(self, worker: StartedWorker, now_s: float) -> None:
        """It was welcomed and takes calls."""
        self.leases.worker_ready(worker.number, worker.process, self._address_of(worker.number), worker.slot, now_s)
        self.carry_out()

    def _address_of(self, number: int) -> str:
        return os.path.join(self._configuration.session_directory, worker_socket_name(number))

    def _sockets_path_of(self, number: int) -> str:
        return os.path.join(self._configuration.session_directory, worker_sockets_name(number))

    def job_of(self, process: ProcessId) -> ProcessId | None:
        """The job that the worker with this id was started for."""
        worker = self._by_process.get(process)
        return ProcessId(self.output.job_of(worker.number)) if worker is not None else None

    def kill(self, process: bytes, cause: str = "") -> None:
        """End a worker at once; *cause* is what those who depend on it are told."""
        worker = self._by_process.get(process)
        if worker is not None:
            worker.end_cause = cause
            self._zygote.kill(worker.number)

    def set_name(self, process: bytes, name: str) -> None:
        """What the worker prints is shown under this name."""
        worker = self._by_process.get(process)
        if worker is not None:
            self.output.set_name(worker.number, name)

    def connection_lost(self, connected: ConnectedProcess) -> None:
        """A worker without its daemon is of no use, but one that leaves may end itself; the zygote tells how."""
        number = connected.worker_number
        if connected.is_leaving:
            self._reactor.call_after(EXIT_GRACE_S, lambda: self._kill_late(number))
        else:
            self._zygote.kill(number)

    def _kill_late(self, number: int) -> None:
        if number in self._workers:
            self._zygote.kill(number)

    def tick(self, now_s: float) -> None:
        """Periodic decisions of the lease table."""
        self.router.tick(now_s)
        self.carry_out()
        for job in self._jobs.forget_unused(self._is_in_use):
            self.output.forget_job(job)

    # ------------------------------------------------------------------ the zygote

    def _on_zygote(self, mask: int) -> None:
        for report in self._zygote.on_readable():
            if isinstance(report, Forked):
                self._workers[report.worker_number].pid = report.pid
                self.output.set_pid(report.worker_number, report.pid)
            elif isinstance(report, ForkFailed):
                self._end_worker(report.worker_number, report.reason)
            elif isinstance(report, Exited):
                how = describe_exit(report.exit_code, report.signal, out_of_memory=report.out_of_memory)
                self._end_worker(report.worker_number, f"its worker process {report.pid} {how}")
            elif isinstance(report, ZygoteEnded):
                print(f"the zygote {report.how}; starting another one", flush=True)
                self._zygote.restart()
            else:
                assert isinstance(report, Preloaded), f"the zygote does not report {report!r}"
        self.carry_out()

    def _end_worker(self, number: int, cause: str) -> None:
        """The worker process is dead, or never lived."""
        worker = self._workers.pop(number)
        del self._by_process[worker.process]
        self.output.end(number)
        if self._jobs.no_longer_used(worker.job, self._is_in_use(worker.job)):
            self.output.forget_job(worker.job)
        for path in (self._address_of(number), self._sockets_path_of(number)):
            with contextlib.suppress(FileNotFoundError):  # it had none yet
                os.unlink(path)
        connected = worker.connected
        cause = worker.end_cause or cause
        now_s = self._now_s()
        if connected is None:
            self.leases.worker_start_failed(number, cause, now_s)
            return
        if not connected.connection.closed:
            connected.connection.read_to_end()
            connected.connection.close()
        self.leases.worker_died(connected.process, cause, now_s, self._slots.last_task(worker.slot))
        self.router.process_gone(connected.process, now_s)
        self.on_worker_ended(connected, cause)

    # ------------------------------------------------------------------ doing what the lease table says

    def carry_out(self) -> None:
        """Empty the outbox."""
        self.router.settle(self._now_s())
        outbox = self.router.outbox
        while outbox:
            effects = outbox[:]
            outbox.clear()
            for effect in effects:
                if isinstance(effect, Send):
                    self._processes.send(effect.process, effect.message)
                elif isinstance(effect, StartWorker):
                    self._start(effect)
                elif isinstance(effect, StopWorker):
                    self._stop(effect)
                elif isinstance(effect, ToNode):
                    self.on_to_node(effect)
                elif isinstance(effect, ActorPlaced):
                    self.on_placed(effect)
                elif isinstance(effect, ActorUnplaceable):
                    self.on_unplaceable(effect.actor, effect.reason)
                else:
                    assert isinstance(effect, ActorDelayed), f"a daemon cannot do {effect!r}"
                    self.on_delayed(effect.actor, effect.reason)
            self.router.settle(self._now_s())

    def _start(self, effect: StartWorker) -> None:
        job = self._jobs.environment(effect.job)
        if job is None or not self._zygote.is_running:
            reason = "its job has ended" if job is None else "the zygote has ended and is being started again"
            self.leases.worker_start_failed(effect.number, reason, self._now_s())
            return
        process = self._processes.next_id()
        worker = StartedWorker(effect.number, process, effect.number % SLOT_COUNT, effect.job)
        self._slots.clear(worker.slot)
        configuration = WorkerConfiguration(
            worker_number=effect.number,
            session_directory=self._configuration.session_directory,
            process_id=process,
            node=self._configuration.node,
            namespace=job.namespace,
            sys_path=job.sys_path,
            working_directory=job.working_directory,
            main_file=job.main_file,
            logging_level=self._configuration.logging_level,
            grace_s=self._configuration.grace_s,
            main=self._configuration.worker_main,
            is_in_cluster=self._configuration.cluster is not None,
        )
        self._workers[effect.number] = self._by_process[process] = worker
        try:
            pipes = self._zygote.request_fork(configuration)
        except OSError as error:
            self._end_worker(effect.number, f"no worker could be started: {error}")
            return
        self.output.add(effect.number, effect.job, worker.slot, pipes)

    def _stop(self, effect: StopWorker) -> None:
        if effect.force or not effect.process:
            self._zygote.kill(effect.number)
        else:
            self._processes.send(effect.process, SessionEnded("this worker is not needed any more"))

    # ------------------------------------------------------------------ looking

    def workers(self) -> list[StartedWorker]:
        """Every worker process."""
        return list(self._workers.values())

    def pid_of(self, process: bytes) -> int:
        """The pid of a worker; 0 when it is unknown."""
        worker = self._by_process.get(process)
        return worker.pid if worker is not None else 0

    def last_function(self, worker: StartedWorker) -> str:
        """The function that the worker began last, whether or not it can answer."""
        return self._slots.name(worker.slot)

    def describe(self, process: ProcessId) -> str:
        """A worker for people."""
        return f"worker {short(process)} (pid {self.pid_of(process)})"

    def close(self) -> None:
        """Close what belongs to this service; the processes are ended by the launcher."""
        self.output.close()
        self._reactor.unregister(self._zygote.fileno())
        self._zygote.close()
