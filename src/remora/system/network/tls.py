"""TLS 1.3 with the certificate of the cluster. Imported late: ``ssl`` costs what a clear cluster need not pay.

The opener trusts exactly the certificate whose fingerprint it was given, so neither names nor authorities matter.
There are no session tickets: nobody would use them, and a peer that closes without reading them sends a reset.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import socket
import ssl
import threading
from typing import Any, cast

from remora.base.credentials import ClusterCredentials
from remora.system.network.sockets import round_trip_s
from remora.system.network.transports import set_reset_on_close

WRITE_LIMIT_BYTES = 256 * 1024
"""Encrypted at once: bounds how long a reader waits for the lock."""
READ_SIZE_BYTES = 64 * 1024


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
    """*sock* with TLS above it, before the handshake, for threads that block; *sock* itself is detached."""
    context = server_context(credentials) if is_server else client_context()
    return context.wrap_socket(sock, server_side=is_server, do_handshake_on_connect=False)


def fingerprint_of_peer(ssl_object: ssl.SSLSocket | ssl.SSLObject) -> bytes:
    """The SHA-256 of the peer's certificate; empty when it showed none."""
    certificate = ssl_object.getpeercert(binary_form=True)
    return hashlib.sha256(certificate).digest() if certificate else b""


class TlsTransport:
    """A TCP socket and TLS as a :class:`~remora.system.network.transports.Transport`.

    OpenSSL's objects must not be used by two threads at once, and one thread may write while another reads, so a lock
    is around them. They are given memory, not the socket: a TLS socket of Python reports a reset as an end of file, and
    makes two system calls for each 16 KB.
    """

    __slots__ = (
        "_accepted_bytes",
        "_decrypts_more",
        "_from_peer",
        "_lock",
        "_socket",
        "_ssl",
        "_to_peer",
        "_unsent",
        "failure",
        "received_bytes",
        "wants_write",
    )

    def __init__(self, sock: socket.socket, credentials: ClusterCredentials, is_server: bool) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._lock = threading.Lock()
        self._from_peer = ssl.MemoryBIO()
        self._to_peer = ssl.MemoryBIO()
        context = server_context(credentials) if is_server else client_context()
        self._ssl = context.wrap_bio(self._from_peer, self._to_peer, is_server)
        self._unsent = memoryview(b"")
        self._accepted_bytes = 0
        self._decrypts_more = False
        self.failure: OSError | None = None
        self.received_bytes = 0
        self.wants_write = False

    def shake_hands(self) -> None:
        """Go on with the handshake of TLS.

        Raises:
            BlockingIOError: it has to wait for the socket; ``wants_write`` says for what.
            OSError: it failed.
        """
        with self._lock:
            while True:
                try:
                    self._ssl.do_handshake()
                    is_done = True
                except ssl.SSLWantReadError:
                    is_done = False
                except ssl.SSLError:
                    self._say_why_it_failed()
                    raise
                self._write_out()
                if is_done:
                    return
                if not self._read_in():
                    raise ConnectionResetError("the other side closed the connection during the handshake of TLS")

    def peer_fingerprint(self) -> bytes:
        """The SHA-256 of the peer's certificate; empty when it showed none."""
        return fingerprint_of_peer(self._ssl)

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
            if not self._accepted_bytes:
                self._accepted_bytes = self._ssl.write(memoryview(data)[:WRITE_LIMIT_BYTES])
            self._write_out()
            accepted_bytes, self._accepted_bytes = self._accepted_bytes, 0
            return accepted_bytes

    def recv_into(self, view: memoryview) -> int:
        """How many bytes came; 0 is an end of file.

        Raises:
            BlockingIOError: none.
            OSError: the connection is broken.
        """
        with self._lock:
            received = self._decrypt(view) if self._holds_some() else 0
            while not received:
                if not self._read_in():
                    return 0
                received = self._decrypt(view)
        self.received_bytes += received
        return received

    def pending(self) -> int:
        """Whether there is more to decrypt, of which the descriptor does not tell."""
        return self._decrypts_more

    def round_trip_s(self) -> float:
        """What a packet and its acknowledgement took at least so far."""
        return round_trip_s(self._socket)

    def close(self) -> None:
        """Close the socket."""
        with self._lock:
            self._socket.close()

    def abandon_in_child(self) -> None:
        """In a forked child: close its copy of the socket. The lock may be held by a thread that is no more."""
        self._socket.close()

    def reset_on_close(self) -> None:
        """From now on the peer will take a close for a broken connection, not for an end."""
        set_reset_on_close(self._socket)

    def _decrypt(self, view: memoryview) -> int:
        received = 0
        self._decrypts_more = False
        while received < len(view):
            try:
                size_bytes = cast(int, self._ssl.read(len(view) - received, view[received:]))
            except ssl.SSLWantReadError:
                return received
            if not size_bytes:
                return received
            received += size_bytes
            if not self._holds_some():
                return received
        self._decrypts_more = True
        return received

    def _holds_some(self) -> bool:
        """Whether reading may give something: the error that there is nothing costs more than a small record."""
        return bool(self._from_peer.pending or self._ssl.pending())

    def _read_in(self) -> int:
        data = self._socket.recv(READ_SIZE_BYTES)
        self._from_peer.write(data)
        return len(data)

    def _write_out(self) -> None:
        """Write what is encrypted; raises BlockingIOError when the kernel does not take all of it."""
        try:
            while self._unsent or self._to_peer.pending:
                if not self._unsent:
                    self._unsent = memoryview(self._to_peer.read())
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            self.wants_write = True
            raise
        except OSError as error:
            self.failure = self.failure or error
            raise
        self.wants_write = False

    def _say_why_it_failed(self) -> None:
        """The alert that TLS has for the peer; it may have left."""
        with contextlib.suppress(OSError):
            self._write_out()
