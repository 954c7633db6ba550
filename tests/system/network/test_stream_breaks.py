"""Streams over connections that break: everything arrives once and in order, or the end is told."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest
from breaking_relay import RESET, BreakingRelay
from network_ends import End, Node, connect, serve

from remora.messages.tasks import Done
from remora.system.connection import ForeignFrameError
from remora.system.network import acceptor, opener, reliable_stream
from remora.system.network.refusals import Refusal, StreamRefused

Nodes = tuple[Node, Node]


@pytest.fixture
def relays() -> Iterator[list[BreakingRelay]]:
    relays: list[BreakingRelay] = []
    yield relays
    for relay in relays:
        relay.close()


def reset(end: End) -> None:
    """Break the connection of *end*, so that the other side sees a reset and this side an error."""
    link = end.stream._link
    assert link is not None
    sock = link.transport._socket  # type: ignore[attr-defined]
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    sock.shutdown(socket.SHUT_RD)
    link._end_of_file(ConnectionResetError("broken by the test"))


@pytest.mark.parametrize("seed", range(4))
def test_every_frame_arrives_once_and_in_order_over_connections_that_are_reset_at_random(
    nodes: Nodes, relays: list[BreakingRelay], seed: int
) -> None:
    left, right = nodes
    breaks = 12
    relay = BreakingRelay(("127.0.0.1", right.doorkeeper.port), seed, breaks, 60_000)
    relays.append(relay)
    generator = random.Random(seed)
    count = 2000
    messages = [Done(call, b"x" * generator.choice((0, 10, 100, 5_000))) for call in range(count)]
    end = left.open(relay.address)
    sent = [0, 0]

    def go_on() -> bool:
        sides = [end, *right.accepted]
        for number, side in enumerate(sides):
            # While breaks are left, what is sent never ends before them.
            for _ in range(generator.randrange(40)):
                if sent[number] < count:
                    side.stream.send(messages[sent[number]])
                    sent[number] += 1
            side.stream.flush()
        assert not end.ends
        return len(sides) == 2 and all(len(side.received) == count for side in sides)

    serve(left.reactor, right.reactor, until=go_on)
    assert relay.breaks_left == 0
    assert len(right.accepted) == 1
    assert right.accepted[0].received == messages
    assert end.received == messages
    assert not right.accepted[0].ends


def test_a_side_that_has_seen_no_reset_goes_on_with_the_new_connection(
    nodes: Nodes,
) -> None:
    """The opener's part of a connection is reset, the acceptor's stays open and silent."""
    left, right = nodes
    end, accepted = connect(left, right)
    old = accepted.stream._link
    for call in range(100):
        accepted.stream.send(Done(call, b"x" * 1000))
        accepted.stream.flush()
    assert end.stream._link is not None
    end.stream._link._end_of_file(TimeoutError("broken by the test"))
    for call in range(100):
        end.stream.send(Done(call, b"y"))
        end.stream.flush()
    serve(left.reactor, right.reactor, until=lambda: len(end.received) == len(accepted.received) == 100)
    assert [m.call for m in end.received] == [m.call for m in accepted.received] == list(range(100))
    assert accepted.stream._link is not old


def test_a_break_while_frames_wait_to_be_written_loses_none(nodes: Nodes) -> None:
    left, right = nodes
    end, accepted = connect(left, right)
    messages = [Done(call, bytes([call]) * 1_000_000) for call in range(20)]
    for message in messages:
        end.stream.send(message)
        end.stream.flush()
    for _ in range(3):
        serve(left.reactor, right.reactor, until=lambda: end.stream.is_connected)
        right.reactor.poll(0.01)
        reset(end)
    serve(left.reactor, right.reactor, until=lambda: len(accepted.received) == 20)
    assert accepted.received == messages


def test_a_frame_that_is_handled_while_another_is_handled_counts(nodes: Nodes) -> None:
    """A handler that waits polls the reactor itself; a connection may break and come again meanwhile."""
    left, right = nodes
    end, accepted = connect(left, right)
    seen: list[int] = []

    def receive(stream: Any, messages: list[Any]) -> None:
        seen.extend(m.call for m in messages)
        if seen == [0]:
            reset(end)
            serve(left.reactor, right.reactor, until=lambda: len(seen) == 50)

    accepted.stream.on_messages = receive
    for call in range(50):
        end.stream.send(Done(call, b""))
        end.stream.flush()
    serve(left.reactor, right.reactor, until=lambda: len(seen) == 50)
    assert seen == list(range(50))


def test_an_opener_that_does_not_come_back_is_reported_lost_after_the_grace(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptor, "RESUME_GRACE_S", 0.1)
    left, right = nodes
    end, accepted = connect(left, right)
    end.stream._keeper.stream_ended(end.stream)
    began_s = monotonic()
    link = end.stream._link
    assert link is not None
    link.transport._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)  # type: ignore[attr-defined]
    end.stream.abandon_in_child()
    serve(right.reactor, until=lambda: accepted.ends)
    assert isinstance(accepted.ends[0], ConnectionResetError)
    assert monotonic() - began_s >= 0.1
    assert not right.acceptor.streams


def test_an_acceptor_that_has_given_up_the_stream_refuses_to_resume_it(nodes: Nodes) -> None:
    left, right = nodes
    end, accepted = connect(left, right)
    reset(end)
    accepted.stream.close()
    serve(left.reactor, right.reactor, until=lambda: end.ends)
    assert isinstance(end.ends[0], StreamRefused)
    assert end.ends[0].code == Refusal.STREAM_LOST
    assert len(right.accepted) == 1


def test_an_opener_whose_node_is_gone_hears_of_it_soon(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opener, "GIVE_UP_NOBODY_LISTENS_S", 0.1)
    left, right = nodes
    end, _ = connect(left, right)
    right.doorkeeper.close()
    reset(end)
    serve(left.reactor, until=lambda: end.ends)
    assert isinstance(end.ends[0], ConnectionRefusedError)


def test_a_stream_that_is_closed_while_it_is_broken_does_not_come_back(nodes: Nodes) -> None:
    left, right = nodes
    end, accepted = connect(left, right)
    reset(end)
    end.stream.close()
    for _ in range(50):
        left.reactor.poll(0.001)
        right.reactor.poll(0.001)
    assert not end.ends
    assert not accepted.stream.is_connected


def test_another_process_cannot_resume_a_stream_that_it_knows_the_number_of(nodes: Nodes) -> None:
    left, right = nodes
    end, accepted = connect(left, right)
    thief = left.open(right.address)
    thief.stream.stream_id = end.stream.stream_id
    thief.stream._keeper._sender = b"thieves!"  # type: ignore[attr-defined]
    serve(left.reactor, right.reactor, until=lambda: thief.ends)
    assert isinstance(thief.ends[0], StreamRefused)
    assert accepted.stream.is_connected
    assert not accepted.ends


def test_a_peer_that_acknowledges_what_was_never_sent_ends_the_stream(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = nodes
    end, accepted = connect(left, right)
    accepted.stream._received += 5
    accepted.stream._acknowledge()
    serve(left.reactor, right.reactor, until=lambda: end.ends)
    assert isinstance(end.ends[0], ForeignFrameError)


def test_an_idle_stream_is_acknowledged_by_the_clock(nodes: Nodes) -> None:
    left, right = nodes
    end, _ = connect(left, right)
    end.stream.send(Done(1, b""))
    end.stream.flush()
    began_s = monotonic()
    serve(left.reactor, right.reactor, until=lambda: not end.stream._kept)
    assert monotonic() - began_s < 20 * reliable_stream.ACK_DELAY_S


def test_an_attempt_that_the_opener_gave_up_does_not_end_the_stream_for_the_acceptor(nodes: Nodes) -> None:
    """The acceptor has said hello already when the opener loses patience: it must not take that for an end."""
    left, right = nodes
    end, accepted = connect(left, right)
    end.stream.send(Done(1, b""))
    end.stream.flush()
    old = accepted.stream._link
    reset(end)
    keeper: Any = end.stream._keeper
    serve(left.reactor, right.reactor, until=lambda: keeper._link is not None)
    serve(right.reactor, until=lambda: accepted.stream._link not in (None, old))
    keeper._on_timeout()
    serve(right.reactor, until=lambda: not accepted.stream.is_connected)
    end.stream.send(Done(2, b""))
    end.stream.flush()
    serve(left.reactor, right.reactor, until=lambda: len(accepted.received) == 2)
    assert accepted.received == [Done(1, b""), Done(2, b"")]
    assert not accepted.ends
    assert not end.ends


def test_a_connection_that_is_broken_off_is_no_end_for_the_other_side(nodes: Nodes) -> None:
    left, right = nodes
    end, accepted = connect(left, right)
    assert end.stream._link is not None
    end.stream._link.break_off()
    serve(right.reactor, until=lambda: not accepted.stream.is_connected)
    assert not accepted.ends
