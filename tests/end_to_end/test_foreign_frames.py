"""Bytes that no process of ours would send end the connection they came on, and nothing else."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import pytest
from driver_programs import eventually

import remora
from remora.messages.counting import Ack
from remora.messages.session import Hello
from remora.messages.wire import encode_frame
from remora.system.handshake import connect_unix, receive_welcome, send_hello

TIMEOUT_S = 10

FOREIGN = {
    "a web browser's request": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "noise": bytes(range(256)) * 4,
    "zeros": bytes(64),
    "an empty frame": struct.pack("<I", 0),
    "a frame without messages": bytes(encode_frame([])),
    "a frame of 4 GB": b"\xff\xff\xff\xff" + bytes(100),
    "a frame that is no MessagePack": struct.pack("<I", 3) + b"\xc1\xc1\xc1",
    "a message with an unknown tag": struct.pack("<I", 4) + b"\x91\x92\x7f\x00",
    "a message of the wrong shape": struct.pack("<I", 4) + b"\x91\x92\x01\xc0",
    "a message before hello": bytes(encode_frame([Ack([], [])])),
    "hello of another version": bytes(encode_frame([Hello(99, "driver", 1)])),
    "hello of an unknown role": bytes(encode_frame([Hello(1, "emperor", 1)])),
    "hello of a worker that nobody started": bytes(encode_frame([Hello(1, "worker", 1, b"\1" * 8)])),
}


@pytest.fixture(scope="module")
def session() -> Iterator[str]:
    remora.shutdown()
    with remora.init(num_cpus=2, object_store_memory=64 << 20) as context:
        yield context["session_dir"]


@remora.remote
class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self) -> int:
        self.count += 1
        return self.count


@remora.remote
def double(number: int) -> int:
    return 2 * number


def is_closed(sock: socket.socket) -> bool:
    """Whether the other side closes the connection; what it says before is read."""
    sock.settimeout(TIMEOUT_S)
    try:
        while sock.recv(4096):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def closes(path: str, sent: bytes) -> bool:
    """Whether what listens at *path* closes a connection on which this comes, or has just ended, as idle workers do."""
    try:
        with connect_unix(path) as sock:
            sock.sendall(sent)
            return is_closed(sock)
    except (FileNotFoundError, ConnectionRefusedError, BrokenPipeError):
        return True


def sockets(folder: str, kind: str) -> list[str]:
    return [f"{folder}/{name}" for name in os.listdir(folder) if name.startswith(kind) and not name.endswith(".log")]


@pytest.mark.parametrize("where", ["daemon", "worker"])
@pytest.mark.parametrize("what", FOREIGN)
def test_a_foreign_frame_closes_its_connection_and_nothing_else(session: str, where: str, what: str) -> None:
    counter = Counter.remote()
    assert remora.get([counter.add.remote(), double.remote(2)], timeout=TIMEOUT_S) == [1, 4]
    for path in sockets(session, where):
        if where == "worker" and what.startswith("hello of a") and "version" not in what:
            continue  # whoever may connect to a worker submits to it; it asks for no role
        assert closes(path, FOREIGN[what]), path
    assert remora.get([counter.add.remote(), double.remote(3)], timeout=TIMEOUT_S) == [2, 6]


@pytest.mark.parametrize("what", ["zeros", "a frame of 4 GB", "a message of the wrong shape", "an empty frame"])
def test_a_driver_that_sends_foreign_frames_later_is_cut_off_and_logged_once(session: str, what: str) -> None:
    log = f"{session}/daemon.log"
    with open(log) as file:
        before = file.read()
    sock = connect_unix(f"{session}/daemon")
    send_hello(sock, "inspector")
    _, descriptors = receive_welcome(sock)
    for descriptor in descriptors:
        os.close(descriptor)
    with sock:
        sock.sendall(FOREIGN[what] * 3)
        assert is_closed(sock)

    def logged() -> str:
        with open(log) as file:
            return file.read()[len(before) :]

    assert eventually(lambda: "lost <inspector" in logged())
    assert logged().count("lost <inspector") == 1
    assert remora.get(double.remote(3), timeout=TIMEOUT_S) == 6


def test_a_submitter_that_sends_foreign_frames_to_a_worker_is_cut_off_alone(session: str) -> None:
    counter = Counter.remote()
    assert remora.get(counter.add.remote(), timeout=TIMEOUT_S) == 1
    for path in sockets(session, "worker"):
        # A message of ours that no submitter says, too.
        for what in ("zeros", "a message before hello"):
            assert closes(path, bytes(encode_frame([Hello(1, "peer", 1, b"\7" * 8)])) + FOREIGN[what])
    assert remora.get([counter.add.remote(), double.remote(3)], timeout=TIMEOUT_S) == [2, 6]


def test_many_connections_that_say_nothing_do_not_keep_others_out(session: str) -> None:
    silent = [connect_unix(f"{session}/daemon") for _ in range(100)]
    assert remora.get([Counter.remote().add.remote(), double.remote(3)], timeout=TIMEOUT_S) == [1, 6]
    for sock in silent:
        sock.close()
