"""Heartbeat connections of all nodes, in the head's loop.

They begin as streams do, and are plain frames after that: one heartbeat, one answer. A connection counts as half open
until its node has said who it is, so those that say nothing go, the oldest first, and lock nobody out.
"""

from __future__ import annotations

import socket
import sys
from time import monotonic
from typing import Any

import msgspec

from remora.base.credentials import ClusterCredentials
from remora.base.ids import short
from remora.core.head import Head
from remora.messages.head import Heartbeat, HeartbeatAnswer, HeartbeatHello
from remora.messages.node_wire import decode_node_body
from remora.messages.wire import HEADER_SIZE_BYTES, encode_frame, unpack_length
from remora.system.network.half_open import HalfOpenConnections
from remora.system.network.handshake import Handshake
from remora.system.network.handshake_steps import accept_steps
from remora.system.network.preface import Preface
from remora.system.network.refusal_log import WITHOUT_SECRET, RefusalLog
from remora.system.network.refusals import StreamRefused
from remora.system.network.sockets import peer_address, peer_host, tune
from remora.system.network.transports import Transport
from remora.system.reactor import Reactor

MAX_FRAME_BYTES = 4096


class HeartbeatService:
    """Reads heartbeats, answers them, and tells the machine when a node's connection ends."""

    def __init__(
        self,
        reactor: Reactor,
        credentials: ClusterCredentials,
        head: Head,
        log: RefusalLog | None = None,
        half_open: HalfOpenConnections | None = None,
    ) -> None:
        self.reactor = reactor
        self.log = log or RefusalLog()
        self.half_open = HalfOpenConnections(reactor) if half_open is None else half_open
        self._credentials = credentials
        self._head = head
        self._current: dict[bytes, HeartbeatConnection] = {}

    def __repr__(self) -> str:
        return f"<HeartbeatService of {len(self._current)} nodes>"

    def take(self, sock: socket.socket, preface: Preface) -> None:
        """Go on with an accepted connection."""
        try:
            tune(sock)
        except OSError:  # it has left
            sock.close()
            return
        HeartbeatConnection(self, sock, preface, self._credentials)

    def opened(self, connection: HeartbeatConnection, hello: HeartbeatHello) -> str:
        """The node has said who it is; why it is refused, or an empty text."""
        refusal = self._head.heartbeat_opened(hello, monotonic())
        if not refusal:
            # An older connection, which may look well from here, counts no more.
            self._current[hello.node] = connection
        return refusal

    def beat(self, node: bytes, message: Heartbeat) -> HeartbeatAnswer:
        """The node lives."""
        return self._head.heartbeat(node, message, monotonic())

    def ended(self, connection: HeartbeatConnection) -> None:
        """The connection was read to the end."""
        node = connection.node
        if node and self._current.get(node) is connection:
            del self._current[node]
            self._head.heartbeat_closed(node, monotonic())


class HeartbeatConnection:
    """One connection, from its handshake on."""

    def __init__(
        self, service: HeartbeatService, sock: socket.socket, preface: Preface, credentials: ClusterCredentials
    ) -> None:
        self.node = b""
        self._service = service
        self._host = peer_host(sock)
        self._transport: Transport | None = None
        self._space = bytearray(MAX_FRAME_BYTES)
        self._buffer = bytearray()
        self._number = service.half_open.add(self._host, self._on_time_out)
        steps = accept_steps(preface, credentials, peer_address(sock))
        self._handshake = Handshake(service.reactor, sock, steps, credentials, self._on_proved, self._on_failed)
        self._handshake.accept()

    def __repr__(self) -> str:
        return f"<HeartbeatConnection from {self._host} of node {short(self.node) or '?'}>"

    def _on_failed(self, error: Exception) -> None:
        self._service.half_open.remove(self._number)
        reason = WITHOUT_SECRET if isinstance(error, StreamRefused) else type(error).__name__
        self._service.log.note(self._host, f"its handshake for heartbeats failed ({reason})")

    def _on_time_out(self, too_many: bool) -> None:
        if self._transport is None:
            self._handshake.abort()
        else:
            self._end()
        self._service.log.note(self._host, "it did not say in time which node's heart beats")

    def _on_proved(self, transport: Transport) -> None:
        self._transport = transport
        self._service.reactor.register(transport.fileno(), self._on_readable)
        self._on_readable(0)  # TLS may have read some already

    def _on_readable(self, mask: int) -> None:
        try:
            while self._transport is not None and self._receive(self._transport):
                while self._transport is not None and (messages := self._take_frame()) is not None:
                    self._on_messages(messages)
        except BlockingIOError:
            return
        except OSError:
            self._end()
        except (ValueError, msgspec.MsgspecError) as error:
            print(f"{self!r} was ended: {error}", file=sys.stderr, flush=True)
            self._end()

    def _receive(self, transport: Transport) -> bool:
        """Read some; False at the end, which is dealt with."""
        received = transport.recv_into(memoryview(self._space))
        self._buffer += self._space[:received]
        if not received:
            self._end()
        return received > 0

    def _take_frame(self) -> list[Any] | None:
        if len(self._buffer) < HEADER_SIZE_BYTES:
            return None
        (length,) = unpack_length(self._buffer)
        if length > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {length} bytes was announced")
        end = HEADER_SIZE_BYTES + length
        if len(self._buffer) < end:
            return None
        messages = decode_node_body(bytes(self._buffer[HEADER_SIZE_BYTES:end]))
        del self._buffer[:end]
        return messages

    def _on_messages(self, messages: list[Any]) -> None:
        for message in messages:
            if isinstance(message, HeartbeatHello):
                self._on_hello(message)
            elif isinstance(message, Heartbeat) and self.node:
                self._answer(self._service.beat(self.node, message))
            elif not isinstance(message, Heartbeat):
                raise ValueError(f"{type(message).__name__} is no heartbeat")

    def _on_hello(self, hello: HeartbeatHello) -> None:
        if self.node:
            raise ValueError("it says hello twice")
        refusal = self._service.opened(self, hello)
        if refusal:
            self._answer(HeartbeatAnswer(0, refusal))
        else:
            self.node = hello.node
            self._service.half_open.remove(self._number)

    def _answer(self, message: HeartbeatAnswer) -> None:
        transport = self._transport
        if transport is None:
            return
        frame = encode_frame([message])
        try:
            sent_bytes = transport.send(frame)
        except BlockingIOError:
            sent_bytes = 0
        if sent_bytes < len(frame):
            raise OSError("the node takes no answers")  # it waits for each one, so its socket had room

    def _end(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            self._service.half_open.remove(self._number)
            self._service.reactor.unregister(transport.fileno())
            transport.close()
            self._service.ended(self)
