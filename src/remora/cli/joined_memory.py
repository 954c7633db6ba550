"""What the nodes have said of their objects, as one: holders on other nodes with their lines, and what is leaked.

An object's home knows the ids of all its holders, and of those on other nodes nothing more; what they are, and from
which line they have it, is in the parts of their nodes. The same holds for what is leaked: each home suspects what no
process reaches that it knows of, and only all of them together know.
"""

from __future__ import annotations

import msgspec

from remora.base.ids import node_of
from remora.cli.joined_status import actor_name
from remora.core.counting.leaks import leaked_in_cluster
from remora.messages.inspection import (
    ForeignUse,
    Holder,
    MemoryReport,
    NodeMemory,
    NodeReport,
    ObjectReport,
    ProcessMemory,
    PullReport,
    SilentNode,
    StoreContents,
    StoreUsage,
)


class NodeStore(msgspec.Struct, frozen=True):
    """A node that has answered, its store, and the objects whose home it is."""

    node: NodeReport
    store: StoreUsage
    contents: StoreContents
    pulls: list[PullReport]
    total_objects: int
    inline_bytes: int


class ClusterMemory(msgspec.Struct, frozen=True):
    """Everything, as tables and JSON show it: see the messages of :mod:`remora.messages.inspection`."""

    nodes: list[NodeStore]
    objects: list[ObjectReport]
    processes: list[ProcessMemory]
    total_objects: int
    silent: list[SilentNode]
    dead: list[NodeReport]


def join_memory(report: MemoryReport, max_objects: int) -> ClusterMemory:
    """The report as one, with the *max_objects* largest objects of all nodes, and with all that are leaked."""
    return _Joiner(report).join(max_objects)


class _Joiner:
    def __init__(self, report: MemoryReport) -> None:
        self._report = report
        self._class_names = {actor.actor: actor.class_name for actor in report.actors}
        self._creations = {actor.worker: actor.actor for actor in report.actors if actor.worker}
        self._processes: dict[bytes, ProcessMemory] = {}
        for node in report.nodes:
            for process in node.processes:
                name = actor_name(self._class_names, process.actor) or process.name
                self._processes[process.process] = msgspec.structs.replace(process, name=name)
        self._answered = {node.node.node for node in report.nodes}
        self._sites: dict[tuple[bytes, bytes], str] = {}
        self._views: dict[bytes, tuple[int, int]] = {}
        for node in report.nodes:
            for use in node.foreign:
                self._read(use)

    def _read(self, use: ForeignUse) -> None:
        for ref in use.refs:
            if ref.site:
                self._sites[use.process, ref.id] = use.sites[ref.site]
        for pin in use.pins:
            views, viewed_bytes = self._views.get(pin.id, (0, 0))
            self._views[pin.id] = (views + pin.views, viewed_bytes + pin.size_bytes)

    def join(self, max_objects: int) -> ClusterMemory:
        nodes = self._report.nodes
        objects = [one for node in nodes for one in node.objects]
        leaked = leaked_in_cluster({one.id: self._held_by(one) for one in objects if one.is_leaked})
        objects.sort(key=lambda one: one.size_bytes, reverse=True)
        shown = [one for number, one in enumerate(objects) if number < max_objects or one.id in leaked]
        return ClusterMemory(
            [_store_of(node) for node in nodes],
            [self._object(one, one.id in leaked) for one in shown],
            list(self._processes.values()),
            sum(node.total_objects for node in nodes),
            self._report.silent,
            self._report.dead,
        )

    def _held_by(self, one: ObjectReport) -> list[bytes]:
        """The objects that hold it: those that contain it, and the creations of the actors that do."""
        return [
            holder.id if holder.kind == "container" else self._creations.get(holder.id, b"") for holder in one.holders
        ]

    def _object(self, one: ObjectReport, is_leaked: bool) -> ObjectReport:
        views, viewed_bytes = self._views.get(one.id, (0, 0))
        class_name = self._class_names.get(one.id, "")
        return msgspec.structs.replace(
            one,
            holders=[self._holder(one.id, holder) for holder in one.holders],
            views=one.views + views,
            viewed_bytes=one.viewed_bytes + viewed_bytes,
            is_leaked=is_leaked,
            name=f"actor {class_name}" if class_name else one.name,
        )

    def _holder(self, object_id: bytes, holder: Holder) -> Holder:
        if holder.kind in ("container", "detached"):
            return holder
        process = self._processes.get(holder.id)
        if process is None:
            silent = "ended, forgotten soon" if node_of(holder.id) in self._answered else "process of a silent node"
            return msgspec.structs.replace(holder, name=holder.name or silent)
        site = holder.site or self._sites.get((holder.id, object_id), "")
        return msgspec.structs.replace(holder, pid=process.pid, name=process.name, site=site)


def _store_of(node: NodeMemory) -> NodeStore:
    return NodeStore(node.node, node.store, node.contents, node.pulls, node.total_objects, node.inline_bytes)
