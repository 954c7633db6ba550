"""Readers that are no readers: floods, silence and requests that make no sense, while real ones are served."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from transfer_node import CLEAR, WRITER, TransferNode, TransferNodes, object_id, value_of

from remora.base.credentials import ClusterCredentials
from remora.core import served_chunks
from remora.messages.node_wire import ALL_MESSAGES
from remora.messages.transfer import ANSWER_HEADER, CHUNK_FOLLOWS, DataHello, ReadChunks, WantedChunk
from remora.messages.wire import encode_frame
from remora.processes.daemon.transfer_serving import MAX_UNPROVED
from remora.system.certificates import create_credentials
from remora.system.network.data_socket import DataSocket, open_data_socket
from remora.system.network.preface import Purpose, make_preface
from remora.system.network.refusals import GO_ON
from remora.testing.random_messages import RandomMessages

FLOOD = MAX_UNPROVED + 100
SEEDS = 6
SIZE_BYTES = 100_000
NEIGHBOUR = b"N" * SIZE_BYTES


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_chunks, "UNKNOWN_WAIT_S", 0.05)


@pytest.fixture(params=["clear", "TLS"])
def credentials(request: pytest.FixtureRequest, tmp_path: Path) -> ClusterCredentials:
    return create_credentials(str(tmp_path)) if request.param == "TLS" else CLEAR


@pytest.fixture
def nodes(credentials: ClusterCredentials) -> Iterator[TransferNodes]:
    nodes = TransferNodes(credentials)
    yield nodes
    nodes.close()


def proved(nodes: TransferNodes, source: TransferNode) -> DataSocket:
    """A connection of somebody who knows the secret."""
    with ThreadPoolExecutor(1) as threads:
        opening = threads.submit(open_data_socket, source.address, source.process, nodes.credentials, 10.0)
        nodes.run_until(opening.done)
        return opening.result()


def read_to_end(nodes: TransferNodes, client: DataSocket) -> bytes:
    """What the node says until it ends the connection."""
    client.setblocking(False)
    received = bytearray()

    def is_closed() -> bool:
        try:
            data = client.recv(1 << 20)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        received.extend(data)
        return not data

    nodes.run_until(is_closed)
    return bytes(received)


def test_a_flood_of_connections_that_prove_nothing_has_few_threads_and_locks_nobody_out(
    nodes: TransferNodes, capfd: pytest.CaptureFixture[str]
) -> None:
    source, reader = nodes.add(), nodes.add()
    source.put(object_id(1), b"value")
    threads_before = threading.active_count()
    preface = make_preface(source.process, Purpose.DATA, nodes.credentials).encode()
    flood = []
    for _ in range(FLOOD):
        client = socket.create_connection(("127.0.0.1", source.door.port))
        client.sendall(preface)
        flood.append(client)
        nodes.reactor.poll(0)
    for client in flood[-10:]:  # the last ones are in
        client.settimeout(0)
        nodes.run_until(lambda client=client: _has_answer(client))  # type: ignore[misc]
    nodes.run_until(lambda: threading.active_count() - threads_before <= MAX_UNPROVED)
    reader.pull(object_id(1), 5, source)
    nodes.run_until(lambda: reader.has(object_id(1)))
    for client in flood:
        client.close()
    nodes.run_until(lambda: not len(source.transfers.serving._unproved))
    nodes.run_until(lambda: source.transfers.statistics().readers <= 4)
    lines = [line for line in capfd.readouterr().err.splitlines() if "handshake for reading" in line]
    assert 1 <= len(lines) <= 4, "kinds of trouble are told once each"


def _has_answer(client: socket.socket) -> bool:
    try:
        return client.recv(1) == GO_ON
    except BlockingIOError:
        return False


def test_a_reader_that_proves_nothing_is_ended_in_time(nodes: TransferNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    source = nodes.add()
    monkeypatch.setattr(source.transfers.serving._unproved, "_timeout_s", 0.1)
    with socket.create_connection(("127.0.0.1", source.door.port)) as client:
        client.sendall(make_preface(source.process, Purpose.DATA, nodes.credentials).encode())
        read_to_end(nodes, client)
    nodes.run_until(lambda: source.transfers.statistics().readers == 0)


@pytest.mark.parametrize(
    ("offset", "size_bytes"),
    [
        (-1, 10),
        (-SIZE_BYTES, SIZE_BYTES),
        (0, SIZE_BYTES + 1),
        (SIZE_BYTES, 1),
        (SIZE_BYTES - 1, 2),
        (0, -1),
        (10, -5),
        (2**63, 1),
        (1, 2**64 - 1),
        (-(2**63), 2**63),
        (2**63, -(2**63)),
    ],
)
def test_nothing_outside_of_the_object_is_sent(nodes: TransferNodes, offset: int, size_bytes: int) -> None:
    source = nodes.add()
    source.put(object_id(1), NEIGHBOUR)
    source.put(object_id(2), value_of(SIZE_BYTES))
    source.put(object_id(3), NEIGHBOUR)
    with proved(nodes, source) as client:
        wanted = [WantedChunk(object_id(2), WRITER, offset, size_bytes), WantedChunk(object_id(2), WRITER, 0, 0)]
        client.sendall(encode_frame([DataHello(b"\0\0\0\2")]) + encode_frame([ReadChunks(wanted, 0)]))
        answers = read_answers(nodes, client, 2)
    assert (CHUNK_FOLLOWS, 0, 1) in answers
    assert all(status != CHUNK_FOLLOWS for status, _, number in answers if number == 0)


def test_an_object_is_not_sent_as_one_that_another_process_wrote(nodes: TransferNodes) -> None:
    source = nodes.add()
    source.put(object_id(1), NEIGHBOUR)
    with proved(nodes, source) as client:
        wanted = [WantedChunk(object_id(1), WRITER[::-1], 0, 10), WantedChunk(b"", b"", 0, 10)]
        client.sendall(encode_frame([ReadChunks(wanted, 0)]))
        answers = read_answers(nodes, client, 2)
    assert all(status != CHUNK_FOLLOWS for status, _, _ in answers)


def read_answers(nodes: TransferNodes, client: DataSocket, count: int) -> list[tuple[int, int, int]]:
    """The next answers, none of which has any bytes."""
    client.setblocking(False)
    received = bytearray()

    def have_come() -> bool:
        try:
            received.extend(client.recv(count * ANSWER_HEADER.size - len(received)))
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        return len(received) == count * ANSWER_HEADER.size

    nodes.run_until(have_come)
    return list(ANSWER_HEADER.iter_unpack(received))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_readers_that_ask_anything_whatever_end_only_themselves(nodes: TransferNodes, seed: int) -> None:
    choice = random.Random(seed)
    source, reader = nodes.add(), nodes.add()
    data = value_of(SIZE_BYTES)
    source.put(object_id(1), data)
    make = RandomMessages(choice, [object_id(1), object_id(2), WRITER, source.node, reader.node])
    for _ in range(10):
        with proved(nodes, source) as client:
            kinds = [(ReadChunks, DataHello), (ReadChunks,), ALL_MESSAGES]
            frames = [encode_frame([make.one_of(choice.choice(kinds))]) for _ in range(choice.randrange(1, 5))]
            sent = b"".join(frames) + choice.choice([b"", choice.randbytes(20), b"\xff\xff\xff\xff"])
            with contextlib.suppress(OSError):  # it may be ended for the first frame, before the last one is written
                client.sendall(sent)
            if choice.random() < 0.5:
                with contextlib.suppress(OSError):  # it was ended already
                    client.shutdown(socket.SHUT_WR)
                read_to_end(nodes, client)
    nodes.run_until(lambda: source.transfers.statistics().readers == 0)
    reader.pull(object_id(1), SIZE_BYTES, source)
    nodes.run_until(lambda: reader.has(object_id(1)))
    assert reader.read(object_id(1)) == data
    reader.transfers.node_dead(source.node)
    source.transfers.node_dead(reader.node)
    nodes.run_until(lambda: not source.transfers.serving.blocks.is_served(source.store[object_id(1), WRITER].offset))
