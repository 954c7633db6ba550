"""Kept copies at the home: ``put(x, copies=n)``, and a copy that takes the place of a primary one that was lost."""

from __future__ import annotations

import msgspec

from remora.base.ids import NodeId, ObjectId
from remora.core.counting.entries import DescribeLoss, Entry, LossReason
from remora.core.counting.spread import Spread
from remora.core.counting.values import Values
from remora.core.counting.vocabulary import Hold
from remora.messages.copies import CopyKept, KeepCopy
from remora.messages.objects import Location, WantCopies


class Keeping(Values):
    """Values, and copies of them that are kept. :class:`~remora.core.counting.directory.Directory` is the whole."""

    def __init__(self, node: NodeId, describe_loss: DescribeLoss) -> None:
        super().__init__(node, describe_loss)
        self._node_handlers |= {WantCopies: self.want_copies, CopyKept: self.copy_kept}

    # Messages

    def want_copies(self, sender: bytes, message: WantCopies) -> None:
        """A process of this node, or another node for one of its own, wants values kept on so many nodes."""
        for object_id in map(ObjectId, message.ids):
            entry = self._entries.get(object_id)
            if entry is None:
                self._want_copies_elsewhere(object_id, message.count)
                continue
            entry.spread = entry.spread or Spread()
            entry.spread.wanted = max(entry.spread.wanted, message.count)
            self._keep_enough(object_id, entry)

    def copy_kept(self, node: NodeId, message: CopyKept) -> None:
        object_id = ObjectId(message.id)
        entry = self._entries.get(object_id)
        spread = entry.spread if entry is not None else None
        if entry is None or spread is None or entry.writer != message.writer:
            if message.ok:
                self._unkeep(object_id, node, message.writer)
            return
        if message.ok:
            spread.keep(node)
        if spread.promoted == node:
            spread.promoted = None
            if message.ok:
                self._take_place(object_id, entry, node)
            else:
                spread.complete.pop(node, None)
                self._promote_next(object_id, entry)
        elif not message.ok:
            spread.remove(node)
        self._keep_enough(object_id, entry)

    def _want_copies_elsewhere(self, object_id: ObjectId, count: int) -> None:
        """The home is another node; here an unknown id is one that was freed."""
        if self._home(object_id) != self.node:
            self._list_home(object_id, WantCopies, count)

    # Another primary copy

    def _go_on_without(self, dead: NodeId, object_id: ObjectId, entry: Entry) -> None:
        """A node with a copy that is not the primary one died."""
        spread = entry.spread
        assert spread is not None
        if spread.promoted == dead:
            spread.promoted = None
            self._promote_next(object_id, entry)
        elif entry.spread is not None:
            self._keep_enough(object_id, entry)

    def _promote(self, object_id: ObjectId, entry: Entry) -> None:
        """The node with the primary copy died: another copy takes its place, or the value is lost."""
        spread = entry.spread or Spread()
        entry.spread = spread
        entry.copy = Hold.ASKED
        spread.candidates = [*spread.kept, *spread.complete, *spread.receiving]
        self._promote_next(object_id, entry)

    def _promote_next(self, object_id: ObjectId, entry: Entry) -> None:
        spread = entry.spread
        assert spread is not None
        while spread.candidates:
            node = spread.candidates.pop(0)
            if node not in self._dead_nodes:
                spread.promoted = node
                self._tell_node(node, KeepCopy(object_id, entry.writer, spread.wanted))
                return
        location = entry.value.location
        assert location is not None
        self._lose(object_id, entry, LossReason.NODE_DIED, location.node)
        for node in spread.receiving:
            self._give(node, object_id, entry.value)
        entry.spread = None
        self._acknowledge_publication(object_id, entry)
        self._wake(object_id, entry)

    def _take_place(self, object_id: ObjectId, entry: Entry, node: NodeId) -> None:
        """The copy of the node is the primary one now."""
        assert entry.spread is not None
        assert entry.value.location is not None
        entry.spread.kept.pop(node, None)
        own = self._copies.location(object_id, entry.writer) if node == self.node else None
        location = own or Location(node, 0, entry.value.location.size_bytes)
        entry.value = msgspec.structs.replace(entry.value, location=location)
        entry.copy = Hold.HELD
        self._acknowledge_publication(object_id, entry)
        self._wake(object_id, entry)
