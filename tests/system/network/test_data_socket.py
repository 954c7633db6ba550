"""Blocking connections for threads: the same proof, then plain bytes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest
from network_ends import OTHER, Node, serve

from remora.base.credentials import ClusterCredentials
from remora.system.network.data_socket import DataSocket, accept_data_socket, open_data_socket
from remora.system.network.preface import Preface, Purpose
from remora.system.network.refusals import Refusal, StreamRefused
from remora.system.reactor import Reactor


class DataNode:
    """A node that accepts data sockets in threads, as the one that serves objects does."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.results: list[DataSocket | Exception] = []
        self.purposes: list[int] = []
        self.threads: list[threading.Thread] = []
        node.doorkeeper._on_preface = self.on_preface
        self.stopped = False
        self.loop = threading.Thread(target=self.run)
        self.loop.start()

    def on_preface(self, sock: socket.socket, preface: Preface) -> None:
        thread = threading.Thread(target=self.accept, args=(sock, preface))
        self.threads.append(thread)
        thread.start()

    def accept(self, sock: socket.socket, preface: Preface) -> None:
        self.purposes.append(preface.purpose)
        try:
            self.results.append(accept_data_socket(sock, preface, self.node.credentials, 5))
        except (OSError, StreamRefused) as error:
            self.results.append(error)

    def run(self) -> None:
        while not self.stopped:
            self.node.reactor.poll(5)

    def close(self) -> None:
        self.stopped = True
        self.node.reactor.wake()
        self.loop.join()
        for thread in self.threads:
            thread.join()
        for result in self.results:
            if isinstance(result, socket.socket):
                result.close()


@pytest.fixture
def server(credentials: ClusterCredentials, make_node: Callable[..., Node]) -> Iterator[DataNode]:
    server = DataNode(make_node(credentials))
    yield server
    server.close()


def result_of(server: DataNode) -> DataSocket | Exception:
    reactor = Reactor()
    serve(reactor, until=lambda: server.results)
    reactor.close()
    return server.results[0]


def test_bytes_cross_both_ways_after_the_proof(server: DataNode) -> None:
    with open_data_socket(server.node.address, OTHER, server.node.credentials, 5) as ours:
        theirs = result_of(server)
        assert isinstance(theirs, socket.socket)
        data = bytes(range(256)) * 20_000
        sender = threading.Thread(target=ours.sendall, args=(data,))
        sender.start()
        received = bytearray(len(data))
        view = memoryview(received)
        while view:
            view = view[theirs.recv_into(view) :]
        sender.join()
        assert received == data
        theirs.sendall(b"thanks")
        assert ours.recv(6) == b"thanks"
        assert ours.gettimeout() is None
        assert theirs.gettimeout() is None
    assert server.purposes == [Purpose.DATA]


def test_a_wrong_secret_is_refused_on_both_sides(server: DataNode) -> None:
    wrong = msgspec.structs.replace(server.node.credentials, secret=b"x" * 32)
    with pytest.raises(StreamRefused) as refused:
        open_data_socket(server.node.address, OTHER, wrong, 5)
    assert refused.value.code == Refusal.WRONG_SECRET
    theirs = result_of(server)
    assert isinstance(theirs, StreamRefused)
    assert theirs.code == Refusal.WRONG_SECRET


def test_a_node_that_falls_silent_is_given_up(credentials: ClusterCredentials) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(TimeoutError):
        open_data_socket(f"127.0.0.1:{silent.getsockname()[1]}", OTHER, credentials, 0.1)


def test_an_opener_that_leaves_is_an_error_of_the_acceptor(server: DataNode) -> None:
    with server.node.connect_raw() as client:
        client.sendall(server.node.preface().encode())
    assert isinstance(result_of(server), OSError)
