"""The network of test hosts does to real sockets what it says, and is gone afterwards."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time

import pytest
from host_sockets import connected, connecting, datagram_sockets, listening, read_exactly, say

from remora.testing.namespaces import names_of_ours
from remora.testing.network_host import Host
from remora.testing.network_lab import NetworkLab

SILENCE_S = 0.1
RATE_BITS_PER_S = 100_000_000


def is_silent(sock: socket.socket) -> bool:
    before_s = sock.gettimeout()
    sock.settimeout(SILENCE_S)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(before_s)
    return False


def test_hosts_reach_each_other_by_their_addresses(hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    with connected(a, b) as (of_a, of_b):
        assert of_a.getsockname()[0] == of_b.getpeername()[0] == a.address
        assert of_b.getsockname()[0] == b.address
        of_a.sendall(b"there")
        assert of_b.recv(10) == b"there"
        of_b.sendall(b"back")
        assert of_a.recv(10) == b"back"


def test_a_host_reaches_itself_by_its_address_and_by_its_own_loopback(hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    for host in hosts:
        with connected(host, host) as (ours, theirs):
            ours.sendall(b"x")
            assert theirs.recv(1) == b"x"
    with a.entered(), socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), 1).close()
        with b.entered(), pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 1)


def test_this_machine_is_not_in_the_network(hosts: tuple[Host, Host]) -> None:
    with listening(hosts[0]) as server, pytest.raises(OSError):  # noqa: PT011, refused or silent, as its routes say
        socket.create_connection(server.getsockname(), SILENCE_S)


def test_what_is_sent_during_a_cut_never_arrives(lab: NetworkLab, hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    with datagram_sockets(a, b) as (of_a, of_b):
        lab.cut(a, b)
        say(of_a, of_b, b"lost")
        say(of_b, of_a, b"lost")
        lab.heal(a, b)
        say(of_a, of_b, b"arrives")
        say(of_b, of_a, b"arrives")
        assert of_b.recv(10) == of_a.recv(10) == b"arrives"


def test_a_connection_is_silent_during_a_cut_and_goes_on_after_it(lab: NetworkLab, hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    with connected(a, b) as (of_a, of_b):
        lab.cut(a, b)
        of_a.sendall(b"late")
        assert is_silent(of_b)
        lab.heal(a, b)
        assert of_b.recv(10) == b"late"


def test_who_connects_during_a_cut_hears_nothing_and_no_error(lab: NetworkLab, hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    with listening(b) as server:
        lab.cut_one_way(a, b)
        with pytest.raises(TimeoutError):
            connecting(a, server, SILENCE_S)


def test_a_one_way_cut_leaves_the_other_way(lab: NetworkLab, hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    with datagram_sockets(a, b) as (of_a, of_b), connected(a, b) as (stream_of_a, stream_of_b):
        lab.cut_one_way(a, b)
        say(of_a, of_b, b"lost")
        say(of_b, of_a, b"arrives")
        assert of_a.recv(10) == b"arrives"
        stream_of_b.sendall(b"arrives")
        assert stream_of_a.recv(10) == b"arrives"
        lab.heal()
        say(of_a, of_b, b"arrives")
        assert of_b.recv(10) == b"arrives"


def test_cuts_do_not_concern_others_and_may_be_repeated(lab: NetworkLab, hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    c = lab.add_host()
    with datagram_sockets(a, b, c) as (of_a, of_b, of_c):
        lab.cut(a, b)
        lab.cut(b, a)
        say(of_a, of_c, b"arrives")
        say(of_c, of_b, b"arrives")
        assert of_c.recv(10) == of_b.recv(10) == b"arrives"
        lab.heal(b)
        lab.heal(b)
        say(of_a, of_b, b"again")
        assert of_b.recv(10) == b"again"


def test_an_isolated_host_hears_nobody_not_even_who_comes_later(lab: NetworkLab, hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    lab.isolate(a)
    c = lab.add_host()
    with datagram_sockets(a, b, c) as (of_a, of_b, of_c):
        for source, target in ((of_a, of_b), (of_b, of_a), (of_a, of_c), (of_c, of_a)):
            say(source, target, b"lost")
        say(of_b, of_c, b"others")
        assert of_c.recv(10) == b"others"
        lab.heal(a)
        for source, target in ((of_a, of_b), (of_b, of_a)):
            say(source, target, b"arrives")
            assert target.recv(10) == b"arrives"
    d = lab.add_host()
    with connected(a, d):
        pass


def megabits_per_s(source: socket.socket, target: socket.socket, size: int) -> float:
    """The speed of *size* bytes, without those that a burst lets through at once."""
    burst = 1 << 20
    sender = threading.Thread(target=source.sendall, args=(bytes(burst + size),))
    sender.start()
    read_exactly(target, burst)
    start_s = time.monotonic()
    read_exactly(target, size)
    end_s = time.monotonic()
    sender.join()
    return size * 8 / (end_s - start_s) / 1e6


@pytest.mark.parametrize("way", ["out", "in"])
def test_the_rate_of_a_host_is_limited_each_way(lab: NetworkLab, hosts: tuple[Host, Host], way: str) -> None:
    a, b = hosts
    lab.limit_rate(a, RATE_BITS_PER_S)
    with connected(a, b) as (of_a, of_b):
        ends = (of_a, of_b) if way == "out" else (of_b, of_a)
        # A busy machine makes it slower, never faster.
        speeds = []
        while len(speeds) < 5 and (not speeds or max(speeds) < 85):
            speeds.append(megabits_per_s(*ends, 3_000_000))
            assert speeds[-1] < 115
        assert max(speeds) > 85


def test_without_its_limit_a_host_is_fast_again(lab: NetworkLab, hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    lab.limit_rate(a, RATE_BITS_PER_S)
    lab.limit_rate(a, RATE_BITS_PER_S // 2)
    lab.unlimit(a)
    lab.unlimit(a)
    with connected(a, b) as (of_a, of_b):
        assert megabits_per_s(of_a, of_b, 10_000_000) > 200


def test_a_reset_ends_the_connections_between_two_hosts_only(lab: NetworkLab, hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    c = lab.add_host()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(listening(b))
        of_a, of_b = stack.enter_context(connected(a, b))
        other, of_c = stack.enter_context(connected(a, c))
        assert lab.reset_connections(a, b) == 1
        with pytest.raises(ConnectionResetError):
            of_b.recv(1)
        with pytest.raises(ConnectionAbortedError):
            of_a.recv(1)
        of_c.sendall(b"lives")
        assert other.recv(10) == b"lives"
        connecting(a, server).close()
        assert lab.reset_connections(b, c) == 0


def test_nothing_is_left_of_a_network(lab: NetworkLab) -> None:
    def machine() -> list[str]:
        commands = (["ip", "-brief", "link"], ["ip", "route"], ["ip", "rule"])
        return [subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in commands]

    before = machine()
    with pytest.raises(ZeroDivisionError), NetworkLab() as other:  # noqa: PT012
        a, b = other.add_host(), other.add_host()
        other.limit_rate(a, RATE_BITS_PER_S)
        other.cut(a, b)
        other.relay_between(a, b, seed=1)
        process = a.popen(["sleep", "1000"])
        assert machine() == before
        assert set(names_of_ours()) >= {a.namespace.name, b.namespace.name}
        1 / 0  # noqa: B018
    assert machine() == before
    assert process.poll() == -9
    mine = [name for name, (maker, _) in names_of_ours().items() if maker == os.getpid()]
    assert len(mine) == 1  # the switch of the other lab
    other.close()


def test_two_labs_at_once_have_different_addresses_and_do_not_meet(hosts: tuple[Host, Host]) -> None:
    with NetworkLab() as other:
        stranger = other.add_host()
        assert stranger.address not in {host.address for host in hosts}
        with listening(hosts[0]) as server, pytest.raises(OSError):  # noqa: PT011, there is no route
            connecting(stranger, server, SILENCE_S)
