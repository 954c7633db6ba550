"""What a user is told when a node cannot listen where it was told to."""

from __future__ import annotations

import socket

import pytest

from remora.system.network.sockets import ListenError, is_any_address, listen_tcp, round_trip_s


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ListenError, match=f"port {port} of 127.0.0.1 is in use.*another --port"):
            listen_tcp("127.0.0.1", port)


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(ListenError, match=r"192\.0\.2\.1 is no address of this machine.*--node-ip"):
        listen_tcp("192.0.2.1", 0)


def test_a_name_that_is_none_is_named() -> None:
    with pytest.raises(ListenError, match=r"'no such name' is no address of this machine.*--node-ip"):
        listen_tcp("no such name", 0)


@pytest.mark.parametrize(("host", "is_any"), [("0.0.0.0", True), ("::", True), ("10.0.0.1", False), ("name", False)])
def test_an_address_to_listen_at_may_be_one_that_nobody_can_connect_to(host: str, is_any: bool) -> None:
    assert is_any_address(host) == is_any


def test_the_round_trip_of_a_connection_is_known_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as opener:
        accepted, _ = server.accept()
        with accepted:
            assert 0 < round_trip_s(opener) < 1


def test_what_is_no_tcp_connection_has_no_round_trip() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert round_trip_s(one) == 0
