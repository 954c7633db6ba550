"""Unfriendly peers at the ports of a cluster that works: refused, noted once, and nothing else happens."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest
from machines import Driver, Machine, add_machines, start_cluster, wait_until

from remora.base.credentials import ClusterCredentials
from remora.base.ids import daemon_of
from remora.base.join_string import JoinString
from remora.base.network_address import join_address, split_address
from remora.system.certificates import create_credentials
from remora.system.network.data_socket import open_data_socket
from remora.system.network.preface import PREFACE_SIZE_BYTES, Purpose, make_preface
from remora.system.network.refusals import StreamRefused
from remora.testing.network_lab import NetworkLab

FLOOD = 10_000
HEAD = bytes(8)


class Target:
    """A port of the cluster, and what is known of it."""

    def __init__(self, stranger: Machine, address: str, join: JoinString) -> None:
        self._stranger = stranger
        self.address = address
        self.credentials = join.credentials

    def connect(self) -> socket.socket:
        with self._stranger.host.entered():
            return socket.create_connection(split_address(self.address), 10)

    def knock(self, credentials: ClusterCredentials, purpose: int, target: bytes = HEAD) -> None:
        """As a node would, with other credentials."""
        with self._stranger.host.entered():
            open_data_socket(self.address, target, credentials, 10, purpose).close()


@pytest.fixture(scope="module")
def machines(module_lab: NetworkLab) -> list[Machine]:
    return [*start_cluster(module_lab, 2), *add_machines(module_lab, 1)]


@pytest.fixture(scope="module")
def driver(machines: list[Machine]) -> Iterator[Driver]:
    with machines[0].driver() as driver:
        driver("counter = Counter.options(**on(2)).remote(); remora.get(counter.tell.remote(0))")
        driver("given = remora.put(pattern(3_000_000)); told = 0")
        yield driver


@pytest.fixture
def targets(machines: list[Machine], driver: Driver) -> list[Target]:
    """The head's node and the other one."""
    join = JoinString.parse((machines[0].tmp / "join").read_text())
    ports = driver("[[node['NodeManagerAddress'], node['NodeManagerPort']] for node in remora.nodes()]")
    addresses = sorted((join_address(*port) for port in ports), key=lambda address: address != join.address)
    return [Target(machines[2], address, join) for address in addresses]


WORK = """
from time import monotonic
end_s = monotonic() + 0.7
while monotonic() < end_s:
    calls = [counter.tell.remote(told + i) for i in range(1, 101)]
    tasks = [double.options(**on(2)).remote(i) for i in range(50)]
    read = checksum.options(**on(2)).remote(given)
    assert remora.get(tasks) == [2 * i for i in range(50)]
    assert remora.get(read) == sum_of(remora.get(given))
    remora.get(calls)
    told += 100
assert remora.get(counter.history.remote()) == list(range(told + 1))
len(alive())
"""


def while_it_works(driver: Driver, attack: Callable[[], None]) -> None:
    """*attack* while calls are made; none is lost, none runs twice, and no node is declared dead."""
    driver.begin(WORK)
    attack()
    assert driver.end() == 2
    assert driver(WORK) == 2


def refusals(machine: Machine) -> list[str]:
    lines = [line for line in machine.log("*.log").splitlines() if "refused a connection" in line]
    assert len(lines) == len(set(lines)), f"a refusal was written twice: {lines}"
    return lines


def is_noted(machines: list[Machine], kind: str) -> None:
    """Both nodes have one line of this kind, which names the stranger."""
    stranger = machines[2]
    for machine in machines[:2]:
        noted = wait_until(
            lambda machine=machine: [line for line in refusals(machine) if kind in line], f"{kind} in the log", 8
        )
        assert len(noted) == 1, noted
        assert f"from {stranger.address}:" in noted[0]


def test_a_port_scan(machines: list[Machine], driver: Driver, targets: list[Target]) -> None:
    def scan() -> None:
        for target in targets:
            for _ in range(100):
                target.connect().close()

    while_it_works(driver, scan)
    is_noted(machines, "it left before it had said what it wants")


def test_who_connects_and_says_nothing(machines: list[Machine], driver: Driver, targets: list[Target]) -> None:
    silent = [target.connect() for target in targets]
    while_it_works(driver, lambda: None)
    for sock in silent:
        sock.settimeout(10)
        answer = sock.recv(100)
        assert answer  # the reason, as a code
        assert sock.recv(100) == b""
        sock.close()
    is_noted(machines, "it did not say what it wants in time")


def test_garbage(machines: list[Machine], driver: Driver, targets: list[Target]) -> None:
    def talk() -> None:
        for target in targets:
            for size in (1, PREFACE_SIZE_BYTES, 100_000) * 10:
                with target.connect() as sock, contextlib.suppress(OSError):
                    sock.sendall(os.urandom(size))
                    sock.recv(100)

    while_it_works(driver, talk)
    is_noted(machines, "what it sent is not Remora's protocol")


def test_garbage_after_a_right_preface(machines: list[Machine], driver: Driver, targets: list[Target]) -> None:
    def talk() -> None:
        for target in targets:
            for purpose in (Purpose.LINK, Purpose.HEARTBEAT, Purpose.DATA, Purpose.CALLS):
                preface = make_preface(HEAD, purpose, target.credentials)
                with target.connect() as sock, contextlib.suppress(OSError):
                    sock.sendall(preface.encode() + os.urandom(1000))
                    while sock.recv(100):
                        pass

    while_it_works(driver, talk)


def test_a_wrong_secret(machines: list[Machine], driver: Driver, targets: list[Target]) -> None:
    wrong = msgspec.structs.replace(targets[0].credentials, secret=bytes(32))
    daemon = daemon_of(bytes.fromhex(driver("remora.get_runtime_context().get_node_id()")))

    def knock() -> None:
        for purpose, target in ((Purpose.LINK, HEAD), (Purpose.HEARTBEAT, HEAD), (Purpose.DATA, daemon)) * 3:
            with pytest.raises(StreamRefused, match="secret"):
                targets[0].knock(wrong, purpose, target)

    while_it_works(driver, knock)
    noted = wait_until(
        lambda: len(lines := [line for line in refusals(machines[0]) if "secret" in line]) == 3 and lines,
        "one line for each of links, heartbeats and objects",
    )
    assert all("it does not know the secret of this cluster" in line for line in noted)


def test_another_cluster_and_a_wrong_mode(machines: list[Machine], driver: Driver, targets: list[Target]) -> None:
    other = msgspec.structs.replace(targets[0].credentials, fingerprint=bytes(32))
    clear = msgspec.structs.replace(targets[0].credentials, encrypt=False)

    def knock() -> None:
        for target in targets:
            for _ in range(20):
                with pytest.raises(StreamRefused, match="another cluster"):
                    target.knock(other, Purpose.LINK)
                with pytest.raises(StreamRefused, match="encrypts"):
                    target.knock(clear, Purpose.LINK)

    while_it_works(driver, knock)
    is_noted(machines, "it wants another cluster")
    is_noted(machines, "it wants a connection in the clear")


def test_a_flood_of_half_open_connections(machines: list[Machine], driver: Driver, targets: list[Target]) -> None:
    def flood() -> None:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit[1], limit[1]))
        with contextlib.ExitStack() as held:
            held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limit)
            for number in range(FLOOD):
                held.enter_context(targets[number % 2].connect())

    while_it_works(driver, flood)
    is_noted(machines, "too many connections were half open")


def test_the_ports_speak_tls_with_the_certificate_of_the_cluster(
    machines: list[Machine], targets: list[Target]
) -> None:
    """Who stands between two nodes with another certificate learns nothing: the opener ends it before its proof."""
    with machines[2].host.entered(), socket.create_server((machines[2].address, 0)) as server:
        other = create_credentials(str(machines[2].tmp / "other"))
        said: list[bytes] = []

        def impersonate() -> None:
            sock = server.accept()[0]
            sock.recv(PREFACE_SIZE_BYTES)
            sock.sendall(b"\0")
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(other.certificate_path, other.key_path)
            with contextlib.suppress(OSError), context.wrap_socket(sock, server_side=True) as wrapped:
                said.append(wrapped.recv(1000))

        thread = threading.Thread(target=impersonate)
        thread.start()
        false = Target(machines[2], f"{machines[2].address}:{server.getsockname()[1]}", _join_of(machines))
        with pytest.raises(StreamRefused, match="certificate"):
            false.knock(false.credentials, Purpose.LINK)
        thread.join(10)
    assert said in ([], [b""])


def _join_of(machines: list[Machine]) -> JoinString:
    return JoinString.parse((machines[0].tmp / "join").read_text())
