"""Everybody may knock: strangers, floods and silence are turned away, logged once, and nobody else notices."""

from __future__ import annotations

import os
import resource
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from network_ends import End, Node, connect, serve

from remora.base.credentials import ClusterCredentials
from remora.messages.tasks import Done
from remora.system.network.half_open import HalfOpenConnections
from remora.system.network.preface import PREFACE_SIZE_BYTES, Preface
from remora.system.network.refusals import DETAIL_SIZE_BYTES, Refusal, StreamRefused, encode_refusal
from remora.system.network.sockets import KEEPALIVE_IDLE_S

FLOOD = 10_000
REFUSAL_SIZE_BYTES = 1 + DETAIL_SIZE_BYTES


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < FLOOD + 2000:
        pytest.skip(f"this user may have only {hard} descriptors (ulimit -n)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def clients() -> Iterator[list[socket.socket]]:
    clients: list[socket.socket] = []
    yield clients
    for client in clients:
        client.close()


@pytest.fixture
def node(credentials: ClusterCredentials, make_node: Callable[..., Node]) -> Node:
    return make_node(credentials)


def answer_to(node: Node, data: bytes) -> bytes:
    """What a client gets that writes *data* and reads to the end."""
    with node.connect_raw() as client:
        client.sendall(data)
        client.setblocking(False)
        received: list[bytes] = []

        def read() -> bool:
            try:
                received.append(client.recv(100))
            except BlockingIOError:
                return False
            except ConnectionResetError:
                received.append(b"")
            return not received[-1]

        serve(node.reactor, until=read)
    return b"".join(received)


def works(node: Node, other: Node) -> bool:
    """Whether a message crosses a new stream."""
    end, accepted = connect(other, node)
    end.stream.send(Done(1, b"hello"))
    end.stream.flush()
    serve(node.reactor, other.reactor, until=lambda: accepted.received)
    end.stream.close()
    return accepted.received == [Done(1, b"hello")]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
        os.urandom(1) + b"\xff" * 31,
        b"RMR!",
    ],
    ids=["HTTP", "a TLS hello", "noise", "almost the magic"],
)
def test_garbage_is_refused_as_soon_as_it_can_be_told(node: Node, nodes: tuple[Node, Node], data: bytes) -> None:
    answer = answer_to(node, data)
    assert answer in (b"", encode_refusal(Refusal.NOT_REMORA))  # a client that says more than 32 bytes gets a reset
    assert answer_to(node, data) == answer
    assert len(node.lines) == 1
    assert "not Remora's protocol" in node.lines[0]
    assert node.log.counts.total() == 2
    assert works(node, nodes[0])


def test_garbage_after_a_right_preface_is_refused(node: Node, nodes: tuple[Node, Node]) -> None:
    answer_to(node, node.preface().encode() + b"\x99" * 200)
    serve(node.reactor, until=lambda: node.lines)
    assert len(node.lines) == 1
    assert not node.accepted
    assert works(node, nodes[0])


def refused(node: Node, **changed: Any) -> StreamRefused:
    preface: Preface = msgspec.structs.replace(node.preface(), **changed)
    answer = answer_to(node, preface.encode())
    assert len(answer) == REFUSAL_SIZE_BYTES
    return StreamRefused(answer[0], "the node", answer[1:])


def test_another_version_of_the_protocol_is_refused_with_what_to_do(node: Node) -> None:
    error = refused(node, protocol=7)
    assert error.code == Refusal.OTHER_PROTOCOL
    assert "it speaks protocol 1" in str(error)
    assert "install the same version of Remora" in str(error)


def test_another_minor_version_of_python_is_refused_with_what_to_do(node: Node) -> None:
    error = refused(node, python=(3, sys.version_info.minor + 1))
    assert error.code == Refusal.OTHER_PYTHON
    assert f"it runs Python {sys.version_info.major}.{sys.version_info.minor}" in str(error)
    assert "use one minor version" in str(error)


def test_the_patch_version_of_python_is_not_even_sent(node: Node) -> None:
    assert node.preface().python == sys.version_info[:2]


def test_another_cluster_and_another_kind_of_encryption_are_refused(node: Node) -> None:
    assert refused(node, cluster=b"another!").code == Refusal.OTHER_CLUSTER
    expected = Refusal.NOT_ENCRYPTED if node.credentials.encrypt else Refusal.ENCRYPTED
    assert refused(node, encrypt=not node.credentials.encrypt).code == expected


def test_a_preface_may_come_byte_by_byte(node: Node) -> None:
    with node.connect_raw() as client:
        for byte in node.preface().encode():
            client.sendall(bytes([byte]))
            node.reactor.poll(0.005)
        serve(node.reactor, until=lambda: len(node.acceptor.half_open) == 1)
        client.settimeout(5)
        node.reactor.poll(0.01)
        assert client.recv(1) == b"\0"


def test_a_port_scan_is_logged_once(node: Node, nodes: tuple[Node, Node]) -> None:
    for _ in range(20):
        node.connect_raw().close()
    serve(node.reactor, until=lambda: node.log.counts.total() == 20)
    assert len(node.lines) == 1
    assert works(node, nodes[0])


@pytest.mark.parametrize("said", [0, 5, PREFACE_SIZE_BYTES, PREFACE_SIZE_BYTES + 32])
def test_a_client_that_falls_silent_is_closed_in_time(
    credentials: ClusterCredentials, make_node: Callable[..., Node], clients: list[socket.socket], said: int
) -> None:
    node = make_node(credentials)
    for half_open in (node.doorkeeper.half_open, node.acceptor.half_open):
        half_open._timeout_s = 0.1
    clients += [node.connect_raw() for _ in range(5)]
    for client in clients:
        client.sendall((node.preface().encode() + bytes(32))[:said])
    serve(node.reactor, until=lambda: node.log.counts.total() == 5)
    assert len(node.lines) == 1
    assert len(node.doorkeeper.half_open) == len(node.acceptor.half_open) == 0


def test_ten_thousand_half_open_connections_lock_nobody_out(
    node: Node, nodes: tuple[Node, Node], clients: list[socket.socket], many_descriptors: None
) -> None:
    other = nodes[0]
    end, accepted = connect(other, node)
    for number in range(FLOOD):
        client = socket.socket()
        client.setblocking(False)
        client.connect_ex(("127.0.0.1", node.doorkeeper.port))
        clients.append(client)
        if number % 100 == 99:
            node.reactor.poll(0)
            node.reactor.poll(0)
    end.stream.send(Done(1, b"meanwhile"))
    end.stream.flush()
    assert works(node, other)
    serve(node.reactor, other.reactor, until=lambda: accepted.received)
    serve(node.reactor, until=lambda: node.log.counts.total() + len(node.doorkeeper.half_open) == FLOOD)
    assert len(node.doorkeeper.half_open) <= node.doorkeeper.half_open.address_limit
    assert len(node.lines) <= 2
    assert works(node, other)
    assert not end.ends
    assert not accepted.ends


def test_as_many_half_open_handshakes_lock_nobody_out_either(
    credentials: ClusterCredentials, make_node: Callable[..., Node], clients: list[socket.socket]
) -> None:
    node, other = make_node(credentials), make_node(credentials)
    node.acceptor.half_open.address_limit = 100
    preface = node.preface().encode()
    for _ in range(300):
        client = node.connect_raw()
        client.sendall(preface)
        clients.append(client)
        node.reactor.poll(0.01)
    serve(node.reactor, until=lambda: node.log.counts.total() + len(node.acceptor.half_open) == 300)
    assert len(node.acceptor.half_open) <= 100
    assert len(node.lines) == 1
    assert works(node, other)


def test_a_flood_from_one_address_leaves_the_connections_of_others_alone(
    credentials: ClusterCredentials, make_node: Callable[..., Node], clients: list[socket.socket]
) -> None:
    node = make_node(credentials)
    half_open = node.doorkeeper.half_open
    half_open.address_limit = 100
    with socket.create_connection(("127.0.0.1", node.doorkeeper.port), source_address=("127.0.0.2", 0)) as slow:
        serve(node.reactor, until=lambda: len(half_open) == 1)
        clients += [node.connect_raw() for _ in range(200)]
        serve(node.reactor, until=lambda: len(half_open) + node.log.counts.total() == 201)
        slow.sendall(node.preface().encode())
        serve(node.reactor, until=lambda: len(node.acceptor.half_open) == 1)


def test_a_node_without_descriptors_turns_the_oldest_away_and_lives_on(
    node: Node, nodes: tuple[Node, Node], clients: list[socket.socket]
) -> None:
    silent = [socket.socket() for _ in range(10)]
    clients += silent
    end, accepted = connect(nodes[0], node)
    for client in silent[:5]:
        client.connect(("127.0.0.1", node.doorkeeper.port))
    serve(node.reactor, until=lambda: len(node.doorkeeper.half_open) == 5)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with _no_descriptor_left():
        for client in silent[5:]:
            client.connect(("127.0.0.1", node.doorkeeper.port))
        serve(node.reactor, until=lambda: node.log.counts.total() >= 5)
        end.stream.send(Done(1, b"still here"))
        end.stream.flush()
        serve(node.reactor, nodes[0].reactor, until=lambda: accepted.received)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)
    assert works(node, nodes[0])


def test_a_node_without_descriptors_and_without_half_open_connections_turns_the_new_one_away(
    node: Node, nodes: tuple[Node, Node], clients: list[socket.socket]
) -> None:
    client = socket.socket()
    clients.append(client)
    with _no_descriptor_left():
        client.connect(("127.0.0.1", node.doorkeeper.port))
        serve(node.reactor, until=lambda: node.lines)
    client.settimeout(5)
    assert client.recv(1) == b""
    assert "could not accept" in node.lines[0]
    assert works(node, nodes[0])


class _no_descriptor_left:  # noqa: N801 - used as a function
    """Inside, this process cannot open another descriptor."""

    def __enter__(self) -> None:
        self.limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, self.limits[1]))

    def __exit__(self, *error: object) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, self.limits)


def test_a_connection_notices_a_silent_peer(node: Node, nodes: tuple[Node, Node]) -> None:
    end, accepted = connect(nodes[0], node)
    for side in (end, accepted):
        sock = _socket_of(side)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE_IDLE_S
        assert 5_000 <= sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 10_000


def _socket_of(side: End) -> socket.socket:
    link = side.stream._link
    assert link is not None
    found: socket.socket = link.transport._socket  # type: ignore[attr-defined]
    return found


def test_a_reset_of_a_half_open_connection_is_no_trouble(node: Node, nodes: tuple[Node, Node]) -> None:
    client = node.connect_raw()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    serve(node.reactor, until=lambda: len(node.doorkeeper.half_open) == 1)
    client.close()
    serve(node.reactor, until=lambda: not len(node.doorkeeper.half_open))
    assert works(node, nodes[0])


def test_the_table_of_half_open_connections_ends_the_oldest_of_all_when_it_is_full(node: Node) -> None:
    ended: list[int] = []
    table = HalfOpenConnections(node.reactor, total_limit=3)
    table.address_limit = 2
    for number, host in enumerate("abcd"):
        table.add(host, lambda too_many, number=number: ended.append(number))
    assert ended == [0]
    table.add("c", lambda too_many: None)
    assert ended == [0, 1]
    table.add("c", lambda too_many: None)
    assert ended == [0, 1, 2]
    assert len(table) == 3
    table.end_all()
    assert ended == [0, 1, 2, 3]
