"""What a lease router keeps: requests with the places of their units, leases at other nodes, and its effects."""

from __future__ import annotations

from typing import Any

import msgspec

from remora.base.ids import short
from remora.base.resources import Resources
from remora.base.scheduling import Strategy, decode_strategy
from remora.core.cluster_view import NodeView
from remora.core.lease import ActorDelayed, ActorPlaced, ActorUnplaceable, Send
from remora.core.worker_pool import StartWorker, StopWorker
from remora.messages.leases import RequestLease
from remora.messages.links import ForProcess, FromProcess

RETRY_S = 1.0
"""After so long a node that had no room is asked again without news of it: it says nothing about room that came and
went and came again."""


class ToNode(msgspec.Struct, frozen=True):
    """Send the message to the node's daemon, behind *marker* if there is one."""

    node: bytes
    marker: FromProcess | ForProcess | None
    message: Any


RouterEffect = Send | ToNode | ActorPlaced | ActorDelayed | ActorUnplaceable | StartWorker | StopWorker

ShapeKey = tuple[bytes, Resources, str, str]
"""Job, resources, strategy, environment."""


class RequestShape:
    """All requests of one sort. A node that refused one of them has no room for the others, either."""

    __slots__ = ("key", "last_node", "need", "refused", "requests", "strategy", "units")

    def __init__(self, key: ShapeKey) -> None:
        self.key = key
        self.need = key[1]
        self.strategy: Strategy = decode_strategy(key[2])
        self.last_node = b""
        """The one chosen last: turns go on from there."""
        self.refused: dict[bytes, tuple[int, float]] = {}
        """Node to the revision of its view and the time at which it refused."""
        self.requests: dict[RoutedRequest, None] = {}
        self.units = 0
        """How many leases are still to come, for all of them."""

    def is_refused_by(self, node: NodeView, now_s: float) -> bool:
        """Whether the node has refused, and nothing new is known of it."""
        refused = self.refused.get(node.node)
        return refused is not None and refused[0] == node.revision and now_s - refused[1] < RETRY_S

    def __repr__(self) -> str:
        return f"<RequestShape {self.need} {self.strategy}: {len(self.requests)} requests>"


class RoutedRequest:
    """A request of a process of this node. Each of its units is in one place."""

    __slots__ = (
        "asked_after",
        "at",
        "at_table",
        "failed",
        "is_reported",
        "message",
        "patient",
        "process",
        "shape",
        "since_s",
        "waiting",
    )

    def __init__(self, process: ProcessRecord, shape: RequestShape, message: RequestLease, since_s: float) -> None:
        self.process = process
        self.shape = shape
        self.message = message
        self.since_s = since_s
        self.waiting = message.count
        """Units that wait here, because this node may not run them and no other one has room."""
        self.at_table = 0
        """Units at this node's own table, waiting for resources or for a worker process."""
        self.at: dict[bytes, int] = {}
        """Node to units that it was asked for and has not answered."""
        self.asked_after: dict[bytes, int] = {}
        """The same nodes, and how many reports of theirs were heard before."""
        self.patient: dict[bytes, bool] = {}
        """Nodes at which units wait for their turn; true when they were called back."""
        self.failed: dict[bytes, str] = {}
        """Nodes that could start no worker for it, and why."""
        self.is_reported = False

    def take_from_table(self, count: int) -> None:
        """So many units that were at the table wait here."""
        self.at_table -= count
        self.waiting += count

    @property
    def number(self) -> int:
        """The number that its process gave it."""
        return self.message.request

    @property
    def units(self) -> int:
        """How many leases are still to come."""
        return self.waiting + self.at_table + sum(self.at.values())

    def __repr__(self) -> str:
        at = "".join(f" {count} at {short(node)}" for node, count in self.at.items())
        return (
            f"<RoutedRequest {self.number} of {short(self.process.process)}: {self.waiting} here, "
            f"{self.at_table} at the table{at}>"
        )


class RemoteLease(msgspec.Struct, frozen=True):
    """A worker of another node that a process of this one holds."""

    process: bytes
    node: bytes
    worker: bytes
    need: Resources


class ProcessRecord:
    """A process of this node that has asked for leases."""

    __slots__ = ("job", "leases", "nodes", "process", "requests")

    def __init__(self, process: bytes, job: bytes) -> None:
        self.process = process
        self.job = job
        self.requests: dict[int, RoutedRequest] = {}
        self.leases: dict[int, RemoteLease] = {}
        """Those at other nodes."""
        self.nodes: dict[bytes, None] = {}
        """Nodes that have heard of it."""

    def __repr__(self) -> str:
        return f"<ProcessRecord {short(self.process)} {list(self.requests.values())} leases={list(self.leases)}>"
