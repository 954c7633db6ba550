"""The node's workers: who gets which (:class:`~remora.core.leases.LeaseTable`), starting them, hearing how they end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

from remora.base.configuration import NodeConfiguration, WorkerConfiguration, worker_socket_name
from remora.base.errors import describe_exit
from remora.base.ids import ProcessId, short
from remora.base.resources import Resources
from remora.core.lease import ActorDelayed, ActorPlaced, ActorUnplaceable, Send
from remora.core.leases import LeaseTable
from remora.core.worker_pool import StartWorker, StopWorker
from remora.messages import leases as m
from remora.messages.children import Exited, Forked, ForkFailed, Preloaded
from remora.messages.session import JobEnvironment, SessionEnded
from remora.processes.daemon.connected import ConnectedProcess, ConnectedProcesses
from remora.processes.daemon.output import OutputForwarder
from remora.processes.zygote_client import ZygoteClient, ZygoteEnded
from remora.system.reactor import Reactor
from remora.system.slot_page import SLOT_COUNT, SlotPage

PRELOADED_MODULES = ["remora.processes.worker.main"]


class StartedWorker:
    """A worker process from the decision to start it until it was reaped."""

    __slots__ = ("connected", "number", "pid", "process", "slot")

    def __init__(self, number: int, process: ProcessId, slot: int) -> None:
        self.number = number
        self.process = process
        self.slot = slot
        self.pid = 0
        self.connected: ConnectedProcess | None = None


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
        self.leases = LeaseTable(total)
        self._zygote = ZygoteClient(configuration)
        reactor.register(self._zygote.fileno(), self._on_zygote)
        self._zygote.preload(PRELOADED_MODULES)
        self.output = OutputForwarder(reactor, processes, slots)
        self._jobs: dict[bytes, JobEnvironment] = {}
        self._workers: dict[int, StartedWorker] = {}
        self._by_process: dict[bytes, StartedWorker] = {}
        self._now_s: Callable[[], float] = lambda: 0.0
        self.on_worker_ended: Callable[[ConnectedProcess, str], None] = lambda connected, cause: None
        self.on_placed: Callable[[ActorPlaced], None] = lambda effect: None
        self.on_unplaceable: Callable[[bytes, str], None] = lambda actor, reason: None
        self.on_delayed: Callable[[bytes, str], None] = lambda actor, reason: None

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
            need = Resources(message.resources)
            leases.request(
                process,
                connected.job,
                message.request,
                need,
                message.strategy,
                message.environment,
                message.count,
                now_s=now_s,
            )
        elif kind is m.ReturnLease:
            leases.returned(process, message.leases, now_s)
        elif kind is m.CancelRequest:
            leases.cancel(process, message.request, now_s)
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
        """The driver has told where its modules are."""
        self._jobs[job] = environment
        self.output.set_job(job, environment.log_to_driver)
        if environment.modules:
            # Before the first worker is asked for: whoever is forked has them, at no cost of his own.
            self._zygote.preload(environment.modules)
        self.leases.job_started(job)
        self.carry_out()

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

    def job_of(self, process: ProcessId) -> ProcessId | None:
        """The job that the worker with this id was started for."""
        worker = self._by_process.get(process)
        return ProcessId(self.output.job_of(worker.number)) if worker is not None else None

    def kill(self, process: bytes) -> None:
        """End a worker at once."""
        worker = self._by_process.get(process)
        if worker is not None:
            self._zygote.kill(worker.number)

    def set_name(self, process: bytes, name: str) -> None:
        """What the worker prints is shown under this name."""
        worker = self._by_process.get(process)
        if worker is not None:
            self.output.set_name(worker.number, name)

    def connection_lost(self, connected: ConnectedProcess) -> None:
        """A worker without its daemon is of no use; how it ended is told by the zygote."""
        self._zygote.kill(connected.worker_number)

    def tick(self, now_s: float) -> None:
        """Periodic decisions of the lease table."""
        self.leases.tick(now_s)
        self.carry_out()

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
        with contextlib.suppress(FileNotFoundError):  # it had none yet
            os.unlink(self._address_of(number))
        connected = worker.connected
        now_s = self._now_s()
        if connected is None:
            self.leases.worker_start_failed(number, cause, now_s)
            return
        if not connected.connection.closed:
            connected.connection.read_to_end()
            connected.connection.close()
        self.leases.worker_died(connected.process, cause, now_s)
        self.on_worker_ended(connected, cause)

    # ------------------------------------------------------------------ doing what the lease table says

    def carry_out(self) -> None:
        """Empty the outbox."""
        outbox = self.leases.outbox
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
                elif isinstance(effect, ActorPlaced):
                    self.on_placed(effect)
                elif isinstance(effect, ActorUnplaceable):
                    self.on_unplaceable(effect.actor, effect.reason)
                else:
                    assert isinstance(effect, ActorDelayed), f"a daemon cannot do {effect!r}"
                    self.on_delayed(effect.actor, effect.reason)

    def _start(self, effect: StartWorker) -> None:
        job = self._jobs.get(effect.job)
        if job is None or not self._zygote.is_running:
            reason = "its job has ended" if job is None else "the zygote has ended and is being started again"
            self.leases.worker_start_failed(effect.number, reason, self._now_s())
            return
        process = self._processes.next_id()
        worker = StartedWorker(effect.number, process, effect.number % SLOT_COUNT)
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
