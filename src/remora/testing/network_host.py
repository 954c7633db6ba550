"""One "machine" of a test network: programs and sockets in a network namespace of their own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from remora.testing.namespaces import Namespace
from remora.testing.network_programs import Program, ProgramFailed, reap


class Host:
    """A host of a :class:`~remora.testing.network_lab.NetworkLab`, which makes and removes it."""

    def __init__(self, name: str, address: str, namespace: Namespace) -> None:
        self.name = name
        self.address = address
        self.namespace = namespace
        self._processes: list[subprocess.Popen[bytes]] = []

    def __repr__(self) -> str:
        return f"<Host {self.name} {self.address}>"

    def entered(self) -> contextlib.AbstractContextManager[None]:
        """Sockets that this thread makes within the block are this host's, also after the block."""
        return self.namespace.entered()

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a program on this host, with the options of :class:`subprocess.Popen`. It is killed with the lab."""
        with self.entered():
            process: subprocess.Popen[bytes] = subprocess.Popen(argv, **options)
        self._processes.append(process)
        return process

    def run(self, argv: Sequence[str], timeout_s: float = 30.0, **options: Any) -> str:
        """Run a program on this host to its end; what it printed.

        Raises:
            ProgramFailed: its exit code is not 0, or it still ran after *timeout_s*; with what it printed.
        """
        pipe = subprocess.PIPE
        process = self.popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, **options)
        try:
            output, errors = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            output, errors = process.communicate()
            errors += f"\nkilled after {timeout_s} s".encode()
        self._processes.remove(process)
        if process.returncode != 0:
            said = (output + errors).decode(errors="replace")
            raise ProgramFailed(f"{argv[0]} on {self} ended with {process.returncode}:\n{said}")
        return output.decode()

    def python(self, code: str, *arguments: str, timeout_s: float = 30.0, **options: Any) -> str:
        """Run *code* on this host with this interpreter, ``sys.argv[1:]`` being *arguments*; as :meth:`run`.

        Example:
            >>> host.python("import sys; print(sys.argv[1] * 2)", "ab")
            'abab\\n'
        """
        return self.run(_python_command(code, arguments), timeout_s, **options)

    def start(self, argv: Sequence[str], **options: Any) -> Program:
        """Start a program on this host, to be spoken to by lines while it runs."""
        return Program(self.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options))

    def start_python(self, code: str, *arguments: str, **options: Any) -> Program:
        """Start *code* on this host with this interpreter, as :meth:`start`."""
        return self.start(_python_command(code, arguments), **options)

    def kill_processes(self) -> None:
        """SIGKILL for every process of this host, as when its power fails; the host stays in the network."""
        self.namespace.kill_processes()
        while self._processes:
            reap(self._processes.pop())


def _python_command(code: str, arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-u", "-c", textwrap.dedent(code), *arguments]
