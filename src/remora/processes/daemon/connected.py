"""The processes that are connected to the daemon, by id."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from remora.base.ids import ProcessId, make_process_id, short
from remora.system.connection import Connection


class ConnectedProcess:
    """A driver, worker or inspector with a connection."""

    __slots__ = ("connection", "is_leaving", "job", "pid", "process", "role", "worker_number")

    def __init__(self, connection: Connection, process: ProcessId, role: str, pid: int, job: ProcessId) -> None:
        self.connection = connection
        self.process = process
        self.role = role
        self.pid = pid
        self.job = job
        self.is_leaving = False
        """It said that it ends in order."""
        self.worker_number = 0

    def __repr__(self) -> str:
        return f"<{self.role} {short(self.process)} pid {self.pid}>"


class ConnectedProcesses:
    """All of them, and the sending of messages: one frame each leaves at :meth:`flush`, once per turn of the loop."""

    def __init__(self, node: int) -> None:
        self._node = node
        self._node_id = make_process_id(node, 0)[:4]
        self.send_elsewhere: Callable[[bytes, Any], None] = lambda to, message: None
        """What is done with messages for other nodes (4 bytes) and their processes; a session alone has none."""
        self.is_clogged_elsewhere: Callable[[bytes], bool] = lambda process: False
        """Whether the node of a process takes nothing for now."""
        self.node_address = ""
        """``host:port`` of this node in a cluster."""
        self._last_number = 0
        self._processes: dict[ProcessId, ConnectedProcess] = {}
        self._dirty: dict[ConnectedProcess, None] = {}

    def next_id(self) -> ProcessId:
        """A process id that was never given before."""
        self._last_number += 1
        return make_process_id(self._node, self._last_number)

    def add(self, process: ConnectedProcess) -> None:
        """The process has said hello."""
        self._processes[process.process] = process

    def remove(self, process: ConnectedProcess) -> None:
        """Its connection was read to the end."""
        self._processes.pop(process.process, None)
        self._dirty.pop(process, None)

    def get(self, process: bytes) -> ConnectedProcess | None:
        """The process with this id, if it is connected."""
        return self._processes.get(ProcessId(process))

    def __iter__(self) -> Iterator[ConnectedProcess]:
        return iter(list(self._processes.values()))

    def is_elsewhere(self, process: bytes) -> bool:
        """Whether the process is, or was, one of another node."""
        return process[:4] != self._node_id

    def is_clogged(self, process: bytes) -> bool:
        """Whether the process, or its node when that is another one, does not read: what it is told waits here."""
        if self.is_elsewhere(process):
            return self.is_clogged_elsewhere(process)
        connected = self._processes.get(ProcessId(process))
        return connected is not None and connected.connection.is_blocked and bool(connected.connection.outgoing)

    def send(self, process: bytes, message: Any) -> None:
        """Put a message for the process into its next frame; one that has gone gets nothing."""
        connected = self._processes.get(ProcessId(process))
        if connected is not None:
            connected.connection.outgoing.append(message)
            self._dirty[connected] = None
        elif process[:4] != self._node_id:
            self.send_elsewhere(process, message)

    def flush(self) -> None:
        """Write all frames."""
        dirty = self._dirty
        while dirty:
            connected, _ = dirty.popitem()
            connected.connection.flush()
