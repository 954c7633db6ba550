"""A network of test "machines" on this one, which can be cut, slowed down and spoiled.

Each host is a network namespace with one address, joined by a veth pair to a bridge in a namespace of its own, so the
links, routes and rules of this machine are never touched. All else is shared between the hosts: files, memory, pids,
and Unix sockets that have a path. This machine itself is not in the network: what talks to the hosts over TCP runs
on one of them, or uses a socket made within ``host.entered()``.

A cut drops packets without a word, as a broken switch does: a rule at the receiver discards what comes from that
address. A blackhole route at the sender would give the sender an error at once, and nft is not installed everywhere.

Example:
    >>> with NetworkLab() as lab:
    ...     a, b = lab.add_host(), lab.add_host()
    ...     server = b.start_python(f"import socket; s = socket.create_server(({b.address!r}, 4000)); s.accept()")
    ...     lab.limit_rate(b, 100_000_000)
    ...     lab.cut(a, b)
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from types import TracebackType

from remora.testing.namespaces import Namespace, names_of_ours, remove_leftovers
from remora.testing.network_host import Host
from remora.testing.network_relay import Relay
from remora.testing.relay import LineConditions

BRIDGE = "bridge0"
HOST_LINK = "eth0"
MOST_HOSTS = 250
CUT_RULE = 10
LOCAL_RULE = 100
"""The place of the rule that finds packets for the host itself. The kernel has it first, before any that discards."""

BURST_S = 0.002
LEAST_BURST_BYTES = 16 * 1024
"""Ten packets. TCP hands up to 64 KB at once to a link; the kernel cuts that, which costs little at low rates."""
QUEUE_S = 0.02
LEAST_QUEUE_BYTES = 64 * 1024


class NetworkLab:
    """Hosts on one switch; a context manager that removes them whatever happens.

    What a killed run has left behind is removed when the next lab is made, in any process. Whether labs can be made
    here says :func:`remora.testing.namespaces.skip_reason`.
    """

    def __init__(self) -> None:
        remove_leftovers()
        self._network = _free_network()
        self._hosts: dict[Host, str] = {}
        self._cuts: set[tuple[Host, Host]] = set()
        self._isolated: set[Host] = set()
        self._limited: set[Host] = set()
        self._relays: list[Relay] = []
        with contextlib.ExitStack() as cleanup:
            self._switch = self._add_namespace("switch", cleanup)
            self._switch.ip(f"link add {BRIDGE} type bridge", f"link set {BRIDGE} up")
            self._cleanup = cleanup.pop_all()

    def __repr__(self) -> str:
        return f"<NetworkLab {self._network}.0/24 {', '.join(host.name for host in self._hosts)}>"

    def __enter__(self) -> NetworkLab:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Kill what runs on the hosts, and remove hosts and switch. A second call does nothing."""
        self._hosts.clear()
        self._cleanup.close()

    @property
    def hosts(self) -> tuple[Host, ...]:
        """The hosts, in the order in which they were added."""
        return tuple(self._hosts)

    def add_host(self, name: str | None = None) -> Host:
        """A new host that reaches all others; it is called ``h1``, ``h2`` ... unless *name* says otherwise."""
        number = len(self._hosts) + 1
        if number > MOST_HOSTS:
            raise ValueError(f"a lab has room for {MOST_HOSTS} hosts")
        name = name or f"h{number}"
        port = f"port{number}"
        namespace = self._add_namespace(name, self._cleanup)
        host = Host(name, f"{self._network}.{number}", namespace)
        self._cleanup.callback(host.kill_processes)
        self._switch.ip(
            f"link add {port} type veth peer name {HOST_LINK} netns {namespace.name}",
            f"link set {port} master {BRIDGE}",
            f"link set {port} up",
        )
        namespace.ip(
            "link set lo up",
            f"link set {HOST_LINK} address {_hardware_address(host)} addrgenmode none",
            f"address add {host.address}/24 dev {HOST_LINK}",
            f"link set {HOST_LINK} up",
            f"rule add pref {LOCAL_RULE} table local",
            "rule delete pref 0",
        )
        self._introduce(host)
        self._hosts[host] = port
        for isolated in self._isolated:
            self.cut(isolated, host)
        return host

    def _introduce(self, host: Host) -> None:
        """Tell all hosts of each other's hardware. If they had to ask, a cut would be seen as an unreachable host."""
        host.namespace.ip(*(_neighbour(other) for other in self._hosts))
        for other in self._hosts:
            other.namespace.ip(_neighbour(host))

    def _add_namespace(self, name: str, cleanup: contextlib.ExitStack) -> Namespace:
        namespace = Namespace(f"remora-{os.getpid()}-{self._network}-{name}")
        cleanup.callback(namespace.remove)
        return namespace

    def cut(self, a: Host, b: Host) -> None:
        """From now on nothing that *a* and *b* send each other arrives. Connections stay open and are silent."""
        self.cut_one_way(a, b)
        self.cut_one_way(b, a)

    def cut_one_way(self, source: Host, target: Host) -> None:
        """From now on nothing that *source* sends arrives at *target*; the other way is left as it is."""
        if (source, target) not in self._cuts:
            target.namespace.ip(_cut_rule("add", source))
            self._cuts.add((source, target))

    def isolate(self, host: Host) -> None:
        """Cut *host* off from all others, also from those that are added later."""
        self._isolated.add(host)
        for other in self._hosts:
            if other is not host:
                self.cut(host, other)

    def heal(self, *hosts: Host) -> None:
        """Undo cuts: all of them, those of one host, or those between two."""
        self._isolated = {host for host in self._isolated if hosts not in ((), (host,))}
        for source, target in [cut for cut in self._cuts if set(hosts) <= set(cut)]:
            target.namespace.ip(_cut_rule("delete", source))
            self._cuts.remove((source, target))

    def reset_connections(self, a: Host, b: Host) -> int:
        """Break the TCP connections between *a* and *b*; how many there were.

        The kernel of *a* aborts them: programs there get ECONNABORTED, and *b* is sent a reset, so programs there get
        ECONNRESET, unless the line is cut.
        """
        return len(a.run(["ss", "--kill", "--tcp", "--no-header", "dst", b.address]).splitlines())

    def limit_rate(self, host: Host, bits_per_s: int) -> None:
        """Let *host* send and receive at most so much, each way for itself. Relays are not limited."""
        for namespace, link in self._ends(host):
            namespace.tc(f"qdisc replace dev {link} root tbf {_bucket(bits_per_s)}")
        self._limited.add(host)

    def unlimit(self, host: Host) -> None:
        """Undo :meth:`limit_rate`; nothing happens when there is no limit."""
        if host in self._limited:
            for namespace, link in self._ends(host):
                namespace.tc(f"qdisc delete dev {link} root")
            self._limited.remove(host)

    def _ends(self, host: Host) -> Iterable[tuple[Namespace, str]]:
        return (host.namespace, HOST_LINK), (self._switch, self._hosts[host])

    def relay_between(
        self,
        a: Host,
        b: Host,
        *,
        seed: int,
        delay_s: float = 0.0,
        jitter_s: float = 0.0,
        loss: float = 0.0,
        reorder: float = 0.0,
        duplicate: float = 0.0,
    ) -> Relay:
        """Put a bad line between *a* and *b*, the same each way, until it is closed; it can be changed meanwhile.

        Args:
            a: one host.
            b: the other.
            seed: decides which packets are lost, late or doubled.
            delay_s: see :class:`remora.testing.relay.LineConditions`, as for all that follow.
            jitter_s: the most that is added to the delay.
            loss: the share of packets that are lost.
            reorder: the share of packets that others overtake.
            duplicate: the share of packets that arrive twice.

        Raises:
            RuntimeError: there is a relay between them already.

        Example:
            >>> relay = lab.relay_between(a, b, seed=1, delay_s=0.02, loss=0.01)
            >>> relay.change_from(a, loss=1.0)
        """
        if any({a, b} == set(relay.hosts) for relay in self._relays if not relay.closed):
            raise RuntimeError(f"there is a relay between {a} and {b} already: change it, or close it first")
        relay = Relay(a, b, seed, LineConditions(delay_s, jitter_s, loss, reorder, duplicate))
        self._relays.append(relay)
        self._cleanup.callback(relay.close)
        return relay


def _hardware_address(host: Host) -> str:
    return "02:00:" + ":".join(f"{int(part):02x}" for part in host.address.split("."))


def _neighbour(host: Host) -> str:
    return f"neighbour add {host.address} lladdr {_hardware_address(host)} dev {HOST_LINK} nud permanent"


def _cut_rule(command: str, source: Host) -> str:
    return f"rule {command} pref {CUT_RULE} from {source.address} blackhole"


def _bucket(bits_per_s: int) -> str:
    """Parameters of a token bucket with which one flow, or several, reach the rate: 0.956 of it is payload."""
    burst_bytes = max(LEAST_BURST_BYTES, int(bits_per_s / 8 * BURST_S))
    queue_bytes = burst_bytes + max(LEAST_QUEUE_BYTES, int(bits_per_s / 8 * QUEUE_S))
    return f"rate {bits_per_s}bit burst {burst_bytes} limit {queue_bytes}"


def _free_network() -> str:
    """Three bytes of an address, for one lab on this machine. Labs do not reach each other; it is for the reader."""
    used = {network for _, network in names_of_ours().values()}
    for number in range(1, 1 << 16):
        place = (os.getpid() + number) % (1 << 16)
        network = f"10.{place >> 8}.{place & 255}"
        if network not in used:
            return network
    raise RuntimeError("every network within 10.0.0.0/8 is used by a lab of a running process; end some")
