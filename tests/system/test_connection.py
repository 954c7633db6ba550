"""Connections over real sockets: frames cut anywhere, large ones, both sides writing, and ends."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from remora.messages.tasks import Done
from remora.messages.wire import encode_frame
from remora.system.connection import RECEIVE_BUFFER_BYTES, Connection, ForeignFrameError
from remora.system.reactor import Reactor

DEADLINE_TURNS = 100_000


class End:
    """A connection and everything that came over it."""

    def __init__(self, sock: socket.socket) -> None:
        self.reactor = Reactor()
        self.received: list[Any] = []
        self.ends: list[Exception | None] = []
        self.connection = Connection(sock, self.reactor, self.receive, self.end)

    def receive(self, connection: Connection, messages: list[Any]) -> None:
        self.received += messages

    def end(self, connection: Connection, error: Exception | None) -> None:
        self.ends.append(error)

    def close(self) -> None:
        self.connection.close()
        self.reactor.close()


@pytest.fixture
def wire() -> Iterator[tuple[End, socket.socket]]:
    ours, theirs = socket.socketpair()
    end = End(ours)
    yield end, theirs
    end.close()
    theirs.close()


@pytest.fixture
def ends() -> Iterator[tuple[End, End]]:
    left, right = (End(sock) for sock in socket.socketpair())
    yield left, right
    left.close()
    right.close()


def serve(*ends: End, until: Any) -> None:
    for _ in range(DEADLINE_TURNS):
        if until():
            return
        for end in ends:
            end.reactor.poll(0.001)
    raise AssertionError(f"it did not happen: {[end.connection for end in ends]}")


def test_frames_cut_at_every_byte_arrive_whole(wire: tuple[End, socket.socket]) -> None:
    end, theirs = wire
    messages = [Done(call, b"x" * call) for call in range(4)]
    data = bytes(encode_frame(messages[:1]) + encode_frame(messages[1:3]) + encode_frame(messages[3:]))
    for byte in data:
        theirs.send(bytes([byte]))
        end.reactor.poll(1)
    assert end.received == messages


def test_a_frame_larger_than_the_buffer_arrives_and_the_buffer_shrinks_again(ends: tuple[End, End]) -> None:
    left, right = ends
    large = Done(1, b"x" * (5 * RECEIVE_BUFFER_BYTES))
    left.connection.send(Done(0, b""))
    left.connection.send(large)
    left.connection.flush()
    serve(left, right, until=lambda: len(right.received) == 2)
    assert right.received[1] == large
    assert len(right.connection._buffer) == RECEIVE_BUFFER_BYTES


def test_both_sides_may_write_more_than_the_sockets_take_at_once(ends: tuple[End, End]) -> None:
    left, right = ends
    messages = [Done(call, b"x" * 10_000) for call in range(2_000)]
    for end in ends:
        for message in messages:
            end.connection.send(message)
        end.connection.flush()
        assert end.connection.unsent_bytes
    serve(left, right, until=lambda: len(left.received) == len(right.received) == len(messages))
    assert left.received == right.received == messages
    assert left.connection.unsent_bytes == right.connection.unsent_bytes == 0


def test_messages_of_each_thread_arrive_in_its_order(ends: tuple[End, End]) -> None:
    left, right = ends
    count = 3_000

    def send(sender: int) -> None:
        for number in range(count):
            left.connection.send(Done(number, bytes([sender]) * 200))
            left.connection.flush()

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(4)]
    for thread in threads:
        thread.start()
    serve(left, right, until=lambda: len(right.received) == 4 * count)
    for thread in threads:
        thread.join()
    for sender in range(4):
        assert [m.call for m in right.received if m.data[0] == sender] == list(range(count))


def test_what_was_written_before_the_end_is_handed_out_before_the_end_is_told(
    wire: tuple[End, socket.socket],
) -> None:
    end, theirs = wire
    theirs.sendall(b"".join(encode_frame([Done(call, b"x" * 100)]) for call in range(500)))
    theirs.close()
    seen: list[int] = []
    end.connection._on_closed = lambda connection, error: seen.append(len(end.received))
    serve(end, until=lambda: seen)
    assert seen == [500]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack("<I", 0),
        struct.pack("<I", 3) + b"\xff\xff\xff",
        struct.pack("<I", 4) + b"\x91\x92\x7f\x01",
        struct.pack("<I", 1 << 31),
    ],
    ids=["http", "empty", "no MessagePack", "no message of ours", "too long"],
)
def test_a_foreign_frame_ends_the_connection_with_an_error(wire: tuple[End, socket.socket], data: bytes) -> None:
    end, theirs = wire
    end.connection.frame_limit_bytes = 1 << 16
    theirs.send(data)
    serve(end, until=lambda: end.ends)
    assert isinstance(end.ends[0], ForeignFrameError)
    assert end.connection.closed
    assert end.received == []


def test_frames_before_a_foreign_one_are_handed_out(wire: tuple[End, socket.socket]) -> None:
    end, theirs = wire
    theirs.send(bytes(encode_frame([Done(1, b"")])) + struct.pack("<I", 3) + b"\xff\xff\xff")
    serve(end, until=lambda: end.ends)
    assert end.received == [Done(1, b"")]


def test_a_handler_may_read_on_in_the_middle_of_a_full_buffer(wire: tuple[End, socket.socket]) -> None:
    end, theirs = wire
    frame = bytes(encode_frame([Done(7, b"x" * 1000)]))
    count = 2 * RECEIVE_BUFFER_BYTES // len(frame)

    depth = 0

    def receive_and_read(connection: Connection, messages: list[Any]) -> None:
        nonlocal depth
        end.received += messages
        depth += 1
        if depth < 10:
            end.reactor.poll(0)
        depth -= 1

    end.connection.on_messages = receive_and_read
    sender = threading.Thread(target=theirs.sendall, args=(frame * count,))
    sender.start()
    serve(end, until=lambda: len(end.received) == count or end.ends)
    sender.join()
    assert len(end.received) == count
    assert not end.ends


def test_a_handler_that_closes_gets_no_more_of_what_had_arrived(wire: tuple[End, socket.socket]) -> None:
    end, theirs = wire

    def receive_and_close(connection: Connection, messages: list[Any]) -> None:
        end.received += messages
        connection.close()

    end.connection.on_messages = receive_and_close
    theirs.send(bytes(encode_frame([Done(1, b"")]) + encode_frame([Done(2, b"")])))
    end.reactor.poll(1)
    assert [m.call for m in end.received] == [1]
    assert end.ends == []


def test_sending_to_a_peer_that_is_gone_is_no_error_and_its_last_words_are_read(
    wire: tuple[End, socket.socket],
) -> None:
    end, theirs = wire
    theirs.send(encode_frame([Done(9, b"")]))
    theirs.close()
    for call in range(10):
        end.connection.send(Done(call, b"x" * 1000))
        end.connection.flush()
    serve(end, until=lambda: end.ends)
    assert [m.call for m in end.received] == [9]


def test_read_to_end_reads_what_is_there_although_the_socket_stays_open(wire: tuple[End, socket.socket]) -> None:
    end, theirs = wire
    theirs.sendall(b"".join(encode_frame([Done(call, b"x" * 100)]) for call in range(100)))
    end.connection.read_to_end()
    assert len(end.received) == 100
    assert not end.connection.closed
