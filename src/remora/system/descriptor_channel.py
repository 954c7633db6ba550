"""Messages together with descriptors over one end of a Unix socket pair.

:class:`remora.system.connection.Connection` carries no descriptors, and a zygote must not have its buffers. The
kernel never joins data in front of descriptors with data behind them, so descriptors come in the order of the
messages that they were sent with, at the latest with the last byte of their message.
"""

from __future__ import annotations

import array
import os
import socket
from collections import deque
from typing import Any

from remora.messages.wire import HEADER_SIZE_BYTES, decode_body, encode_frame, unpack_length

RECEIVE_SIZE_BYTES = 65536
DESCRIPTORS_PER_SEND = 8


class DescriptorChannel:
    """One end. Writing never blocks: what does not fit waits in a queue until :meth:`flush`.

    The channel owns the descriptors that it was told to send until they are sent, and closes them then.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self._unsent: deque[tuple[memoryview, list[int]]] = deque()
        self._received = bytearray()
        self._descriptors: deque[int] = deque()
        self.ended = False

    def __repr__(self) -> str:
        return f"<DescriptorChannel fd={self._socket.fileno()} unsent={len(self._unsent)} ended={self.ended}>"

    def fileno(self) -> int:
        """The socket's descriptor; -1 when closed."""
        return self._socket.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether something waits for the socket to be writable."""
        return bool(self._unsent)

    def send(self, messages: list[Any], descriptors: list[int] | None = None) -> None:
        """Send one frame of *messages*; *descriptors* (at most 8) go with it and are closed here afterwards."""
        self._unsent.append((memoryview(encode_frame(messages)), descriptors or []))
        self.flush()

    def flush(self) -> None:
        """Write as much of the queue as the socket takes. To a peer that is gone nothing is written any more."""
        while self._unsent:
            data, descriptors = self._unsent[0]
            try:
                if descriptors:
                    written = socket.send_fds(self._socket, [data], descriptors)
                else:
                    written = self._socket.send(data)
            except BlockingIOError:
                return
            except (BrokenPipeError, ConnectionResetError):
                self._drop_unsent()
                return
            _close_all(descriptors)
            if written < len(data):
                self._unsent[0] = (data[written:], [])
                return
            self._unsent.popleft()

    def receive(self) -> list[Any]:
        """The messages that have come completely; sets ``ended`` when the peer has closed.

        Raises:
            msgspec.DecodeError: what came is no message of ours.
        """
        while not self.ended:
            try:
                data = self._receive_once()
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            if not data:
                self.ended = True
            self._received += data
        return self._take_messages()

    def take_descriptors(self, count: int) -> list[int]:
        """The next *count* descriptors, in the order of the messages that they belong to. The caller closes them."""
        return [self._descriptors.popleft() for _ in range(count)]

    def close(self) -> None:
        """Close the socket, and every descriptor that was neither sent nor taken."""
        self._drop_unsent()
        _close_all(list(self._descriptors))
        self._descriptors.clear()
        self._socket.close()

    def _receive_once(self) -> bytes:
        space = socket.CMSG_SPACE(DESCRIPTORS_PER_SEND * array.array("i").itemsize)
        data, ancillary, _, _ = self._socket.recvmsg(RECEIVE_SIZE_BYTES, space, socket.MSG_CMSG_CLOEXEC)
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors = array.array("i")
                descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
                self._descriptors.extend(descriptors)
        return data

    def _take_messages(self) -> list[Any]:
        messages: list[Any] = []
        received, start = self._received, 0
        while len(received) - start >= HEADER_SIZE_BYTES:
            body = start + HEADER_SIZE_BYTES
            (length,) = unpack_length(received, start)
            if len(received) - body < length:
                break
            messages += decode_body(bytes(received[body : body + length]))
            start = body + length
        del received[:start]
        return messages

    def _drop_unsent(self) -> None:
        for _, descriptors in self._unsent:
            _close_all(descriptors)
        self._unsent.clear()


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
