"""The shell around the head's machine: sockets that the daemon passes, one stream for each node, the turns."""

from __future__ import annotations

import os
import socket
import sys
from time import monotonic
from typing import Any

from remora.core.head import Head
from remora.core.head_views import VIEW_INTERVAL_S
from remora.messages.head import JoinCluster, Joined, Rejoin, Rejoined
from remora.processes.head.commits import CommitPipeline, Outgoing
from remora.processes.head.configuration import HEAD_SOCKETS, HeadConfiguration
from remora.processes.head.heartbeats import HeartbeatService
from remora.processes.head.store import HeadStore
from remora.system.network.preface import Preface, Purpose
from remora.system.network.refusal_log import RefusalLog
from remora.system.network.socket_passing import SocketReceiver
from remora.system.network.stream import Refusal, Stream, StreamAcceptor
from remora.system.reactor import Reactor


class HeadServer:
    """Serves all nodes from one loop."""

    def __init__(self, configuration: HeadConfiguration, head: Head, store: HeadStore, reactor: Reactor) -> None:
        self._head = head
        self._reactor = reactor
        self._pipeline = CommitPipeline(store, reactor.wake)
        log = RefusalLog()
        self._heartbeats = HeartbeatService(reactor, configuration.credentials, head, log)
        self._acceptor = StreamAcceptor(reactor, configuration.credentials, self._on_stream, log)
        self._streams: dict[bytes, Stream] = {}
        self._answers: list[Outgoing] = []
        self._next_tick_s = 0.0
        path = os.path.join(configuration.session_directory, HEAD_SOCKETS)
        if os.path.exists(path):
            os.unlink(path)  # of a head that was killed
        self._receiver = SocketReceiver(path, reactor, self._on_socket)

    def turn(self) -> None:
        """Wait for something, and handle it."""
        self._reactor.poll(max(0.0, self._next_tick_s - monotonic()))
        now_s = monotonic()
        if now_s >= self._next_tick_s:
            self._next_tick_s = now_s + VIEW_INTERVAL_S
            self._head.tick(now_s)
        changes, effects = self._head.end_turn()
        outgoing, self._answers = self._answers, []
        for effect in effects:
            stream = self._streams.get(effect.node)
            if stream is not None:
                outgoing.append((stream, effect.messages))
        if changes or outgoing:
            self._pipeline.put(changes, outgoing)
        self._send(self._pipeline.take())
        for complaint in self._head.complaints:
            print(complaint, file=sys.stderr, flush=True)
        self._head.complaints.clear()

    def close(self) -> None:
        """Serve no more."""
        self._receiver.close()
        self._acceptor.close()
        self._pipeline.close()

    def _send(self, outgoing: list[Outgoing]) -> None:
        dirty: dict[Stream, None] = {}
        for stream, messages in outgoing:
            if not stream.closed:
                stream.outgoing.extend(messages)
                dirty[stream] = None
        for stream in dirty:
            stream.flush()

    # ------------------------------------------------------------------ nodes

    def _on_socket(self, sock: socket.socket, preface: Preface) -> None:
        if preface.purpose == Purpose.HEARTBEAT:
            self._heartbeats.take(sock, preface)
        else:
            self._acceptor.take(sock, preface)

    def _on_stream(self, stream: Stream, sender: bytes) -> None:
        if stream.purpose == Purpose.LINK:
            stream.on_messages = self._on_first_messages
            stream.on_closed = self._on_closed
        else:
            stream.refuse(Refusal.UNKNOWN_TARGET)

    def _on_first_messages(self, stream: Stream, messages: list[Any]) -> None:
        first, rest = (messages[0], messages[1:]) if messages else (None, [])
        if isinstance(first, JoinCluster):
            self._on_join(stream, first)
        elif isinstance(first, Rejoin):
            self._on_rejoin(stream, first)
        else:
            print(f"{stream!r} begins with {type(first).__name__} and was ended", file=sys.stderr, flush=True)
            stream.close()
            return
        if rest and stream.peer:
            self._on_messages(stream, rest)

    def _on_join(self, stream: Stream, message: JoinCluster) -> None:
        answer = self._head.join(message, monotonic())
        if isinstance(answer, Joined):
            self._bind(stream, answer.node)
            print(f"node {answer.node.hex()} joined from {message.address}", flush=True)
        self._answers.append((stream, (answer,)))

    def _on_rejoin(self, stream: Stream, message: Rejoin) -> None:
        answer = self._head.rejoin(message, monotonic())
        if isinstance(answer[0], Rejoined):
            self._bind(stream, message.node)
        self._answers.append((stream, tuple(answer)))

    def _bind(self, stream: Stream, node: bytes) -> None:
        """From now on this is the node's stream; what is still to be sent on an older one is sent again on it."""
        older = self._streams.get(node)
        self._streams[node] = stream
        stream.peer = node
        stream.on_messages = self._on_messages
        if older is not None and older is not stream:
            older.close()

    def _on_messages(self, stream: Stream, messages: list[Any]) -> None:
        if self._streams.get(stream.peer) is stream:
            self._head.on_messages(stream.peer, messages, monotonic())

    def _on_closed(self, stream: Stream, error: Exception | None) -> None:
        if stream.peer and self._streams.get(stream.peer) is stream:
            del self._streams[stream.peer]
            if error is None:
                self._head.link_ended(stream.peer, monotonic())
