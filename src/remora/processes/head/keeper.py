"""The daemon's side of the head that runs beside it: starts it, and starts it again when it was killed."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable
from time import monotonic

import msgspec

from remora.base.errors import describe_exit
from remora.base.remora_error import RemoraError
from remora.processes.head.configuration import HEAD_LOG, HEAD_SOCKETS, HeadConfiguration
from remora.system.interpreter import FIRST_DESCRIPTOR, choose_hash_seed, spawn_interpreter
from remora.system.process_control import ExitStatus, open_pidfd, reap, wait_ended
from remora.system.reactor import Reactor

HEAD_ENTRY = "remora.processes.head.main:main"
HEAD_TITLE = "remora:head (starting)"
READY = b"\1"
START_TIMEOUT_S = 30.0
RESTART_PAUSE_S = 1.0
"""Between two starts of a head that ends before it serves."""
MAX_ERROR_BYTES = 4096


class HeadStartError(RemoraError, RuntimeError):
    """The head could not be started; the text says why."""


class HeadKeeper:
    """One head process after another, of which only one lives at a time.

    Example:
        >>> keeper = HeadKeeper(HeadConfiguration(session_directory=directory, credentials=credentials), reactor)
        >>> keeper.start()
        >>> pass_socket(keeper.socket_path, sock, preface)    # for each connection whose target is 0.0
    """

    def __init__(self, configuration: HeadConfiguration, reactor: Reactor) -> None:
        self._configuration = configuration
        self._reactor = reactor
        self._on_started: Callable[[int], None] = lambda pid: None
        self.pid = 0
        """Of the head that lives; 0 when none does."""
        self._pidfd = -1
        self._ready = -1
        self._started_s = 0.0
        self._is_closed = False

    @property
    def socket_path(self) -> str:
        """Where the head receives sockets."""
        return os.path.join(self._configuration.session_directory, HEAD_SOCKETS)

    @property
    def log_path(self) -> str:
        """Standard output and error of the head."""
        return os.path.join(self._configuration.session_directory, HEAD_LOG)

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Start the head, and wait until it serves.

        Raises:
            HeadStartError: it ended before, for example because its state cannot be read, or takes too long.
        """
        self._spawn()
        poll = select.poll()
        poll.register(self._ready, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            self.close()
            raise HeadStartError(f"the head did not serve within {timeout_s:g} s; its log is {self.log_path}")
        answer = self._read_ready()
        if answer != READY:
            how = self._end()
            self._is_closed = True
            reason = answer.decode(errors="replace") or f"it {describe_exit(*how)}; its log is {self.log_path}"
            raise HeadStartError(f"the head could not be started: {reason}")

    def tell_pids(self, on_started: Callable[[int], None]) -> None:
        """Call ``on_started(pid)`` with the head that lives and with each later one.

        For who looks after the children of the daemon: a head is neither zygote nor worker, and no orphan either.
        """
        self._on_started = on_started
        if self.pid:
            on_started(self.pid)

    def close(self) -> None:
        """End the head, at once: all that it has acknowledged is in its store."""
        self._is_closed = True
        if self.pid:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._end()

    def _spawn(self) -> None:
        ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
        this_process = open_pidfd(os.getpid())
        configuration = msgspec.structs.replace(
            self._configuration, ready=FIRST_DESCRIPTOR, daemon=FIRST_DESCRIPTOR + 1
        )
        try:
            pid = spawn_interpreter(
                HEAD_ENTRY, HEAD_TITLE, configuration, [ready_write, this_process], self.log_path, choose_hash_seed()
            )
        finally:
            os.close(ready_write)
            os.close(this_process)
            self._ready = ready_read
        self.pid = pid
        self._pidfd = open_pidfd(pid)
        self._started_s = monotonic()
        self._on_started(pid)
        self._reactor.register(self._pidfd, self._on_ended)

    def _read_ready(self) -> bytes:
        """One byte when it serves, a text when it cannot, nothing when it ended without a word."""
        answer = os.read(self._ready, MAX_ERROR_BYTES)
        os.close(self._ready)
        self._ready = -1
        return answer

    def _end(self) -> ExitStatus:
        """Wait for the end of the process, and forget it."""
        wait_ended(self._pidfd, START_TIMEOUT_S)
        how = reap(self.pid)
        self._reactor.unregister(self._pidfd)
        os.close(self._pidfd)
        if self._ready >= 0:
            os.close(self._ready)
            self._ready = -1
        self.pid, self._pidfd = 0, -1
        return how

    def _on_ended(self, mask: int) -> None:
        how = self._end()
        if self._is_closed:
            return
        print(f"the head {describe_exit(*how)}; starting another one", file=sys.stderr, flush=True)
        self._reactor.call_after(max(0.0, self._started_s + RESTART_PAUSE_S - monotonic()), self._restart)

    def _restart(self) -> None:
        if self._is_closed:
            return
        try:
            self._spawn()
        except OSError as error:
            print(f"the head could not be started: {error}", file=sys.stderr, flush=True)
            self._reactor.call_after(RESTART_PAUSE_S, self._restart)

    def __repr__(self) -> str:
        return f"<HeadKeeper {f'head {self.pid}' if self.pid else 'no head'} {self.socket_path}>"
