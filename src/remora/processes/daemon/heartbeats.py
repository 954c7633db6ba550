"""The thread of a node that tells the head that the node lives.

A thread and a connection of its own: a daemon whose loop is busy for some seconds is not dead. But the thread watches
the loop, too, and tells for how long it has not turned, so that a daemon that hangs does not count as alive for ever.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import msgspec

from remora.base.credentials import ClusterCredentials
from remora.messages.head import Heartbeat, HeartbeatAnswer, HeartbeatHello
from remora.messages.node_wire import decode_node_body
from remora.messages.wire import HEADER_SIZE_BYTES, encode_frame, unpack_length
from remora.system.network.data_socket import open_data_socket
from remora.system.network.preface import Purpose
from remora.system.network.refusals import StreamRefused
from remora.system.network.transports import set_reset_on_close

INTERVAL_S = 0.5
ANSWER_TIMEOUT_S = 2.0
CONNECT_TIMEOUT_S = 0.7
"""Several attempts fit into the silence after which the head declares this node dead."""
RECONNECT_PAUSE_S = 0.1
HEAD_PROCESS = bytes(8)
MAX_ANSWER_BYTES = 64 * 1024


class HeartbeatThread:
    """Sends heartbeats from :meth:`start` to :meth:`close`.

    ``on_refused(reason)`` is called in the thread when the head says that this node is no member any more; nothing is
    sent after that.
    """

    def __init__(
        self,
        address: str,
        credentials: ClusterCredentials,
        hello: HeartbeatHello,
        on_refused: Callable[[str], None],
    ) -> None:
        self._address = address
        self._credentials = credentials
        self._hello = hello
        self._on_refused = on_refused
        self._ended = threading.Event()
        self._turns = 0
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="remora-heartbeats", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def loop_turned(self) -> None:
        """The daemon's loop turns; to be called at least every second."""
        self._turns += 1

    def close(self) -> None:
        """End the thread, soon, since it may be in a handshake; the head reads the end of the connection."""
        self._ended.set()
        sock = self._socket
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                opened = open_data_socket(
                    self._address,
                    HEAD_PROCESS,
                    self._credentials,
                    ANSWER_TIMEOUT_S,
                    Purpose.HEARTBEAT,
                    CONNECT_TIMEOUT_S,
                )
                with opened as self._socket:
                    if not self._ended.is_set():
                        self._beat(self._socket)
            except (OSError, EOFError, StreamRefused, msgspec.MsgspecError):
                # The head is away, or this node is: the connection is made again until the head says no.
                self._ended.wait(RECONNECT_PAUSE_S)
            finally:
                self._socket = None

    def _beat(self, sock: socket.socket) -> None:
        try:
            self._beat_until_refused(sock)
        except TimeoutError:
            # Reset, not ended in order: an end that arrives late, when the network is back, would look as a kill does.
            set_reset_on_close(sock)
            raise

    def _beat_until_refused(self, sock: socket.socket) -> None:
        sock.settimeout(ANSWER_TIMEOUT_S)
        sock.sendall(encode_frame([self._hello]))
        seen_turns, seen_at_s = self._turns, monotonic()
        number = 0
        while not self._ended.is_set():
            number += 1
            now_s = monotonic()
            if self._turns != seen_turns:
                seen_turns, seen_at_s = self._turns, now_s
            sock.sendall(encode_frame([Heartbeat(number, now_s - seen_at_s)]))
            answer = _read_answer(sock)
            if answer.refusal:
                self._ended.set()
                self._on_refused(answer.refusal)
                return
            self._ended.wait(INTERVAL_S)


def _read_answer(sock: socket.socket) -> HeartbeatAnswer:
    (length,) = unpack_length(_read_exactly(sock, HEADER_SIZE_BYTES))
    if length > MAX_ANSWER_BYTES:
        raise EOFError(f"an answer of {length} bytes")
    messages: list[Any] = decode_node_body(_read_exactly(sock, length))
    if len(messages) != 1 or not isinstance(messages[0], HeartbeatAnswer):
        raise EOFError(f"the head answered {messages!r}")
    return messages[0]


def _read_exactly(sock: socket.socket, size_bytes: int) -> bytes:
    data = b""
    while len(data) < size_bytes:
        part = sock.recv(size_bytes - len(data))
        if not part:
            raise EOFError("the head ended the connection")
        data += part
    return data
