"""A cluster of lease routers and tables with delayed messages, late views, slow starts of workers, and deaths."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from remora.base.ids import make_process_id, node_of
from remora.base.resources import Resources
from remora.base.scheduling import decode_strategy
from remora.core.cluster_view import ClusterView
from remora.core.lease import ActorDelayed, ActorPlaced, ActorUnplaceable, Send
from remora.core.lease_routing import LeaseRouter
from remora.core.leases import LeaseTable
from remora.core.routed_requests import RETRY_S, ToNode
from remora.core.worker_pool import StartWorker, StopWorker
from remora.messages.leases import (
    LeaseBroken,
    LeaseEnded,
    LeaseGranted,
    ReclaimLease,
    RequestFailed,
    RequestLease,
)
from remora.messages.links import ForProcess, FromProcess, LeaseRejected, ProcessGone

ONE = Resources.of(num_cpus=1)


def node_id(number: int) -> bytes:
    return number.to_bytes(4, "big")


def driver(number: int, process: int = 1) -> bytes:
    return make_process_id(number, process)


class Node:
    """One daemon, as far as leases go."""

    def __init__(self, number: int, total: Resources, labels: dict[str, str]) -> None:
        self.node = node_id(number)
        self.total = total
        self.labels = labels
        self.table = LeaseTable(total, warm=0, node=self.node)
        self.router = LeaseRouter(self.table, ClusterView(), self.node, labels, f"host-{number}:7000")
        self.starting: deque[int] = deque()
        self.workers = 100
        """Process number of the last worker."""

    @property
    def is_idle(self) -> bool:
        return self.table.ledger.free() == dict(self.total.units) and not self.table.leases()


class LeaseCluster:
    """All nodes, what is on the way between them, and what processes hold and want.

    Messages between two nodes keep their order; those of the head (views and deaths) come when they come.
    """

    def __init__(self, *totals: Resources, labels: dict[int, dict[str, str]] | None = None) -> None:
        self.now_s = 100.0
        self.labels = labels or {}
        self.nodes: dict[bytes, Node] = {}
        self.links: dict[tuple[bytes, bytes], deque[ToNode]] = {}
        self.news: dict[bytes, deque[Any]] = {}
        self.wanted: Counter[tuple[bytes, int]] = Counter()
        self.need: dict[tuple[bytes, int], RequestLease] = {}
        self.held: dict[int, tuple[bytes, LeaseGranted]] = {}
        self.reclaimed: set[int] = set()
        self.ended: deque[bytes] = deque()
        """Workers whose holder is gone and that still run something."""
        self.failed: list[tuple[bytes, RequestFailed]] = []
        self.broken: list[tuple[bytes, LeaseBroken]] = []
        self.other: list[Any] = []
        self.gone: set[bytes] = set()
        self.sent: list[ToNode] = []
        self._requests = 0
        self._refused: dict[tuple[bytes, bytes, int, bytes], tuple[int, float]] = {}
        for total in totals:
            self.add_node(total)
        self.tell_all()

    # ------------------------------------------------------------------ what happens

    def add_node(self, total: Resources) -> Node:
        number = len(self.news) + 1
        node = Node(number, total, self.labels.get(number, {}))
        self.nodes[node.node] = node
        self.news[node.node] = deque()
        return node

    def request(self, process: bytes, need: Resources = ONE, count: int = 1, strategy: str = "", **more: Any) -> int:
        self._requests += 1
        message = RequestLease(self._requests, dict(need.units), strategy, count=count, **more)
        self.wanted[process, self._requests] = count
        self.need[process, self._requests] = message
        self._router(process).request(process, self.job_of(process), message, now_s=self.now_s)
        self.carry_out(node_of(process))
        return self._requests

    def job_of(self, process: bytes) -> bytes:
        return driver(1)

    def cancel(self, process: bytes, number: int) -> None:
        del self.wanted[process, number]
        self._router(process).cancel(process, number, self.now_s)
        self.carry_out(node_of(process))

    def give_back(self, lease: int) -> None:
        process, _ = self.held.pop(lease)
        self.reclaimed.discard(lease)
        self._router(process).returned(process, [lease], self.now_s)
        self.carry_out(node_of(process))

    def process_gone(self, process: bytes) -> None:
        """A submitter that is no worker ends."""
        self._forget(process)
        self._router(process).process_gone(process, self.now_s)
        self.carry_out(node_of(process))

    def worker_died(self, worker: bytes, running: bytes = b"") -> None:
        """A worker is killed, which may have submitted tasks itself."""
        self._forget(worker)
        self.nodes[node_of(worker)].table.worker_died(worker, "killed", self.now_s, running)
        self._router(worker).process_gone(worker, self.now_s)
        self.carry_out(node_of(worker))

    def _forget(self, process: bytes) -> None:
        self.gone.add(process)
        for key in [key for key in self.wanted if key[0] == process]:
            del self.wanted[key]
        for lease in [lease for lease, (holder, _) in self.held.items() if holder == process]:
            del self.held[lease]
        self.reclaimed &= self.held.keys()

    def worker_ended(self, worker: bytes) -> None:
        """What an orphaned worker ran has ended."""
        if node_of(worker) in self.nodes:
            self.nodes[node_of(worker)].table.worker_idle(worker, self.now_s)
            self.carry_out(node_of(worker))

    def start_worker(self, node: bytes) -> None:
        one = self.nodes[node]
        number = one.starting.popleft()
        one.workers += 1
        process = make_process_id(int.from_bytes(node, "big"), one.workers)
        one.table.worker_ready(number, process, f"/w{number}", number, self.now_s)
        self.carry_out(node)

    def worker_fails(self, node: bytes) -> None:
        one = self.nodes[node]
        one.table.worker_start_failed(one.starting.popleft(), "exit code 1", self.now_s)
        self.carry_out(node)

    def node_dies(self, node: bytes) -> None:
        """Every other node will hear of it; what it said last may still arrive before that."""
        del self.nodes[node]
        for process in {holder for holder, _ in self.held.values() if node_of(holder) == node}:
            self.gone.add(process)
        self.held = {lease: one for lease, one in self.held.items() if node_of(one[0]) != node}
        self.reclaimed &= self.held.keys()
        for key in [key for key in self.wanted if node_of(key[0]) == node]:
            del self.wanted[key]
        for news in self.news.values():
            news.append(("died", node))

    def tell(self, node: bytes) -> None:
        """The node reports to all others."""
        one = self.nodes[node]
        report = {
            "address": one.router.address,
            "total": dict(one.table.ledger.total.units),
            "available": dict(one.table.ledger.free()),
            "labels": one.labels,
            "queue_length": sum(count for _, count in one.router.demand()),
        }
        for other in self.nodes:
            if other != node:
                self.news[other].append(("report", node, report))

    def tell_all(self) -> None:
        """Every node reports, and every report arrives."""
        for node in self.nodes:
            self.tell(node)
        for node in self.nodes:
            while self.news[node]:
                self.hear(node)

    def hear(self, node: bytes) -> None:
        """The oldest news arrive at the node."""
        what = self.news[node].popleft()
        router = self.nodes[node].router
        if what[0] == "died":
            router.node_died(what[1], "silent for 5 s", self.now_s)
        else:
            router.view.report(what[1], now_s=self.now_s, **what[2])
            router.view_changed(self.now_s)
        self.carry_out(node)

    def deliver(self, sender: bytes, receiver: bytes) -> None:
        """The oldest message on the way from one node to the other arrives."""
        effect = self.links[sender, receiver].popleft()
        if receiver not in self.nodes:
            return
        router = self.nodes[receiver].router
        marker, message = effect.marker, effect.message
        if isinstance(marker, FromProcess):
            router.from_process(marker.process, marker.job, message, self.now_s)
        elif isinstance(marker, ForProcess):
            router.for_process(sender, marker.process, message, self.now_s)
        elif isinstance(message, LeaseRejected):
            router.rejected(sender, message, self.now_s)
            view = router.view.get(sender)
            assert view is not None
            key = (receiver, message.process, message.request, sender)
            self._refused.setdefault(key, (view.revision, self.now_s))
        else:
            assert isinstance(message, ProcessGone)
            router.remote_process_gone(message.process, self.now_s)
        self.carry_out(receiver)

    def tick(self, passed_s: float = 0.05) -> None:
        self.now_s += passed_s
        for node in list(self.nodes.values()):
            node.router.tick(self.now_s)
            self.carry_out(node.node)

    # ------------------------------------------------------------------ until nothing happens

    def run(self) -> None:
        """Deliver everything and start every worker; nothing is reported."""
        while True:
            if busy := [link for link, messages in self.links.items() if messages]:
                self.deliver(*busy[0])
            elif waiting := [node for node in self.nodes.values() if node.starting]:
                self.start_worker(waiting[0].node)
            else:
                return

    def take(self) -> list[tuple[bytes, LeaseGranted]]:
        """Who was granted what and holds it."""
        return [self.held[lease] for lease in sorted(self.held)]

    def nodes_of_grants(self) -> list[int]:
        return sorted(int.from_bytes(node_of(grant.worker), "big") for _, grant in self.held.values())

    # ------------------------------------------------------------------ what routers ask for

    def carry_out(self, node: bytes) -> None:
        one = self.nodes[node]
        one.router.settle(self.now_s)
        for effect in one.router.outbox:
            self._do(one, effect)
        one.router.outbox.clear()
        one.router.validate()

    def _do(self, node: Node, effect: Any) -> None:
        if isinstance(effect, ToNode):
            assert effect.node != node.node, f"{effect} goes to its own node"
            self.sent.append(effect)
            if isinstance(effect.message, RequestLease):
                self._check_visit(node, effect)
            self.links.setdefault((node.node, effect.node), deque()).append(effect)
        elif isinstance(effect, StartWorker):
            node.starting.append(effect.number)
        elif isinstance(effect, Send):
            assert node_of(effect.process) == node.node, f"{effect} is for another node's process"
            self._receive(effect.process, effect.message)
        else:
            assert isinstance(effect, StopWorker | ActorPlaced | ActorDelayed | ActorUnplaceable)
            self.other.append(effect)

    def _check_visit(self, node: Node, effect: ToNode) -> None:
        assert isinstance(effect.marker, FromProcess)
        key = (node.node, effect.marker.process, effect.message.request, effect.node)
        refused = self._refused.pop(key, None)
        view = node.router.view.get(effect.node)
        assert view is not None
        if refused is not None:
            is_news = view.revision != refused[0] or self.now_s - refused[1] >= RETRY_S
            assert is_news, f"{effect} goes to a node that has refused it, and nothing is new there"

    def _receive(self, process: bytes, message: Any) -> None:
        if isinstance(message, LeaseEnded):
            self.ended.append(process)
            return
        assert process not in self.gone, f"{message} for a process that is gone"
        if isinstance(message, LeaseGranted):
            assert (process, message.request) in self.need, f"{message} was never asked for"
            if (process, message.request) in self.wanted:  # else it was cancelled, and this was on its way
                self.wanted[process, message.request] -= 1
                assert self.wanted[process, message.request] >= 0, f"{message} is one more than was asked for"
            assert message.lease not in self.held, f"{message} was granted twice"
            assert message.worker not in {grant.worker for _, grant in self.held.values()}, f"{message}: shared"
            self.held[message.lease] = (process, message)
        elif isinstance(message, LeaseBroken):
            assert self.held.pop(message.lease)[0] == process
            self.reclaimed.discard(message.lease)
            self.broken.append((process, message))
        elif isinstance(message, ReclaimLease):
            if message.lease in self.held:
                self.reclaimed.add(message.lease)
        elif isinstance(message, RequestFailed):
            key = (process, message.request)
            is_justified = "no worker could be started" in message.reason
            assert is_justified or not any(map(self._grants(key), self.nodes.values())), f"{message} could be granted"
            self.wanted.pop(key, None)
            self.failed.append((process, message))
        else:
            self.other.append(message)

    def _router(self, process: bytes) -> LeaseRouter:
        return self.nodes[node_of(process)].router

    # ------------------------------------------------------------------ at the end

    def satisfiable(self) -> list[tuple[bytes, int]]:
        """Requests that some node could grant, and that are not granted."""
        return [key for key, count in self.wanted.items() if count and any(map(self._grants(key), self.nodes.values()))]

    def _grants(self, key: tuple[bytes, int]) -> Callable[[Node], bool]:
        need, strategy = Resources(self.need[key].resources), decode_strategy(self.need[key].strategy)

        def grants(node: Node) -> bool:
            is_there = not strategy.node or strategy.soft or node.node.hex() == strategy.node
            is_labelled = all(condition.matches(node.labels) for condition in strategy.labels)
            return is_there and is_labelled and need.fits_into(node.total.units)

        return grants

    def settle_all(self) -> None:
        """Everybody returns what they hold, time passes, reports arrive: every request that can be is granted."""
        for _ in range(400):
            self.run()
            while self.ended:
                self.worker_ended(self.ended.popleft())
            for lease in list(self.held):
                self.give_back(lease)
            self.run()
            self.tell_all()
            if not self.satisfiable() and not self.held and not any(self.links.values()):
                return
            self.tick(0.1)
        raise AssertionError(f"never granted: {self.satisfiable()}, {list(self.nodes.values())}")
