"""A driver in a process of its own that waits at a known point while a test looks at its session."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

from click.testing import CliRunner, Result

from remora.cli.main import main

PREAMBLE = """
import json, os, sys
import numpy as np
import remora
from remora.base import runtime

BEGUN, GATE = sys.argv[1:]

def wait_for_test(**facts):
    "Say that everything is in its place, and stay there until the test is done."
    print(json.dumps({"session": runtime.current.address_info()["session_dir"], **facts}), flush=True)
    sys.stdin.read()
    os.close(os.open(GATE, os.O_RDWR))
"""


class InspectedDriver:
    """The running driver: ``facts`` are what it told, ``source`` is its program."""

    def __init__(self, process: subprocess.Popen[str], path: Path, facts: dict[str, Any]) -> None:
        self.process = process
        self.path = path
        self.facts = facts
        self.session: str = facts["session"]

    def invoke(self, command: str, *arguments: str) -> Result:
        """Run ``remora COMMAND`` on this driver's session."""
        return CliRunner().invoke(main, [command, "--session", self.session, *arguments])

    def ask(self, command: str, *arguments: str) -> Any:
        """What ``remora COMMAND --json`` prints."""
        result = self.invoke(command, "--json", *arguments)
        assert result.exit_code in (0, 1), result.output
        return json.loads(result.output)

    def line_of(self, code: str) -> int:
        """The number of the one line of the program that has *code* in it."""
        lines = self.path.read_text().splitlines()
        (number,) = (number for number, line in enumerate(lines, 1) if code in line)
        return number


@contextlib.contextmanager
def inspected_driver(folder: Path, program: str) -> Iterator[InspectedDriver]:
    """Run *program* up to its ``wait_for_test``. Its tasks may wait for the fifo GATE and say so in BEGUN."""
    path = folder / "prog.py"
    path.write_text(PREAMBLE + textwrap.dedent(program))
    fifos = [str(folder / name) for name in ("begun", "gate")]
    for fifo in fifos:
        os.mkfifo(fifo)
    process = subprocess.Popen(
        [sys.executable, str(path), *fifos], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, "the driver ended early"
        yield InspectedDriver(process, path, json.loads(line))
    finally:
        process.stdin.close()
        process.stdout.close()
        process.kill()
        process.wait()


def ask_until(driver: InspectedDriver, is_so: Any, command: str, *arguments: str, timeout_s: float = 5.0) -> Any:
    """Ask again and again until ``is_so(answer)``; the last answer."""
    deadline_s = monotonic() + timeout_s
    while True:
        answer = driver.ask(command, *arguments)
        if is_so(answer) or monotonic() > deadline_s:
            return answer
