"""Leases whose resources are those of placement groups: they come with the bundle, and end with the group."""

from __future__ import annotations

from typing import Any

from remora.base.bundle_names import in_group
from remora.base.resources import Resources
from remora.core.cluster_view import ClusterView
from remora.core.lease import ActorUnplaceable, Send
from remora.core.lease_routing import LeaseRouter
from remora.core.leases import LeaseTable
from remora.core.worker_pool import StartWorker
from remora.messages.leases import LeaseGranted, RequestFailed, RequestLease

NODE = b"\0\0\0\1"
DRIVER, JOB, ACTOR = NODE + b"\0\0\0\1", b"job-one.", b"actor-0123456789"
GROUP, OTHER = bytes(range(16)), bytes(16)
ONE = Resources.of(num_cpus=1)
GONE = "its placement group is gone"


class Node:
    """A router with its table; workers start when asked for, if told so."""

    def __init__(self, cpus: int, starts: bool = True) -> None:
        self.table = LeaseTable(Resources.of(num_cpus=cpus), warm=0, node=NODE)
        self.router = LeaseRouter(self.table, ClusterView(), NODE)
        self.starts = starts
        self.started = 0
        self.sent: list[Any] = []

    def request(self, number: int, group: bytes = GROUP, index: int = -1) -> None:
        message = RequestLease(number, dict(in_group(ONE, group, index).units))
        self.router.request(DRIVER, JOB, message, now_s=0.0)
        self.run()

    def add_bundles(self, count: int, group: bytes = GROUP) -> None:
        assert self.table.bundles.reserve(group, 1, dict.fromkeys(range(count), ONE))
        assert self.table.bundles.commit(group, 1)
        self.bundles_changed()

    def remove_bundles(self, group: bytes = GROUP) -> None:
        self.table.bundles.give_back(group)
        self.table.bundles.outbox.clear()
        self.bundles_changed()

    def bundles_changed(self) -> None:
        self.table.bundles_changed(0.0)
        self.router.view_changed(0.0)
        self.run()

    def run(self) -> None:
        self.router.settle(0.0)
        while self.router.outbox:
            effects = self.router.outbox[:]
            self.router.outbox.clear()
            for effect in effects:
                if isinstance(effect, StartWorker) and self.starts:
                    self.started += 1
                    self.table.worker_ready(effect.number, NODE + b"w%03d" % self.started, "/w", 0, 0.0)
                elif isinstance(effect, Send):
                    self.sent.append(effect.message)
                else:
                    self.sent.append(effect)
            self.router.settle(0.0)
        self.router.validate()

    def granted(self) -> list[int]:
        return [message.request for message in self.sent if isinstance(message, LeaseGranted)]


def test_a_request_waits_for_the_bundle_and_then_has_its_turn() -> None:
    node = Node(cpus=2)
    node.request(1)
    assert not node.granted()
    node.add_bundles(1)
    assert node.granted() == [1]
    node.request(2)
    assert node.granted() == [1], "the bundle has one CPU, whatever the node has"


def test_whoever_waits_for_a_group_that_is_removed_fails_and_others_do_not() -> None:
    node = Node(cpus=4)
    node.add_bundles(1, OTHER)
    node.request(1, OTHER)
    node.request(2, OTHER)
    node.request(3)
    node.sent.clear()
    assert node.router.group_removed(GROUP, GONE, 0.0) == []
    node.run()
    assert node.sent == [RequestFailed(3, GONE, True)]
    (worker,) = node.router.group_removed(OTHER, GONE, 0.0)
    node.run()
    assert node.sent[1:] == [RequestFailed(2, GONE, True)]
    node.remove_bundles(OTHER)
    assert "CPU" in node.table.ledger.total
    assert node.table.ledger.free()["CPU"] == 30_000, "the worker still runs"
    node.table.worker_died(worker, GONE, 0.0)
    assert node.table.bundles.settle()
    node.bundles_changed()
    assert node.table.ledger.available() == {"CPU": 4.0}


def test_a_request_that_waits_for_its_worker_process_fails_too() -> None:
    node = Node(cpus=1, starts=False)
    node.add_bundles(1)
    node.request(1)
    node.sent.clear()
    assert node.router.group_removed(GROUP, GONE, 0.0) == []
    node.run()
    assert node.sent == [RequestFailed(1, GONE, True)]
    node.remove_bundles()
    assert node.table.ledger.available() == {"CPU": 1.0}


def test_an_actor_of_a_removed_group_can_never_be_placed() -> None:
    node = Node(cpus=1)
    node.table.request_actor(ACTOR, JOB, in_group(ONE, GROUP), in_group(ONE, GROUP), now_s=0.0)
    node.router.group_removed(GROUP, GONE, 0.0)
    node.run()
    assert node.sent == [ActorUnplaceable(ACTOR, GONE)]
    node.table.requester_gone(ACTOR, 0.0)
    node.table.request_actor(ACTOR, JOB, in_group(ONE, GROUP), in_group(ONE, GROUP), now_s=0.0)
    node.run()
    assert node.sent[1:] == [ActorUnplaceable(ACTOR, GONE)], "nor when it is made again"
