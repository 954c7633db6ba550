"""A Python program that runs beside a test and is spoken to by lines, without ever hanging the test."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from types import TracebackType


class ProgramFailed(AssertionError):
    """A program ended with an error, or did not say in time what was awaited."""


class Program:
    """A running process: standard input and output are pipes, standard error is that of the test.

    Example:
        >>> with host.start_python("print(input()[::-1])") as program:
        ...     program.write_line("abc")
        ...     program.read_line()
        'cba'
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._unread = b""

    def __repr__(self) -> str:
        return f"<Program {self.process.pid}>"

    @property
    def pid(self) -> int:
        return self.process.pid

    def write_line(self, line: str) -> None:
        """Give the program a line on its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def read_line(self, timeout_s: float = 10.0) -> str:
        """The next line of its standard output, without the end of the line.

        Raises:
            ProgramFailed: it ended, or said nothing within *timeout_s*.
        """
        deadline_s = time.monotonic() + timeout_s
        while b"\n" not in self._unread:
            if not self._read_some(deadline_s):
                raise ProgramFailed(f"{self} ended without another line; the last it said: {self._unread!r}")
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()

    def finish(self, timeout_s: float = 10.0) -> str:
        """Close its standard input, wait for its end, and return what it printed and nobody read.

        Raises:
            ProgramFailed: it still runs after *timeout_s*, or its exit code is not 0.
        """
        deadline_s = time.monotonic() + timeout_s
        assert self.process.stdin is not None
        self.process.stdin.close()
        while self._read_some(deadline_s):
            pass
        try:
            exit_code = self.process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise ProgramFailed(f"{self} has closed its output and still runs after {timeout_s} s") from None
        if exit_code != 0:
            raise ProgramFailed(f"{self} ended with exit code {exit_code}")
        return self._unread.decode()

    def kill(self) -> None:
        """SIGKILL, and wait for the end; also when it has ended before."""
        self.process.kill()
        reap(self.process)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def _read_some(self, deadline_s: float) -> bool:
        """Wait for output until *deadline_s*; False at its end."""
        assert self.process.stdout is not None
        if not select.select([self.process.stdout], [], [], max(0.0, deadline_s - time.monotonic()))[0]:
            raise ProgramFailed(f"{self} is silent; the last it said: {self._unread!r}")
        data = os.read(self.process.stdout.fileno(), 65536)
        self._unread += data
        return bool(data)


def reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for the end of *process*, which was killed, and close our ends of its pipes."""
    process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # what was written and never sent
                pipe.close()
