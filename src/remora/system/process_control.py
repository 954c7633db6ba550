"""What Linux lets us say about processes: who ends with whom, who is killed first, how they are called.

Nothing here knows what a worker or a daemon is.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import resource
import select
import signal
import sys
import time
from typing import NamedTuple, NoReturn

PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
F_SETSIG = 10
COMMAND_NAME_LIMIT_BYTES = 15
KILL_PAUSE_S = 0.05
"""How long at most one round of killing waits before it looks for processes that were born meanwhile."""

_libc: ctypes.CDLL | None = None


def _prctl(option: int, argument: int | ctypes.Array[ctypes.c_char]) -> None:
    global _libc
    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
    value = ctypes.c_ulong(argument) if isinstance(argument, int) else argument
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}): {os.strerror(error)}")


def become_subreaper() -> None:
    """Make orphaned descendants of this process its children, so that they can be found and killed."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def set_process_title(title: str) -> None:
    """Show *title* in ``ps`` and ``top`` instead of the command line, as far as it fits into that."""
    encoded = title.encode()
    _prctl(PR_SET_NAME, ctypes.create_string_buffer(encoded[:COMMAND_NAME_LIMIT_BYTES]))
    # The kernel shows the bytes where the arguments were when the program started; prctl cannot move the place
    # without a privilege, but they can be overwritten.
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    if start and end - start > 2:
        # A last byte that is not zero tells the kernel that this is one title, which ends at the first zero.
        room = end - start
        ctypes.memmove(start, encoded[: room - 2].ljust(room - 1, b"\0") + b".", room)


def open_pidfd(pid: int) -> int:
    """A descriptor that becomes readable when process *pid* has ended, and never means another process.

    Raises:
        ProcessLookupError: there is no such process.
        OSError: the kernel is older than Linux 5.3, or a sandbox forbids the call.
    """
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError as error:
        message = f"pidfd_open failed ({error.strerror}); Remora needs Linux 5.3 or newer and this call allowed"
        raise OSError(error.errno, message) from error


def wait_ended(pidfd: int, timeout_s: float | None) -> bool:
    """Wait until the process behind *pidfd* has ended, at most *timeout_s* (None: for ever); whether it has."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else max(0, timeout_s) * 1000))


class ExitStatus(NamedTuple):
    """How a process ended: one of the two is set; neither, when somebody else has reaped it."""

    exit_code: int | None = None
    signal: int | None = None


def reap(pid: int) -> ExitStatus:
    """Wait until child *pid* has ended and free its pid."""
    try:
        result = os.waitid(os.P_PID, pid, os.WEXITED)
    except ChildProcessError:
        # A program that waits for any child gets ours too.
        return ExitStatus()
    assert result is not None, "only a waitid with WNOHANG returns without a result"
    if result.si_code == os.CLD_EXITED:
        return ExitStatus(exit_code=result.si_status)
    return ExitStatus(signal=result.si_status)


def end_process(exit_code: int) -> NoReturn:
    """End this process at once, with what it has printed, without exit handlers."""
    for stream in (sys.stdout, sys.stderr):
        # Nobody may be left to read it, or the user closed it.
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(exit_code)


def arm_lifeline(lifeline_read: int) -> int:
    """Let the kernel kill this process's group when the last writer of the pipe *lifeline_read* has gone.

    Returns the descriptor that must stay open. The kernel does it, so it also ends a process that holds the GIL in
    a loop of C code. ``PR_SET_PDEATHSIG`` was not chosen: it means the parent, and workers outlive their zygote.
    """
    # Owner and signal belong to the open file, which forked processes share: so each opens the pipe anew.
    own = os.open(f"/proc/self/fd/{lifeline_read}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.fcntl(own, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(own, F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(own, fcntl.F_SETFL, fcntl.fcntl(own, fcntl.F_GETFL) | os.O_ASYNC)
    # Armed too late? Only the inherited descriptor tells: a pipe opened without a writer waits for the first one.
    poll = select.poll()
    poll.register(lifeline_read, 0)
    if poll.poll(0):
        os.killpg(0, signal.SIGKILL)
    return own


def raise_oom_score(score: int) -> None:
    """Make the kernel take this process rather than others when memory ends; never makes it safer than it was."""
    with open("/proc/self/oom_score_adj", "r+") as file:
        if int(file.read()) < score:
            file.seek(0)
            file.write(str(score))


def raise_descriptor_limit() -> int:
    """Raise the number of descriptors this process may open to its hard limit; the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def children_of(pid: int) -> list[int]:
    """The pids of the children of *pid*, zombies included; empty when there is no such process."""
    if not _has_children_files():
        return _children_by_parent().get(pid, [])
    children: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with (
                contextlib.suppress(FileNotFoundError, ProcessLookupError),
                open(f"/proc/{pid}/task/{task}/children", "rb") as file,
            ):
                children += map(int, file.read().split())
    return children


def _has_children_files() -> bool:
    """Whether the kernel was built with ``CONFIG_PROC_CHILDREN``."""
    return os.path.exists("/proc/thread-self/children")


def _children_by_parent() -> dict[int, list[int]]:
    """The children of every process, for kernels without those files."""
    by_parent: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{name}/stat", "rb") as file:
                parent = int(file.read().rpartition(b")")[2].split()[1])
                by_parent.setdefault(parent, []).append(int(name))
    return by_parent


def descendants(pid: int) -> list[int]:
    """The pids of everything below *pid*, parents before their children, *pid* itself not included."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = children_of(waiting.pop())
        found += children
        waiting += children
    return found


def kill_quietly(pid: int) -> None:
    """SIGKILL for *pid*, if there is still such a process."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def kill_group_quietly(group: int) -> None:
    """SIGKILL for every process of *group*, if there is still one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def kill_worker(pid: int, group: int) -> None:
    """SIGKILL for a worker, its process group and all its descendants.

    For a process whose end was not reported yet: its pid is then still its own. What is born between the look and
    the kill becomes an orphan, and the zygote (or the daemon) kills orphans when the worker's end is seen.
    """
    below = descendants(pid)
    kill_group_quietly(group)
    kill_quietly(pid)
    for descendant in below:
        kill_quietly(descendant)


def kill_all_descendants(timeout_s: float) -> bool:
    """Kill and reap everything below this process, which must be a subreaper; whether nothing is left.

    Only a process that the kernel cannot end (stuck in a driver or on a dead network disk) outlasts *timeout_s*.
    """
    deadline_s = time.monotonic() + timeout_s
    while children := children_of(os.getpid()):
        for pid in descendants(os.getpid()):
            kill_quietly(pid)
        if not _reap_any(children) and time.monotonic() > deadline_s:
            return False
    return True


def _reap_any(children: list[int]) -> bool:
    """Wait a little for one of *children* to end and reap all that have; whether any had."""
    poll = select.poll()
    pidfds = []
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            pidfds.append(os.pidfd_open(pid))
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    poll.poll(KILL_PAUSE_S * 1000)
    for pidfd in pidfds:
        os.close(pidfd)
    reaped = False
    for pid in children:
        with contextlib.suppress(ChildProcessError):
            reaped |= os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
    return reaped
