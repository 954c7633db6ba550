"""Connections for threads that block: the bytes of objects, and heartbeats.

They begin as streams do, with the same preface, TLS and proof, and are plain sockets after that: a broken one stays
broken. A TLS socket must be used by one thread at a time.
"""

from __future__ import annotations

import socket
import ssl
from time import monotonic

from remora.base.credentials import ClusterCredentials
from remora.base.network_address import split_address
from remora.system.network.handshake_steps import START_TLS, Steps, accept_steps, open_steps
from remora.system.network.preface import Preface, Purpose, make_preface
from remora.system.network.sockets import peer_address, tune
from remora.system.network.tls import fingerprint_of_peer, wrap

DataSocket = socket.socket | ssl.SSLSocket


def open_data_socket(
    address: str,
    target: bytes,
    credentials: ClusterCredentials,
    timeout_s: float,
    purpose: int = Purpose.DATA,
    connect_timeout_s: float | None = None,
) -> DataSocket:
    """A blocking socket to the process *target* of the node at *address*, both sides proved. It has no time-out.

    *connect_timeout_s* is for the first answer of the other machine alone: a packet that is lost then is sent again
    after a whole second and more, later than by who gives up and tries anew.

    Raises:
        StreamRefused: the other side refused, or is not who it should be.
        TimeoutError: it took longer than *timeout_s* seconds.
        OSError: the node cannot be reached.
        ValueError: *address* is no ``host:port``.
    """
    deadline_s = monotonic() + timeout_s
    sock = socket.create_connection(split_address(address), connect_timeout_s or timeout_s)
    preface = make_preface(target, purpose, credentials)
    return _prove(sock, open_steps(preface, credentials, address), credentials, False, deadline_s)


def accept_data_socket(
    sock: socket.socket, preface: Preface, credentials: ClusterCredentials, timeout_s: float
) -> DataSocket:
    """The other end of :func:`open_data_socket`: *sock* is an accepted one of which *preface* was read.

    It is closed when an error is raised.

    Raises:
        StreamRefused: the opener does not know the secret.
        TimeoutError: it took longer than *timeout_s* seconds.
        OSError: the opener has left, or its TLS is no TLS.
    """
    steps = accept_steps(preface, credentials, peer_address(sock))
    return _prove(sock, steps, credentials, True, monotonic() + timeout_s)


def _prove(
    sock: socket.socket, steps: Steps, credentials: ClusterCredentials, is_acceptor: bool, deadline_s: float
) -> DataSocket:
    current: DataSocket = sock
    try:
        tune(sock)
        step = next(steps)
        while True:
            current.settimeout(_left_s(deadline_s))
            answer = b""
            if isinstance(step, int):
                answer = _receive_exactly(current, step, deadline_s)
            elif isinstance(step, bytes):
                current.sendall(step)
            else:
                assert step is START_TLS
                current = wrapped = wrap(sock, credentials, is_acceptor)
                wrapped.do_handshake()
                answer = fingerprint_of_peer(wrapped)
            step = steps.send(answer)
    except StopIteration:
        current.settimeout(None)
        return current
    except BaseException:
        current.close()
        raise


def _left_s(deadline_s: float) -> float:
    left_s = deadline_s - monotonic()
    if left_s <= 0:
        raise TimeoutError("the connection was not ready in time")
    return left_s


def _receive_exactly(sock: DataSocket, size_bytes: int, deadline_s: float) -> bytes:
    received = b""
    while len(received) < size_bytes:
        sock.settimeout(_left_s(deadline_s))
        data = sock.recv(size_bytes - len(received))
        if not data:
            raise ConnectionResetError("the other side closed the connection during the handshake")
        received += data
    return received
