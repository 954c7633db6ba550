"""Serving objects to other nodes, as the loop sees it: who reads what, and where it lies."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue

from remora.base.ids import ObjectId
from remora.core.served_blocks import ServedBlocks
from remora.core.served_chunks import Found, ObjectKey
from remora.messages.objects import Location
from remora.processes.daemon.transfer_arrivals import Arrivals
from remora.processes.daemon.transfer_server import ServedConnection
from remora.system.loop_calls import LoopCalls
from remora.system.network.half_open import HalfOpenConnections
from remora.system.network.refusal_log import WITHOUT_SECRET, RefusalLog
from remora.system.network.sockets import peer_host
from remora.system.transfer_io import ArenaWindow, StreamEnded, end_connection

MAX_UNPROVED = 256
"""Connections whose openers have not proved themselves: each has a thread."""
PROOF_TIMEOUT_S = 5.0

Locate = Callable[[ObjectId, bytes], Location | None]


class Serving:
    """All connections of readers. Its threads call :meth:`find`, :meth:`reader_done` and :meth:`connection_ended`."""

    def __init__(
        self, calls: LoopCalls, arrivals: Arrivals, locate: Locate, unproved: HalfOpenConnections, log: RefusalLog
    ) -> None:
        self.blocks = ServedBlocks()
        self.connections: set[ServedConnection] = set()
        self._unproved = unproved
        self._log = log
        self._calls = calls
        self._arrivals = arrivals
        self._locate = locate
        self._sent_bytes = 0

    def __repr__(self) -> str:
        return f"<Serving {len(self.connections)} readers, {self.blocks!r}>"

    @property
    def sent_bytes(self) -> int:
        """To all readers since the start."""
        return self._sent_bytes + sum(connection.sent_bytes for connection in self.connections)

    def accept(self, sock: socket.socket, prove: Callable[[], socket.socket], window: ArenaWindow) -> None:
        """Serve one more reader, in a thread that begins with *prove*, which makes of *sock* one that is to be used."""
        host = peer_host(sock)
        try:
            handle = sock.dup()  # TLS takes the socket itself away
        except OSError as error:
            self._log.note(host, f"this node could not serve it: {error.strerror}")
            sock.close()
            return
        number = self._unproved.add(host, lambda too_many: end_connection(handle))
        accept = partial(self._prove, prove, partial(self._on_proved, number, handle), host)
        self.connections.add(ServedConnection(accept, window, self._arrivals, self))

    def end_unproved(self) -> None:
        """End those whose openers have not proved themselves."""
        self._unproved.end_all()

    def _prove(self, prove: Callable[[], socket.socket], on_proved: Callable[[], None], host: str) -> socket.socket:
        """In a connection's thread."""
        try:
            return prove()
        except OSError as error:
            # A refusal comes here as an OSError, as all that can go wrong with a socket does.
            reason = WITHOUT_SECRET if isinstance(error, ConnectionRefusedError) else type(error).__name__
            kind = f"its handshake for reading objects failed ({reason})"
            self._calls.post(self._log.note, host, kind)
            raise StreamEnded(kind) from error
        finally:
            self._calls.post(on_proved)

    def _on_proved(self, number: int, handle: socket.socket) -> None:
        self._unproved.remove(number)
        handle.close()

    def node_dead(self, node: bytes) -> None:
        """The node reads nothing any more."""
        for connection in self.connections:
            if connection.reader == node:
                connection.close()

    # ------------------------------------------------------------------ what threads ask; each posts to the loop

    def find(self, keys: list[ObjectKey], answer: SimpleQueue[list[Found | None] | None]) -> None:
        """A thread wants to know where these are."""
        self._calls.post(self._on_find, keys, answer)

    def reader_done(self, offsets: list[int]) -> None:
        """A reader has everything that it asked for of these."""
        self._calls.post(self._on_reader_done, offsets)

    def connection_ended(self, connection: ServedConnection) -> None:
        """A thread ends."""
        self._calls.post(self._on_connection_ended, connection)

    def _on_find(self, keys: list[ObjectKey], answer: SimpleQueue[list[Found | None] | None]) -> None:
        found = [self._find(key) for key in keys]
        for one in found:
            if one is not None:
                self.blocks.read(one.offset)
        answer.put(found)

    def _find(self, key: ObjectKey) -> Found | None:
        arrival = self._arrivals.get(key)
        if arrival is not None:
            return Found(arrival.offset, arrival.size_bytes, arrival) if arrival.offset >= 0 else None
        location = self._locate(ObjectId(key[0]), key[1])
        return Found(location.offset, location.size_bytes) if location is not None else None

    def _on_reader_done(self, offsets: list[int]) -> None:
        for offset in offsets:
            self.blocks.done(offset)

    def _on_connection_ended(self, connection: ServedConnection) -> None:
        self.connections.discard(connection)
        self._sent_bytes += connection.sent_bytes
