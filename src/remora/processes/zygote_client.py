"""The node daemon's side of the zygote: asks for workers, hears how they end, outlives the zygote.

Everything is non-blocking and behind one descriptor. When the zygote is killed its workers live on: the kernel
makes them children of the daemon, which is a subreaper too, and from then on they are watched here.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
from typing import Any

import msgspec

from remora.base.configuration import NodeConfiguration, WorkerConfiguration, ZygoteConfiguration
from remora.base.errors import describe_exit
from remora.messages.children import Exited, Forked, ForkFailed, ForkWorker, Preload, Preloaded
from remora.system.child_supervisor import ChildSupervisor
from remora.system.descriptor_channel import DescriptorChannel
from remora.system.interpreter import FIRST_DESCRIPTOR, spawn_interpreter
from remora.system.process_control import children_of, kill_worker, open_pidfd, reap
from remora.system.session_directory import DAEMON_LOG, SessionDirectory

ZYGOTE_ENTRY = "remora.processes.zygote:main"
ZYGOTE_TITLE = "remora:zygote (starting again)"


class ZygoteEnded(msgspec.Struct, frozen=True):
    """The zygote has ended by itself or was killed; ``how`` says so. Its workers live; :meth:`ZygoteClient.restart`."""

    how: str


class WorkerPipes(msgspec.Struct, frozen=True):
    """The ends to read of a worker's standard output and error, non-blocking; the caller closes them."""

    stdout: int
    stderr: int


Report = Forked | ForkFailed | Exited | Preloaded | ZygoteEnded


class ZygoteClient:
    """Not thread-safe: to be used by the daemon's loop only.

    Poll :meth:`fileno` for reading and call :meth:`on_readable`; that also writes what did not fit before.

    Example:
        >>> client = ZygoteClient(configuration)
        >>> pipes = client.request_fork(WorkerConfiguration(worker_number=1, session_directory=directory))
        >>> reactor.register(client.fileno(), lambda mask: handle(client.on_readable()))
    """

    def __init__(self, configuration: NodeConfiguration) -> None:
        self._configuration = configuration
        self._epoll = select.epoll()
        self._supervisor = ChildSupervisor()
        self._epoll.register(self._supervisor.fileno(), select.EPOLLIN)
        self._requested: set[int] = set()
        self._pid_of_worker: dict[int, int] = {}
        self._preload_modules: list[str] = []
        self._attach(configuration.descriptors.control, configuration.zygote_pid)

    def __repr__(self) -> str:
        state = f"zygote {self.pid}" if self.is_running else "no zygote"
        return f"<ZygoteClient {state} requested={sorted(self._requested)} workers={sorted(self._pid_of_worker)}>"

    def fileno(self) -> int:
        """The descriptor to poll for reading."""
        return self._epoll.fileno()

    @property
    def is_running(self) -> bool:
        """Whether there is a zygote; its end is noticed in :meth:`on_readable`."""
        return self.pid > 0

    def request_fork(self, configuration: WorkerConfiguration) -> WorkerPipes:
        """Ask for a worker; ``Forked`` or ``ForkFailed`` with its number is reported later.

        Raises:
            RuntimeError: there is no zygote, or a worker of this number was asked for before.
            OSError: no more descriptors.
        """
        number = configuration.worker_number
        if not self.is_running:
            raise RuntimeError(f"worker {number} cannot be forked: the zygote has ended and was not started again")
        if number in self._requested or number in self._pid_of_worker:
            raise RuntimeError(f"worker number {number} was given before; each worker needs its own")
        stdout_read, stdout_write = os.pipe()
        try:
            stderr_read, stderr_write = os.pipe()
        except OSError:
            os.close(stdout_read)
            os.close(stdout_write)
            raise
        os.set_blocking(stdout_read, False)
        os.set_blocking(stderr_read, False)
        self._requested.add(number)
        self._send(ForkWorker(configuration), [stdout_write, stderr_write])
        return WorkerPipes(stdout_read, stderr_read)

    def preload(self, modules: list[str]) -> None:
        """Let the zygote import *modules* now; ``Preloaded`` is reported later. A restarted zygote does it again."""
        self._preload_modules += [module for module in modules if module not in self._preload_modules]
        if self.is_running:
            self._send(Preload(modules))

    def kill(self, worker_number: int) -> None:
        """Kill a worker and everything that it started; its ``Exited`` follows. Unknown numbers are ignored."""
        pid = self._pid_of_worker.get(worker_number)
        if pid is not None:
            kill_worker(pid, pid)

    def on_readable(self) -> list[Report]:
        """What has happened since the last call, in order."""
        reports: list[Report] = []
        for fd, _ in self._epoll.poll(0):
            if fd == self._supervisor.fileno():
                reports += self._note(self._supervisor.reap())
            elif fd == self._pidfd:
                reports += self._zygote_ended()
            elif fd == self._channel.fileno():
                self._channel.flush()
                reports += self._note(self._channel.receive())
                self._watch_channel()
        return reports

    def restart(self) -> None:
        """Start a new zygote, in a fresh interpreter, after ``ZygoteEnded``; returns while it is starting.

        Raises:
            RuntimeError: the zygote runs.
            OSError: the process cannot be started.
        """
        if self.is_running:
            raise RuntimeError(f"the zygote {self.pid} still runs")
        daemon_side, zygote_side = socket.socketpair()
        with zygote_side, daemon_side:
            pid = self._spawn(zygote_side)
            self._supervisor.spare(pid)
            self._attach(daemon_side.detach(), pid)
        if self._preload_modules:
            self._send(Preload(self._preload_modules))

    def spare(self, pid: int) -> None:
        """Child *pid* of the daemon is neither zygote nor worker, so it is not to be killed as an orphan."""
        self._supervisor.spare(pid)

    def close(self) -> None:
        """Close all descriptors. A running zygote takes this as the daemon's end: it kills its workers and ends."""
        if self.is_running:
            self._detach()
        self._supervisor.close()
        self._epoll.close()

    def _attach(self, control: int, pid: int) -> None:
        self.pid = pid
        self._pidfd = open_pidfd(pid)
        self._channel = DescriptorChannel(control)
        self._epoll.register(self._pidfd, select.EPOLLIN)
        self._epoll.register(self._channel.fileno(), select.EPOLLIN)

    def _detach(self) -> None:
        self._epoll.unregister(self._pidfd)
        if not self._channel.ended:
            self._epoll.unregister(self._channel.fileno())
        self._channel.close()
        os.close(self._pidfd)
        self._pidfd = -1
        self.pid = 0

    def _send(self, message: Any, descriptors: list[int] | None = None) -> None:
        self._channel.send([message], descriptors)
        self._watch_channel()

    def _watch_channel(self) -> None:
        if self._channel.ended:
            # Its pidfd tells the rest; the socket would be readable for ever.
            with contextlib.suppress(FileNotFoundError):
                self._epoll.unregister(self._channel.fileno())
            return
        mask = select.EPOLLIN | (select.EPOLLOUT if self._channel.has_unsent else 0)
        self._epoll.modify(self._channel.fileno(), mask)

    def _note(self, messages: list[Any]) -> list[Report]:
        for message in messages:
            if isinstance(message, Forked):
                self._requested.discard(message.worker_number)
                self._pid_of_worker[message.worker_number] = message.pid
            elif isinstance(message, ForkFailed):
                self._requested.discard(message.worker_number)
            elif isinstance(message, Exited):
                self._pid_of_worker.pop(message.worker_number, None)
        return messages

    def _zygote_ended(self) -> list[Report]:
        """Read what it still said, take over its workers, and give up what it had not done."""
        reports = self._note(self._channel.receive())
        how = describe_exit(*reap(self.pid))
        self._detach()
        reports.append(ZygoteEnded(how))
        # A pidfd fires after the children were given away, so those that live are ours by now.
        ours = set(children_of(os.getpid()))
        lost: list[Report] = []
        for number, pid in self._pid_of_worker.items():
            if pid in ours:
                self._supervisor.watch_worker(pid, number)
            else:
                lost.append(Exited(number, pid))
        for number in sorted(self._requested):
            lost.append(ForkFailed(number, f"the zygote {how}"))
        # A worker that was forked but not reported is unknown here: it goes the way of the orphans.
        self._supervisor.kill_orphans()
        return reports + self._note(lost)

    def _spawn(self, zygote_side: socket.socket) -> int:
        configuration = self._configuration
        own = configuration.descriptors
        this_process = open_pidfd(os.getpid())
        try:
            descriptors = [zygote_side.fileno(), own.lifeline_read, this_process]
            if own.driver >= 0:
                descriptors.append(own.driver)
            first = FIRST_DESCRIPTOR
            told = ZygoteConfiguration(
                session_directory=configuration.session_directory,
                control=first,
                lifeline_read=first + 1,
                daemon=first + 2,
                driver=first + 3 if own.driver >= 0 else -1,
            )
            log_path = SessionDirectory.attach(configuration.session_directory).file(DAEMON_LOG)
            return spawn_interpreter(ZYGOTE_ENTRY, ZYGOTE_TITLE, told, descriptors, log_path, configuration.hash_seed)
        finally:
            os.close(this_process)
