"""The relay between two hosts: what it does to real packets, and that TCP bears it."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time

import pytest
from host_sockets import TIMEOUT_S, connected, datagram_sockets, read_exactly, say

from remora.testing.network_host import Host
from remora.testing.network_lab import NetworkLab

LAST = b"last"


def round_trip_s(of_a: socket.socket, of_b: socket.socket) -> float:
    """The shortest of three, as a busy machine only makes it longer."""
    shortest_s = TIMEOUT_S
    for _ in range(3):
        start_s = time.monotonic()
        say(of_a, of_b, b"ping")
        of_b.recv(10)
        say(of_b, of_a, b"pong")
        of_a.recv(10)
        shortest_s = min(shortest_s, time.monotonic() - start_s)
    return shortest_s


def numbers_that_arrive(lab: NetworkLab, hosts: tuple[Host, Host], seed: int) -> list[int]:
    """Which of 100 datagrams (a socket has room for them) arrive over a line with faults, in their order."""
    relay = lab.relay_between(*hosts, seed=seed, loss=0.2, reorder=0.1)
    with contextlib.closing(relay), datagram_sockets(*hosts) as (of_a, of_b):
        for number in range(100):
            say(of_a, of_b, b"%d" % number)
            while relay.counts_from(hosts[0]).arrived <= number:
                os.sched_yield()
        relay.change(loss=0.0, delay_s=0.05)
        say(of_a, of_b, LAST)
        arrived = []
        while (data := of_b.recv(10)) != LAST:
            arrived.append(int(data))
        return arrived


def test_packets_take_their_time_each_way(lab: NetworkLab, hosts: tuple[Host, Host]) -> None:
    relay = lab.relay_between(*hosts, seed=1, delay_s=0.02)
    with datagram_sockets(*hosts) as sockets:
        assert 0.04 <= round_trip_s(*sockets) < 0.1
        relay.change_from(hosts[0], delay_s=0.1)
        assert 0.12 <= round_trip_s(*sockets) < 0.2
        relay.change(delay_s=0.0)
        assert round_trip_s(*sockets) < 0.04


def test_the_seed_decides_which_packets_are_lost(lab: NetworkLab, hosts: tuple[Host, Host]) -> None:
    first = numbers_that_arrive(lab, hosts, seed=1)
    assert 60 <= len(first) < 95
    assert first != sorted(first)
    assert sorted(numbers_that_arrive(lab, hosts, seed=1)) == sorted(first)
    assert sorted(numbers_that_arrive(lab, hosts, seed=2)) != sorted(first)


def test_loss_can_be_one_way(lab: NetworkLab, hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    relay = lab.relay_between(a, b, seed=1)
    relay.change_from(a, loss=1.0)
    with datagram_sockets(a, b) as (of_a, of_b):
        say(of_a, of_b, b"lost")
        say(of_b, of_a, b"arrives")
        assert of_a.recv(10) == b"arrives"
        relay.change_from(a, loss=0.0)
        say(of_a, of_b, b"arrives")
        assert of_b.recv(10) == b"arrives"
    assert relay.counts_from(a).lost == 1
    assert relay.counts_from(b).lost == 0


def test_a_datagram_can_arrive_twice(lab: NetworkLab, hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    relay = lab.relay_between(a, b, seed=1, duplicate=1.0)
    with datagram_sockets(a, b) as (of_a, of_b):
        say(of_a, of_b, b"x")
        assert of_b.recv(10) == of_b.recv(10) == b"x"
    assert relay.counts_from(a).duplicated == 1


def test_tcp_delivers_every_byte_over_a_line_with_all_faults(lab: NetworkLab, hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    data = random.Random(1).randbytes(1_000_000)
    relay = lab.relay_between(a, b, seed=3, delay_s=0.001, jitter_s=0.001, loss=0.01, reorder=0.02, duplicate=0.02)
    with connected(a, b) as (of_a, of_b):
        sender = threading.Thread(target=of_a.sendall, args=(data,))
        sender.start()
        assert read_exactly(of_b, len(data)) == data
        sender.join()
    counts = relay.counts_from(a)
    assert min(counts.lost, counts.held_back, counts.duplicated) > 0


def test_cuts_hold_for_hosts_with_a_relay(lab: NetworkLab, hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    lab.relay_between(a, b, seed=1)
    with datagram_sockets(a, b) as (of_a, of_b):
        lab.cut_one_way(a, b)
        say(of_a, of_b, b"lost")
        say(of_b, of_a, b"arrives")
        assert of_a.recv(10) == b"arrives"
        lab.heal()
        say(of_a, of_b, b"arrives")
        assert of_b.recv(10) == b"arrives"


def test_other_hosts_do_not_go_through_the_relay(lab: NetworkLab, hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    c = lab.add_host()
    relays = lab.relay_between(a, b, seed=1, loss=1.0), lab.relay_between(a, c, seed=1)
    with datagram_sockets(a, b, c) as (of_a, of_b, of_c):
        for source, target in ((of_a, of_b), (of_a, of_c), (of_b, of_c)):
            say(source, target, b"x")
        assert of_c.recv(10) == of_c.recv(10) == b"x"
    assert [relay.counts_from(a).arrived for relay in relays] == [1, 1]
    assert [relay.counts_from(a).left for relay in relays] == [0, 1]


def test_there_is_one_relay_between_two_hosts_at_a_time(lab: NetworkLab, hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    relay = lab.relay_between(a, b, seed=1)
    with pytest.raises(RuntimeError, match=r"there is a relay between <Host h2 .*already"):
        lab.relay_between(b, a, seed=2)
    relay.close()
    lab.relay_between(b, a, seed=2)


def test_a_connection_goes_on_directly_when_the_relay_is_closed(lab: NetworkLab, hosts: tuple[Host, Host]) -> None:
    a, b = hosts
    relay = lab.relay_between(a, b, seed=1)
    with connected(a, b) as (of_a, of_b):
        relay.close()
        relay.close()
        before = relay.counts_from(a)
        of_a.sendall(b"direct")
        assert of_b.recv(10) == b"direct"
    assert relay.counts_from(a) == before
    assert "relay" not in a.run(["ip", "link"])
