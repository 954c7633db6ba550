"""What is measured on a running cluster, part by part. Each returns its figures by key; rows name the keys."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from time import monotonic

from remora.testing.cluster_bench.raw_sockets import measure_raw
from remora.testing.cluster_bench.running_cluster import RunningCluster
from remora.testing.cluster_bench.systems import NodeOptions, interpreter_start_s
from remora.testing.network_lab import HOST_LINK

Figures = dict[str, float]

HERE, THERE = NodeOptions("here"), NodeOptions("there")
JOINERS = ("third", "fourth")
SMALL_BYTES = 100 * 1024
"""With its header above what travels inside an answer: 100 KB that are objects of the store."""
READERS = (1, 2, 4, 8)
LINK_BITS_PER_S = 1_000_000_000
BULK = 1000
SENT_BYTES_FIELD = 8
"""Of a line of /proc/net/dev behind the name."""


@dataclass(frozen=True)
class Effort:
    """How large and how long: the defaults are what figures are quoted from.

    Attributes:
        pairs: Measurements on each side, where one takes seconds.
        long_pairs: Where one takes minutes.
        seconds: Length of each where it is a rate.
        large_bytes: Size of the one large object.
        small_objects: How many small ones.
        readers: To how many nodes at once the large object goes.
    """

    pairs: int = 5
    long_pairs: int = 3
    seconds: float = 1.0
    large_bytes: int = 1_000_000_000
    small_objects: int = 10_000
    readers: tuple[int, ...] = READERS


def one_large_object(cluster: RunningCluster, effort: Effort) -> Figures:
    """Into pages that nothing has used, and into pages that an object of the same size has used before."""
    size = effort.large_bytes
    fresh_s, again_s, warm_s = (cluster.ask("send_one", size=size, nodes=["there"])["seconds"] for _ in range(3))
    return {"1 GB, fresh": size / 1e9 / fresh_s, "1 GB, warm": size / 1e9 / min(again_s, warm_s)}


def small_objects(cluster: RunningCluster, effort: Effort) -> Figures:
    """Made on the other node, got here at once; the second time, so that space and connections are there."""
    for _ in range(2):
        got = cluster.ask("fetch_many", node="there", count=effort.small_objects, size=SMALL_BYTES)
    return {"100 KB objects": got["objects"] / got["seconds"]}


def calls(cluster: RunningCluster, effort: Effort) -> Figures:
    """Tasks and calls of an actor on the other node."""
    figures = {}
    for name, action in (("task calls", "task_calls"), ("actor calls", "actor_calls")):
        for how, at_once in (("one by one", 1), ("in bulk", BULK)):
            done = cluster.ask(action, node="there", at_once=at_once, seconds=effort.seconds)
            figures[f"{name} {how}"] = done["calls"] / done["seconds"]
    return figures


def placement_groups(cluster: RunningCluster, effort: Effort) -> Figures:
    """Groups of two bundles that each take all CPUs of a node."""
    done = cluster.ask("placement_groups", bundles=2, num_cpus=HERE.num_cpus, seconds=effort.seconds)
    return {"placement groups": done["groups"] / done["seconds"]}


def joining(cluster: RunningCluster, _: Effort) -> Figures:
    """Two more nodes, which are alive for the driver when the clock stops; the second one counts."""
    figures = {}
    for name in JOINERS:
        start_s = monotonic()
        node = cluster.add_node(NodeOptions(name))
        cluster.ask("wait_for_nodes", count=len(cluster.nodes))
        figures["node joins"] = monotonic() - start_s
        figures["start command"] = node.start_s
    figures["interpreter"] = interpreter_start_s(cluster.nodes[-1].host, cluster.system.python)
    return figures


def deaths(cluster: RunningCluster, _: Effort) -> Figures:
    """The third node dies by a signal, the fourth by silence; the second one looks at the list of nodes."""
    figures = {}
    for name in JOINERS[len(cluster.nodes) - 2 :]:  # unless the joining of them was measured
        cluster.add_node(NodeOptions(name))
    cluster.ask("wait_for_nodes", count=4)
    victim, silent = map(cluster.host, JOINERS)
    cluster.ask("start_watching", node="there", alive=3)
    killed_s = monotonic()
    os.kill(cluster.system.daemon_pid(victim), signal.SIGKILL)
    figures["death by kill"] = cluster.ask("watched")["at_s"] - killed_s
    cluster.ask("start_watching", node="there", alive=2)
    cluster.lab.isolate(silent)
    silent_s = monotonic()
    figures["death by silence"] = cluster.ask("watched")["at_s"] - silent_s
    return figures


def broadcast(cluster: RunningCluster, effort: Effort) -> Figures:
    """One object to more and more nodes over links of 1 Gbit/s; at last, what that took of the source's link.

    The last node reads only the first time, so that this reading is into pages that nothing has used, as is the first
    reading by all others. They have used theirs when they are measured again.
    """
    for node in cluster.nodes:
        cluster.lab.limit_rate(node.host, LINK_BITS_PER_S)
    size, most = effort.large_bytes, max(effort.readers)
    names = [node.options.name for node in cluster.nodes[1:]]
    figures = {}
    if len(names) > most:  # the peer has no such node: it would take minutes more
        figures["1 reader, fresh"] = _send(cluster, size, names[-1:])
        figures[f"{most} readers, fresh"] = _send(cluster, size, names[:most])
    for count in effort.readers:
        before = _sent_bytes(cluster)
        figures[f"{count} readers"] = _send(cluster, size, names[:count])
        figures[f"copies sent to {count}"] = (_sent_bytes(cluster) - before) / size
    figures["relative time"] = figures[f"{most} readers"] / figures["1 readers"]
    return figures


def _send(cluster: RunningCluster, size: int, names: list[str]) -> float:
    seconds: float = cluster.ask("send_one", size=size, nodes=names)["seconds"]
    return seconds


def _sent_bytes(cluster: RunningCluster) -> int:
    """What has left the first node's link, with the headers of packets."""
    table = cluster.nodes[0].host.run(["cat", "/proc/net/dev"])
    line = next(line for line in table.splitlines() if line.strip().startswith(f"{HOST_LINK}:"))
    return int(line.partition(":")[2].split()[SENT_BYTES_FIELD])


def raw(effort: Effort) -> Figures:
    """The limit: one connection, in the clear and with TLS, in GB/s."""
    size = effort.large_bytes
    return {name: size / 1e9 / measure_raw(size, name == "raw TLS") for name in ("raw socket", "raw TLS")}
