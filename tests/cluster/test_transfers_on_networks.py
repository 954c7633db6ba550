"""What crosses the wire when objects move between machines: how often, from where, and who can read it there."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from machines import Driver, Machine, start_cluster, wait_until

from remora.base.join_string import JoinString
from remora.testing.network_host import Host
from remora.testing.network_lab import HOST_LINK, NetworkLab

READERS = 8
SIZE = 64_000_000
LINE_BITS_PER_S = 400_000_000
"""Slow enough that all readers are on their way at once, also on a busy machine."""
EVERY_PACKET = 3  # ETH_P_ALL, which Python 3.11 has no name for
RECEIVE_BUFFER_BEYOND_THE_LIMIT = 33  # SO_RCVBUFFORCE, nor for this one
CAPTURE_BYTES = 64 << 20
SECRET = "THIS-IS-WHAT-NOBODY-ON-THE-WAY-SHALL-READ"
REPEATED = 20_000


def sent_bytes(host: Host) -> int:
    """What the host has given to its line since the start, with all headers."""
    for line in host.run(["cat", "/proc/self/net/dev"]).splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == HOST_LINK:
            return int(counts.split()[8])
    raise AssertionError(f"{host} has no {HOST_LINK}")


def test_of_one_object_for_eight_nodes_at_most_two_copies_leave_the_source(lab: NetworkLab) -> None:
    machines = start_cluster(lab, 1 + READERS, cpus=1, options=("--object-store-memory", str(2 * SIZE)))
    source = machines[0].host
    with machines[0].driver() as driver:
        numbers = range(2, READERS + 2)
        driver(f"remora.get([double.options(**on(i)).remote(i) for i in {list(numbers)}])")  # workers are there
        for machine in machines:
            lab.limit_rate(machine.host, LINE_BITS_PER_S)
        driver(f"array = pattern({SIZE}); made = remora.put(array)")
        before = sent_bytes(source)
        sums = driver(f"remora.get([checksum.options(**on(i)).remote(made) for i in {list(numbers)}])", 90)
        copies = (sent_bytes(source) - before) / SIZE
        assert sums == [driver("sum_of(array)")] * READERS
        assert 1 <= copies <= 2, copies


def test_a_source_that_dies_in_the_middle_is_replaced_by_another_holder_where_it_broke(lab: NetworkLab) -> None:
    machines = start_cluster(lab, 3)
    holders = machines[1:]
    with machines[0].driver() as driver:
        driver(f"made = make.options(**on(2), max_retries=0).remote({SIZE})")
        driver("remora.get(checksum.options(**on(3)).remote(made))")
        before = {holder: sent_bytes(holder.host) for holder in holders}
        for holder in holders:
            lab.limit_rate(holder.host, LINE_BITS_PER_S // 2)
        driver.begin(f"sum_of(remora.get(made)) == sum_of(pattern({SIZE}))")

        def given(holder: Machine) -> int:
            return sent_bytes(holder.host) - before[holder]

        source = wait_until(
            lambda: next((holder for holder in holders if given(holder) > SIZE / 8), None), "bytes from a holder"
        )
        (other,) = set(holders) - {source}
        source.host.kill_processes()
        broke_at = given(source)
        assert driver.end(60)
        assert broke_at < SIZE / 2
        assert SIZE / 2 < given(other) < 1.3 * SIZE - broke_at
        wait_until(lambda: len(driver("alive()")) == 2, "the death of the source")


@contextlib.contextmanager
def all_packets(host: Host) -> Iterator[socket.socket]:
    """Hears what crosses the line of the host within the block; it is kept until it is read."""
    with host.entered():
        listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(EVERY_PACKET))
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, RECEIVE_BUFFER_BEYOND_THE_LIMIT, CAPTURE_BYTES)
        listener.bind((HOST_LINK, EVERY_PACKET))
        listener.setblocking(False)
        yield listener


def read_all(listener: socket.socket) -> list[bytes]:
    packets = []
    with contextlib.suppress(BlockingIOError):
        while True:
            packets.append(listener.recv(1 << 17))
    return packets


def say_a_secret(driver: Driver) -> None:
    """As a large object, as a small argument, as a result, and as what a worker prints."""
    driver("def tell(large, small): print(small); return large[:len(small)]")
    driver(f"large = remora.put({SECRET!r} * {REPEATED})")
    assert driver(f"remora.get(remora.remote(tell).options(**on(2)).remote(large, {SECRET!r}))") == SECRET


@pytest.mark.parametrize("options", [(), ("--no-encrypt",)], ids=["by default", "with --no-encrypt"])
def test_what_is_sent_can_be_read_on_the_wire_only_in_a_cluster_without_encryption(
    lab: NetworkLab, options: tuple[str, ...]
) -> None:
    machines = start_cluster(lab, 2, *options)
    with all_packets(machines[0].host) as listener, machines[0].driver() as driver:
        say_a_secret(driver)
        packets = read_all(listener)
    found = sum(packet.count(SECRET.encode()) for packet in packets)
    assert sum(map(len, packets)) > len(SECRET) * REPEATED  # the object is among them
    if options:
        assert found > REPEATED / 2  # some are cut in two by the end of a packet
    else:
        assert found == 0
    cluster_secret = JoinString.parse((machines[0].tmp / "join").read_text()).credentials.secret
    assert not any(cluster_secret in packet or cluster_secret.hex().encode() in packet for packet in packets)
