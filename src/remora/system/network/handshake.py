"""Drives the steps of one side of a handshake from an event loop, without ever blocking it."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from remora.base.credentials import ClusterCredentials
from remora.system.network.handshake_steps import START_TLS, Steps
from remora.system.network.refusals import StreamRefused
from remora.system.network.transports import ClearTransport, Transport
from remora.system.reactor import READABLE, WRITABLE, Reactor

if TYPE_CHECKING:
    from remora.system.network.tls import TlsTransport


class Handshake:
    """One connection that is not ready yet.

    It owns the socket until it ends, once: ``on_done(transport)``, or ``on_failed(error)`` with a ``StreamRefused`` or
    an OSError and the socket closed. Both are called by the thread that polls, never from :meth:`connect` or
    :meth:`accept`. Deadlines are the owner's, who calls :meth:`abort`, from any thread.
    """

    def __init__(
        self,
        reactor: Reactor,
        sock: socket.socket,
        steps: Steps,
        credentials: ClusterCredentials,
        on_done: Callable[[Transport], None],
        on_failed: Callable[[Exception], None],
    ) -> None:
        self._reactor = reactor
        self._socket = sock
        self._fd = sock.fileno()
        self._transport: Transport = ClearTransport(sock)
        self._steps = steps
        self._credentials = credentials
        self._on_done = on_done
        self._on_failed = on_failed
        self._is_opener = False
        self._is_connecting = False
        self._shaking: TlsTransport | None = None
        self._unsent = memoryview(b"")
        self._wanted_bytes = 0
        self._received = b""
        self._has_begun = False
        self._lock = threading.RLock()
        self.ended = False

    def __repr__(self) -> str:
        return f"<Handshake fd={self._fd} {'ended' if self.ended else 'under way'}>"

    def connect(self, address: tuple[str, int]) -> None:
        """Begin as the opener, with a connection to *address*."""
        self._is_opener = self._is_connecting = True
        code = self._socket.connect_ex(address)
        if code in (0, errno.EINPROGRESS):
            self._reactor.register(self._fd, self._on_event, READABLE | WRITABLE)
            return
        # Told by the loop, as everything else is: the caller is in the middle of something.
        self.ended = True
        self._transport.close()
        self._reactor.call_after(0, lambda: self._on_failed(OSError(code, os.strerror(code))))

    def accept(self) -> None:
        """Begin as the acceptor."""
        self._reactor.register(self._fd, self._on_event, READABLE | WRITABLE)

    def abort(self) -> None:
        """Reset the connection and call nothing. The acceptor of a stream that is resumed must not see an end of it."""
        with self._lock:
            if not self.ended:
                self._let_go()
                self._transport.reset_on_close()
                self._transport.close()

    def abandon_in_child(self) -> None:
        """In a forked child: close its copy of the socket; the reactor is the parent's."""
        self.ended = True
        self._transport.abandon_in_child()

    def _let_go(self) -> None:
        self.ended = True
        self._reactor.unregister(self._fd)

    def _on_event(self, mask: int) -> None:
        failure: Exception | None = None
        with self._lock:
            if self.ended:
                return
            try:
                if self._is_connecting:
                    self._finish_connecting()
                self._go_on()
            except StopIteration:
                self._let_go()
            except BlockingIOError:
                wants_write = bool(self._unsent) or (self._shaking is not None and self._shaking.wants_write)
                self._reactor.watch_writable(self._fd, wants_write)
                return
            except (OSError, StreamRefused) as error:
                failure = error
                self._let_go()
                self._transport.close()  # not reset: the last thing that was written may be why
        if failure is None:
            self._on_done(self._transport)
        else:
            self._on_failed(failure)

    def _finish_connecting(self) -> None:
        code = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        self._is_connecting = False

    def _go_on(self) -> None:
        """Take steps until one has to wait, which raises BlockingIOError; after the last one StopIteration."""
        if not self._has_begun:
            self._has_begun = True
            self._take(next(self._steps))
        while True:
            if self._unsent:
                self._unsent = self._unsent[self._transport.send(self._unsent) :]
            elif self._shaking is not None:
                self._shaking.shake_hands()
                fingerprint, self._shaking = self._shaking.peer_fingerprint(), None
                self._take(self._steps.send(fingerprint))
            elif len(self._received) < self._wanted_bytes:
                self._receive()
            else:
                received, self._received, self._wanted_bytes = self._received, b"", 0
                self._take(self._steps.send(received))

    def _take(self, step: object) -> None:
        if isinstance(step, int):
            self._wanted_bytes = step
        elif isinstance(step, bytes):
            self._unsent = memoryview(step)
        else:
            assert step is START_TLS
            from remora.system.network.tls import TlsTransport  # costs what a clear cluster need not pay

            self._shaking = TlsTransport(self._socket, self._credentials, is_server=not self._is_opener)
            self._transport = self._shaking

    def _receive(self) -> None:
        buffer = bytearray(self._wanted_bytes - len(self._received))
        received = self._transport.recv_into(memoryview(buffer))
        if not received:
            raise ConnectionResetError(errno.ECONNRESET, "the other side closed the connection during the handshake")
        self._received += buffer[:received]
