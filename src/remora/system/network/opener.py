"""Makes the connections of a stream, on the side that opened it: the first one, and others when one breaks."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from remora.base.credentials import ClusterCredentials
from remora.base.network_address import split_address
from remora.messages.links import StreamEnd, StreamHello
from remora.messages.wire import MAX_FRAME_BYTES, encode_frame
from remora.system.connection import Connection, ForeignFrameError
from remora.system.handshake import MAX_FIRST_FRAME_BYTES
from remora.system.network.handshake import Handshake
from remora.system.network.handshake_steps import open_steps
from remora.system.network.preface import make_preface
from remora.system.network.refusals import FOR_NOW, Refusal, StreamRefused
from remora.system.network.reliable_stream import Stream
from remora.system.network.sockets import SocketAddress, look_up, numeric_address, tune
from remora.system.network.stream_link import StreamLink
from remora.system.network.transports import Transport
from remora.system.reactor import Reactor
from remora.system.timers import Timer

STREAM_ID_SIZE_BYTES = 16
ATTEMPT_TIMEOUT_S = 3.0
"""From the call of connect to the other side's hello."""
FIRST_RETRY_S = 0.02
LONGEST_RETRY_S = 0.5
GIVE_UP_S = 15.0
"""An acceptor that can be reached has forgotten the stream by then, and one that cannot be is declared dead."""
GIVE_UP_NOBODY_LISTENS_S = 1.0
"""The machine answers that nobody listens at the port: the node has ended, unless a firewall says so for a moment."""


class Opener:
    """The keeper of one stream that was opened here."""

    def __init__(
        self,
        reactor: Reactor,
        address: str,
        target: bytes,
        sender: bytes,
        purpose: int,
        credentials: ClusterCredentials,
    ) -> None:
        self._reactor = reactor
        self._address = address
        self._host, self._port = split_address(address)
        self._sender = bytes(sender)
        self._credentials = credentials
        self._preface = make_preface(target, purpose, credentials)
        self._found: list[SocketAddress] = []
        self._attempts = 0
        self._broken_since_s = monotonic()
        self._resumes = False
        self._handshake: Handshake | None = None
        self._link: StreamLink | None = None
        self._timer: Timer | None = None
        self._ended = False
        self.stream: Stream

    def __repr__(self) -> str:
        return f"<Opener to {self._address} attempts={self._attempts} resumes={self._resumes}>"

    def open(
        self,
        on_messages: Callable[[Stream, list[Any]], None],
        on_closed: Callable[[Stream, Exception | None], None],
        peer: Any,
    ) -> Stream:
        """The stream, of which the first connection is under way."""
        stream_id = os.urandom(STREAM_ID_SIZE_BYTES)
        preface = self._preface
        self.stream = Stream(
            self._reactor,
            self,
            stream_id,
            preface.target,
            preface.purpose,
            self._address,
            on_messages,
            on_closed,
            peer,
        )
        found = numeric_address(self._host, self._port)
        if found is not None:
            self._found = [found]
            self._attempt()
        else:
            threading.Thread(target=self._look_up, name="remora-resolver", daemon=True).start()
        return self.stream

    # ------------------------------------------------------------------ as a keeper

    def link_broken(self, stream: Stream, error: Exception) -> None:
        """Try again, at once first."""
        self._attempts = 0
        self._broken_since_s = monotonic()
        self._attempt()

    def stream_ended(self, stream: Stream) -> None:
        """Stop trying."""
        self._ended = True
        link = self._link
        if link is not None:  # the other side may have taken the hello already
            link.write(encode_frame([StreamEnd()]))
            link.close()
        self._drop_attempt()

    def abandon_in_child(self) -> None:
        """Close this child's copies."""
        self._ended = True
        if self._handshake is not None:
            self._handshake.abandon_in_child()
        if self._link is not None:
            self._link.abandon_in_child()

    # ------------------------------------------------------------------ one attempt

    def _look_up(self) -> None:
        """In a thread of its own: the name service may take its time."""
        try:
            found = look_up(self._host, self._port)
        except OSError as failure:
            error = OSError(failure.errno, f"the host {self._host} was not found: {failure.strerror}")
            self._reactor.call_after(0, lambda: self.stream.end(error))
            return
        self._found = found
        self._reactor.call_after(0, self._attempt)

    def _attempt(self) -> None:
        if self._ended:
            return
        family, socket_address = self._found[self._attempts % len(self._found)]
        self._attempts += 1
        self._timer = self._reactor.call_after(ATTEMPT_TIMEOUT_S, self._on_timeout)
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # no descriptor is left
            self._fail(error)
            return
        sock.setblocking(False)
        tune(sock)
        steps = open_steps(self._preface, self._credentials, self._address)
        handshake = Handshake(self._reactor, sock, steps, self._credentials, self._on_ready, self._fail)
        self._handshake = handshake
        handshake.connect(socket_address)
        if self._ended:  # by another thread, which may have seen no handshake yet
            handshake.abort()

    def _on_ready(self, transport: Transport) -> None:
        self._handshake = None
        if self._ended:
            transport.close()
            return
        link = StreamLink(transport, self._reactor, self._on_hello, self._on_unready_link_closed)
        link.frame_limit_bytes = MAX_FIRST_FRAME_BYTES
        self._link = link
        hello = StreamHello(self.stream.stream_id, self.stream.received, self._sender, self._resumes)
        link.write(encode_frame([hello]))
        if self._ended:
            link.close()
        link.read_pending()

    def _on_hello(self, connection: Connection, messages: list[Any]) -> None:
        link = self._link
        if link is None:  # closed by another thread meanwhile
            return
        message = messages[0] if messages else None
        if isinstance(message, StreamEnd):
            self._fail(StreamRefused(message.code or Refusal.STREAM_LOST, self._address))
            return
        if not isinstance(message, StreamHello) or message.stream != self.stream.stream_id:
            self.stream.end(ForeignFrameError(f"the node at {self._address} began a stream without its StreamHello"))
            return
        self._link = None
        self._drop_attempt()
        self._resumes = True
        link.frame_limit_bytes = MAX_FRAME_BYTES
        try:
            self.stream.attach(link, message.received)
        except ForeignFrameError as error:
            link.close()
            self.stream.end(error)

    def _on_unready_link_closed(self, connection: Connection, error: Exception | None) -> None:
        self._link = None
        self._fail(error or ConnectionResetError("the other side closed the connection before it said hello"))

    def _on_timeout(self) -> None:
        self._fail(TimeoutError(f"{self._address} did not answer within {ATTEMPT_TIMEOUT_S:g} s"))

    def _fail(self, error: Exception) -> None:
        """The attempt came to nothing: try again later, unless the other side refuses or it has been long enough."""
        self._drop_attempt()
        if self._ended:
            return
        broken_s = monotonic() - self._broken_since_s
        if not _may_try_again(error, broken_s) and self._attempts >= len(self._found):
            self.stream.end(error)
            return
        delay_s = min(FIRST_RETRY_S * 2 ** min(self._attempts, 10), LONGEST_RETRY_S) * random.uniform(0.5, 1)
        self._timer = self._reactor.call_after(delay_s, self._attempt)

    def _drop_attempt(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        handshake, self._handshake = self._handshake, None
        if handshake is not None:
            handshake.abort()
        link, self._link = self._link, None
        if link is not None:
            link.break_off()


def _may_try_again(error: Exception, broken_s: float) -> bool:
    if isinstance(error, StreamRefused):
        return error.code in FOR_NOW and broken_s < GIVE_UP_S
    if isinstance(error, ForeignFrameError):
        return False
    if isinstance(error, ConnectionRefusedError):
        return broken_s < GIVE_UP_NOBODY_LISTENS_S
    return broken_s < GIVE_UP_S
