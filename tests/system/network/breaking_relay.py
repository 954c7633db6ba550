"""A relay between two nodes that breaks connections: a thread forwards bytes and now and then resets both sides."""

from __future__ import annotations

import os
import random
import select
import socket
import struct
import threading

RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of 0: close sends a reset."""


class BreakingRelay:
    """Listens at ``address``, and forwards to *target*; ``breaks_left`` connections are reset after random bytes."""

    def __init__(self, target: tuple[str, int], seed: int, breaks: int, longest_bytes: int) -> None:
        self._target = target
        self._random = random.Random(seed)
        self._longest_bytes = longest_bytes
        self.breaks_left = breaks
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._stop_read, self._stop_write = os.pipe()
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._left_bytes: dict[frozenset[socket.socket], int] = {}
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        os.close(self._stop_write)
        self._thread.join()
        for sock in [*self._pairs, self._listener]:
            sock.close()
        os.close(self._stop_read)

    def _run(self) -> None:
        while True:
            readable, _, _ = select.select([self._stop_read, self._listener, *self._pairs], [], [])
            if self._stop_read in readable:
                return
            for sock in readable:
                if sock is self._listener:
                    self._accept()
                elif sock in self._pairs:
                    self._forward(sock, self._pairs[sock])

    def _accept(self) -> None:
        incoming, _ = self._listener.accept()
        outgoing = socket.create_connection(self._target)
        self._pairs[incoming] = outgoing
        self._pairs[outgoing] = incoming
        self._left_bytes[frozenset((incoming, outgoing))] = self._random.randrange(self._longest_bytes)

    def _forward(self, sock: socket.socket, other: socket.socket) -> None:
        pair = frozenset((sock, other))
        left_bytes = self._left_bytes[pair]
        limit = max(1, left_bytes) if self.breaks_left > 0 else 1 << 20
        try:
            data = sock.recv(min(limit, 1 << 16))
            other.settimeout(0.2)
            if data:
                other.sendall(data)
        except OSError:  # a node reset it, or does not read because it waits for this relay
            self._reset(sock, other)
            return
        if not data:
            self._end(sock, other)
            return
        self._left_bytes[pair] = left_bytes - len(data)
        if left_bytes <= len(data) and self.breaks_left > 0:
            self.breaks_left -= 1
            self._reset(sock, other)

    def _end(self, *pair: socket.socket) -> None:
        """A node has closed: so does the relay."""
        self._forget(*pair)
        for sock in pair:
            sock.close()

    def _reset(self, *pair: socket.socket) -> None:
        self._forget(*pair)
        for sock in pair:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.close()

    def _forget(self, *pair: socket.socket) -> None:
        for sock in pair:
            del self._pairs[sock]
        del self._left_bytes[frozenset(pair)]
