"""How either system starts a node of a cluster on a host of the lab, and how it is ended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

import click

from remora.cli.bench.environments import Environment
from remora.cli.inspector import tell
from remora.messages.session import StopNode
from remora.system.session_directory import wait_removed
from remora.testing.namespaces import processes_in
from remora.testing.network_host import Host

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 10.0
RAY_PORT = 6379
REMORA = "from remora.cli.main import main; main()"
"""The command ``remora``, wherever its script is."""


@dataclass(frozen=True)
class NodeOptions:
    """What a node has: the custom resource ``name`` is what tasks are sent there by."""

    name: str
    num_cpus: int = 2
    store_bytes: int = 2_500_000_000


@dataclass
class RunningNode:
    """A node on its host. ``address`` is what a driver on the host connects to, ``start_s`` how long its start took."""

    host: Host
    options: NodeOptions
    address: str
    start_s: float
    folder: str = ""


class System(Protocol):
    """One side of the benchmark."""

    @property
    def module(self) -> str:
        """What a driver imports."""

    @property
    def python(self) -> str:
        """The interpreter of all its processes."""

    @property
    def variables(self) -> Mapping[str, str]:
        """Of the environment of all its processes."""

    def start(self, host: Host, options: NodeOptions, *, is_first: bool) -> RunningNode:
        """Start a node; returns when its command has returned. The first one makes the cluster."""

    def stop(self, node: RunningNode) -> None:
        """End the node, if it still runs, and remove its files."""

    def daemon_pid(self, host: Host) -> int:
        """The process whose death is the node's."""


@dataclass
class RemoraSystem:
    """Remora, with TLS between the nodes or in the clear."""

    encrypt: bool
    module: str = "remora"
    python: str = sys.executable
    variables: Mapping[str, str] = field(default_factory=dict)
    _join: str = field(default="", repr=False)

    def start(self, host: Host, options: NodeOptions, *, is_first: bool) -> RunningNode:
        """By `remora start`."""
        how = ["--head"] if is_first else ["--join", "-"]
        if is_first and not self.encrypt:
            how.append("--no-encrypt")
        command = [
            *(self.python, "-c", REMORA, "start", *how),
            *("--node-ip", host.address, "--num-cpus", str(options.num_cpus)),
            *("--resources", json.dumps({options.name: 1}), "--object-store-memory", str(options.store_bytes)),
        ]
        output, start_s = _run(host, command, self.variables, "" if is_first else self._join)
        lines = output.split()
        directory = lines[lines.index("up:") + 1]
        if is_first:
            self._join = next(word for word in lines if word.startswith("remora://"))
        return RunningNode(host, options, directory, start_s)

    def stop(self, node: RunningNode) -> None:
        """In order; what hangs is killed with its host."""
        with contextlib.suppress(click.ClickException, OSError):  # it was killed, or is cut off
            tell(node.address, StopNode("the benchmark is over"))
            wait_removed(node.address, STOP_TIMEOUT_S)

    def daemon_pid(self, host: Host) -> int:
        """The node daemon."""
        return _find_process(host, "remora:daemon")


@dataclass
class RaySystem:
    """Ray, whose nodes do not encrypt."""

    environment: Environment
    module: str = "ray"
    variables: Mapping[str, str] = field(default_factory=lambda: {"RAY_AUTH_MODE": "disabled"})
    _head_address: str = field(default="", repr=False)

    @property
    def python(self) -> str:
        """The interpreter of Ray's environment."""
        return self.environment.python

    def start(self, host: Host, options: NodeOptions, *, is_first: bool) -> RunningNode:
        """By `ray start`, without a dashboard, and with a folder of its own for each node."""
        if is_first:
            self._head_address = f"{host.address}:{RAY_PORT}"
            how = ["--head", "--port", str(RAY_PORT), "--include-dashboard", "false"]
        else:
            how = ["--address", self._head_address]
        folder = tempfile.mkdtemp(prefix="ray-")
        command = [
            *(self.python, "-m", "ray.scripts.scripts", "start", *how, "--disable-usage-stats"),
            *("--node-ip-address", host.address, "--num-cpus", str(options.num_cpus), "--temp-dir", folder),
            *("--resources", json.dumps({options.name: 1}), "--object-store-memory", str(options.store_bytes)),
        ]
        _, start_s = _run(host, command, self.variables)
        return RunningNode(host, options, self._head_address, start_s, folder)

    def stop(self, node: RunningNode) -> None:
        """By killing all of it: an orderly end takes seconds a node, and nobody looks at it."""
        node.host.kill_processes()
        shutil.rmtree(node.folder, ignore_errors=True)

    def daemon_pid(self, host: Host) -> int:
        """The raylet."""
        return _find_process(host, "/raylet/raylet")


def _run(host: Host, command: list[str], variables: Mapping[str, str], text: str = "") -> tuple[str, float]:
    """Run a command on the host; what it printed, and how long it took."""
    # Files, not pipes: a daemon that is left behind may keep them open.
    with tempfile.TemporaryFile() as said:
        start_s = monotonic()
        environment = os.environ | variables
        process = host.popen(command, stdin=subprocess.PIPE, stdout=said, stderr=subprocess.STDOUT, env=environment)
        assert process.stdin is not None
        process.stdin.write(text.encode() + b"\n")
        process.stdin.close()
        exit_code = process.wait(START_TIMEOUT_S)
        start_s = monotonic() - start_s
        said.seek(0)
        output = said.read().decode(errors="replace")
    if exit_code:
        raise RuntimeError(f"{' '.join(command)} on {host} ended with {exit_code}:\n{output[-2000:]}")
    return output, start_s


def _find_process(host: Host, text: str) -> int:
    for pid in processes_in(host.namespace.name):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            if text in file.read().decode(errors="replace").split("\0")[0]:
                return pid
    raise RuntimeError(f"no process {text!r} runs on {host}")


def interpreter_start_s(host: Host, python: str) -> float:
    """How long the interpreter alone takes from its start to its end."""
    return _run(host, [python, "-c", "pass"], {})[1]
