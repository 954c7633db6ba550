"""A cluster on hosts of a lab, with a driver on the first of them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from remora.testing.cluster_bench import driver_program
from remora.testing.cluster_bench.systems import NodeOptions, RunningNode, System
from remora.testing.network_host import Host
from remora.testing.network_lab import NetworkLab
from remora.testing.network_programs import Program, ProgramFailed

ANSWER_TIMEOUT_S = 400.0
LAST_LINES = 15


class DriverError(Exception):
    """What the driver was asked raised, or the driver has ended."""


class RunningCluster:
    """Nodes of one system, each on a host of its own; a context manager that ends all of them.

    Example:
        >>> with RunningCluster(RemoraSystem(encrypt=True), [NodeOptions("here"), NodeOptions("there")]) as cluster:
        ...     cluster.ask("start_readers", nodes=["there"])
        ...     cluster.ask("send_one", size=1_000_000_000, nodes=["there"])
        {"seconds": 0.7}
    """

    def __init__(self, system: System, nodes: Sequence[NodeOptions]) -> None:
        self.system = system
        self.lab = NetworkLab()
        self.nodes: list[RunningNode] = []
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in `close`
        self._driver: Program | None = None
        try:
            for options in nodes:
                self.add_node(options)
            self._driver = self._start_driver()
            self.ask("connect", address=self.nodes[0].address)
            self.ask("wait_for_nodes", count=len(self.nodes))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RunningCluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def add_node(self, options: NodeOptions) -> RunningNode:
        """Start a node on a new host."""
        node = self.system.start(self.lab.add_host(options.name), options, is_first=not self.nodes)
        self.nodes.append(node)
        return node

    def host(self, name: str) -> Host:
        """The host of the node of that name."""
        return next(node.host for node in self.nodes if node.options.name == name)

    def ask(self, action: str, **arguments: object) -> dict[str, Any]:
        """Have the driver do something (a method of ``driver_program.Driver``), and wait for the answer.

        Raises:
            DriverError: it raised there; the text is the traceback.
        """
        assert self._driver is not None
        try:
            self._driver.write_line(json.dumps({"do": action, **arguments}))
            answer: dict[str, Any] = json.loads(self._driver.read_line(ANSWER_TIMEOUT_S))
        except (ProgramFailed, BrokenPipeError) as error:
            raise DriverError(f"{action}: {error}; its last lines:\n{self._last_lines()}") from None
        if "error" in answer:
            raise DriverError(f"{action}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End driver, nodes and hosts."""
        if self._driver is not None:
            self._driver.kill()
        for node in reversed(self.nodes):
            self.system.stop(node)
        self.lab.close()
        self._log.close()

    def _start_driver(self) -> Program:
        command = [self.system.python, "-P", str(Path(driver_program.__file__)), "--module", self.system.module]
        return self.nodes[0].host.start(command, stderr=self._log, env=os.environ | self.system.variables)

    def _last_lines(self) -> str:
        self._log.seek(0)
        return b"\n".join(self._log.read().splitlines()[-LAST_LINES:]).decode(errors="replace")
