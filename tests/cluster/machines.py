"""A host of the test network as a machine of its own: its own ``/tmp``, so its own sessions, too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from remora.testing.namespaces import processes_in
from remora.testing.network_host import Host
from remora.testing.network_lab import NetworkLab
from remora.testing.network_programs import Program, ProgramFailed

BIN = Path(sys.executable).parent
DRIVER = Path(__file__).with_name("network_driver.py")
RUN_VARIABLE = "REMORA_TEST_NETWORKS"
slow = pytest.mark.skipif(
    not os.environ.get(RUN_VARIABLE),
    reason=f"waits for time-outs of networks: run by `make test-all` only ({RUN_VARIABLE} is not set)",
)
POLL_S = 0.02
JOIN_FILE = "/tmp/join"
# A machine of this test has no /run/user, so its sessions are in /tmp.
_HOLD = """
mount -t tmpfs -o mode=1777,size={size} tmpfs /tmp
if [ -d /run/user ]; then mount -t tmpfs tmpfs /run/user; fi
echo ready
exec sleep infinity
"""


class Machine:
    """One machine; what runs on it ends with the lab."""

    def __init__(self, host: Host, tmp_size: str = "512m") -> None:
        if BIN.is_relative_to("/tmp"):
            pytest.skip("each machine of this test has a /tmp of its own, which would hide this checkout")
        self.host = host
        hold = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", _HOLD.format(size=tmp_size)]
        self._holder = host.start(hold)
        assert self._holder.read_line() == "ready"

    def __repr__(self) -> str:
        return f"<Machine {self.host.name} {self.address}>"

    @property
    def address(self) -> str:
        return self.host.address

    @property
    def tmp(self) -> Path:
        """Its ``/tmp``, as seen from here."""
        return Path(f"/proc/{self._holder.pid}/root/tmp")

    # ------------------------------------------------------------------ programs

    def command(self, *argv: str | Path) -> list[str]:
        """What runs *argv* with the files of this machine; the network is that of who starts it."""
        return ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--wdns=/tmp", "--", *map(str, argv)]

    def run(self, *argv: str | Path, timeout_s: float = 40.0, **options: Any) -> str:
        """What the program printed."""
        return self.host.run(self.command(*argv), timeout_s, env=_environment(options), **options)

    def remora(self, *arguments: str, timeout_s: float = 40.0, **options: Any) -> str:
        """What ``remora ARGUMENTS`` printed."""
        return self.run(BIN / "remora", *arguments, timeout_s=timeout_s, **options)

    def fail(self, *arguments: str, **options: Any) -> str:
        """What ``remora ARGUMENTS`` said when it failed, which it must: standard error only."""
        done = self.finish(*arguments, **options)
        assert done.returncode != 0, f"remora {arguments} went well: {done.stdout}"
        assert "Traceback" not in done.stderr, done.stderr
        return done.stderr

    def finish(
        self, *arguments: str, text: str | None = None, timeout_s: float = 40.0, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """``remora ARGUMENTS`` with *text* as standard input, run to its end, whatever that is."""
        argv = self.command(BIN / "remora", *arguments)
        with self.host.entered():
            return subprocess.run(
                argv,
                input=text or "",
                capture_output=True,
                text=True,
                timeout=timeout_s,
                env=_environment(options),
                check=False,
                **options,
            )

    def start(self, *argv: str | Path, **options: Any) -> Program:
        """Start a program, to be spoken to by lines."""
        return self.host.start(self.command(*argv), env=_environment(options), **options)

    # ------------------------------------------------------------------ nodes and drivers

    def start_head(self, *options: str) -> str:
        """Start the first node of a cluster, and keep its join string in a file; the string."""
        join = self.remora("start", "--head", "--quiet", *(options or ("--num-cpus", "2"))).strip()
        self.keep_join(join)
        return join

    def keep_join(self, join: str) -> None:
        """Write the join string to where :meth:`join` reads it."""
        path = self.tmp / "join"
        path.touch(0o600)
        path.write_text(join + "\n")

    def join(self, join: str, *options: str) -> None:
        """Start a node that joins; returns when it is a member."""
        self.keep_join(join)
        self.remora("start", "--join", JOIN_FILE, "--quiet", *(options or ("--num-cpus", "2")))

    @contextmanager
    def driver(self, address: str = "auto", **options: Any) -> Iterator[Driver]:
        """A driver on this machine, connected; it is killed at the end of the block."""
        with self.start(sys.executable, "-u", DRIVER, **options) as program:
            driver = Driver(program)
            driver(f"remora.init(address={address!r})")
            yield driver

    # ------------------------------------------------------------------ looking

    def processes(self) -> dict[int, str]:
        """Title or command line of everything that runs here for Remora, by pid."""
        found = {}
        for pid in processes_in(self.host.namespace.name):
            line = command_line(pid)
            if pid != self._holder.pid and "remora" in line:
                found[pid] = line
        return found

    def pid_of(self, title: str) -> int:
        """The one process with this in its command line."""
        pids = [pid for pid, line in self.processes().items() if title in line]
        assert len(pids) == 1, f"{title} on {self}: {self.processes()}"
        return pids[0]

    def session_folders(self) -> list[Path]:
        """The folders of the sessions that there are here, or that were left."""
        return sorted(path for path in self.tmp.glob("remora-*/*") if path.is_dir() and not path.is_symlink())

    def log(self, name: str = "daemon.log") -> str:
        """What the processes of all sessions here have logged."""
        logs = [path for folder in self.session_folders() for path in sorted(folder.glob(name))]
        return "\n".join(path.read_text(errors="replace") for path in logs)


class RemoteError(AssertionError):
    """A statement failed in the driver. ``kind`` is the name of the error's class, ``text`` what it says."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


class Driver:
    """A driver that is told what to do, statement by statement.

    Example:
        >>> driver("remora.get(double.remote(4))")
        8
        >>> driver.begin("ref = work.remote()")
        >>> driver.end()
    """

    def __init__(self, program: Program) -> None:
        self.program = program

    def __call__(self, code: str, timeout_s: float = 30.0) -> Any:
        """Run *code*; the value of its last line, if that is an expression.

        Raises:
            RemoteError: it raised an error.
        """
        self.begin(code)
        return self.end(timeout_s)

    def begin(self, code: str) -> None:
        """Have *code* run while the test does something else."""
        self.program.write_line(json.dumps(code))

    def end(self, timeout_s: float = 30.0) -> Any:
        """What became of it."""
        while True:
            line = self.program.read_line(timeout_s)
            if line.startswith("{"):
                break
        answer = json.loads(line)
        if "error" in answer:
            raise RemoteError(*answer["error"])
        return answer["value"]

    def error(self, code: str, timeout_s: float = 30.0) -> RemoteError:
        """The error that *code* raises, which it must."""
        try:
            value = self(code, timeout_s)
        except RemoteError as error:
            return error
        raise ProgramFailed(f"{code} raised nothing, and gave {value!r}")


def add_machines(lab: NetworkLab, count: int) -> list[Machine]:
    """New machines in the lab."""
    return [Machine(lab.add_host()) for _ in range(count)]


def start_cluster(
    lab: NetworkLab, count: int, *head_options: str, cpus: int = 2, options: tuple[str, ...] = ()
) -> list[Machine]:
    """Machines with a node each; ``m1`` is a resource of the first one, and so on. The first one has the head."""
    machines = add_machines(lab, count)
    join = ""
    for number, machine in enumerate(machines, 1):
        own = ("--num-cpus", str(cpus), "--resources", json.dumps({f"m{number}": 100}), *options)
        if number == 1:
            join = machine.start_head(*own, *head_options)
        else:
            machine.join(join, *own)
    return machines


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:  # it ended while we looked
        return ""


def wait_until(is_so: Callable[[], Any], what: str, timeout_s: float = 10.0) -> Any:
    """Ask until the answer is true; the answer."""
    deadline_s = monotonic() + timeout_s
    while not (answer := is_so()):
        assert monotonic() < deadline_s, f"after {timeout_s:g} s, still not: {what}"
        sleep(POLL_S)
    return answer


def _environment(options: dict[str, Any]) -> dict[str, str]:
    """That of the test without what would connect programs with other clusters; *options* may have more in ``env``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("REMORA_")}
    return {**kept, **options.pop("env", {})}
