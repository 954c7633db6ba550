"""Connections from this process to the workers that run its calls."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any, Protocol

from remora.base.credentials import ClusterCredentials
from remora.base.ids import ProcessId, short
from remora.system.connection import Connection
from remora.system.handshake import connect_unix, send_hello
from remora.system.reactor import Reactor

FULL_BATCH = 64
"""So many calls leave at once when no reply is awaited; fewer wait a moment for company."""


SHORTAGE_RETRY_S = 0.5
_SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


def patience_after(error: OSError, explanation_s: float, warn: Callable[[str], None]) -> float:
    """How long to wait when a worker could not be connected with: until the daemon must have told of its end, or, when
    this process lacks something, which the user is told, until another try."""
    if error.errno not in _SHORTAGES:
        return explanation_s
    advice = "; close files, or raise the limit (ulimit -n)" if error.errno == errno.EMFILE else ""
    warn(f"process {os.getpid()} cannot connect to its workers, and tries again: {error}{advice}")
    return SHORTAGE_RETRY_S


class CallHandler(Protocol):
    """Whoever submits calls to peers. Both are called by the thread that leads, without the client's lock."""

    def on_replies(self, peer: Peer, messages: list[Any]) -> None:
        """Messages came, in order."""

    def on_peer_lost(self, peer: Peer, error: Exception | None) -> None:
        """The connection was read to its end and is closed; *error* is None at an orderly end."""


class Peer:
    """A worker that this process sends calls to.

    ``defined`` are the numbers of the functions that were announced on the connection. ``calls`` is what is in
    flight there: a :class:`~remora.core.task_queue.LeasedWorker` or an actor's record, and ``handler`` its owner.
    """

    __slots__ = ("calls", "connection", "defined", "handler", "is_dirty", "outgoing", "process")

    def __init__(self, process: ProcessId, handler: CallHandler, calls: Any) -> None:
        self.process = process
        self.handler = handler
        self.calls = calls
        self.defined: set[int] = set()
        self.is_dirty = False
        self.connection: Connection
        self.outgoing: list[Any]

    def __repr__(self) -> str:
        return f"<Peer {short(self.process)}>"


class Peers:
    """Makes and keeps the connections, and knows which have something unwritten."""

    def __init__(self, reactor: Reactor, own_process: ProcessId, credentials: ClusterCredentials | None) -> None:
        self._reactor = reactor
        self._own_process = own_process
        self.credentials = credentials
        self._peers: dict[bytes, Peer] = {}
        self.dirty: list[Peer] = []

    def connect(self, process: ProcessId, address: str, handler: CallHandler, calls: Any) -> Peer:
        """The peer at *address*, connected if it was not: a path of this node, or ``host:port`` of another one.

        Raises:
            OSError: the worker is gone; the daemon will say how it died.
        """
        peer = self._peers.get(process)
        if peer is not None:
            peer.handler = handler
            peer.calls = calls
            return peer
        peer = Peer(process, handler, calls)
        if address.startswith("/"):
            sock = connect_unix(address)
            send_hello(sock, "peer", self._own_process)
            peer.connection = Connection(sock, self._reactor, self._receive, self._lose, peer)
        else:
            peer.connection = self._open_stream(process, address, peer)
        peer.outgoing = peer.connection.outgoing
        self._peers[process] = peer
        return peer

    def _open_stream(self, process: ProcessId, address: str, peer: Peer) -> Any:
        # It brings ssl, which a session on one machine never needs.
        from remora.system.network.preface import Purpose
        from remora.system.network.stream import open_stream

        if self.credentials is None:
            raise ValueError(f"{peer!r} is on another node, and this session is in no cluster")
        # A stream is used just as a connection is.
        receive: Any = self._receive
        lose: Any = self._lose
        return open_stream(
            self._reactor, address, process, self._own_process, Purpose.CALLS, self.credentials, receive, lose, peer
        )

    def mark_dirty(self, peer: Peer) -> None:
        """The peer has messages that are not written yet."""
        if not peer.is_dirty:
            peer.is_dirty = True
            self.dirty.append(peer)

    def flush(self) -> None:
        """Write what is unwritten, to everybody."""
        dirty = self.dirty
        while dirty:
            try:
                peer = dirty.pop()
            except IndexError:  # another thread wrote to the last one
                return
            peer.is_dirty = False
            peer.connection.flush()

    def find(self, process: ProcessId) -> Peer | None:
        """The connected peer with this id."""
        return self._peers.get(process)

    def all(self) -> list[Peer]:
        """Every connected peer."""
        return list(self._peers.values())

    def disconnect(self, peer: Peer) -> None:
        """Close the connection; its loss is not reported."""
        self._peers.pop(peer.process, None)
        peer.connection.close()

    def close(self) -> None:
        """Close all connections."""
        for peer in self.all():
            self.disconnect(peer)

    def _receive(self, connection: Connection, messages: list[Any]) -> None:
        peer: Peer = connection.peer
        peer.handler.on_replies(peer, messages)

    def _lose(self, connection: Connection, error: Exception | None) -> None:
        peer: Peer = connection.peer
        self._peers.pop(peer.process, None)
        peer.handler.on_peer_lost(peer, error)
