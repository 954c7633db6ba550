"""A side as its own process, seen from the benchmark: started, asked, and ended with everything it started."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from remora.cli.bench.environments import Environment
from remora.cli.bench.processes import MARK_VARIABLE, cpu_seconds, kill_all, side_pids

#: The folder that holds the package ``rows``; a side has it last on its path and needs nothing else of Remora.
ROWS_PARENT = Path(__file__).parent

#: No single request takes this long; a side that is silent for longer hangs.
ANSWER_TIMEOUT_S = 300.0
_LAST_LINES = 15


class SideError(Exception):
    """A side could not do what it was asked: the row's error, or how the side ended."""


class SideDiedError(SideError):
    """The side's process is gone or hangs, and has to be started anew."""


class SideProcess:
    """One peer in a process of its own.

    Example:
        >>> with SideProcess(Environment("limits", sys.executable)) as side:
        ...     side.ask("prepare", row="fork", seconds=0.1)
        ...     side.ask("measure", seconds=1.0)
        {"operations": 1180, "seconds": 1.0004}
    """

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self._mark = uuid.uuid4().hex
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in _end
        program = f"import sys; sys.path.append({str(ROWS_PARENT)!r}); from rows.worker import main; main()"
        self._process = subprocess.Popen(
            [environment.python, "-P", "-c", program, "--module", environment.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,  # a buffered line would be missed by `select`, and written again by `close`
            env=os.environ | {MARK_VARIABLE: self._mark},
            start_new_session=True,
        )

    def __enter__(self) -> SideProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(polite=kind is None)

    def ask(self, action: str, **arguments: object) -> dict[str, Any]:
        """Has the side do something, and waits for the answer.

        Raises:
            SideDiedError: The side ended, or did not answer within `ANSWER_TIMEOUT_S`.
            SideError: What the side was asked raised; the text is the traceback there.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": action, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SideDiedError(self._epitaph(f"ended before {action!r}")) from None
        if not select.select([self._process.stdout], [], [], ANSWER_TIMEOUT_S)[0]:
            raise SideDiedError(self._epitaph(f"gave no answer to {action!r} within {ANSWER_TIMEOUT_S:g} s"))
        line = self._process.stdout.readline()
        if not line:
            raise SideDiedError(self._epitaph(f"ended during {action!r}"))
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise SideError(answer["error"])
        return answer

    def pids(self) -> list[int]:
        """The side's processes, the driver among them."""
        return side_pids(self._process.pid, self._mark)

    @property
    def driver_pid(self) -> int:
        """The process that answers."""
        return self._process.pid

    def cpu_seconds(self) -> float:
        """CPU time of all processes of the side so far."""
        return cpu_seconds(self.pids())

    def close(self, *, polite: bool = True) -> None:
        """Ends the side: asks it to shut down if `polite`, and kills whatever of it is left."""
        try:
            if polite:
                self.ask("stop")
        except SideError:
            pass  # It is being ended; what is wrong with it was said where it mattered.
        finally:
            self._end()

    def _end(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        deadline_s = time.monotonic() + 5.0
        while (rest := [pid for pid in self.pids() if pid != self._process.pid]) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        kill_all([*rest, self._process.pid])
        self._process.wait()
        self._process.stdout.close()
        self._process.stdin.close()
        self._log.close()

    def _epitaph(self, what: str) -> str:
        self._log.seek(0)
        last_lines = b"\n".join(self._log.read().splitlines()[-_LAST_LINES:]).decode(errors="replace")
        return f"the side {self.environment.module!r} {what}; its last lines:\n{last_lines}"
