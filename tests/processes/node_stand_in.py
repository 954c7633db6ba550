"""A node daemon and workers that do nothing but live, for the tests of process life.

A test (or a script that a test starts) is the driver: it makes a :class:`StandInNode` and asks its daemon for
things over the daemon's socket, one line of JSON each way.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from remora.base.configuration import NodeConfiguration, WorkerConfiguration
from remora.processes.zygote_client import ZygoteClient
from remora.system.handshake import connect_unix
from remora.system.launch import announce_ready, end_everything, launch
from remora.system.process_control import children_of
from remora.system.worker_output import WorkerOutputReader

TIMEOUT_S = 20.0


class StandInNode:
    """The driver's side."""

    def __init__(self, base: str, root: str | None = None, **options: Any) -> None:
        options.setdefault("daemon_main", "node_stand_in:daemon")
        self.node = launch(NodeConfiguration(session_directory="", **options), root, base)
        self.node.wait_ready()
        self._socket = connect_unix(self.node.socket_path, TIMEOUT_S)
        self._lines = self._socket.makefile("rw")

    def ask(self, command: str, **arguments: Any) -> Any:
        """What the daemon answers to one command."""
        self._lines.write(json.dumps({"command": command, **arguments}) + "\n")
        self._lines.flush()
        return json.loads(self._lines.readline())

    def fork(self, number: int = 1, main: str = "idle", **options: Any) -> int:
        """The pid of a new worker that runs *main* of this module."""
        self.ask("fork", first=number, main=main, options=options)
        return int(self.ask("reports", kind="Forked", worker_number=number)["pid"])

    def printed(self, number: int = 1) -> Any:
        """The first line that the worker printed, which is JSON."""
        return json.loads(self.ask("output", number=number))

    def close(self) -> None:
        """End of the driver."""
        self._lines.close()
        self._socket.close()
        self.node.end()


def daemon(configuration: NodeConfiguration) -> None:
    """The daemon's side: serve one driver until it is gone."""
    StandInDaemon(configuration).run()
    end_everything(configuration)


def failing_daemon(configuration: NodeConfiguration) -> None:
    """A daemon that cannot start."""
    raise ValueError("the stars are not right")


def silent_daemon(configuration: NodeConfiguration) -> None:
    """A daemon that never gets ready."""
    signal.pause()


class StandInDaemon:
    """One loop, one driver."""

    def __init__(self, configuration: NodeConfiguration) -> None:
        self.configuration = configuration
        self.zygote = ZygoteClient(configuration)
        self.readers: dict[int, tuple[WorkerOutputReader, WorkerOutputReader]] = {}
        self.reports: list[dict[str, Any]] = []
        self.listener = socket.socket(fileno=configuration.descriptors.listener)
        self.listener.setblocking(True)

    def run(self) -> None:
        announce_ready(self.configuration)
        driver, _ = self.listener.accept()
        lines = driver.makefile("rw")
        poll = select.poll()
        for fd in (driver.fileno(), self.configuration.descriptors.driver, self.zygote.fileno()):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll()}
            if self.configuration.descriptors.driver in ready:
                return
            if self.zygote.fileno() in ready:
                self.collect()
            if driver.fileno() in ready:
                line = lines.readline()
                if not line:
                    return
                lines.write(json.dumps(self.handle(**json.loads(line))) + "\n")
                lines.flush()

    def collect(self) -> None:
        for report in self.zygote.on_readable():
            self.reports.append({"kind": type(report).__name__, **msgspec.structs.asdict(report)})

    def handle(self, command: str, **arguments: Any) -> Any:
        answer: Callable[..., Any] = getattr(self, f"do_{command}")
        return answer(**arguments)

    def do_fork(self, first: int, main: str, options: dict[str, Any], count: int = 1) -> None:
        for number in range(first, first + count):
            pipes = self.zygote.request_fork(
                WorkerConfiguration(
                    worker_number=number,
                    session_directory=self.configuration.session_directory,
                    main=main if ":" in main else f"node_stand_in:{main}",
                    **options,
                )
            )
            self.readers[number] = WorkerOutputReader(pipes.stdout), WorkerOutputReader(pipes.stderr)

    def do_reports(self, kind: str, count: int = 1, **wanted: Any) -> Any:
        """Wait for *count* reports of this kind with these fields; the last of them, or all when count is not 1."""
        while True:
            found = [
                report
                for report in self.reports
                if report["kind"] == kind and all(report[name] == value for name, value in wanted.items())
            ]
            if len(found) >= count:
                return found[-1] if count == 1 else found
            wait_readable(self.zygote.fileno())
            self.collect()

    def do_output(self, number: int, is_error: bool = False) -> str:
        """Wait for what the worker prints: the first line, or everything on standard error until its end."""
        reader = self.readers[number][is_error]
        while not reader.ended and (is_error or not reader.buffer.has_lines):
            wait_readable(reader.fileno())
            reader.on_readable()
        lines, _ = reader.buffer.take()
        return "\n".join(lines) if is_error else lines[0]

    def do_preload(self, modules: list[str]) -> Any:
        self.zygote.preload(modules)
        return self.do_reports("Preloaded")

    def do_kill(self, number: int) -> None:
        self.zygote.kill(number)

    def do_forget_workers(self) -> None:
        """As if the zygote had been killed before it could tell of them."""
        self.zygote._pid_of_worker.clear()

    def do_restart(self) -> None:
        self.zygote.restart()

    def do_pids(self) -> dict[str, Any]:
        return {"daemon": os.getpid(), "zygote": self.zygote.pid, "children": children_of(os.getpid())}

    def do_facts(self) -> dict[str, Any]:
        return {
            "session": os.getsid(0),
            "zygote_session": os.getsid(self.zygote.pid),
            "descriptors": {name: os.readlink(f"/proc/self/fd/{name}") for name in ("0", "1", "2")},
            "ignored_signals": [s for s in (signal.SIGINT, signal.SIGCHLD) if signal.getsignal(s) == signal.SIG_IGN],
            "hash_seed": self.configuration.hash_seed,
        }


def wait_readable(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(TIMEOUT_S * 1000):
        raise TimeoutError("nothing came")


def show(value: Any) -> None:
    print(json.dumps(value))


def idle(configuration: WorkerConfiguration) -> None:
    """A worker that waits to be killed."""
    signal.pause()


def hold_interpreter(configuration: WorkerConfiguration) -> None:
    """A worker in C code that never lets another thread of Python run."""
    ctypes.PyDLL(None).pause()


def have_family(configuration: WorkerConfiguration) -> None:
    """A worker with a child in its group, one in a session of its own, and one whose parent has ended."""
    plain = subprocess.Popen(["sleep", "1000"])
    own_session = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    double_fork = "import subprocess; print(subprocess.Popen(['sleep', '1000'], stdout=2, start_new_session=True).pid)"
    orphan = subprocess.run([sys.executable, "-c", double_fork], stdout=subprocess.PIPE, check=True)
    show([plain.pid, own_session.pid, int(orphan.stdout)])
    signal.pause()


def tell_facts(configuration: WorkerConfiguration) -> None:
    """A worker that says what it was born with."""
    numpy_random = sys.modules.get("numpy.random")
    descriptors = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    show(
        {
            "group": os.getpgrp() == os.getpid(),
            "oom_score": int(Path("/proc/self/oom_score_adj").read_text()),
            "title": Path("/proc/self/cmdline").read_text().rstrip("\0"),
            "comm": Path("/proc/self/comm").read_text().strip(),
            "random": random.random(),
            "numpy_random": numpy_random.random() if numpy_random else None,
            "hash": hash("remora"),
            "sigint": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
            "sigchld": signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
            "wakeup_fd": signal.set_wakeup_fd(-1),
            # The descriptor of the listing itself is closed by now.
            "descriptors": sorted(os.readlink(path) for path in descriptors if os.path.lexists(path)),
            "environment": dict(os.environ),
            "sys_path": sys.path,
            "directory": os.getcwd(),
            "main_file": sys.argv[0],
            "modules": sorted({"numpy", "torch", "pyarrow"} & set(sys.modules)),
        }
    )


def eat_memory(configuration: WorkerConfiguration) -> None:
    show(len(bytearray(300 * 1024 * 1024)))


def exit_three(configuration: WorkerConfiguration) -> None:
    sys.exit(3)


def return_five(configuration: WorkerConfiguration) -> int:
    return 5


def exit_at_once(configuration: WorkerConfiguration) -> None:
    os._exit(4)


def exit_with_words(configuration: WorkerConfiguration) -> None:
    sys.exit("no more")


def fail(configuration: WorkerConfiguration) -> None:
    raise LookupError("where is it")


def crash(configuration: WorkerConfiguration) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def return_at_once(configuration: WorkerConfiguration) -> None:
    print("done without a newline", end="")
