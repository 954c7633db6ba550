"""What the nodes and the head have said of what runs, as one: actors with where they live, processes with their names.

Each node knows its processes, and which of them are workers of which actor; the head knows the actors. They are joined
by the ids of actors. An actor whose node has not answered has no pid here.
"""

from __future__ import annotations

import msgspec

from remora.base.resources import Resources
from remora.messages.inspection import (
    ActorReport,
    NodeReport,
    ProcessStatus,
    SilentNode,
    StatusReport,
    StoreUsage,
    TransferReport,
    WaitingLease,
)
from remora.messages.placement_groups import STATE_NAMES, PlacementGroupReport


class NodeRow(msgspec.Struct, frozen=True):
    """A node that has answered."""

    node: NodeReport
    store: StoreUsage
    transfers: TransferReport | None


class ActorRow(msgspec.Struct, frozen=True):
    """An actor that lives, or whose handles do. ``node`` is empty and ``pid`` 0 for one that has no worker."""

    actor: bytes
    class_name: str
    name: str
    namespace: str
    state: str
    node: bytes
    pid: int
    restarts: int
    cause: str
    job: bytes
    is_detached: bool


class GroupRow(msgspec.Struct, frozen=True):
    """A placement group; ``bundles`` are the amounts in ones, ``nodes`` where each of them is, or empty."""

    group: bytes
    name: str
    namespace: str
    strategy: str
    state: str
    bundles: list[dict[str, float]]
    nodes: list[bytes]
    reason: str
    job: bytes
    is_detached: bool


class ClusterStatus(msgspec.Struct, frozen=True):
    """Everything, as tables and JSON show it. ``silent`` are nodes that did not answer; ``dead`` ones were members."""

    nodes: list[NodeRow]
    processes: list[ProcessStatus]
    actors: list[ActorRow]
    waiting: list[WaitingLease]
    placement_groups: list[GroupRow]
    silent: list[SilentNode]
    dead: list[NodeReport]


def join_status(report: StatusReport) -> ClusterStatus:
    """The report as one."""
    class_names = {actor.actor: actor.class_name for actor in report.actors}
    processes = [
        msgspec.structs.replace(process, name=process.name or actor_name(class_names, process.actor))
        for node in report.nodes
        for process in node.processes
    ]
    return ClusterStatus(
        [NodeRow(node.node, node.store, node.transfers) for node in report.nodes],
        processes,
        _join_actors(report.actors, processes),
        [one for node in report.nodes for one in node.waiting],
        [_group_row(group) for group in report.placement_groups],
        report.silent,
        report.dead,
    )


def actor_name(class_names: dict[bytes, str], actor: bytes) -> str:
    """What the worker of an actor is called; empty for one of no actor."""
    return class_names.get(actor, "actor") if actor else ""


def _join_actors(actors: list[ActorReport], processes: list[ProcessStatus]) -> list[ActorRow]:
    pids = {process.process: process.pid for process in processes}
    workers = {process.actor: process.process for process in processes if process.actor}
    rows = []
    for actor in actors:
        worker = b"" if actor.state == "dead" else actor.worker or workers.get(actor.actor, b"")
        rows.append(
            ActorRow(
                actor.actor,
                actor.class_name,
                actor.name,
                actor.namespace,
                actor.state,
                worker[:4],
                pids.get(worker, 0),
                actor.restarts,
                actor.cause,
                actor.job,
                actor.is_detached,
            )
        )
    return rows


def _group_row(report: PlacementGroupReport) -> GroupRow:
    row = report.row
    return GroupRow(
        row.group,
        row.name,
        row.namespace,
        row.strategy,
        STATE_NAMES[row.state].lower(),
        [Resources(bundle).to_floats() for bundle in row.bundles],
        row.nodes,
        report.reason,
        row.job,
        row.detached,
    )
