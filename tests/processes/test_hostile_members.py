"""A real head among peers that prove nothing, or prove themselves and then say anything whatever."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic

import pytest
from head_rig import HeadRig, StandInNode

from remora.base.credentials import ClusterCredentials
from remora.core.head import Head, Identity
from remora.messages import head as m
from remora.messages.links import ForProcess, StreamHello
from remora.messages.node_wire import ALL_MESSAGES
from remora.messages.wire import encode_frame
from remora.processes.daemon.head_link import JoinError
from remora.processes.daemon.heartbeats import HEAD_PROCESS
from remora.processes.head.heartbeats import HeartbeatService
from remora.system.certificates import create_credentials
from remora.system.network.data_socket import DataSocket, open_data_socket
from remora.system.network.doorkeeper import Doorkeeper
from remora.system.network.half_open import HalfOpenConnections
from remora.system.network.preface import Purpose, make_preface
from remora.system.network.refusal_log import RefusalLog
from remora.system.network.refusals import GO_ON
from remora.system.reactor import Reactor
from remora.testing.random_messages import RandomMessages

SEEDS = 4
PEERS = 15
FLOOD = 200


@pytest.fixture(params=["TLS", "clear"])
def credentials(request: pytest.FixtureRequest, tmp_path: Path) -> ClusterCredentials:
    return create_credentials(str(tmp_path / "secrets"), encrypt=request.param == "TLS")


@pytest.fixture
def rig(tmp_path: Path, credentials: ClusterCredentials) -> Iterator[HeadRig]:
    rig = HeadRig(str(tmp_path), credentials)
    rig.keeper.start()
    yield rig
    rig.close()


def proved(rig: HeadRig, purpose: int) -> DataSocket:
    """A connection to the head of somebody who knows the secret."""
    with ThreadPoolExecutor(1) as threads:
        opening = threads.submit(open_data_socket, rig.address, HEAD_PROCESS, rig.credentials, 10.0, purpose)
        rig.until(opening.done, "the connection was not made")
        return opening.result()


def hello(choice: random.Random) -> bytes:
    return bytes(encode_frame([StreamHello(choice.randbytes(16), 0, bytes(8))]))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_peers_that_say_anything_whatever_do_not_end_the_head(rig: HeadRig, seed: int) -> None:
    choice = random.Random(seed)
    node = rig.join()
    pid = rig.keeper.pid
    make = RandomMessages(choice, [node.node, node.driver, node.link._boot])
    for number in range(PEERS):
        purpose = choice.choice([Purpose.LINK, Purpose.LINK, Purpose.HEARTBEAT, Purpose.CALLS, 77])
        with proved(rig, purpose) as peer:
            said = b"" if purpose == Purpose.HEARTBEAT else hello(choice)
            if choice.random() < 0.5:
                boot = b"peer%d" % number
                said += encode_frame([m.JoinCluster(boot, 1, (3, 11), "127.0.0.1:9", "", 1, {}), ForProcess(b"")])
            for _ in range(choice.randrange(5)):
                kinds = choice.choice([ALL_MESSAGES, m.MESSAGES, (m.HeartbeatHello, m.Heartbeat), (m.JoinCluster,)])
                said += encode_frame([make.one_of(kinds) for _ in range(choice.choice([0, 1, 3]))])
            said += choice.choice([b"", choice.randbytes(9), b"\xff\xff\xff\xff"])
            with contextlib.suppress(OSError):  # the head had enough before it was all written
                peer.sendall(said)
            rig.turn(0)
    other = rig.join()
    rig.until(lambda: other.node in node.members, "the first node does not hear of the second")
    assert rig.keeper.pid == pid
    assert not node.expelled


def test_a_flood_of_heartbeat_connections_that_prove_nothing_does_not_keep_a_node_from_joining(
    rig: HeadRig, credentials: ClusterCredentials
) -> None:
    preface = make_preface(HEAD_PROCESS, Purpose.HEARTBEAT, credentials).encode()
    host, port = "127.0.0.1", rig.door.port
    flood = []
    for _ in range(FLOOD):
        flood.append(socket.create_connection((host, port)))
        flood[-1].sendall(preface)
        rig.turn(0)
    flood[-1].setblocking(False)
    rig.until(lambda: _has_answer(flood[-1]), "the head did not go on with the last one")
    node = rig.join()
    rig.until(lambda: node.link._heartbeats and node.link._heartbeats._socket, "its heart does not beat")
    assert not node.expelled
    for client in flood:
        client.close()
    log = Path(rig.keeper.log_path)
    rig.until(lambda: "handshake for heartbeats failed" in log.read_text(), "nothing was noted")
    assert log.read_text().count("handshake for heartbeats failed") <= 3


def test_a_heartbeat_connection_that_does_not_say_whose_is_ended_in_time(credentials: ClusterCredentials) -> None:
    reactor = Reactor()
    head = Head(Identity(b"cluster", (3, 11)))
    lines: list[str] = []
    half_open = HalfOpenConnections(reactor, timeout_s=0.1)
    service = HeartbeatService(reactor, credentials, head, RefusalLog(lines.append), half_open)
    door = Doorkeeper(reactor, "127.0.0.1", 0, credentials, service.take)
    deadline_s = monotonic() + 20
    with ThreadPoolExecutor(1) as threads:
        address = f"127.0.0.1:{door.port}"
        opening = threads.submit(open_data_socket, address, HEAD_PROCESS, credentials, 10.0, Purpose.HEARTBEAT)
        while not opening.done() or len(half_open):
            assert monotonic() < deadline_s, "it is still open"
            reactor.poll(0.01)
    with opening.result() as silent:
        silent.setblocking(False)
        while not _is_closed(silent):
            assert monotonic() < deadline_s, "its end is not told"
    assert len(lines) == 1
    assert "which node's heart beats" in lines[0]
    door.close()
    reactor.close()


def test_a_member_with_an_address_that_is_none_is_refused(rig: HeadRig) -> None:
    liar = StandInNode(rig)
    with pytest.raises(JoinError, match="must be host:port"):
        liar.link.join("nonsense", {"CPU": 10_000})
    rig.join()


def _has_answer(client: socket.socket) -> bool:
    try:
        return client.recv(1) == GO_ON
    except BlockingIOError:
        return False


def _is_closed(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
