"""What workers print, read without pause so that a ``print`` in a task never waits for a terminal.

:class:`OutputBuffer` is pure: bytes in, lines out, and no more than a limit in between. :class:`WorkerOutputReader`
fills it from a pipe.
"""

from __future__ import annotations

import os
from collections import deque

OUTPUT_LIMIT_BYTES = 10 * 1024 * 1024
LINE_LIMIT_BYTES = 64 * 1024
READ_SIZE_BYTES = 64 * 1024
READS_PER_EVENT = 16
"""Bounds how long one worker that prints without end keeps the daemon from its other work."""


class OutputBuffer:
    """Lines that were printed and not taken yet.

    Beyond *limit_bytes* the oldest lines are dropped and counted, because what a process printed last says most
    about how it ended. A line longer than 64 KB comes in parts.
    """

    def __init__(self, limit_bytes: int = OUTPUT_LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._blocks: deque[bytes] = deque()
        self._partial = b""
        self._dropped_lines = 0

    def __repr__(self) -> str:
        return f"<OutputBuffer {self.size_bytes} bytes, {self._dropped_lines} lines dropped>"

    @property
    def has_lines(self) -> bool:
        """Whether :meth:`take` has something to give."""
        return bool(self._blocks or self._dropped_lines)

    @property
    def has_partial_line(self) -> bool:
        """Whether a line was begun and not ended, such as a prompt."""
        return bool(self._partial)

    def feed(self, data: bytes) -> None:
        """Add what was printed."""
        data = self._partial + data
        cut = data.rfind(b"\n") + 1
        self._partial = data[cut:]
        # Blocks, not lines: a worker that prints without end must not cost the daemon an object per line.
        self._add(data[:cut])
        while len(self._partial) > LINE_LIMIT_BYTES:
            cut = _character_boundary(self._partial, LINE_LIMIT_BYTES)
            self._add(self._partial[:cut] + b"\n")
            self._partial = self._partial[cut:]

    def end_line(self) -> None:
        """Take a line that was begun for a whole one: nothing more will come, or not soon."""
        if self._partial:
            self._add(self._partial + b"\n")
            self._partial = b""

    def take(self, size_bytes: int = READ_SIZE_BYTES) -> tuple[list[str], int]:
        """Lines of about *size_bytes*, at least one block, and how many lines before them were dropped."""
        taken: list[bytes] = []
        taken_bytes = 0
        while self._blocks and (not taken or taken_bytes + len(self._blocks[0]) <= size_bytes):
            block = self._blocks.popleft()
            taken.append(block)
            taken_bytes += len(block)
        self.size_bytes -= taken_bytes
        dropped, self._dropped_lines = self._dropped_lines, 0
        lines = b"".join(taken).decode(errors="replace").split("\n")
        return lines[:-1], dropped

    def validate(self) -> None:
        """Raise AssertionError when the invariants do not hold."""
        assert self.size_bytes == sum(map(len, self._blocks)) <= self.limit_bytes, repr(self)
        assert all(block.endswith(b"\n") for block in self._blocks), "a block is whole lines"
        assert b"\n" not in self._partial, "an ended line is no partial line"
        assert len(self._partial) <= LINE_LIMIT_BYTES, "a partial line is bounded"

    def _add(self, block: bytes) -> None:
        if not block:
            return
        self._blocks.append(block)
        self.size_bytes += len(block)
        while self.size_bytes > self.limit_bytes:
            oldest = self._blocks.popleft()
            self.size_bytes -= len(oldest)
            self._dropped_lines += oldest.count(b"\n")


class WorkerOutputReader:
    """Reads one pipe of one worker, from the daemon's loop. Owns the (non-blocking) descriptor."""

    def __init__(self, descriptor: int, limit_bytes: int = OUTPUT_LIMIT_BYTES) -> None:
        self._descriptor = descriptor
        self.buffer = OutputBuffer(limit_bytes)
        self.ended = False

    def __repr__(self) -> str:
        return f"<WorkerOutputReader fd={self._descriptor} ended={self.ended} {self.buffer!r}>"

    def fileno(self) -> int:
        """The descriptor to poll for reading; -1 when closed."""
        return self._descriptor

    def on_readable(self) -> bool:
        """Read what is there, up to 1 MB; whether the pipe may have more. ``ended`` is set at its end."""
        for _ in range(READS_PER_EVENT):
            try:
                data = os.read(self._descriptor, READ_SIZE_BYTES)
            except BlockingIOError:
                return False
            if not data:
                self.ended = True
                self.buffer.end_line()
                return False
            self.buffer.feed(data)
        return True

    def drain(self) -> None:
        """After the worker has ended: read what it still printed, though a process it left may keep the pipe open."""
        while not self.ended and self.on_readable() and self.buffer.size_bytes < self.buffer.limit_bytes // 2:
            pass
        self.buffer.end_line()

    def close(self) -> None:
        """Close the pipe; whoever still writes to it gets SIGPIPE. Lines already read can still be taken."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _character_boundary(data: bytes, cut: int) -> int:
    """*cut*, or up to three bytes less, so that no UTF-8 character is cut in two."""
    for back in range(4):
        if data[cut - back] & 0xC0 != 0x80:
            return cut - back
    return cut
