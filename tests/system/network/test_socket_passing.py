"""An accepted connection goes to another process, which does the handshake itself."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from network_ends import Node, serve

from remora.base.credentials import ClusterCredentials
from remora.base.ids import make_process_id
from remora.messages.tasks import Done
from remora.system.network.preface import Preface
from remora.system.network.refusals import Refusal, StreamRefused
from remora.system.network.socket_passing import SocketReceiver, pass_socket
from remora.system.reactor import Reactor

WORKER = make_process_id(2, 7)

ECHO = """
import sys
from remora.system.certificates import read_credentials
from remora.system.network.socket_passing import SocketReceiver
from remora.system.network.stream import StreamAcceptor
from remora.system.reactor import Reactor

reactor = Reactor()
ends = []

def on_stream(stream, sender):
    stream.on_messages = lambda stream, messages: (stream.outgoing.extend(messages), stream.flush())
    stream.on_closed = lambda stream, error: ends.append(error)

acceptor = StreamAcceptor(reactor, read_credentials(sys.argv[1]), on_stream)
receiver = SocketReceiver(sys.argv[2], reactor, acceptor.take)
print("ready", flush=True)
while not ends:
    reactor.poll()
receiver.close()
print(ends[0])
"""


def test_a_worker_in_another_process_serves_a_connection_that_the_daemon_accepted(
    credentials: ClusterCredentials, make_node: Callable[..., Node], tmp_path: Path
) -> None:
    daemon, client = make_node(credentials), make_node(credentials)
    path = str(tmp_path / "worker")
    daemon.doorkeeper._on_preface = lambda sock, preface: pass_socket(path, sock, preface)
    command = [sys.executable, "-c", ECHO, str(tmp_path / "secrets"), path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        end = client.open(daemon.address, target=WORKER)
        messages = [Done(call, b"x" * 100) for call in range(1000)]
        for message in messages:
            end.stream.send(message)
        end.stream.flush()
        serve(daemon.reactor, client.reactor, until=lambda: len(end.received) == 1000)
        assert end.received == messages
        end.stream.close()
        assert worker.stdout.readline() == "None\n"


def test_the_opener_learns_that_the_process_does_not_run(
    credentials: ClusterCredentials, make_node: Callable[..., Node], tmp_path: Path
) -> None:
    daemon, client = make_node(credentials), make_node(credentials)
    path = str(tmp_path / "worker")
    daemon.doorkeeper._on_preface = lambda sock, preface: pass_socket(path, sock, preface)
    dead = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    dead.bind(path)
    dead.close()
    for _ in range(2):  # a process that was killed leaves its path behind; one that closed does not
        end = client.open(daemon.address, target=WORKER)
        serve(daemon.reactor, client.reactor, until=lambda end=end: end.ends)
        assert isinstance(end.ends[0], StreamRefused)
        assert end.ends[0].code == Refusal.UNKNOWN_TARGET
        Path(path).unlink(missing_ok=True)


def test_a_process_that_takes_nothing_does_not_block_the_daemon(tmp_path: Path, make_node: Callable[..., Node]) -> None:
    path = str(tmp_path / "worker")
    reactor = Reactor()
    received: list[Preface] = []
    receiver = SocketReceiver(path, reactor, lambda sock, preface: (received.append(preface), sock.close())[0])
    preface = Preface(WORKER, 2, bytes(8), False)
    answers = set()
    passed = 0
    while b"" in answers or len(answers) < 1:
        ours, theirs = socket.socketpair()
        assert pass_socket(path, theirs, preface)
        ours.setblocking(False)
        try:
            answers = {ours.recv(10)[:1]}
        except BlockingIOError:
            passed += 1
        finally:
            ours.close()
    assert answers == {bytes([Refusal.TOO_MANY])}
    serve(reactor, until=lambda: len(received) == passed)
    assert received == [preface] * passed
    receiver.close()
    assert not Path(path).exists()
    reactor.close()
