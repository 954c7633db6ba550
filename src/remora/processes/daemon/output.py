"""What workers print: read without pause, and passed to the driver of their job with the name of who printed it."""

from __future__ import annotations

import msgspec

from remora.messages.session import WorkerOutput
from remora.processes.daemon.connected import ConnectedProcesses
from remora.processes.zygote_client import WorkerPipes
from remora.system.reactor import Reactor
from remora.system.slot_page import SlotPage
from remora.system.worker_output import WorkerOutputReader

MAX_UNSENT_BYTES = 4 << 20
"""So much is sent to a driver that does not read; then lines stay in the readers, which drop the oldest."""


class PrintingWorker:
    """A worker and its two pipes."""

    __slots__ = ("job", "name", "number", "pid", "readers", "slot")

    def __init__(self, number: int, job: bytes, slot: int) -> None:
        self.number = number
        self.job = job
        self.slot = slot
        self.pid = 0
        self.name = ""
        self.readers: list[WorkerOutputReader] = []


class OutputForwarder:
    """Reads the pipes of all workers, on the daemon's loop."""

    def __init__(self, reactor: Reactor, processes: ConnectedProcesses, slots: SlotPage) -> None:
        self._reactor = reactor
        self._processes = processes
        self._slots = slots
        self._workers: dict[int, PrintingWorker] = {}
        self._is_wanted: dict[bytes, bool] = {}
        self._dropped_lines: dict[tuple[bytes, str, int], int] = {}
        """Of drivers here, and workers of other nodes by address and pid: lines that the driver was not told."""
        self._waiting_bytes: dict[bytes, int] = {}
        """What drivers were sent since they read nothing more."""

    def set_job(self, job: bytes, is_wanted: bool) -> None:
        """Whether the driver of the job wants to see what its workers print."""
        self._is_wanted[job] = is_wanted

    def forget_job(self, job: bytes) -> None:
        """Nothing runs for the job any more."""
        self._is_wanted.pop(job, None)
        self._waiting_bytes.pop(job, None)
        for key in [key for key in self._dropped_lines if key[0] == job]:
            del self._dropped_lines[key]

    def pass_on(self, driver: bytes, message: WorkerOutput) -> None:
        """What a worker of another node has printed, for a driver here; one that does not read is told how much."""
        key = (driver, message.node_address, message.pid)
        if not self._has_room(driver):
            lines = len(message.lines) + message.dropped_lines
            self._dropped_lines[key] = self._dropped_lines.get(key, 0) + lines
            return
        missing = self._dropped_lines.pop(key, 0)
        if missing:
            message = msgspec.structs.replace(message, dropped_lines=message.dropped_lines + missing)
        self._send(driver, message)

    def job_of(self, number: int) -> bytes:
        """The job of a worker."""
        return self._workers[number].job

    def set_pid(self, number: int, pid: int) -> None:
        """The worker was forked."""
        if number in self._workers:
            self._workers[number].pid = pid

    def set_name(self, number: int, name: str) -> None:
        """The worker is an actor of this class."""
        self._workers[number].name = name

    def add(self, number: int, job: bytes, slot: int, pipes: WorkerPipes) -> None:
        """Read a worker's pipes from now on."""
        worker = self._workers[number] = PrintingWorker(number, job, slot)
        for descriptor, is_error in ((pipes.stdout, False), (pipes.stderr, True)):
            reader = WorkerOutputReader(descriptor)
            worker.readers.append(reader)

            def on_readable(mask: int, reader: WorkerOutputReader = reader, is_error: bool = is_error) -> None:
                self._read(reader)
                self._forward(worker, reader, is_error)

            self._reactor.register(descriptor, on_readable)

    def end(self, number: int) -> None:
        """The worker has ended: pass on what it printed last, before anybody hears of its end."""
        worker = self._workers.pop(number, None)
        if worker is None:
            return
        for reader, is_error in zip(worker.readers, (False, True), strict=True):
            if not reader.ended:
                self._reactor.unregister(reader.fileno())
            reader.drain()
            self._forward(worker, reader, is_error)
            reader.close()

    def flush(self, job: bytes) -> bool:
        """Pass on all that the job's workers have printed until now; whether some of it has to wait for the driver."""
        has_more = False
        for worker in self._workers.values():
            if worker.job != job:
                continue
            for reader, is_error in zip(worker.readers, (False, True), strict=True):
                if not reader.ended:
                    self._read(reader)
                reader.buffer.end_line()
                self._forward(worker, reader, is_error)
                has_more = has_more or reader.buffer.has_lines
        return has_more

    def tick(self) -> None:
        """Pass on lines that were begun and not ended, such as a prompt, and what a slow driver left behind."""
        for worker in self._workers.values():
            for reader, is_error in zip(worker.readers, (False, True), strict=True):
                if reader.buffer.has_partial_line:
                    reader.buffer.end_line()
                if reader.buffer.has_lines:
                    self._forward(worker, reader, is_error)

    def _read(self, reader: WorkerOutputReader) -> None:
        reader.on_readable()
        if reader.ended:
            self._reactor.unregister(reader.fileno())

    def _forward(self, worker: PrintingWorker, reader: WorkerOutputReader, is_error: bool) -> None:
        driver = self._processes.get(worker.job)
        is_elsewhere = self._processes.is_elsewhere(worker.job)
        while reader.buffer.has_lines:
            if not self._has_room(worker.job):
                return
            lines, dropped = reader.buffer.take()
            if (driver is not None or is_elsewhere) and self._is_wanted.get(worker.job, False):
                name = worker.name or self._slots.name(worker.slot) or "worker"
                where = self._processes.node_address if is_elsewhere else ""
                self._send(worker.job, WorkerOutput(worker.pid, name, lines, is_error, dropped, where))

    def _has_room(self, driver: bytes) -> bool:
        if not self._processes.is_clogged(driver):
            self._waiting_bytes.pop(driver, None)
            return True
        return self._waiting_bytes.get(driver, 0) < MAX_UNSENT_BYTES

    def _send(self, driver: bytes, message: WorkerOutput) -> None:
        size_bytes = sum(map(len, message.lines))
        self._waiting_bytes[driver] = self._waiting_bytes.get(driver, 0) + size_bytes
        self._processes.send(driver, message)

    def close(self) -> None:
        """Read and close everything."""
        for number in list(self._workers):
            self.end(number)
