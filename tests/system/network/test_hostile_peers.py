"""Peers that say anything whatever, in every stage of a connection: they are turned away, and others are served."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from network_ends import NODE, OTHER, Node, connect, serve

from remora.base.credentials import ClusterCredentials
from remora.messages.links import StreamAck, StreamEnd, StreamHello
from remora.messages.node_wire import ALL_MESSAGES
from remora.messages.tasks import Done
from remora.messages.wire import encode_frame
from remora.system.network import acceptor
from remora.system.network.data_socket import DataSocket, open_data_socket
from remora.system.network.handshake_steps import NONCE_SIZE_BYTES, PROOF_SIZE_BYTES, accept_steps, open_steps
from remora.system.network.preface import PREFACE_SIZE_BYTES, Purpose
from remora.system.network.refusal_log import REMEMBERED_KINDS, RefusalLog
from remora.system.network.refusals import GO_ON, StreamRefused
from remora.testing.random_messages import RandomMessages

STRANGERS = 60
SEEDS = 8
PROVED = 12
Nodes = tuple[Node, Node]


def proved(node: Node, purpose: int = Purpose.LINK) -> DataSocket:
    """A connection whose opener has the secret, and says by hand what follows."""
    with ThreadPoolExecutor(1) as threads:
        opening = threads.submit(open_data_socket, node.address, OTHER, node.credentials, 10, purpose)
        serve(node.reactor, until=opening.done)
        return opening.result()


def serve_until_closed(node: Node, client: socket.socket) -> None:
    """Until the node has closed the connection, whatever it says before."""
    client.setblocking(False)

    def is_closed() -> bool:
        try:
            return not client.recv(1 << 16)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True

    serve(node.reactor, until=is_closed)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_strangers_that_say_anything_whatever_are_turned_away(nodes: Nodes, seed: int) -> None:
    choice = random.Random(seed)
    node = nodes[1]
    right = node.preface().encode()
    clients = []
    for _ in range(STRANGERS):
        client = node.connect_raw()
        clients.append(client)
        said = choice.choice([b"", right, bytes(choice.randbytes(PREFACE_SIZE_BYTES)), right[: choice.randrange(32)]])
        damaged = bytearray(said + choice.randbytes(choice.choice([0, 0, 1, 31, 32, 64, 500])))
        if damaged and choice.random() < 0.5:
            damaged[choice.randrange(len(damaged))] ^= 1 << choice.randrange(8)
        client.sendall(damaged)
        if choice.random() < 0.5:
            client.shutdown(socket.SHUT_WR)
        node.reactor.poll(0)
    connect(*nodes)
    assert len(node.accepted) == 1
    for client in clients:
        client.close()
    serve(node.reactor, until=lambda: not len(node.doorkeeper.half_open) and not len(node.acceptor.half_open))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_who_knows_the_secret_and_says_anything_whatever_ends_only_its_own_connection(nodes: Nodes, seed: int) -> None:
    choice = random.Random(seed)
    node = nodes[1]
    end, _ = connect(*nodes)
    make = RandomMessages(choice, [end.stream.stream_id, NODE, OTHER, bytes(16)])
    for _ in range(PROVED):
        with proved(node) as client:
            frames = []
            for _ in range(choice.randrange(1, 6)):
                kinds = choice.choice([(StreamHello, StreamAck, StreamEnd), (StreamHello,), ALL_MESSAGES])
                frames.append(encode_frame([make.one_of(kinds) for _ in range(choice.choice([0, 1, 1, 1, 2]))]))
            said = b"".join(frames) + choice.choice([b"", choice.randbytes(20), b"\xff\xff\xff\xff"])
            client.sendall(said)
            client.shutdown(socket.SHUT_WR)
            serve_until_closed(node, client)
    assert all(not ended.stream.closed for ended in node.accepted if not ended.ends), "a user was not told of an end"
    connect(*nodes)


def test_a_stream_that_begins_with_frames_that_nobody_sent_is_no_stream(nodes: Nodes) -> None:
    node = nodes[1]
    with proved(node) as client:
        client.sendall(encode_frame([StreamHello(b"s" * 16, 3, NODE)]))
        serve_until_closed(node, client)
    assert not node.accepted
    assert not node.acceptor.streams


def test_a_proved_peer_that_announces_a_large_frame_before_its_hello_is_ended(nodes: Nodes) -> None:
    node = nodes[1]
    with proved(node) as client:
        client.sendall((1 << 29).to_bytes(4, "little"))
        serve_until_closed(node, client)
    assert not len(node.acceptor.half_open)


def test_a_proved_peer_that_says_nothing_is_ended_in_time(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    node = nodes[1]
    monkeypatch.setattr(node.acceptor.half_open, "_timeout_s", 0.1)
    with proved(node) as client:
        serve_until_closed(node, client)
    assert any("took too long" in line for line in node.lines)


def test_the_acceptors_own_proof_sent_back_to_it_is_refused(nodes: Nodes) -> None:
    """The steps of an attacker that does not know the secret: it repeats what it hears."""
    credentials = nodes[0].credentials
    preface = nodes[1].preface()
    steps = accept_steps(preface, credentials, "somewhere")
    step = next(steps)
    while step != NONCE_SIZE_BYTES:
        step = steps.send(b"")
    answer = steps.send(b"n" * NONCE_SIZE_BYTES)
    assert isinstance(answer, bytes)
    assert next(steps) == PROOF_SIZE_BYTES
    refusal = steps.send(answer[NONCE_SIZE_BYTES:])
    assert isinstance(refusal, bytes)
    assert refusal != GO_ON
    with pytest.raises(StreamRefused):
        next(steps)


def test_the_openers_own_nonce_and_proof_sent_back_to_it_are_refused(clear_credentials: ClusterCredentials) -> None:
    preface = acceptor.Preface(OTHER, Purpose.LINK, clear_credentials.fingerprint[:8], False)
    steps = open_steps(preface, clear_credentials, "somewhere")
    assert next(steps) == preface.encode()
    next(steps)
    nonce = steps.send(GO_ON)
    assert isinstance(nonce, bytes)
    next(steps)
    proof = steps.send(nonce + bytes(PROOF_SIZE_BYTES))
    assert isinstance(proof, bytes)
    with pytest.raises(StreamRefused):
        next(steps)


@pytest.mark.parametrize("changed", ["target", "purpose"])
def test_a_proof_for_another_target_or_purpose_is_refused(nodes: Nodes, changed: str) -> None:
    """Somebody in between changes the clear bytes on their way."""
    credentials = nodes[0].credentials
    said = nodes[1].preface()
    heard = acceptor.Preface(
        b"another!" if changed == "target" else said.target,
        Purpose.DATA if changed == "purpose" else said.purpose,
        said.cluster,
        said.encrypt,
    )
    opener, accepting = open_steps(said, credentials, "here"), accept_steps(heard, credentials, "there")
    next(opener)
    next(opener)
    next(accepting)
    nonce = opener.send(GO_ON)
    if credentials.encrypt:
        next(accepting)
        nonce = opener.send(credentials.fingerprint)
    assert isinstance(nonce, bytes)
    answer = accepting.send(b"") if credentials.encrypt else next(accepting)
    assert answer == NONCE_SIZE_BYTES
    answer = accepting.send(nonce)
    assert isinstance(answer, bytes)
    next(opener)
    proof = opener.send(answer)
    assert isinstance(proof, bytes)
    with pytest.raises(StreamRefused):
        next(opener)
    next(accepting)
    assert accepting.send(proof) != GO_ON


def test_a_log_cannot_be_filled_with_ever_new_kinds_of_trouble() -> None:
    lines: list[str] = []
    log = RefusalLog(lines.append)
    for number in range(4 * REMEMBERED_KINDS):
        log.note("10.0.0.1", f"trouble number {number}")
    assert len(lines) <= 2 * REMEMBERED_KINDS + 1
    assert log.counts.total() == 4 * REMEMBERED_KINDS


def test_frames_of_a_stream_are_not_taken_from_a_connection_that_was_replaced(
    nodes: Nodes, make_node: Callable[..., Node]
) -> None:
    """Two connections that resume the same stream: only the last one speaks for it."""
    node = nodes[1]
    hello = StreamHello(b"s" * 16, 0, NODE)
    with proved(node) as first, proved(node) as second:
        first.sendall(encode_frame([hello]))
        serve(node.reactor, until=lambda: node.accepted)
        second.sendall(encode_frame([hello]))
        serve_until_closed(node, first)
        second.sendall(encode_frame([Done(1, b"second")]))
        serve(node.reactor, until=lambda: node.accepted[0].received)
    assert node.accepted[0].received == [Done(1, b"second")]
    assert len(node.accepted) == 1
