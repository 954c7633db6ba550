"""Bytes from one arena to another over a socket, by every way that there is."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from remora.system.shared_memory import SharedMemory
from remora.system.transfer_io import (
    ArenaWindow,
    BlockSender,
    StreamEnded,
    end_connection,
    receive_block,
    receive_block_to_new_pages,
    receive_exactly,
)

SIZE_BYTES = 3 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def windows() -> Iterator[list[ArenaWindow]]:
    memories = [SharedMemory.create(1 << 30) for _ in range(2)]
    windows = [ArenaWindow(memory) for memory in memories]
    yield windows
    for window, memory in zip(windows, memories):
        window.close()
        memory.close()


def connected(host: str) -> tuple[socket.socket, socket.socket]:
    with socket.create_server((host, 0)) as listener:
        opened = socket.create_connection(listener.getsockname())
        return listener.accept()[0], opened


@pytest.mark.parametrize(
    ("host", "way"), [("127.0.0.1", "from the mapping"), ("127.0.0.2", "by sendfile")], ids=["copy", "sendfile"]
)
@pytest.mark.parametrize("pages", ["new", "unmapped", "mapped"])
def test_a_block_arrives_with_its_header(windows: list[ArenaWindow], host: str, way: str, pages: str) -> None:
    data = os.urandom(SIZE_BYTES)
    source, target = windows
    source.memory.write(PAGE, data)
    server, client = connected(host)
    sender = BlockSender(server, source)
    assert way in repr(sender)
    thread = threading.Thread(target=sender.send, args=(b"header", PAGE, SIZE_BYTES))
    thread.start()
    header = memoryview(bytearray(6))
    counts: list[int] = []
    with server, client:
        receive_exactly(client, header)
        if pages == "new":
            scratch = memoryview(bytearray(100_000))
            receive_block_to_new_pages(client, target, 5 * PAGE, SIZE_BYTES, scratch, counts.append)
        else:
            target.memory.write(5 * PAGE, bytes(SIZE_BYTES))
            if pages == "mapped":
                target.populate(5 * PAGE, SIZE_BYTES)
            receive_block(client, target, 5 * PAGE, SIZE_BYTES, counts.append)
        thread.join()
    assert bytes(header) == b"header"
    assert sum(counts) == SIZE_BYTES
    assert os.pread(target.memory.fd, SIZE_BYTES + PAGE, 5 * PAGE) == data + bytes(PAGE)
    assert os.pread(target.memory.fd, 5 * PAGE, 0) == bytes(5 * PAGE)


def test_what_is_served_cannot_be_changed_through_the_window(windows: list[ArenaWindow]) -> None:
    with pytest.raises(TypeError):
        windows[0].readable[0] = 1


def test_a_connection_that_ends_in_the_middle_is_an_error(windows: list[ArenaWindow]) -> None:
    server, client = connected("127.0.0.1")
    server.sendall(b"half")
    server.close()
    with client, pytest.raises(StreamEnded):
        receive_block(client, windows[0], 0, 8, lambda count: None)
    assert bytes(windows[0].readable[:8]) == b"half" + bytes(4)


def test_another_thread_can_end_a_receive(windows: list[ArenaWindow]) -> None:
    server, client = connected("127.0.0.1")
    told: list[str] = []

    def receive() -> None:
        try:
            receive_block(client, windows[0], 0, 8, lambda count: told.append("bytes"))
        except StreamEnded:
            told.append("ended")

    thread = threading.Thread(target=receive)
    thread.start()
    server.sendall(b"1")
    while not told:
        pass
    end_connection(client)
    thread.join(5)
    assert told == ["bytes", "ended"]
    end_connection(client)
    server.close()
    client.close()
    end_connection(client)
