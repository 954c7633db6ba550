"""Lending at the home: who reads an object's value from whom, which nodes keep a copy, and who frees it at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from remora.base.ids import NodeId, ObjectId
from remora.core.counting.entries import DescribeLoss, Entry, LossReason
from remora.core.counting.reading import Reading
from remora.core.counting.spread import Receiver, Spread
from remora.messages.copies import CopyArrived, CopyDropped, CopyFailed, FreeCopies, KeepCopy, MakeCopy
from remora.messages.counting import Unkeep
from remora.messages.objects import ObjectAt


class Lending(Reading):
    """Holders, reading and lending. :class:`~remora.core.counting.directory.Directory` is the whole."""

    def __init__(self, node: NodeId, describe_loss: DescribeLoss) -> None:
        super().__init__(node, describe_loss)
        self._alive_nodes: list[NodeId] = [node]
        self._node_handlers |= {
            CopyArrived: self.reader_has,
            CopyDropped: self.reader_dropped,
            CopyFailed: self.reader_failed,
        }

    def nodes_changed(self, alive: Iterable[NodeId]) -> None:
        """The nodes of the cluster that live now, this one included: where further copies may be kept."""
        joined = set(alive) - set(self._alive_nodes)
        self._alive_nodes = sorted(set(alive) | {self.node})
        if joined:
            for object_id, entry in self._entries.items():
                if entry.spread is not None:
                    self._keep_enough(object_id, entry)

    # Messages of readers

    def reader_has(self, node: NodeId, message: CopyArrived) -> None:
        for object_id in map(ObjectId, message.ids):
            entry = self._entries.get(object_id)
            if entry is None:
                self._list_or_do(node, FreeCopies, object_id)
            elif entry.spread is not None:
                entry.spread.arrived(node)

    def reader_dropped(self, node: NodeId, message: CopyDropped) -> None:
        for object_id, entry in self._lent(message.ids):
            assert entry.spread is not None
            receiver = entry.spread.receiving.get(node)
            entry.spread.dropped(node)
            if receiver is not None and receiver.is_to_keep:
                self._keep_elsewhere(node, object_id, entry)

    def reader_failed(self, node: NodeId, message: CopyFailed) -> None:
        for object_id, entry in self._lent(message.ids):
            assert entry.spread is not None
            receiver = entry.spread.receiving.get(node)
            if receiver is None:
                error = self._lost(object_id, LossReason.UNREACHABLE, message.source, message.reason)
                self._give(node, object_id, error, for_now=True)
                continue
            receiver.failed.add(NodeId(message.source))
            receiver.sources = []
            if entry.can_be_read:
                self._lend(node, object_id, entry, message.reason)
            else:
                entry.waiters = entry.waiters or {}
                entry.waiters[node] = 0

    def _lent(self, ids: list[bytes]) -> Iterator[tuple[ObjectId, Entry]]:
        for object_id in map(ObjectId, ids):
            entry = self._entries.get(object_id)
            if entry is not None and entry.spread is not None:
                yield object_id, entry

    # Steps

    def _lend(self, node: NodeId, object_id: ObjectId, entry: Entry, detail: str = "") -> None:
        """Tell the node where to read the stored value; an error when there is nobody left to ask."""
        location = entry.value.location
        assert location is not None
        if entry.spread is None:
            entry.spread = Spread()
        receiver = entry.spread.receiving.get(node)
        sources = entry.spread.sources_for(node, NodeId(location.node))
        if sources:
            self._tell_node(node, ObjectAt(object_id, entry.value, entry.writer, list[bytes](sources)))
        else:
            error = self._lost(object_id, LossReason.UNREACHABLE, location.node, detail)
            self._give(node, object_id, error, for_now=True)
            if receiver is not None and receiver.is_to_keep:
                self._keep_elsewhere(node, object_id, entry)

    def _free_spread(self, object_id: ObjectId, entry: Entry) -> None:
        """The object is freed: so is every copy, whole or arriving."""
        spread, entry.spread = entry.spread, None
        if spread is None:
            return
        for node in spread.evictable:
            self._list_or_do(node, FreeCopies, object_id)
        for node in spread.kept:
            self._unkeep(object_id, node, entry.writer)

    def _unkeep(self, object_id: ObjectId, node: NodeId, writer: bytes) -> None:
        if node == self.node:
            self._copies.release(object_id, writer, node)
        else:
            self._tell(node, Unkeep(object_id, writer))

    def _list_or_do(self, node: NodeId, kind: type, object_id: bytes) -> None:
        """Send ``kind([id])`` to a node's daemon, which may be this one."""
        if node == self.node:
            self._node_handlers[kind](node, kind([object_id]))
        else:
            self._list(node, kind, object_id)

    # Further copies

    def _keep_enough(self, object_id: ObjectId, entry: Entry) -> None:
        spread, location = entry.spread, entry.value.location
        if spread is None or spread.wanted <= 1 or location is None or not entry.can_be_read:
            return
        while True:
            keepers = {NodeId(location.node), *spread.kept}
            keepers |= {node for node, receiver in spread.receiving.items() if receiver.is_to_keep}
            free = [node for node in self._alive_nodes if node not in keepers and node not in spread.refused]
            if len(keepers) >= spread.wanted or not free:
                return
            self._make_copy(object_id, entry, spread, self._next_keeper(free, spread))

    def _keep_elsewhere(self, node: NodeId, object_id: ObjectId, entry: Entry) -> None:
        """The node, which was to keep a copy, gets none."""
        assert entry.spread is not None
        entry.spread.refused.add(node)
        self._keep_enough(object_id, entry)

    def _next_keeper(self, free: list[NodeId], spread: Spread) -> NodeId:
        """One that has the value already, else the next one after this node, so that homes spread their load."""
        whole = [node for node in free if node in spread.complete]
        later = [node for node in free if node > self.node]
        return (whole or later or free)[0]

    def _make_copy(self, object_id: ObjectId, entry: Entry, spread: Spread, node: NodeId) -> None:
        location = entry.value.location
        assert location is not None
        if node in spread.complete:
            del spread.complete[node]
            spread.receiving[node] = Receiver()
            spread.receiving[node].is_to_keep = True
            self._tell_node(node, KeepCopy(object_id, entry.writer, spread.wanted))
            return
        sources = spread.sources_for(node, NodeId(location.node))
        if not sources:
            spread.refused.add(node)
            return
        spread.receiving[node].is_to_keep = True
        self._tell_node(node, MakeCopy(object_id, entry.value, entry.writer, list[bytes](sources), spread.wanted))
