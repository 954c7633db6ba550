"""Objects between nodes over real connections: the same bytes arrive, also in chains, past failures and over TLS."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from transfer_node import CLEAR, WRITER, TransferNode, TransferNodes, object_id, value_of

from remora.core import pull_streams, served_chunks
from remora.core.pull_records import PullPurpose
from remora.core.pull_sources import CHUNK_BYTES
from remora.messages.objects import Location
from remora.system.certificates import create_credentials
from remora.system.network.data_socket import open_data_socket

LARGE = 9 * CHUNK_BYTES + 12_345


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_chunks, "UNKNOWN_WAIT_S", 0.2)
    monkeypatch.setattr(served_chunks, "QUEUED_WAIT_S", 0.3)


@pytest.fixture(params=["copy", "sendfile", "TLS"])
def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TransferNodes]:
    credentials = create_credentials(str(tmp_path)) if request.param == "TLS" else CLEAR
    nodes = TransferNodes(credentials, "127.0.0.2" if request.param == "sendfile" else "127.0.0.1")
    yield nodes
    nodes.close()


@pytest.fixture
def clear() -> Iterator[TransferNodes]:
    nodes = TransferNodes()
    yield nodes
    nodes.close()


@pytest.mark.parametrize("size_bytes", [0, 1, 4096, 100_000, CHUNK_BYTES, LARGE])
def test_the_same_bytes_arrive(nodes: TransferNodes, size_bytes: int) -> None:
    source, reader = nodes.add(), nodes.add()
    data = value_of(size_bytes)
    source.put(object_id(1), data)
    reader.pull(object_id(1), size_bytes, source)
    nodes.run_until(lambda: reader.has(object_id(1)))
    assert reader.read(object_id(1)) == data


def test_they_arrive_in_pages_that_were_used_before(nodes: TransferNodes) -> None:
    source, reader = nodes.add(), nodes.add()
    for attempt in range(3):
        data = value_of(LARGE, bytes([attempt]))
        source.put(object_id(attempt), data)
        reader.pull(object_id(attempt), LARGE, source)
        nodes.run_until(lambda attempt=attempt: reader.has(object_id(attempt)))
        assert reader.read(object_id(attempt)) == data
        reader.drop(object_id(attempt))
    assert reader.memory.resident_bytes() < 2 * LARGE


def test_many_small_objects_arrive_each_with_its_own_bytes(nodes: TransferNodes) -> None:
    source, reader = nodes.add(), nodes.add()
    values = {object_id(number): value_of(3000 + 7 * number) for number in range(300)}
    for number, data in values.items():
        source.put(number, data)
        reader.pull(number, len(data), source)
    nodes.run_until(lambda: len(reader.store) == len(values))
    assert all(reader.read(number) == data for number, data in values.items())


def test_a_node_serves_what_is_still_arriving_so_that_the_source_sends_it_once(nodes: TransferNodes) -> None:
    source, first, second, third = (nodes.add() for _ in range(4))
    data = value_of(LARGE)
    source.put(object_id(1), data)
    third.pull(object_id(1), LARGE, second, source)
    second.pull(object_id(1), LARGE, first, source)
    first.pull(object_id(1), LARGE, source)
    nodes.run_until(lambda: all(node.has(object_id(1)) for node in (first, second, third)))
    assert all(node.read(object_id(1)) == data for node in (first, second, third))
    assert [node.transfers.statistics().sent_bytes for node in (source, first, second, third)] == [LARGE] * 3 + [0]


def test_a_reader_waits_for_a_source_that_does_not_know_yet_that_it_will_have_the_object(clear: TransferNodes) -> None:
    source, first, second = (clear.add() for _ in range(3))
    data = value_of(LARGE)
    source.put(object_id(1), data)
    second.pull(object_id(1), LARGE, first, source)
    clear.run_until(lambda: first.transfers.statistics().readers > 0)
    first.pull(object_id(1), LARGE, source)
    clear.run_until(lambda: second.has(object_id(1)))
    assert second.read(object_id(1)) == data
    assert source.transfers.statistics().sent_bytes == LARGE


def test_a_node_whose_own_turn_has_not_come_sends_its_readers_elsewhere(clear: TransferNodes) -> None:
    source, queueing, reader = clear.add(), clear.add(limit_bytes=1), clear.add()
    data = value_of(100_000)
    source.put(object_id(1), data)
    queueing.pull(object_id(2), 1, reader)
    queueing.pull(object_id(1), len(data), source)
    reader.pull(object_id(2), 1, queueing)
    reader.pull(object_id(1), len(data), queueing, source)
    clear.run_until(lambda: reader.has(object_id(1)))
    assert reader.read(object_id(1)) == data
    assert not queueing.has(object_id(1))


def test_the_source_of_a_chain_of_eight_sends_the_object_once(clear: TransferNodes) -> None:
    chain = [clear.add() for _ in range(9)]
    data = value_of(LARGE)
    chain[0].put(object_id(1), data)
    for source, reader in pairwise(chain):
        reader.pull(object_id(1), LARGE, source, chain[0])
    clear.run_until(lambda: all(node.has(object_id(1)) for node in chain))
    assert all(node.read(object_id(1)) == data for node in chain)
    assert [node.transfers.statistics().sent_bytes for node in chain] == [LARGE] * 8 + [0]


def test_a_killed_source_is_replaced_where_it_broke(nodes: TransferNodes) -> None:
    source, other, reader = (nodes.add() for _ in range(3))
    data = value_of(LARGE)
    for node in (source, other):
        node.put(object_id(1), data)
    reader.pull(object_id(1), LARGE, source, other)
    nodes.run_until(lambda: reader.transfers.statistics().received_bytes > CHUNK_BYTES)
    source.kill()
    nodes.run_until(lambda: reader.has(object_id(1)))
    assert reader.read(object_id(1)) == data
    assert reader.failures == []


class Choke:
    """Passes what a node sends until so many bytes have passed, then none, and keeps the connections open."""

    def __init__(self, source: TransferNode, passes_bytes: int) -> None:
        self.address = source.address
        self.left = passes_bytes

    def open(self, address: str, *rest: Any) -> socket.socket:
        plain = open_data_socket(address, *rest)
        if address != self.address:
            return plain
        choke = self

        class Choked(socket.socket):
            def recv_into(self, buffer: Any, *arguments: Any) -> int:  # type: ignore[override]
                if choke.left <= 0:
                    self.wait_for_the_end()
                count = super().recv_into(buffer, *arguments)
                choke.left -= count
                return count

            def wait_for_the_end(self) -> None:
                poll = select.poll()
                poll.register(self.fileno(), select.POLLHUP)
                poll.poll(20_000)

        return Choked(plain.family, plain.type, plain.proto, plain.detach())


def test_a_stalled_source_is_replaced_where_it_stalled(clear: TransferNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull_streams, "STALL_S", 0.5)
    source, other = clear.add(), clear.add()
    choke = Choke(source, 3 * CHUNK_BYTES)
    reader = clear.add(open_socket=choke.open)
    data = value_of(LARGE)
    for node in (source, other):
        node.put(object_id(1), data)
    reader.pull(object_id(1), LARGE, source, other)
    clear.run_until(lambda: reader.has(object_id(1)))
    assert reader.read(object_id(1)) == data
    assert 0 < other.transfers.statistics().sent_bytes < LARGE


def test_an_object_that_is_not_there_is_told_and_another_source_may_be_named(clear: TransferNodes) -> None:
    empty, source, reader = (clear.add() for _ in range(3))
    data = value_of(100_000)
    source.put(object_id(1), data)
    reader.pull(object_id(1), len(data), empty)
    clear.run_until(lambda: reader.failures != [])
    assert reader.failures == [(object_id(1), empty.node, "the object is not there")]
    reader.pull(object_id(1), len(data), source)
    clear.run_until(lambda: reader.has(object_id(1)))
    assert reader.read(object_id(1)) == data


def test_a_full_store_ends_the_pull_and_blames_no_source(clear: TransferNodes) -> None:
    source, reader = clear.add(), clear.add()
    source.put(object_id(1), b"x")
    reader.is_full = True
    reader.pull(object_id(1), 1, source)
    clear.run_until(lambda: reader.failures != [])
    assert reader.failures == [(object_id(1), b"", "it is full")]


def test_a_cancelled_pull_says_nothing_and_gives_its_space_back(clear: TransferNodes) -> None:
    source, reader = clear.add(), clear.add()
    source.put(object_id(1), value_of(LARGE))
    reader.pull(object_id(1), LARGE, source)
    clear.run_until(lambda: reader.transfers.statistics().received_bytes > 0)
    assert reader.arena.reserved_by(reader.process) > 0
    reader.transfers.cancel(object_id(1), WRITER)
    clear.run_until(lambda: reader.arena.reserved_by(reader.process) == 0)
    assert (reader.store, reader.failures) == ({}, [])
    assert reader.transfers.statistics().in_flight_bytes == 0


def test_when_an_arrival_is_cancelled_its_readers_are_told_and_go_elsewhere(clear: TransferNodes) -> None:
    source, middle, reader, empty = (clear.add() for _ in range(4))
    data = value_of(LARGE)
    source.put(object_id(1), data)
    middle.pull(object_id(1), LARGE, empty)  # it will learn that the object is not there, and wait for other sources
    clear.run_until(lambda: middle.failures != [])
    reader.pull(object_id(1), LARGE, middle, source)
    clear.run_until(lambda: len(middle.transfers.serving.blocks) > 0)
    middle.transfers.cancel(object_id(1), WRITER)
    clear.run_until(lambda: reader.has(object_id(1)), timeout_s=5.0)
    assert reader.read(object_id(1)) == data
    assert reader.failures == [(object_id(1), middle.node, "the object is not there")]


def test_a_block_that_is_read_is_freed_after_its_last_reader(clear: TransferNodes) -> None:
    source = clear.add()
    choke = Choke(source, CHUNK_BYTES)
    reader = clear.add(open_socket=choke.open)
    data = value_of(2 * CHUNK_BYTES)
    location = source.put(object_id(1), data)
    reader.pull(object_id(1), len(data), source)
    clear.run_until(lambda: choke.left <= 0)
    assert source.transfers.serving.blocks.is_served(location.offset)
    assert source.drop(object_id(1))
    assert source.freed == []
    reader.transfers.node_dead(source.node)
    clear.run_until(lambda: source.freed == [location])
    assert not source.transfers.serving.blocks.is_served(location.offset)


def test_a_block_that_was_read_whole_may_be_freed_though_the_connection_stays(clear: TransferNodes) -> None:
    source, reader = clear.add(), clear.add()
    location = source.put(object_id(1), value_of(LARGE))
    reader.pull(object_id(1), LARGE, source)
    clear.run_until(lambda: reader.has(object_id(1)))
    clear.run_until(lambda: not source.transfers.serving.blocks.is_served(location.offset))
    assert source.transfers.statistics().readers > 0
    assert not source.drop(object_id(1))


def test_connections_of_a_dead_node_are_closed(clear: TransferNodes) -> None:
    source, reader = clear.add(), clear.add()
    source.put(object_id(1), value_of(LARGE))
    reader.pull(object_id(1), LARGE, source)
    clear.run_until(lambda: reader.has(object_id(1)))
    source.transfers.node_dead(reader.node)
    clear.run_until(lambda: source.transfers.statistics().readers == 0)


def test_urgent_objects_come_before_those_that_were_wanted_earlier(clear: TransferNodes) -> None:
    source, reader = clear.add(), clear.add(limit_bytes=1)
    arrived: list[bytes] = []
    store = reader.arrived

    def note(id: Any, writer: bytes, location: Location) -> None:
        arrived.append(id)
        store(id, writer, location)

    reader.arrived = note  # type: ignore[method-assign]
    for number in range(6):
        source.put(object_id(number), value_of(1000))
    for number in range(6):
        reader.pull(object_id(number), 1000, source, purpose=PullPurpose.PREFETCH if number < 4 else PullPurpose.GET)
    reader.transfers.raise_priority(object_id(3), WRITER, PullPurpose.GET)
    clear.run_until(lambda: len(arrived) == 6)
    assert {*arrived[:4]} == {object_id(0), object_id(4), object_id(5), object_id(3)}


def test_a_peer_that_says_nonsense_ends_only_its_own_connection(clear: TransferNodes, capfd: Any) -> None:
    source, reader = clear.add(), clear.add()
    source.put(object_id(1), b"value")
    with ThreadPoolExecutor(1) as threads:
        opening = threads.submit(open_data_socket, source.address, source.process, CLEAR, 5.0)
        clear.run_until(opening.done)
    with opening.result() as stranger:
        stranger.sendall(b"\x04\0\0\0abcd")
        clear.run_until(lambda: source.transfers.statistics().readers == 0)
    reader.pull(object_id(1), 5, source)
    clear.run_until(lambda: reader.has(object_id(1)))
    assert "broke" in capfd.readouterr().out
