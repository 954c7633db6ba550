"""The reactor: who is called when, and what may happen in the middle of it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from remora.system.reactor import Reactor


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    yield reactor
    reactor.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_a_handler_is_called_when_its_descriptor_can_be_read(
    reactor: Reactor, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    received: list[bytes] = []
    reactor.register(ours.fileno(), lambda mask: received.append(ours.recv(100)))
    assert reactor.poll(0) == 0
    theirs.send(b"hello")
    assert reactor.poll(1) == 1
    assert received == [b"hello"]


def test_what_was_waited_for_and_not_served_is_reported_again(
    reactor: Reactor, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = pair
    reactor.register(ours.fileno(), lambda mask: None)
    theirs.send(b"x")
    assert reactor.wait(1) == reactor.wait(1) != []


def test_a_descriptor_that_an_earlier_handler_unregistered_is_not_served(reactor: Reactor) -> None:
    served: list[int] = []
    first_read, first_write = os.pipe()
    second_read, second_write = os.pipe()

    def serve(fd: int, other: int) -> None:
        served.append(fd)
        reactor.unregister(other)

    reactor.register(first_read, lambda mask: serve(first_read, second_read))
    reactor.register(second_read, lambda mask: serve(second_read, first_read))
    os.write(first_write, b"x")
    os.write(second_write, b"x")
    reactor.poll(1)
    assert len(served) == 1
    for fd in (first_read, first_write, second_read, second_write):
        os.close(fd)


def test_wake_ends_a_poll_of_another_thread_and_the_next_one_when_none_is_under_way(reactor: Reactor) -> None:
    reactor.wake()
    reactor.wake()
    assert reactor.poll(-1) == 1
    assert reactor.poll(0) == 0
    thread = threading.Thread(target=reactor.poll)
    thread.start()
    reactor.wake()
    thread.join(5)
    assert not thread.is_alive()


def test_a_handler_may_poll_itself(reactor: Reactor, pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    polled: list[int] = []

    def poll_within(mask: int) -> None:
        ours.recv(100)
        polled.append(reactor.poll(0))

    reactor.register(ours.fileno(), poll_within)
    theirs.send(b"x")
    reactor.wake()
    reactor.poll(1)  # the wake-up is served by the inner poll, or by the outer one, but never twice
    assert len(polled) == 1
    assert reactor.poll(0) == 0


def test_unregistering_twice_and_closing_twice_do_nothing(
    reactor: Reactor, pair: tuple[socket.socket, socket.socket]
) -> None:
    ours, _ = pair
    reactor.register(ours.fileno(), lambda mask: None)
    reactor.unregister(ours.fileno())
    reactor.unregister(ours.fileno())
    reactor.close()
    reactor.close()
