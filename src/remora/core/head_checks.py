"""What a member may say to the head: of itself and of its own processes, in amounts and ids that make sense.

Whoever has the secret of a cluster may run code on all of it, so this keeps nobody out. It keeps the mistakes of one
node from becoming those of all: what passes here is written down, told to every other node, and read again by the next
head.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from remora.base.ids import NODE_ID_SIZE_BYTES, OBJECT_ID_SIZE_BYTES, PROCESS_ID_SIZE_BYTES, node_of, short
from remora.base.network_address import split_address
from remora.base.resources import MAX_UNITS
from remora.messages import actors, placement_groups
from remora.messages import head as m
from remora.messages.links import FromProcess, ProcessGone

MAX_BOOT_BYTES = 64
GROUP_ID_SIZE_BYTES = 16

_PROCESS_OF: dict[type, str] = {
    m.JobStarted: "job",
    m.JobEnded: "job",
    m.ActorPlaced: "worker",
    m.ProcessEnded: "process",
    ProcessGone: "process",
}
"""Messages of a daemon about a process, which must be one of its own, and the field that names it."""


def check_join(message: m.JoinCluster) -> None:
    """
    Raises:
        ValueError: what the node says of itself cannot be.
    """
    split_address(message.address)
    if not 0 < len(message.boot) <= MAX_BOOT_BYTES:
        raise ValueError("its daemon gave itself no name")
    check_amounts(message.total)
    check_amounts({"bytes of the store": message.store_limit_bytes})


def check_load(message: m.NodeLoad) -> None:
    """
    Raises:
        ValueError: a node cannot have this.
    """
    check_amounts(message.total)
    check_amounts(message.available, lowest=-MAX_UNITS)  # a task that has waited may go on although all is taken
    for shape, count in message.demand:
        check_amounts(shape)
        check_amounts({"count": count})
    check_amounts({"queue length": message.queue_length, "free bytes of the store": message.store_free_bytes})


def check_node_message(node: bytes, message: Any, members: Iterable[bytes]) -> None:
    """Look at what the daemon of *node* says, while there are these *members*.

    Raises:
        ValueError: it says this of what is not its own.
    """
    name = type(message).__name__
    field = _PROCESS_OF.get(type(message))
    if field is not None:
        _check_own_process(node, getattr(message, field), name)
    elif isinstance(message, m.ActorHandlesGone):
        # The heir of a dead node answers for its objects.
        home = node_of(message.actor)
        if home != node and home in members:
            raise ValueError(f"it sent {name} of actor {short(message.actor)}, whose home is node {short(home)}")


def check_process_message(node: bytes, marker: Any, message: Any) -> None:
    """Look at who says this on the stream of *node*.

    Raises:
        ValueError: no process of this node does.
    """
    name = type(message).__name__
    if not isinstance(marker, FromProcess):
        raise ValueError(f"it marked {name} with {type(marker).__name__}")
    _check_own_process(node, marker.process, name)
    if len(marker.job) not in (0, PROCESS_ID_SIZE_BYTES):
        raise ValueError(f"it sent {name} of a job that is none: {marker.job[:OBJECT_ID_SIZE_BYTES].hex()}")


def check_contents(node: bytes, message: Any) -> None:
    """Look at what a process of *node* says.

    Raises:
        ValueError: it makes something with an id that is not its node's, or with amounts that cannot be.
    """
    if isinstance(message, actors.CreateActor):
        if len(message.actor) != OBJECT_ID_SIZE_BYTES or node_of(message.actor) != node:
            raise ValueError(f"an actor cannot have the id {message.actor[:OBJECT_ID_SIZE_BYTES].hex()} here")
        check_amounts(message.spec.resources)
        check_amounts(message.spec.placement)
    elif isinstance(message, placement_groups.CreatePlacementGroup):
        if len(message.group) != GROUP_ID_SIZE_BYTES:
            raise ValueError(f"a placement group cannot have the id {message.group[:GROUP_ID_SIZE_BYTES].hex()}")
        for bundle in message.bundles:
            check_amounts(bundle)
    elif isinstance(message, placement_groups.BundlesAnswer):
        check_amounts(message.available, lowest=-MAX_UNITS)


def check_amounts(units: Mapping[str, int], lowest: int = 0) -> None:
    """
    Raises:
        ValueError: an amount is too large, or too small.
    """
    for name, amount in units.items():
        if not lowest <= amount <= MAX_UNITS:
            raise ValueError(f"there cannot be {amount} units of {name[:100]!r}")


def _check_own_process(node: bytes, process: bytes, name: str) -> None:
    if len(process) != PROCESS_ID_SIZE_BYTES or process[:NODE_ID_SIZE_BYTES] != node:
        raise ValueError(
            f"it sent {name} of process {short(process[:OBJECT_ID_SIZE_BYTES])}, which is not one of its own"
        )
