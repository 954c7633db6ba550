"""The first exchange on a connection: who is there, before anything else is decoded.

On a Unix socket the kernel says which user the peer is; another user's bytes are never decoded. The first frame of
the side that connects is a ``Hello``; a daemon answers a driver or a worker with ``Welcome`` and two descriptors.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Any

import msgspec

from remora.base.errors import InternalError
from remora.messages.session import PROTOCOL_VERSION, Hello, Refused, Welcome
from remora.messages.wire import HEADER_SIZE_BYTES, decode_body, encode_frame, unpack_length

_CREDENTIALS = struct.Struct("3i")
HANDSHAKE_TIMEOUT_S = 10.0
MAX_FIRST_FRAME_BYTES = 1 << 16


def connect_unix(path: str, timeout_s: float = HANDSHAKE_TIMEOUT_S) -> socket.socket:
    """A socket connected to the Unix socket at *path*.

    Raises:
        OSError: nobody listens there.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(path)
    except OSError:
        sock.close()
        raise
    return sock


def listen_unix(path: str) -> socket.socket:
    """A non-blocking listening Unix socket at *path*, reachable by this user only."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(path)
    os.chmod(path, 0o600)
    sock.listen(4096)
    sock.setblocking(False)
    return sock


def peer_is_same_user(sock: socket.socket) -> bool:
    """Whether the other end is a process of this user, or of root. Asked before a byte of it is decoded."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    return uid in (os.getuid(), 0)


def send_hello(sock: socket.socket, role: str, process: bytes = b"") -> None:
    """Say who this is; the first frame of a connection."""
    sock.sendall(encode_frame([Hello(PROTOCOL_VERSION, role, os.getpid(), process)]))


def receive_welcome(sock: socket.socket) -> tuple[Welcome, list[int]]:
    """The daemon's answer to ``Hello``, and the descriptors that came with it.

    Raises:
        InternalError: the daemon refused, answered something else, or closed.
    """
    data, descriptors, _, _ = socket.recv_fds(sock, HEADER_SIZE_BYTES, 8)
    data = data + _receive_exactly(sock, HEADER_SIZE_BYTES - len(data))
    (length,) = unpack_length(data, 0)
    if length > MAX_FIRST_FRAME_BYTES:
        raise InternalError(f"what listens at {sock.getpeername()!r} is not a Remora daemon")
    message = _decode_single(_receive_exactly(sock, length))
    if isinstance(message, Refused):
        raise InternalError(f"the node daemon refused this process: {message.reason}")
    if not isinstance(message, Welcome):
        raise InternalError(f"the node daemon answered {type(message).__name__} instead of Welcome")
    return message, list(descriptors)


def send_welcome(sock: socket.socket, welcome: Welcome, descriptors: list[int]) -> None:
    """Answer ``Hello``; to be called before anything else was written to the socket."""
    socket.send_fds(sock, [bytes(encode_frame([welcome]))], descriptors)


def refusal_of(hello: Any) -> str | None:
    """Why a connection that starts with *hello* must be refused, or None."""
    if not isinstance(hello, Hello):
        return f"the first message was {type(hello).__name__} instead of Hello"
    if hello.version != PROTOCOL_VERSION:
        return (
            f"it speaks protocol {hello.version} and this session speaks {PROTOCOL_VERSION}: "
            "use the same version of Remora in all processes"
        )
    return None


def _receive_exactly(sock: socket.socket, size_bytes: int) -> bytes:
    parts = b""
    while len(parts) < size_bytes:
        part = sock.recv(size_bytes - len(parts))
        if not part:
            raise InternalError("the node daemon closed the connection during the handshake; its log says why")
        parts += part
    return parts


def _decode_single(body: bytes) -> Any:
    try:
        messages = decode_body(body)
    except msgspec.MsgspecError as error:
        raise InternalError(f"the first frame is no message of Remora: {error}") from None
    return messages[0] if messages else None
