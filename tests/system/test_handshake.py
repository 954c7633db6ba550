"""The first exchange on a connection, with those who do not keep to it."""

from __future__ import annotations

import os
import socket
import stat
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from remora.base.errors import InternalError
from remora.messages.session import PROTOCOL_VERSION, Hello, Refused, Welcome
from remora.messages.tasks import Done
from remora.messages.wire import decode_body, encode_frame
from remora.system import handshake

WELCOME = Welcome(b"12345678", "/tmp/session", 1 << 20, {"CPU": 2.0}, "default")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "socket")


def answered_with(data: bytes) -> Any:
    """What ``receive_welcome`` makes of a daemon that sends *data* and closes."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        return handshake.receive_welcome(ours)


def test_hello_says_version_role_and_process() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        handshake.send_hello(ours, "worker", b"12345678")
        assert decode_body(theirs.recv(1000)[4:]) == [Hello(PROTOCOL_VERSION, "worker", os.getpid(), b"12345678")]


def test_a_welcome_brings_its_descriptors_and_leaves_what_follows_in_the_socket() -> None:
    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    with ours, theirs:
        handshake.send_welcome(theirs, WELCOME, [read])
        theirs.send(b"more")
        welcome, descriptors = handshake.receive_welcome(ours)
        assert welcome == WELCOME
        assert ours.recv(100) == b"more"
    os.write(write, b"through")
    assert os.read(descriptors[0], 100) == b"through"
    for fd in (read, write, *descriptors):
        os.close(fd)


def test_a_welcome_that_comes_in_pieces_is_read() -> None:
    ours, theirs = socket.socketpair()

    def send() -> None:
        for byte in bytes(encode_frame([WELCOME])):
            theirs.send(bytes([byte]))

    with ours, theirs:
        thread = threading.Thread(target=send)
        thread.start()
        assert handshake.receive_welcome(ours) == (WELCOME, [])
        thread.join()


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (bytes(encode_frame([Refused("too old")])), "refused this process: too old"),
        (bytes(encode_frame([Done(1, b"")])), "Done instead of Welcome"),
        (b"", "closed the connection during the handshake"),
        (bytes(encode_frame([WELCOME]))[:20], "closed the connection during the handshake"),
        (struct.pack("<I", 1 << 20), "is not a Remora daemon"),
        (struct.pack("<I", 2) + b"\xff\xff", "no message of Remora"),
        (struct.pack("<I", 1) + b"\x90", "NoneType instead of Welcome"),
    ],
)
def test_any_other_answer_is_an_error_that_says_what_came(data: bytes, text: str) -> None:
    with pytest.raises(InternalError, match=text):
        answered_with(data)


def test_who_does_not_start_with_a_hello_of_this_version_is_refused_with_the_reason() -> None:
    assert handshake.refusal_of(Hello(PROTOCOL_VERSION, "driver", 1)) is None
    assert "Done instead of Hello" in str(handshake.refusal_of(Done(1, b"")))
    assert "NoneType instead of Hello" in str(handshake.refusal_of(None))
    assert "same version" in str(handshake.refusal_of(Hello(PROTOCOL_VERSION + 1, "driver", 1)))


def test_a_listening_socket_is_for_this_user_only_and_tells_who_connects(path: str) -> None:
    with handshake.listen_unix(path) as listener:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        with handshake.connect_unix(path), listener.accept()[0] as accepted:
            assert handshake.peer_is_same_user(accepted)


def test_connecting_where_nobody_listens_raises(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        handshake.connect_unix(path)
    handshake.listen_unix(path).close()
    with pytest.raises(ConnectionRefusedError):
        handshake.connect_unix(path)


@pytest.mark.parametrize(("uid", "is_same"), [(1000, True), (0, True), (1001, False)])
def test_only_this_user_and_root_are_listened_to(uid: int, is_same: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Accepted:
        def getsockopt(self, level: int, option: int, size_bytes: int) -> bytes:
            assert (level, option) == (socket.SOL_SOCKET, socket.SO_PEERCRED)
            return struct.pack("3i", 1, uid, 1)

    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert handshake.peer_is_same_user(Accepted()) is is_same  # type: ignore[arg-type]
