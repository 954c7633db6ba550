"""The open port of a node: everybody may knock, and nobody can hurt.

It reads the 32 bytes of the preface, answers strangers with a refusal, and hands the others on, untouched otherwise.
What it keeps for a connection is a descriptor and up to 32 bytes, for 5 s at most, of a few hundred connections.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable

from remora.base.credentials import ClusterCredentials
from remora.system.network.half_open import HalfOpenConnections
from remora.system.network.preface import MAGIC, PREFACE_SIZE_BYTES, Preface, check_preface, decode_preface
from remora.system.network.refusal_log import RefusalLog
from remora.system.network.refusals import Refusal, refuse
from remora.system.network.sockets import listen_tcp
from remora.system.reactor import Reactor

ACCEPTS_PER_TURN = 64
"""So many connections are accepted before others of the loop have their turn."""
_NOTHING_LEFT = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))

_KINDS = {
    Refusal.NOT_REMORA: "what it sent is not Remora's protocol",
    Refusal.OTHER_PROTOCOL: "it speaks another version of the protocol",
    Refusal.OTHER_PYTHON: "it runs another minor version of Python",
    Refusal.OTHER_CLUSTER: "it wants another cluster",
    Refusal.NOT_ENCRYPTED: "it wants a connection in the clear, and this cluster encrypts",
    Refusal.ENCRYPTED: "it wants TLS, and this cluster does not encrypt",
}


class Doorkeeper:
    """Listens on one TCP port.

    ``on_preface(sock, preface)`` gets each connection whose preface is right, and owns its non-blocking socket from
    then on: a ``StreamAcceptor`` takes it, ``pass_socket`` sends it to another process, ``refuse`` ends it.

    Raises:
        ListenError: the port is taken, or the host is no address of this machine.
    """

    def __init__(
        self,
        reactor: Reactor,
        host: str,
        port: int,
        credentials: ClusterCredentials,
        on_preface: Callable[[socket.socket, Preface], None],
        log: RefusalLog | None = None,
        half_open: HalfOpenConnections | None = None,
    ) -> None:
        self._reactor = reactor
        self._credentials = credentials
        self._on_preface = on_preface
        self.log = log or RefusalLog()
        self.half_open = HalfOpenConnections(reactor) if half_open is None else half_open
        self._listener = listen_tcp(host, port)
        self.port: int = self._listener.getsockname()[1]
        self._spare_descriptor = _open_spare()
        self._closed = False
        reactor.register(self._listener.fileno(), self._on_connect)

    def __repr__(self) -> str:
        return f"<Doorkeeper port={self.port} half open={len(self.half_open)} {self.log!r}>"

    def close(self) -> None:
        """Listen no more, and end what is half open."""
        if not self._closed:
            self._closed = True
            self._reactor.unregister(self._listener.fileno())
            self._listener.close()
            self.half_open.end_all()
            if self._spare_descriptor >= 0:
                os.close(self._spare_descriptor)

    def _on_connect(self, mask: int) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NOTHING_LEFT:
                    self._accept_without_descriptors(error)
                # Else it has left again, or the network had an error of its own that accept reports.
                continue
            _Guest(self, sock, str(address[0]))

    def _accept_without_descriptors(self, error: OSError) -> None:
        """No descriptor is left: a connection that is half open gives up its own, or the new one is turned away."""
        if self.half_open.end_oldest():
            return
        self.log.note("anybody", f"this node could not accept it: {error.strerror}")
        if self._spare_descriptor >= 0:
            os.close(self._spare_descriptor)
            self._spare_descriptor = -1
        try:
            self._listener.accept()[0].close()
        except OSError as refused:
            self.log.note("anybody", f"this node could not even turn it away: {refused.strerror}")
        self._spare_descriptor = _open_spare()


class _Guest:
    """A connection before its preface is complete."""

    __slots__ = ("_doorkeeper", "_host", "_number", "_received", "_socket")

    def __init__(self, doorkeeper: Doorkeeper, sock: socket.socket, host: str) -> None:
        sock.setblocking(False)
        self._doorkeeper = doorkeeper
        self._socket = sock
        self._host = host
        self._received = b""
        self._number = doorkeeper.half_open.add(host, self._on_time_out)
        doorkeeper._reactor.register(sock.fileno(), self._on_readable)

    def _on_readable(self, mask: int) -> None:
        try:
            data = self._socket.recv(PREFACE_SIZE_BYTES - len(self._received))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._leave()
            self._socket.close()
            self._note("it left before it had said what it wants")
            return
        self._received += data
        if not self._received.startswith(MAGIC[: len(self._received)]):
            self._refuse(Refusal.NOT_REMORA)
        elif len(self._received) == PREFACE_SIZE_BYTES:
            self._check()

    def _check(self) -> None:
        preface = decode_preface(self._received)
        refusal = check_preface(preface, self._doorkeeper._credentials)
        if refusal is not None:
            self._refuse(refusal)
            return
        self._leave()
        self._doorkeeper._on_preface(self._socket, preface)

    def _refuse(self, refusal: Refusal) -> None:
        self._leave()
        refuse(self._socket, refusal)
        self._note(_KINDS[refusal])

    def _on_time_out(self, too_many: bool) -> None:
        self._doorkeeper._reactor.unregister(self._socket.fileno())
        refuse(self._socket, Refusal.TOO_MANY)
        self._note("too many connections were half open" if too_many else "it did not say what it wants in time")

    def _leave(self) -> None:
        self._doorkeeper.half_open.remove(self._number)
        self._doorkeeper._reactor.unregister(self._socket.fileno())

    def _note(self, kind: str) -> None:
        self._doorkeeper.log.note(self._host, kind)


def _open_spare() -> int:
    try:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # others took the last one; the next connection that ends gives one back
        return -1
