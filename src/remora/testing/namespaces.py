"""Network namespaces that do not outlive the run that made them.

A namespace is a network stack of its own: links, addresses, routes, sockets. Only the calling thread moves into one
(:meth:`Namespace.entered`); sockets and processes made meanwhile stay there, so one test process can hold sockets of
several "machines". ``ip netns exec`` was not chosen for starting programs, because it also mounts ``/sys`` anew, and
then the limits of the control group are no longer to be seen.

Names carry the pid of their maker: ``remora-PID-NETWORK-HOST``. What a killed run left behind is found by that.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

NAMESPACES = Path("/run/netns")
NAME_OF_OURS = re.compile(r"remora-(\d+)-(\d+\.\d+\.\d+)-.+")
CLONE_NEWNET = 0x40000000
TUN = "/dev/net/tun"
TOOLS = ("ip", "tc", "ss")
COMMAND_TIMEOUT_S = 10.0
KILL_TIMEOUT_S = 10.0


class Namespace:
    """One network namespace, from its making until :meth:`remove`."""

    def __init__(self, name: str) -> None:
        run_tool("ip", "netns", "add", name)
        self.name = name

    def __repr__(self) -> str:
        return f"<Namespace {self.name}>"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Within this block the calling thread, and no other, is in the namespace."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            there = os.open(NAMESPACES / self.name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _move_thread(there)
            finally:
                os.close(there)
            try:
                yield
            finally:
                _move_thread(home)
        finally:
            os.close(home)

    def ip(self, *commands: str) -> None:
        """Run *commands* of ``ip`` in the namespace, all in one process."""
        run_tool("ip", "-n", self.name, "-batch", "-", text="\n".join(commands))

    def tc(self, *commands: str) -> None:
        """Run *commands* of ``tc`` in the namespace, all in one process."""
        run_tool("tc", "-n", self.name, "-batch", "-", text="\n".join(commands))

    def kill_processes(self) -> None:
        """SIGKILL for every process in the namespace; returns when they have ended."""
        _kill_processes(self.name)

    def remove(self) -> None:
        """Kill what runs in the namespace and remove it; its links and routes go with it."""
        _remove(self.name)


def run_tool(*command: str, text: str | None = None) -> str:
    """What *command* printed.

    Raises:
        RuntimeError: it failed; with what it said.
    """
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
    if done.returncode != 0:
        asked = f" given {text!r}" if text else ""
        said = "; ".join((done.stderr or done.stdout).splitlines())
        raise RuntimeError(f"`{' '.join(command)}`{asked} failed: {said}")
    return done.stdout


def _move_thread(namespace: int) -> None:
    """Move the calling thread into the network namespace behind a descriptor."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:  # os.setns came with Python 3.12
        error = ctypes.get_errno()
        raise OSError(error, f"setns to a network namespace: {os.strerror(error)}")


def names_of_ours() -> dict[str, tuple[int, str]]:
    """The namespaces made by any run of these helpers: name to pid of the maker and network."""
    found = {}
    for name in os.listdir(NAMESPACES) if NAMESPACES.exists() else []:
        if match := NAME_OF_OURS.fullmatch(name):
            found[name] = (int(match[1]), match[2])
    return found


def remove_leftovers() -> list[str]:
    """Remove the namespaces of runs that are dead, with what still runs in them; their names."""
    left = [name for name, (maker, _) in names_of_ours().items() if not os.path.exists(f"/proc/{maker}")]
    for name in left:
        with contextlib.suppress(FileNotFoundError, RuntimeError):  # another run sweeps at the same time
            _remove(name)
    return left


def _remove(name: str) -> None:
    _kill_processes(name)
    run_tool("ip", "netns", "delete", name)


def _kill_processes(name: str) -> None:
    deadline_s = time.monotonic() + KILL_TIMEOUT_S
    while pids := processes_in(name):  # again, for what was born meanwhile
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"processes {pids} in the network namespace {name} cannot be killed; is a disk stuck?")
        for pid in pids:
            _kill(pid)


def processes_in(name: str) -> list[int]:
    """The pids in the namespace, without zombies and without this process."""
    wanted = os.stat(NAMESPACES / name).st_ino
    pids = []
    for entry in os.listdir("/proc"):
        # A zombie has no namespace, and any other may end while we look at it.
        with contextlib.suppress(OSError):
            if entry.isdigit() and int(entry) != os.getpid() and os.stat(f"/proc/{entry}/ns/net").st_ino == wanted:
                pids.append(int(entry))
    return pids


def _kill(pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], KILL_TIMEOUT_S)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)


@functools.cache
def skip_reason() -> str | None:
    """Why no network can be made of namespaces here, in a sentence for the report; None when it can."""
    if os.geteuid() != 0:
        return "network namespaces are made by root only"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian package iproute2)"
    return _probe()


def _probe() -> str | None:
    """Make one of each thing once; only the kernel knows what it and the container allow."""
    try:
        namespace = Namespace(f"remora-{os.getpid()}-0.0.0-probe")
    except RuntimeError as error:
        return f"network namespaces are forbidden here: {error}"
    try:
        namespace.ip("link add bridge0 type bridge", "link add port0 type veth peer name port1")
        namespace.ip("rule add pref 10 from 192.0.2.1 blackhole")
        namespace.tc("qdisc replace dev port0 root tbf rate 1mbit burst 64kb latency 10ms")
    except RuntimeError as error:
        return f"the kernel or the container refuses what a test network needs: {error}"
    finally:
        namespace.remove()
    return _tun_probe()


def _tun_probe() -> str | None:
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{TUN} cannot be opened ({error.strerror}): load the module tun, or give the container this device"
    return None
