"""Passing an accepted connection to the process of this node that it is for.

The node daemon has read nothing but the preface, so TLS and the proof are between the opener and that process. The
descriptor travels in a datagram over a Unix socket in the session folder, which only this user can enter.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Callable

from remora.system.network.preface import PREFACE_SIZE_BYTES, Preface, decode_preface
from remora.system.network.refusals import Refusal, refuse
from remora.system.reactor import Reactor


def pass_socket(path: str, sock: socket.socket, preface: Preface) -> bool:
    """Give *sock* to the process that receives at *path*; whether it was there. Never blocks.

    The socket is closed here in any case. If there is no such process the opener is told so; if it has not taken the
    earlier ones yet, the opener is asked to try again.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        descriptors = array.array("i", [sock.fileno()])
        try:
            sender.sendmsg([preface.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)], 0, path)
        except BlockingIOError:
            refuse(sock, Refusal.TOO_MANY)
            return True
        except OSError:
            refuse(sock, Refusal.UNKNOWN_TARGET)
            return False
    sock.close()
    return True


def bind_receiver(path: str) -> socket.socket:
    """The socket at *path*: what is passed there waits until a :class:`SocketReceiver` takes it.

    Raises:
        OSError: the path cannot be made, or is longer than a socket's path may be.
    """
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        receiver.setblocking(False)
        receiver.bind(path)
        os.chmod(path, 0o600)
    except OSError:
        receiver.close()
        raise
    return receiver


class SocketReceiver:
    """Receives what others pass to *path*; ``on_socket(sock, preface)`` owns each socket.

    Raises:
        OSError: the path cannot be made, or is longer than a socket's path may be.
    """

    def __init__(
        self,
        path: str,
        reactor: Reactor,
        on_socket: Callable[[socket.socket, Preface], None],
        bound: socket.socket | None = None,
    ) -> None:
        """*bound* is what :func:`bind_receiver` made of the path, when others must find it earlier than this."""
        self._path = path
        self._reactor = reactor
        self._on_socket = on_socket
        self._socket = bound or bind_receiver(path)
        self._closed = False
        reactor.register(self._socket.fileno(), self._on_readable)

    def __repr__(self) -> str:
        return f"<SocketReceiver {self._path}{' closed' if self._closed else ''}>"

    def abandon_in_child(self) -> None:
        """In a forked child: close its copy of the socket; the path is the parent's."""
        self._closed = True
        self._socket.close()

    def close(self) -> None:
        """Receive no more; openers are told that there is no such process."""
        if not self._closed:
            self._closed = True
            self._reactor.unregister(self._socket.fileno())
            self._socket.close()
            try:
                os.unlink(self._path)
            except FileNotFoundError:  # with the whole session
                return

    def _on_readable(self, mask: int) -> None:
        space = socket.CMSG_SPACE(array.array("i").itemsize)
        while not self._closed:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(PREFACE_SIZE_BYTES, space, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            # Without a descriptor of our own left the kernel has closed the connection; its opener tries again.
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS and len(data) == PREFACE_SIZE_BYTES:
                    self._on_socket(_socket_of(content), decode_preface(data))


def _socket_of(content: bytes) -> socket.socket:
    descriptors = array.array("i")
    descriptors.frombytes(content)
    sock = socket.socket(fileno=descriptors[0])
    sock.setblocking(False)
    return sock
