"""TLS 1.3 with the certificate of the cluster. Imported late: ``ssl`` costs what a clear cluster need not pay.

The opener trusts exactly the certificate whose fingerprint it was given, so neither names nor authorities matter.
There are no session tickets: nobody would use them, and a peer that closes without reading them sends a reset.
"""

from __future__ import annotations

import functools
import hashlib
import socket
import ssl
import threading
from typing import Any

from remora.base.credentials import ClusterCredentials

WRITE_LIMIT_BYTES = 256 * 1024
"""Encrypted at once: bounds how long a reader waits for the lock."""
RECORD_LIMIT_BYTES = 16 * 1024


@functools.cache
def client_context() -> ssl.SSLContext:
    """For those who open connections; they compare the fingerprint themselves."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


@functools.lru_cache(maxsize=8)
def server_context(credentials: ClusterCredentials) -> ssl.SSLContext:
    """For those who accept connections.

    Raises:
        OSError: certificate or key cannot be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(credentials.certificate_path, credentials.key_path)
    return context


def wrap(sock: socket.socket, credentials: ClusterCredentials, is_server: bool) -> ssl.SSLSocket:
    """*sock* with TLS above it, before the handshake; *sock* itself is detached."""
    context = server_context(credentials) if is_server else client_context()
    return context.wrap_socket(sock, server_side=is_server, do_handshake_on_connect=False)


def fingerprint_of_peer(sock: ssl.SSLSocket) -> bytes:
    """The SHA-256 of the peer's certificate; empty when it showed none."""
    certificate = sock.getpeercert(binary_form=True)
    return hashlib.sha256(certificate).digest() if certificate else b""


class TlsTransport:
    """A TLS socket as a :class:`~remora.system.network.transports.Transport`.

    OpenSSL's objects must not be used by two threads at once, and one thread may write while another reads.
    """

    __slots__ = ("_lock", "_socket", "failure", "received_bytes", "wants_write")

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._socket = sock
        self._lock = threading.Lock()
        self.failure: OSError | None = None
        self.received_bytes = 0
        self.wants_write = False

    def shake_hands(self) -> None:
        """Go on with the handshake of TLS.

        Raises:
            BlockingIOError: it has to wait for the socket; ``wants_write`` says for what.
            OSError: it failed.
        """
        try:
            self._socket.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            self.wants_write = isinstance(error, ssl.SSLWantWriteError)
            raise BlockingIOError from None

    def peer_fingerprint(self) -> bytes:
        """The SHA-256 of the peer's certificate; empty when it showed none."""
        return fingerprint_of_peer(self._socket)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:
        """Part of the interface; a transport never blocks."""
        assert not flag

    def send(self, data: Any) -> int:
        """How much of *data* was encrypted and taken by the kernel. After nothing was, the same data must follow.

        Raises:
            BlockingIOError: nothing.
            OSError: the connection is broken, or the peer has closed.
        """
        with self._lock:
            try:
                return self._socket.send(memoryview(data)[:WRITE_LIMIT_BYTES])
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                raise BlockingIOError from None
            except OSError as error:
                self.failure = self.failure or error
                raise

    def recv_into(self, view: memoryview) -> int:
        """How many bytes came, of as many records as fit; 0 is an end of file.

        Raises:
            BlockingIOError: none.
            OSError: the connection is broken.
        """
        received = 0
        with self._lock:
            while True:
                try:
                    size_bytes = self._socket.recv_into(view[received:])
                except OSError as error:
                    if not isinstance(error, (ssl.SSLWantReadError, ssl.SSLWantWriteError)):
                        self.failure = self.failure or error
                        if not received:
                            raise
                    elif not received:
                        raise BlockingIOError from None
                    break  # what came goes first; a broken connection has its end after it
                received += size_bytes
                if not size_bytes or len(view) - received < RECORD_LIMIT_BYTES:
                    break
        self.received_bytes += received
        return received

    def pending(self) -> int:
        """How many bytes are decrypted already, of which the descriptor does not tell."""
        return self._socket.pending()

    def close(self) -> None:
        """Close the socket."""
        with self._lock:
            self._socket.close()
