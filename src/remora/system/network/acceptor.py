"""The streams that others opened to this process."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from remora.base.credentials import ClusterCredentials
from remora.base.ids import PROCESS_ID_SIZE_BYTES
from remora.messages.links import StreamEnd, StreamHello
from remora.messages.wire import MAX_FRAME_BYTES, encode_frame
from remora.system.connection import Connection, ForeignFrameError
from remora.system.handshake import MAX_FIRST_FRAME_BYTES
from remora.system.network.half_open import HalfOpenConnections
from remora.system.network.handshake import Handshake
from remora.system.network.handshake_steps import accept_steps
from remora.system.network.opener import STREAM_ID_SIZE_BYTES
from remora.system.network.preface import Preface
from remora.system.network.refusal_log import WITHOUT_SECRET, RefusalLog
from remora.system.network.refusals import Refusal, StreamRefused
from remora.system.network.reliable_stream import Stream
from remora.system.network.sockets import peer_address, peer_host, tune
from remora.system.network.stream_link import StreamLink
from remora.system.network.transports import Transport
from remora.system.reactor import Reactor
from remora.system.timers import Timer

RESUME_GRACE_S = 5.0
"""So long the acceptor waits for the opener of a stream whose connection broke."""


class StreamAcceptor:
    """Takes accepted sockets, proves and asks for the secret, and hands out streams.

    ``on_stream(stream, sender)`` is called once for each stream, before any of its messages: it sets ``on_messages``,
    ``on_closed`` and ``peer`` of the stream, or ends it with ``refuse(code)``. *sender* is the process that opened it,
    ``stream.purpose`` what it said that it is for.
    """

    def __init__(
        self,
        reactor: Reactor,
        credentials: ClusterCredentials,
        on_stream: Callable[[Stream, bytes], None],
        log: RefusalLog | None = None,
        half_open: HalfOpenConnections | None = None,
    ) -> None:
        self._reactor = reactor
        self._credentials = credentials
        self._on_stream = on_stream
        self._log = log or RefusalLog()
        self.half_open = HalfOpenConnections(reactor) if half_open is None else half_open
        self._streams: dict[bytes, _AcceptedStream] = {}

    def __repr__(self) -> str:
        return f"<StreamAcceptor streams={len(self._streams)} half open={len(self.half_open)}>"

    @property
    def streams(self) -> list[Stream]:
        """Those that have not ended."""
        return [accepted.stream for accepted in self._streams.values()]

    def take(self, sock: socket.socket, preface: Preface) -> None:
        """Go on with a connection of which *preface* was read; the socket is the acceptor's from now on."""
        try:
            tune(sock)
        except OSError:  # it has left
            sock.close()
            return
        _Entrance(self, sock, preface).begin()

    def close(self) -> None:
        """End all streams and all that are about to begin."""
        self.half_open.end_all()
        for stream in self.streams:
            stream.close()

    def _enter(self, link: StreamLink, preface: Preface, hello: StreamHello, address: str) -> None:
        """The opener has proved itself and said which stream this is."""
        accepted = self._streams.get(hello.stream)
        if accepted is None:
            if hello.resumes:
                _turn_away(link, Refusal.STREAM_LOST)
                return
            accepted = _AcceptedStream(self, hello, preface, address)
            self._streams[hello.stream] = accepted
            accepted.resume(link, hello)
            if not accepted.stream.closed:  # else it began with frames that nobody has sent
                self._on_stream(accepted.stream, hello.sender)
        elif accepted.stream.remote != hello.sender:
            _turn_away(link, Refusal.STREAM_LOST)
        else:
            accepted.resume(link, hello)


class _AcceptedStream:
    """The keeper of a stream that was opened elsewhere: it waits for the opener to come again."""

    def __init__(self, acceptor: StreamAcceptor, hello: StreamHello, preface: Preface, address: str) -> None:
        self._acceptor = acceptor
        self._grace: Timer | None = None
        self.stream = Stream(
            acceptor._reactor, self, hello.stream, hello.sender, preface.purpose, address, _ignore_messages, _ignore_end
        )

    def resume(self, link: StreamLink, hello: StreamHello) -> None:
        self._end_grace()
        stream = self.stream
        # The old connection may look well from here. What it still has is written again on the new one.
        stream.detach()
        link.write(encode_frame([StreamHello(stream.stream_id, stream.received, b"", True)]))
        try:
            stream.attach(link, hello.received)
        except ForeignFrameError as error:
            link.close()
            stream.end(error)

    def link_broken(self, stream: Stream, error: Exception) -> None:
        self._end_grace()
        self._grace = self._acceptor._reactor.call_after(RESUME_GRACE_S, lambda: stream.end(error))

    def stream_ended(self, stream: Stream) -> None:
        self._end_grace()
        self._acceptor._streams.pop(stream.stream_id, None)

    def abandon_in_child(self) -> None:
        pass

    def _end_grace(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None


class _Entrance:
    """One connection from its preface to its hello."""

    def __init__(self, acceptor: StreamAcceptor, sock: socket.socket, preface: Preface) -> None:
        self._acceptor = acceptor
        self._preface = preface
        self._host = peer_host(sock)
        self._address = peer_address(sock)
        credentials = acceptor._credentials
        steps = accept_steps(preface, credentials, self._address)
        self._handshake = Handshake(acceptor._reactor, sock, steps, credentials, self._on_ready, self._on_failed)
        self._link: StreamLink | None = None
        self._number = -1

    def begin(self) -> None:
        self._number = self._acceptor.half_open.add(self._host, self._on_time_out)
        self._handshake.accept()

    def _on_ready(self, transport: Transport) -> None:
        link = StreamLink(transport, self._acceptor._reactor, self._on_hello, self._on_link_closed)
        link.frame_limit_bytes = MAX_FIRST_FRAME_BYTES
        self._link = link
        link.read_pending()

    def _on_hello(self, connection: Connection, messages: list[Any]) -> None:
        self._leave()
        link = self._link
        assert link is not None
        hello = messages[0] if len(messages) == 1 else None
        if (
            not isinstance(hello, StreamHello)
            or len(hello.stream) != STREAM_ID_SIZE_BYTES
            or len(hello.sender) != PROCESS_ID_SIZE_BYTES
        ):
            self._note("it proved that it knows the secret, and then did not say hello")
            link.close()
            return
        link.frame_limit_bytes = MAX_FRAME_BYTES
        self._acceptor._enter(link, self._preface, hello, self._address)

    def _on_link_closed(self, connection: Connection, error: Exception | None) -> None:
        self._leave()
        self._note(f"it left before it said hello{f' ({error})' if error else ''}")

    def _on_failed(self, error: Exception) -> None:
        self._leave()
        if isinstance(error, StreamRefused):
            self._note(WITHOUT_SECRET)
        else:
            self._note(f"the handshake failed ({type(error).__name__}: {error})")

    def _on_time_out(self, too_many: bool) -> None:
        if self._link is not None:
            self._link.close()
        else:
            self._handshake.abort()
        self._note("too many handshakes were under way" if too_many else "the handshake took too long")

    def _leave(self) -> None:
        self._acceptor.half_open.remove(self._number)

    def _note(self, kind: str) -> None:
        self._acceptor._log.note(self._host, kind)


def _turn_away(link: StreamLink, code: Refusal) -> None:
    link.write(encode_frame([StreamEnd(int(code))]))
    link.close()


def _ignore_messages(stream: Stream, messages: list[Any]) -> None:
    """Until ``on_stream`` has set another handler; nothing comes before."""


def _ignore_end(stream: Stream, error: Exception | None) -> None:
    """For a user that does not want to know."""
