"""The fork server: has imported what workers need, forks them in milliseconds, and reports how they end.

It has one thread, holds nothing of the user's, and is a subreaper, so whatever a dead worker leaves behind becomes
its child and is killed. When the daemon ends, however it ends, the zygote kills all workers and ends too.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import select
import signal
from collections import deque
from typing import Any, NoReturn

import msgspec

from remora.base.configuration import WorkerConfiguration, ZygoteConfiguration
from remora.messages.children import Forked, ForkFailed, ForkWorker, Preload, Preloaded
from remora.processes.worker_start import run_worker
from remora.system.child_supervisor import ChildSupervisor
from remora.system.descriptor_channel import DescriptorChannel
from remora.system.interpreter import read_configuration
from remora.system.process_control import (
    become_subreaper,
    kill_all_descendants,
    set_process_title,
    wait_ended,
)
from remora.system.session_directory import SessionDirectory

ZYGOTE_TITLE = "remora:zygote"
BLAS_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
DESCRIPTOR_COUNT = 4
END_TIMEOUT_S = 2.0
DRIVER_TIMEOUT_S = 1.0


class NewWorker(msgspec.Struct, frozen=True):
    """In the forked child: what it is to become."""

    configuration: WorkerConfiguration
    stdout: int
    stderr: int


class Zygote:
    """Serves the daemon's requests until the daemon is gone, or until this process is a worker."""

    def __init__(self, configuration: ZygoteConfiguration) -> None:
        self._channel = DescriptorChannel(configuration.control)
        self._supervisor = ChildSupervisor()
        self._to_import: deque[str] = deque()
        self._imported: list[str] = []
        self._failures: list[str] = []

    def __repr__(self) -> str:
        return f"<Zygote {self._channel!r} {self._supervisor!r}>"

    def run(self) -> NewWorker | None:
        """Serve. Returns None when the daemon has gone, and in each forked child what that has to become."""
        while not self._channel.ended:
            self._wait()
            exited = self._supervisor.reap()
            if exited:
                self._channel.send(exited)
            # Everything is read before anything is forked, so that the child has no requests of others.
            for message in self._channel.receive():
                new_worker = self._handle(message)
                if new_worker is not None:
                    return new_worker
            self._import_one()
        return None

    def close(self) -> None:
        """Close everything that is the zygote's own; in a child that makes it a stranger to the daemon."""
        self._channel.close()
        self._supervisor.close()

    def _wait(self) -> None:
        poll = select.poll()
        poll.register(self._channel, select.POLLIN | (select.POLLOUT if self._channel.has_unsent else 0))
        poll.register(self._supervisor, select.POLLIN)
        poll.poll(0 if self._to_import else None)
        self._channel.flush()

    def _handle(self, message: Any) -> NewWorker | None:
        if isinstance(message, ForkWorker):
            return self._fork(message.configuration)
        if isinstance(message, Preload):
            self._to_import.extend(message.modules)
            return None
        raise TypeError(f"the daemon sent a zygote {type(message).__name__}, which is not for zygotes")

    def _fork(self, configuration: WorkerConfiguration) -> NewWorker | None:
        stdout, stderr = self._channel.take_descriptors(2)
        number = configuration.worker_number
        try:
            pid = os.fork()
        except OSError as error:
            self._channel.send([ForkFailed(number, _why_fork_failed(error))])
        else:
            if pid == 0:
                return NewWorker(configuration, stdout, stderr)
            # Also done by the child: whoever is first, the group exists before it is used.
            with contextlib.suppress(PermissionError, ProcessLookupError):
                os.setpgid(pid, pid)
            self._supervisor.watch_worker(pid, number)
            self._channel.send([Forked(number, pid)])
        os.close(stdout)
        os.close(stderr)
        return None

    def _import_one(self) -> None:
        """Import one of the modules asked for; between two of them requests to fork are served."""
        if not self._to_import:
            return
        module = self._to_import.popleft()
        try:
            __import__(module)
            self._imported.append(module)
        except Exception as error:  # noqa: BLE001 - any module may fail in any way, and workers do without it
            self._failures.append(f"{module}: {type(error).__name__}: {error}")
        if not self._to_import:
            # A collection in a worker would write to, and so copy, every page with an object in it.
            gc.collect()
            gc.freeze()
            self._channel.send([Preloaded(self._imported, [*self._failures, *_complaints()])])
            self._imported, self._failures = [], []


def main() -> NoReturn:
    """Entry of a fresh interpreter, when the zygote has to be started again."""
    faulthandler.enable()
    serve(read_configuration(ZygoteConfiguration, DESCRIPTOR_COUNT))


def serve(configuration: ZygoteConfiguration) -> NoReturn:
    """Be the zygote until the daemon is gone."""
    become_subreaper()
    set_process_title(ZYGOTE_TITLE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    users_variables = {name: os.environ[name] for name in BLAS_VARIABLES if name in os.environ}
    os.environ.update(dict.fromkeys(BLAS_VARIABLES, "1"))
    gc.disable()
    gc.freeze()
    zygote = Zygote(configuration)
    new_worker = zygote.run()
    zygote.close()
    if new_worker is None:
        _end(configuration)
    os.close(configuration.daemon)
    if configuration.driver >= 0:
        os.close(configuration.driver)
    os.environ.update(users_variables)
    run_worker(new_worker.configuration, new_worker.stdout, new_worker.stderr, configuration.lifeline_read)


def _end(configuration: ZygoteConfiguration) -> NoReturn:
    """Kill everything below; if the driver has gone too, nobody else is left to remove the session's folder."""
    kill_all_descendants(END_TIMEOUT_S)
    if configuration.driver >= 0 and wait_ended(configuration.driver, DRIVER_TIMEOUT_S):
        # The lock is free only when the daemon has ended to its last step.
        wait_ended(configuration.daemon, END_TIMEOUT_S)
        SessionDirectory.attach(configuration.session_directory).remove_if_abandoned()
    os._exit(0)


def _why_fork_failed(error: OSError) -> str:
    return (
        f"the system refused to start a process ({error.strerror}): the limit of processes (ulimit -u, the cgroup's "
        "pids.max) or of memory is reached"
    )


def _complaints() -> list[str]:
    threads = len(os.listdir("/proc/self/task"))
    if threads == 1:
        return []
    return [f"after these imports the zygote has {threads} threads; only one of them is in the workers it forks"]
