"""Both ends of connections between nodes, each with a reactor of its own, in the process of the test."""

from __future__ import annotations

import socket
from collections.abc import Callable
from time import monotonic
from typing import Any

from remora.base.credentials import ClusterCredentials
from remora.base.ids import ProcessId, make_process_id
from remora.system.network.doorkeeper import Doorkeeper
from remora.system.network.half_open import HalfOpenConnections
from remora.system.network.preface import Purpose, make_preface
from remora.system.network.refusal_log import RefusalLog
from remora.system.network.stream import Stream, StreamAcceptor, open_stream
from remora.system.reactor import Reactor

DEADLINE_S = 20.0
NODE = make_process_id(1, 0)
OTHER = make_process_id(2, 0)


def serve(*reactors: Reactor, until: Callable[[], Any], deadline_s: float = DEADLINE_S) -> None:
    """Poll the reactors until the condition holds."""
    end_s = monotonic() + deadline_s
    while not until():
        assert monotonic() < end_s, "it did not happen"
        for reactor in reactors:
            reactor.poll(0.001)


class End:
    """A stream and everything that came over it."""

    def __init__(self) -> None:
        self.stream: Stream
        self.received: list[Any] = []
        self.ends: list[Exception | None] = []

    def use(self, stream: Stream) -> End:
        self.stream = stream
        stream.on_messages = self.receive
        stream.on_closed = self.end
        return self

    def receive(self, stream: Stream, messages: list[Any]) -> None:
        self.received += messages

    def end(self, stream: Stream, error: Exception | None) -> None:
        self.ends.append(error)


class Node:
    """A node: it listens, and it opens streams."""

    def __init__(self, credentials: ClusterCredentials, half_open: HalfOpenConnections | None = None) -> None:
        self.credentials = credentials
        self.reactor = Reactor()
        self.lines: list[str] = []
        self.log = RefusalLog(self.lines.append)
        self.accepted: list[End] = []
        self.acceptor = StreamAcceptor(self.reactor, credentials, self.on_stream, self.log)
        self.doorkeeper = Doorkeeper(self.reactor, "127.0.0.1", 0, credentials, self.acceptor.take, self.log, half_open)
        self.opened: list[End] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.doorkeeper.port}"

    def on_stream(self, stream: Stream, sender: bytes) -> None:
        self.accepted.append(End().use(stream))

    def open(self, address: str, credentials: ClusterCredentials | None = None, target: ProcessId = OTHER) -> End:
        end = End()
        used = credentials or self.credentials
        end.stream = open_stream(self.reactor, address, target, NODE, Purpose.LINK, used, end.receive, end.end)
        self.opened.append(end)
        return end

    def connect_raw(self) -> socket.socket:
        """A client of which nothing is known."""
        return socket.create_connection(("127.0.0.1", self.doorkeeper.port))

    def preface(self) -> Any:
        return make_preface(OTHER, Purpose.LINK, self.credentials)

    def close(self) -> None:
        for end in self.opened:
            end.stream.close()
        self.doorkeeper.close()
        self.acceptor.close()
        self.reactor.close()


def connect(opener: Node, acceptor: Node, address: str = "") -> tuple[End, End]:
    """A stream that stands, seen from both sides."""
    count = len(acceptor.accepted)
    opened = opener.open(address or acceptor.address)
    serve(
        opener.reactor,
        acceptor.reactor,
        until=lambda: len(acceptor.accepted) > count and opened.stream.is_connected,
    )
    return opened, acceptor.accepted[count]
