"""Answers about the running session: nodes and resources; for ``remora status`` and ``memory``."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from remora.messages import inspection as m
from remora.processes.daemon.connected import ConnectedProcess

if TYPE_CHECKING:
    from remora.processes.daemon.main import NodeDaemon


class InspectionService:
    """Reads the services' state; changes none of it."""

    def __init__(self, daemon: NodeDaemon) -> None:
        self._daemon = daemon

    def on_message(self, connected: ConnectedProcess, message: Any) -> None:
        """A question."""
        if isinstance(message, m.GetNodes):
            self._daemon.processes.send(connected.process, m.Nodes(message.request, [self.node_report()]))
        else:
            raise ValueError(f"{connected!r} sent {message!r}, which only a daemon says")

    def node_report(self) -> m.NodeReport:
        """This node."""
        daemon = self._daemon
        hostname = socket.gethostname()
        return m.NodeReport(
            daemon.node,
            True,
            hostname,
            hostname,
            {**daemon.total.to_floats(), "object_store_memory": float(daemon.store_limit_bytes)},
            {
                **daemon.workers.leases.ledger.available(),
                "object_store_memory": float(daemon.objects.arena.usage().free_bytes),
            },
        )
