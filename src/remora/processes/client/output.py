"""What workers print, at the driver: shown as it comes, and asked for once more before the driver leaves."""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING

from remora.messages.session import FlushOutput, OutputFlushed, WorkerOutput

if TYPE_CHECKING:
    from remora.processes.client.client import Client

FLUSH_TIMEOUT_S = 1.0
"""How long a driver that leaves waits for a node that does not answer."""
MAX_FLUSHES = 5
"""How often it asks again, while there is more: some task may print without end."""


class OutputPrinter:
    """Shows the lines of a driver's workers."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._number = 0
        """Of the last question; answers to an earlier one come too late."""
        self._awaited = 0
        self._has_more = False

    def __repr__(self) -> str:
        return f"<OutputPrinter, {self._awaited} nodes awaited>"

    def on_message(self, message: WorkerOutput | OutputFlushed) -> None:
        """Lines to show, or a node's word that it has sent all."""
        if type(message) is WorkerOutput:
            print_output(message)
        elif type(message) is OutputFlushed and message.request == self._number:
            self._awaited += message.others - 1
            self._has_more = self._has_more or message.has_more

    def flush(self) -> None:
        """Show what the workers have printed until now: a result may have overtaken the lines of its task."""
        client = self._client
        for _ in range(MAX_FLUSHES):
            self._number += 1
            self._awaited, self._has_more = 1, False
            client.send_to_daemon(FlushOutput(self._number))
            client.flush()
            is_whole = client.wait_until(
                lambda: not self._awaited or client.ended, deadline_s=monotonic() + FLUSH_TIMEOUT_S
            )
            if not is_whole or client.ended or not self._has_more:
                return


def print_output(message: WorkerOutput) -> None:
    """Show what a worker printed, each line with who printed it."""
    stream = sys.stderr if message.is_error else sys.stdout
    where = f", node={message.node_address}" if message.node_address else ""
    prefix = f"({message.name} pid={message.pid}{where}) "
    lines = [prefix + line.rstrip("\n") for line in message.lines]
    if message.dropped_lines:
        lines.insert(0, f"{prefix}[{message.dropped_lines} lines were dropped: printed faster than they are shown]")
    print("\n".join(lines), file=stream, flush=True)
