"""Start a node from the driver, watch it, and see that nothing of it stays.

The socket that the daemon listens on is made here, before the daemon exists, and handed to it: so a driver may
connect at once, and nobody has to ask again and again whether the daemon is there.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable

import msgspec

from remora.base.configuration import ClusterConfiguration, NodeConfiguration, NodeDescriptors
from remora.base.errors import describe_exit
from remora.base.remora_error import RemoraError
from remora.system.handshake import listen_unix
from remora.system.interpreter import FIRST_DESCRIPTOR, choose_hash_seed, spawn_interpreter
from remora.system.log_file import tail_of
from remora.system.process_control import ExitStatus, kill_all_descendants, open_pidfd, reap, wait_ended
from remora.system.session_directory import DAEMON_LOG, DAEMON_SOCKET, SessionDirectory, remove_leftovers

LAUNCHER_ENTRY = "remora.processes.launcher:main"
LAUNCHER_TITLE = "remora:daemon (starting)"
LAUNCH_DESCRIPTOR_COUNT = 4
READY_TIMEOUT_S = 30.0
END_TIMEOUT_S = 3.0
REFUSAL_EXIT_CODE = 3
"""Of a daemon that could not be what it was to be. The last line of its log is a sentence that says why."""


class NodeStartError(RemoraError, RuntimeError):
    """The node daemon could not be started; the text has the end of its log."""


class LaunchedNode:
    """The driver's handle of its node daemon."""

    def __init__(self, session: SessionDirectory, pid: int, ready: int) -> None:
        self.session = session
        self.pid = pid
        self.pidfd = open_pidfd(pid)
        self._ready = ready
        self._exit: ExitStatus | None = None

    def __repr__(self) -> str:
        state = "running" if self._exit is None else describe_exit(*self._exit)
        return f"<LaunchedNode pid={self.pid} {self.session.path} {state}>"

    def fileno(self) -> int:
        """A pidfd: readable when the daemon has ended."""
        return self.pidfd

    @property
    def socket_path(self) -> str:
        """Where the daemon listens; connecting works before it is ready."""
        return self.session.file(DAEMON_SOCKET)

    @property
    def log_path(self) -> str:
        """Standard output and error of the daemon and of its zygote."""
        return self.session.file(DAEMON_LOG)

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until the daemon serves.

        Raises:
            NodeStartError: it ended before, or is not ready after *timeout_s*; it has been ended then.
        """
        if self._ready < 0:
            return
        poll = select.poll()
        poll.register(self._ready, select.POLLIN)
        is_late = not poll.poll(timeout_s * 1000)
        is_ready = not is_late and os.read(self._ready, 1) != b""
        os.close(self._ready)
        self._ready = -1
        if not is_ready:
            status = None if is_late else self.exit_status(END_TIMEOUT_S)
            how = describe_exit(*status) if status else f"was not ready after {timeout_s:g} s"
            tail = self.log_tail()
            self.end(0)
            if tail and status is not None and status.exit_code == REFUSAL_EXIT_CODE:
                raise NodeStartError(tail.splitlines()[-1])
            raise NodeStartError(f"the node daemon {how}. The end of its log:\n{tail or '(it is empty)'}")

    def exit_status(self, timeout_s: float = 0) -> ExitStatus | None:
        """How the daemon ended; None while it still runs after *timeout_s*."""
        if self._exit is None and wait_ended(self.pidfd, timeout_s):
            self._exit = reap(self.pid)
        return self._exit

    def log_tail(self) -> str:
        """The last lines of the log; empty when there is none any more."""
        return tail_of(self.log_path)

    def close_in_child(self) -> None:
        """In a forked child of the driver: the node is not this process's."""
        os.close(self.pidfd)
        self.pidfd = -1

    def end(self, timeout_s: float = END_TIMEOUT_S) -> None:
        """Wait at most *timeout_s* for the daemon to end, kill it if it has not, and remove what it left.

        The caller has told the daemon to end, or closed its connection. A daemon that is killed takes its zygote and
        its workers with it.
        """
        if self.pidfd < 0:
            return
        if not wait_ended(self.pidfd, timeout_s):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            wait_ended(self.pidfd, END_TIMEOUT_S)
        self.exit_status()
        self.session.remove_if_abandoned()
        os.close(self.pidfd)
        self.pidfd = -1
        if self._ready >= 0:
            os.close(self._ready)
            self._ready = -1


def launch(
    configuration: NodeConfiguration,
    root: str | None = None,
    base: str | None = None,
    *,
    is_detached: bool = False,
    make_cluster: Callable[[str], ClusterConfiguration] | None = None,
) -> LaunchedNode:
    """Start a node daemon and its zygote for this process; returns while they are still starting.

    ``session_directory``, ``driver_pid``, ``hash_seed`` and ``descriptors`` of *configuration* are filled in here.
    Leftovers of killed sessions are removed first. *root* and *base* are those of
    :meth:`remora.system.session_directory.SessionDirectory.create`. A detached node does not end with this process.
    ``make_cluster(folder)`` makes the cluster's part of the configuration when the session's folder is there.

    Raises:
        OSError: no session directory can be made, or no process started.

    Example:
        >>> node = launch(NodeConfiguration(session_directory=""))
        >>> node.wait_ready()
        >>> sock = connect_unix(node.socket_path)
    """
    remove_leftovers(base)
    session = SessionDirectory.create(0 if is_detached else os.getpid(), time.time(), root, base)
    with contextlib.ExitStack() as on_error:
        on_error.callback(session.remove)
        if make_cluster is not None:
            configuration = msgspec.structs.replace(configuration, cluster=make_cluster(session.path))
        node = _spawn(session, configuration, is_detached)
        on_error.pop_all()
    session.unlock_here()
    return node


def _spawn(session: SessionDirectory, configuration: NodeConfiguration, is_detached: bool) -> LaunchedNode:
    with contextlib.ExitStack() as stack:
        listener: socket.socket = stack.enter_context(listen_unix(session.file(DAEMON_SOCKET)))
        # Without a driver the place of its pidfd is taken by something that never becomes readable.
        driver = os.eventfd(0, os.EFD_CLOEXEC) if is_detached else open_pidfd(os.getpid())
        stack.callback(os.close, driver)
        ready_read, ready_write = os.pipe()
        stack.callback(os.close, ready_write)
        numbers = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + LAUNCH_DESCRIPTOR_COUNT)
        hash_seed = choose_hash_seed()
        if configuration.cluster is not None:
            hash_seed = configuration.cluster.credentials.hash_seed
        configuration = msgspec.structs.replace(
            configuration,
            session_directory=session.path,
            driver_pid=0 if is_detached else os.getpid(),
            hash_seed=hash_seed,
            descriptors=NodeDescriptors(**dict(zip(("listener", "ready", "lock", "driver"), numbers))),
        )
        descriptors = [listener.fileno(), ready_write, session.lock, driver]
        try:
            pid = spawn_interpreter(
                LAUNCHER_ENTRY, LAUNCHER_TITLE, configuration, descriptors, session.file(DAEMON_LOG), hash_seed
            )
        except OSError:
            os.close(ready_read)
            raise
    return LaunchedNode(session, pid, ready_read)


def announce_ready(configuration: NodeConfiguration) -> None:
    """In the daemon: let :meth:`LaunchedNode.wait_ready` return. To be called once, when requests are served."""
    # The driver may have gone meanwhile; its pidfd says so.
    with contextlib.suppress(BrokenPipeError):
        os.write(configuration.descriptors.ready, b"\1")
    os.close(configuration.descriptors.ready)


def end_everything(configuration: NodeConfiguration, timeout_s: float = END_TIMEOUT_S) -> None:
    """In the daemon, as its last act: kill the zygote, all workers and what they started, and remove the folder."""
    kill_all_descendants(timeout_s)
    SessionDirectory.attach(configuration.session_directory, configuration.descriptors.lock).remove()
