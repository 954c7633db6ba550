"""TCP sockets as streams between nodes need them."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct

from remora.base.network_address import join_address
from remora.base.remora_error import RemoraError

KEEPALIVE_IDLE_S = 3
KEEPALIVE_INTERVAL_S = 1
KEEPALIVE_PROBES = 4
SILENCE_TIMEOUT_S = 6.0
"""A peer whose machine answers nothing for so long has a broken connection."""
LISTEN_BACKLOG = 4096

_TCP_INFO_BYTES = 152
_MINIMUM_ROUND_TRIP = struct.Struct("=I")
_MINIMUM_ROUND_TRIP_AT = 148
"""Of ``tcpi_min_rtt`` in ``struct tcp_info``, which only ever grows at its end."""
_UNKNOWN = 0xFFFFFFFF

SocketAddress = tuple[socket.AddressFamily, tuple[str, int]]


class ListenError(RemoraError, RuntimeError):
    """This machine cannot listen there; the text says why and what to do."""


def tune(sock: socket.socket) -> None:
    """Send small messages at once, and notice a silent peer within :data:`SILENCE_TIMEOUT_S` and an interval."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENCE_TIMEOUT_S * 1000))


def round_trip_s(sock: socket.socket) -> float:
    """The shortest round trip that the kernel has seen on a connection, beginning with its first packet; 0: unknown."""
    try:
        information = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:  # it is no TCP socket, or broken
        return 0.0
    if len(information) < _TCP_INFO_BYTES:
        return 0.0
    shortest_us: int = _MINIMUM_ROUND_TRIP.unpack_from(information, _MINIMUM_ROUND_TRIP_AT)[0]
    return 0.0 if shortest_us == _UNKNOWN else shortest_us / 1e6


def listen_tcp(host: str, port: int) -> socket.socket:
    """A non-blocking listening socket. An empty *host* means all addresses, *port* 0 any free port.

    Raises:
        ListenError: the port is taken, or the host is no address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(LISTEN_BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ListenError(_why_not(error, host, port)) from error
    return sock


def _why_not(error: OSError, host: str, port: int) -> str:
    if isinstance(error, socket.gaierror):
        return f"{host!r} is no address of this machine, nor a name of it ({error.strerror}): give one with --node-ip"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is no address of this machine: give one of its own with --node-ip"
    if error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use: stop what listens there, or give another --port (0: any free one)"
    if error.errno == errno.EACCES:
        return f"port {port} is not open to user {os.getuid()}: give a --port above 1023 (0: any free one)"
    return f"this machine cannot listen at {join_address(host, port)}: {error.strerror}"


def is_any_address(host: str) -> bool:
    """Whether *host* stands for all addresses of a machine: one can listen there, and nobody can connect to it."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def numeric_address(host: str, port: int) -> SocketAddress | None:
    """What to connect to when *host* is an IP address; None when it is a name that has to be looked up."""
    try:
        return _look_up(host, port, socket.AI_NUMERICHOST)[0]
    except socket.gaierror:
        return None


def look_up(host: str, port: int) -> list[SocketAddress]:
    """All that *host* stands for. Blocks for as long as the name service takes.

    Raises:
        OSError: there is no such host.
    """
    return _look_up(host, port, 0)


def _look_up(host: str, port: int, flags: int) -> list[SocketAddress]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(family, address) for family, _, _, _, address in found]  # type: ignore[misc]


def peer_host(sock: socket.socket) -> str:
    """The peer's IP address; ``?`` when it has left already."""
    try:
        return str(sock.getpeername()[0])
    except OSError:
        return "?"


def peer_address(sock: socket.socket) -> str:
    """The peer's address with its port; ``?`` when it has left already."""
    try:
        host, port = sock.getpeername()[:2]
    except OSError:
        return "?"
    return join_address(str(host), port)
