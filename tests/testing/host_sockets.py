"""Sockets of several hosts in the hands of one test."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from remora.testing.network_host import Host

TIMEOUT_S = 10.0
"""For what must come. What must not come is asked for with less."""


def listening(host: Host) -> socket.socket:
    with host.entered():
        return socket.create_server((host.address, 0))


def connecting(host: Host, server: socket.socket, timeout_s: float = TIMEOUT_S) -> socket.socket:
    with host.entered():
        return socket.create_connection(server.getsockname(), timeout_s)


@contextlib.contextmanager
def connected(a: Host, b: Host) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection that *a* has opened to *b*: the end of each."""
    with listening(b) as server, connecting(a, server) as of_a:
        of_b, _ = server.accept()
        with of_b:
            of_b.settimeout(TIMEOUT_S)
            yield of_a, of_b


@contextlib.contextmanager
def datagram_sockets(*hosts: Host) -> Iterator[list[socket.socket]]:
    """A UDP socket of each host, on its address."""
    with contextlib.ExitStack() as stack:
        sockets = []
        for host in hosts:
            with host.entered():
                sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind((host.address, 0))
            sock.settimeout(TIMEOUT_S)
            sockets.append(sock)
        yield sockets


def say(source: socket.socket, target: socket.socket, data: bytes) -> None:
    source.sendto(data, target.getsockname())


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = sock.recv(min(65536, size - len(data)))
        assert more, f"the connection ended after {len(data)} of {size} bytes"
        data += more
    return bytes(data)
