"""Heartbeat connections of all nodes, in the head's loop; only their handshakes are done by threads."""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from time import monotonic
from typing import Any

import msgspec

from remora.base.credentials import ClusterCredentials
from remora.core.head import Head
from remora.messages.head import Heartbeat, HeartbeatAnswer, HeartbeatHello
from remora.messages.wire import HEADER_SIZE_BYTES, decode_body, encode_frame, unpack_length
from remora.system.network.data_socket import DataSocket, accept_data_socket
from remora.system.network.preface import Preface
from remora.system.network.refusals import Refusal, StreamRefused, refuse
from remora.system.reactor import Reactor

HANDSHAKE_TIMEOUT_S = 3.0
MAX_HANDSHAKES = 64
MAX_FRAME_BYTES = 4096
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class HeartbeatService:
    """Reads heartbeats, answers them, and tells the machine when a node's connection ends."""

    def __init__(self, reactor: Reactor, credentials: ClusterCredentials, head: Head) -> None:
        self._reactor = reactor
        self._credentials = credentials
        self._head = head
        self._handshakes = 0
        self._lock = threading.Lock()
        self._current: dict[bytes, HeartbeatConnection] = {}

    def take(self, sock: socket.socket, preface: Preface) -> None:
        """Go on with an accepted connection."""
        with self._lock:
            is_too_many = self._handshakes >= MAX_HANDSHAKES
            self._handshakes += not is_too_many
        if is_too_many:
            refuse(sock, Refusal.TOO_MANY)
            return
        threading.Thread(target=self._shake_hands, args=(sock, preface), daemon=True).start()

    def _shake_hands(self, sock: socket.socket, preface: Preface) -> None:
        """In a thread: a handshake blocks."""
        try:
            ready = accept_data_socket(sock, preface, self._credentials, HANDSHAKE_TIMEOUT_S)
        except (OSError, StreamRefused) as error:
            print(f"a heartbeat connection was not made: {error}", file=sys.stderr, flush=True)
        else:
            self._reactor.call_after(0.0, HeartbeatConnection(self, ready).begin)
        finally:
            with self._lock:
                self._handshakes -= 1

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

    @property
    def reactor(self) -> Reactor:
        """The head's loop."""
        return self._reactor


class HeartbeatConnection:
    """One connection, after its handshake."""

    def __init__(self, service: HeartbeatService, sock: DataSocket) -> None:
        self.node = b""
        self._service = service
        self._socket = sock
        self._buffer = bytearray()

    def begin(self) -> None:
        """In the loop: read from now on."""
        self._socket.setblocking(False)
        self._service.reactor.register(self._socket.fileno(), self._on_readable)
        self._on_readable(0)  # TLS may have read some already

    def _on_readable(self, mask: int) -> None:
        while True:
            try:
                data = self._socket.recv(MAX_FRAME_BYTES)
            except _WOULD_BLOCK:
                break
            except OSError:
                data = b""
            if not data:
                self._end()
                return
            self._buffer += data
        try:
            while (messages := self._take_frame()) is not None:
                self._on_messages(messages)
        except (ValueError, msgspec.MsgspecError) as error:
            print(f"a heartbeat connection of node {self.node.hex()} was ended: {error}", file=sys.stderr, flush=True)
            self._end()

    def _take_frame(self) -> list[Any] | None:
        if len(self._buffer) < HEADER_SIZE_BYTES:
            return None
        (length,) = unpack_length(self._buffer)
        if length > MAX_FRAME_BYTES:
            raise ValueError(f"a frame of {length} bytes was announced")
        end = HEADER_SIZE_BYTES + length
        if len(self._buffer) < end:
            return None
        messages = decode_body(bytes(self._buffer[HEADER_SIZE_BYTES:end]))
        del self._buffer[:end]
        return messages

    def _on_messages(self, messages: list[Any]) -> None:
        for message in messages:
            if isinstance(message, HeartbeatHello):
                refusal = self._service.opened(self, message)
                if refusal:
                    self._answer(HeartbeatAnswer(0, refusal))
                else:
                    self.node = message.node
            elif isinstance(message, Heartbeat) and self.node:
                self._answer(self._service.beat(self.node, message))
            elif not isinstance(message, Heartbeat):
                raise ValueError(f"{message!r} is no heartbeat")

    def _answer(self, message: HeartbeatAnswer) -> None:
        try:
            self._socket.send(encode_frame([message]))
        except (*_WOULD_BLOCK, OSError):
            return  # the node asks again, or its end is read next

    def _end(self) -> None:
        self._service.reactor.unregister(self._socket.fileno())
        self._socket.close()
        self._service.ended(self)
