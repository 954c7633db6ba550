"""Other nodes at the home: what they hold here, the copies that homes keep with each other, links lost, deaths.

Between daemons that live, everything said arrives once and in order, whatever becomes of the connections (decision 18).
``Sync`` and `node_reconnected` are for links that do lose something. The daemon does not use them. They stay because
they are a part of the protocol, without which what it says of a lost link (void what the old one asked, list all that
is held) would be a claim: the simulation cuts links to show it, as long as no node dies meanwhile, and breaks without.
"""

from __future__ import annotations

import msgspec

from remora.base.ids import NodeId, ObjectId, ProcessId, short
from remora.base.object_ref import PENDING
from remora.core.counting.entries import DescribeLoss, Entry
from remora.core.counting.keeping import Keeping
from remora.core.counting.parking import GetRequest, HoldRequest, KeepRequest
from remora.core.counting.vocabulary import NOBODY, CountingError, home_of, is_container
from remora.messages import counting as m
from remora.messages.copies import CopyKept, FreeCopies, NodeResolve, NodeResolved
from remora.messages.counting import PublishAck
from remora.messages.objects import GetObjects


class OtherNodes(Keeping):
    """Holders, values and other nodes. :class:`~remora.core.counting.directory.Directory` is the whole."""

    def __init__(self, node: NodeId, describe_loss: DescribeLoss) -> None:
        super().__init__(node, describe_loss)
        self._resolving: dict[ObjectId, tuple[ProcessId, NodeResolve]] = {}
        """Values that workers here gave to other homes, and that contain something which these do not hold yet."""
        self._node_handlers |= {
            m.NodeRegister: self.node_register,
            m.NodeAck: self.node_ack,
            m.NodeRelease: self.node_release,
            m.Keep: self.keep,
            m.KeepAck: self.keep_ack,
            m.Unkeep: self.unkeep,
            m.Sync: self.sync,
            NodeResolve: self.node_resolve,
            NodeResolved: self.node_resolved,
        }

    def node_message(self, node: NodeId, message: msgspec.Struct) -> None:
        """A message of another node's daemon. Those of nodes that were declared dead are ignored.

        Raises:
            CountingError: the node speaks for another one, or says what no daemon says.
        """
        if node in self._dead_nodes:
            return
        handler = self._node_handlers.get(type(message))
        if handler is None:
            raise CountingError(f"node {short(node)} sent {type(message).__name__}, which no daemon says")
        handler(node, message)

    def node_register(self, node: NodeId, message: m.NodeRegister) -> None:
        self._require_holder_of(node, message.holder)
        for object_id in message.ids:
            self._add_holder(HoldRequest(object_id, message.holder))

    def node_ack(self, node: NodeId, message: m.NodeAck) -> None:
        for object_id in message.ids:
            self._foreign_answered(ObjectId(object_id), message.holder, message.ok)

    def node_release(self, node: NodeId, message: m.NodeRelease) -> None:
        self._require_holder_of(node, message.holder)
        self._drop([ObjectId(object_id) for object_id in message.ids], message.holder)

    def keep(self, node: NodeId, message: m.Keep) -> None:
        self._keep_copy(KeepRequest(message.id, node, message.writer, tuple(message.contents)))

    def keep_ack(self, node: NodeId, message: m.KeepAck) -> None:
        object_id = ObjectId(message.id)
        entry = self._entries.get(object_id)
        if entry is not None and entry.spread is not None and entry.spread.promoted == node:
            self.copy_kept(node, CopyKept(object_id, entry.writer, message.ok))
        else:
            self._copy_answered(object_id, message.ok)

    def unkeep(self, node: NodeId, message: m.Unkeep) -> None:
        self._parking.discard(lambda r: isinstance(r, KeepRequest) and r.node == node, message.id)
        self._copies.release(message.id, message.writer, node)

    # Results whose submitter, a process of another node, is dead

    def _resolve_elsewhere(self, object_id: ObjectId, process: ProcessId, message: m.Resolve) -> None:
        home, value = self._home(object_id), message.value
        if home == NOBODY:
            self._refuse_value(object_id, value, process, message.writer)
            return
        if value.location is not None:
            self._copies.add(object_id, process, value.location, home)
            self._copies.describe(object_id, process, value.contents)
        told = NodeResolve(object_id, value, process)
        if value.contents:
            self._resolving[object_id] = (process, told)
        self._tell(home, told)

    def node_resolve(self, node: NodeId, message: NodeResolve) -> None:
        object_id, writer = ObjectId(message.id), ProcessId(message.writer)
        self._require_holder_of(node, writer)
        entry = self._entries.get(object_id)
        if entry is not None and entry.value.state == PENDING:
            self._set_value(object_id, entry, message.value, writer, writer)
            if entry.spread is not None:
                self._keep_enough(object_id, entry)
        elif entry is None or entry.writer != writer:
            if message.value.location is not None:
                self._unkeep(object_id, node, writer)
            self._acknowledge_to(writer, object_id)
        elif entry.acknowledge is None:
            self._acknowledge_to(writer, object_id)  # it was told before a link was lost

    def node_resolved(self, node: NodeId, message: NodeResolved) -> None:
        for object_id in map(ObjectId, message.ids):
            self._resolved(object_id)

    def _resolved(self, object_id: ObjectId) -> None:
        if object_id in self._resolving:
            process, _ = self._resolving.pop(object_id)
            self._list(process, PublishAck, object_id)

    # Links that break without a death

    def sync(self, node: NodeId, message: m.Sync) -> None:
        """What the node does not list it does not have; what it lists and we do not know of, it asks for anew."""
        listed = {(ObjectId(object_id), holder) for object_id, holder in message.held}
        for object_id, holder in self._held_from(node):
            if (object_id, holder) not in listed:
                self._drop([object_id], holder)
        for held, holder in message.held:
            self._require_holder_of(node, holder)
            self._add_holder(HoldRequest(held, holder))
        kept = set(message.kept)
        for copied, writer in self._copies.of_keeper(node):
            if (copied, writer) not in kept:
                self._copies.release(copied, writer, node)
        for copied, writer in message.kept:
            self._keep_copy(KeepRequest(copied, node, writer))
        self._sync_readers(node, set(message.copies))

    def _sync_readers(self, node: NodeId, copies: set[bytes]) -> None:
        """What the node neither has nor receives it does not, and what is freed here it is told to free."""
        for unknown in copies - self._entries.keys():
            self._list(node, FreeCopies, unknown)
        for object_id, entry in self._entries.items():
            if entry.spread is not None and object_id not in copies and node in entry.spread.evictable:
                entry.spread.remove(node)
                self._keep_enough(object_id, entry)

    def node_reconnected(self, node: NodeId) -> None:
        """A connection to the node replaces a lost one; nothing of the old one will be read any more."""
        self._void_requests_of(node)
        held = [
            (object_id, member)
            for object_id, members in self._foreign.items()
            if self._home(object_id) == node
            for member in members
        ]
        kept = [
            (object_id, entry.writer)
            for object_id, entry in self._entries.items()
            if self._has_copy_on(node, entry) or (entry.spread is not None and entry.spread.is_keeper(node))
        ]
        copies = [object_id for object_id, _ in self._local if self._home(object_id) == node]
        self._tell(node, m.Sync(list(held), list(kept), list(copies)))
        for object_id, (_, told) in self._resolving.items():
            if self._home(object_id) == node:
                self._tell(node, told)
        for object_id, waiting in self._remote_gets.items():
            if self._home(object_id) == node:
                self._list(node, GetObjects, object_id, min(waiting.values()))

    # Deaths

    def _mourn(self, node: NodeId) -> None:
        """The node was declared dead: what it asked for is void, and copies elsewhere take the place of its own."""
        self._dead_nodes.add(node)
        self._void_requests_of(node)
        self._alive_nodes = [alive for alive in self._alive_nodes if alive != node]
        for object_id, entry in list(self._entries.items()):
            if entry.spread is not None:
                entry.spread.remove(node)
            if self._has_copy_on(node, entry):
                self._promote(object_id, entry)
            elif entry.spread is not None:
                self._go_on_without(node, object_id, entry)

    def _forget_node(self, node: NodeId) -> None:
        """Its processes hold nothing any more. Its objects do: their heir lets go of what they contain."""
        for object_id, holder in self._held_from(node):
            if not is_container(holder):
                self._drop([object_id], holder)

    def _void_requests_of(self, node: NodeId) -> None:
        """Requests that came over a connection which is gone: the node asks again, or is dead."""
        self._parking.discard(lambda r: isinstance(r, HoldRequest) and home_of(r.holder) == node)
        self._parking.discard(lambda r: isinstance(r, GetRequest) and r.waiter == node)
        self._parking.discard(lambda r: isinstance(r, KeepRequest) and r.node == node)
        for entry in self._entries.values():
            if entry.waiters:
                entry.waiters.pop(node, None)

    def _held_from(self, node: NodeId) -> list[tuple[ObjectId, bytes]]:
        """What is held here by processes and containers of the node."""
        return [
            (object_id, holder)
            for object_id, entry in self._entries.items()
            for holder in entry.holders
            if home_of(holder) == node and node != self.node
        ]

    def _has_copy_on(self, node: NodeId, entry: Entry) -> bool:
        location = entry.value.location
        return location is not None and location.node == node and node != self.node

    def _require_holder_of(self, node: NodeId, holder: bytes) -> None:
        if (self._home(holder) if is_container(holder) else home_of(holder)) != node:
            raise CountingError(f"node {short(node)} speaks for holder {short(holder)} of another node")
