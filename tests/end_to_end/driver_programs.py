"""Driver programs in processes of their own, and looking at what is left of them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from typing import Any

LEFTOVER_TIMEOUT_S = 3.0
"""So long after the end of a driver, nothing of its session may be left."""


def eventually(is_so: Callable[[], object], timeout_s: float = 5.0) -> bool:
    """Whether *is_so* becomes true in time; looked at every 10 ms."""
    deadline_s = monotonic() + timeout_s
    while not is_so():
        if monotonic() > deadline_s:
            return False
        select.select([], [], [], 0.01)
    return True


def parents() -> dict[int, int]:
    """The parent's pid of every process that has not ended."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
                state, parent = file.read().rpartition(")")[2].split()[:2]
                if state != "Z":
                    found[int(name)] = int(parent)
    return found


def descendants(pid: int) -> list[int]:
    """All children of a process, and theirs."""
    of_parent: dict[int, list[int]] = {}
    for child, parent in parents().items():
        of_parent.setdefault(parent, []).append(child)
    found = list(of_parent.get(pid, ()))
    for one in found:
        found += of_parent.get(one, ())
    return found


def title(pid: int) -> str:
    """What ``ps`` shows of a process; empty when it has ended."""
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read().replace("\0", " ").strip()
    except OSError:
        return ""


def session_processes(driver_pid: int) -> dict[str, list[int]]:
    """The pids of a driver's session by title: ``remora:daemon``, ``remora:zygote``, ``remora:worker``."""
    found: dict[str, list[int]] = {}
    for pid in descendants(driver_pid):
        if title(pid).startswith("remora:"):
            found.setdefault(title(pid), []).append(pid)
    return found


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    return pid in parents()


TAKE_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""Tests that were started in the background ignore SIGINT, and so would what they start."""


class DriverProgram:
    """A Python program that runs in a process and a terminal session of its own.

    It tells by printing lines of JSON. At the end everything that it started is killed, whatever the test found.
    """

    def __init__(self, source: str, environment: Mapping[str, str] | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self.process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", TAKE_INTERRUPTS + textwrap.dedent(source)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
        self.pid = self.process.pid
        self._rest = b""
        self._family: list[int] = []

    def told(self, timeout_s: float = 15.0) -> Any:
        """The next line of JSON that the program prints."""
        assert self.process.stdout is not None
        deadline_s = monotonic() + timeout_s
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline_s - monotonic()))
            assert ready, f"the program said nothing for {timeout_s} s; it runs on: {self.errors()}"
            part = os.read(self.process.stdout.fileno(), 1 << 16)
            assert part, f"the program ended with {self.process.wait(5)}: {self.errors()}"
            self._rest += part
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)

    def go_on(self) -> None:
        """Let the program's ``input()`` return."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def errors(self) -> str:
        """What it has written to standard error."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def family(self) -> list[int]:
        """The pids of everything that it has started and that runs now; remembered for :meth:`survivors`."""
        self._family = descendants(self.pid)
        return self._family

    def survivors(self, timeout_s: float = LEFTOVER_TIMEOUT_S) -> list[str]:
        """Titles of those of the last :meth:`family` that still run after *timeout_s*."""
        eventually(lambda: not any(map(is_running, self._family)), timeout_s)
        return [f"{pid} {title(pid)}" for pid in self._family if is_running(pid)]

    def wait(self, timeout_s: float = 15.0) -> int:
        """Its exit code."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the program has not ended after {timeout_s} s: {self.errors()}") from None

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send the program, and it alone, a signal."""
        self.process.send_signal(number)

    def close(self) -> None:
        for pid in {*self._family, *descendants(self.pid), self.pid}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):
                stream.close()


@contextlib.contextmanager
def running(source: str, environment: Mapping[str, str] | None = None) -> Iterator[DriverProgram]:
    """The program, until the block ends."""
    program = DriverProgram(source, environment)
    try:
        yield program
    finally:
        program.close()


def told_by(source: str, timeout_s: float = 20.0, environment: Mapping[str, str] | None = None) -> Any:
    """The one line of JSON that a program prints, which then ends with 0 and leaves nothing."""
    with running(source, environment) as program:
        told = program.told(timeout_s)
        assert program.wait(timeout_s) == 0, program.errors()
        assert program.survivors() == []
        return told
