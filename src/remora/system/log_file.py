"""Logs: standard output and error of Remora's own processes, which never stand in the way of what is logged.

Python's own streams raise when the disk is full, and would end a daemon, with its node and all objects there, for a
line that nobody may ever read.
"""

from __future__ import annotations

import io
import os
import sys
import threading

TAIL_BYTES = 4000


class LogFile(io.TextIOBase):
    """Writes whole lines to a descriptor. What cannot be written is dropped and counted, and said when it can be.

    Example:
        >>> log = LogFile(2)
        >>> print("the node has joined", file=log)
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._line = ""
        self._lost = 0
        self._reason = ""

    def __repr__(self) -> str:
        return f"<LogFile fd={self._descriptor}, {self._lost} lines lost>"

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """As a text stream has it."""
        return "utf-8"

    def fileno(self) -> int:
        """The descriptor."""
        return self._descriptor

    def writable(self) -> bool:
        """It is."""
        return True

    def write(self, text: str) -> int:
        """Take *text*; lines that it ends leave at once."""
        with self._lock:
            self._line += text
            lines, newline, self._line = self._line.rpartition("\n")
            if newline:
                self._write(lines + newline)
        return len(text)

    def flush(self) -> None:
        """Write a line that was begun."""
        with self._lock:
            line, self._line = self._line, ""
            if line:
                self._write(line)

    def _write(self, text: str) -> None:
        note = f"[{self._lost} lines could not be written: {self._reason}]\n" if self._lost else ""
        data = memoryview((note + text).encode(errors="backslashreplace"))
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            self._lost += text.count("\n")
            self._reason = error.strerror or str(error)
        else:
            self._lost = 0


def log_to_descriptors() -> None:
    """Let ``print`` and tracebacks of this process go to the descriptors 1 and 2, whatever becomes of the disk."""
    sys.stdout = sys.__stdout__ = LogFile(1)  # type: ignore[assignment, misc]
    sys.stderr = sys.__stderr__ = LogFile(2)  # type: ignore[assignment, misc]


def tail_of(log_path: str) -> str:
    """The last lines of a log; empty when there is none any more."""
    try:
        with open(log_path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            return file.read().decode(errors="replace").strip()
    except FileNotFoundError:
        return ""
