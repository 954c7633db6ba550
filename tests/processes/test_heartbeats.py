"""The thread that sends heartbeats, against a head of a few lines."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from queue import Queue
from typing import Any

import pytest

from remora.base.credentials import ClusterCredentials
from remora.messages.head import Heartbeat, HeartbeatAnswer, HeartbeatHello
from remora.messages.node_wire import decode_node_body
from remora.messages.wire import HEADER_SIZE_BYTES, encode_frame, unpack_length
from remora.processes.daemon import heartbeats
from remora.processes.daemon.heartbeats import HeartbeatThread

HELLO = HeartbeatHello(b"\0\0\0\7", b"boot")
CREDENTIALS = ClusterCredentials(bytes(32), bytes(32), encrypt=False)


class Head:
    """Accepts what the thread opens; each connection is a socket whose other end the thread has."""

    def __init__(self) -> None:
        self.connections: Queue[socket.socket] = Queue()
        self.refusals = 0

    def open(self, *arguments: Any) -> socket.socket:
        if self.refusals:
            self.refusals -= 1
            raise ConnectionRefusedError("nobody listens")
        ours, theirs = socket.socketpair()
        ours.settimeout(5)
        self.connections.put(ours)
        return theirs

    def accept(self) -> socket.socket:
        sock = self.connections.get(timeout=5)
        assert read(sock) == HELLO
        return sock


def read(sock: socket.socket) -> Any:
    (length,) = unpack_length(sock.recv(HEADER_SIZE_BYTES, socket.MSG_WAITALL))
    (message,) = decode_node_body(sock.recv(length, socket.MSG_WAITALL))
    return message


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Head:
    head = Head()
    monkeypatch.setattr(heartbeats, "open_data_socket", head.open)
    monkeypatch.setattr(heartbeats, "INTERVAL_S", 0.01)
    monkeypatch.setattr(heartbeats, "RECONNECT_PAUSE_S", 0.01)
    return head


@pytest.fixture
def start(head: Head) -> Iterator[Callable[[Callable[[str], None]], HeartbeatThread]]:
    started: list[HeartbeatThread] = []

    def begin(on_refused: Callable[[str], None]) -> HeartbeatThread:
        thread = HeartbeatThread("host:1", CREDENTIALS, HELLO, on_refused)
        thread.start()
        started.append(thread)
        return thread

    yield begin
    for thread in started:
        thread.close()
        thread._thread.join(5)
        assert not thread._thread.is_alive()


def never(reason: str) -> None:
    raise AssertionError(reason)


def test_each_heartbeat_waits_for_the_answer_to_the_one_before(head: Head, start: Any) -> None:
    start(never)
    with head.accept() as sock:
        for number in range(1, 5):
            assert read(sock).number == number
            sock.settimeout(0.05)
            with pytest.raises(TimeoutError):
                sock.recv(1)
            sock.settimeout(5)
            sock.sendall(encode_frame([HeartbeatAnswer(number)]))


def test_a_loop_that_does_not_turn_is_told_with_for_how_long(head: Head, start: Any) -> None:
    thread = start(never)
    with head.accept() as sock:
        stalls = []
        for number in range(1, 12):
            message: Heartbeat = read(sock)
            stalls.append(message.stalled_s)
            if number == 10:
                thread.loop_turned()
            sock.sendall(encode_frame([HeartbeatAnswer(number)]))
    assert stalls[:10] == sorted(stalls[:10])
    assert stalls[9] >= 0.09
    assert stalls[10] < stalls[9]


def test_a_broken_connection_is_made_again_and_again(head: Head, start: Any) -> None:
    head.refusals = 3
    start(never)
    for _ in range(3):
        with head.accept() as sock:
            assert read(sock).number == 1
    assert head.refusals == 0


def test_a_refusal_ends_the_heartbeats_and_is_told(head: Head, start: Any) -> None:
    refusals: Queue[str] = Queue()
    thread = start(refusals.put)
    with head.accept() as sock:
        sock.sendall(encode_frame([HeartbeatAnswer(0, "you were declared dead")]))
        assert refusals.get(timeout=5) == "you were declared dead"
        thread._thread.join(5)
    assert head.connections.empty()


@pytest.mark.parametrize("nonsense", [b"\xff\xff\xff\xff", b"\1\0\0\0\xc1", encode_frame([HELLO])])
def test_an_answer_that_is_none_ends_the_connection_and_not_the_thread(head: Head, start: Any, nonsense: bytes) -> None:
    start(never)
    with head.accept() as sock:
        sock.sendall(nonsense)
    with head.accept() as sock:
        assert read(sock).number == 1
