"""Who holds what: the entries of this node's objects, and what this node's members hold at other homes.

A *member* is a process of this node, an object whose home it is (holding what its value contains), the exports of a
job, or the node itself for its detached actors. All of them are registered and released in the same two ways, here or
at the home by messages.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from remora.base.ids import NodeId, ObjectId, ProcessId, process_of, short
from remora.core.counting.entries import Entry
from remora.core.counting.parking import HoldRequest, Parking, Request
from remora.core.counting.vocabulary import (
    NOBODY,
    CountingError,
    Effect,
    Hold,
    ObjectFreed,
    Send,
    home_of,
    is_container,
    is_process,
)
from remora.messages.copies import NodeResolved
from remora.messages.counting import Ack, NodeAck, NodeRegister, NodeRelease, Ping, PublishAck


class Holders:
    """Entries, and holders in all homes. :class:`~remora.core.counting.directory.Directory` is the whole."""

    def __init__(self, node: NodeId) -> None:
        self.node = node
        self.outbox: list[Effect] = []
        self._entries: dict[ObjectId, Entry] = {}
        self._foreign: dict[ObjectId, dict[bytes, Hold]] = {}
        """Per id of another home: members of this node, asked or held."""
        self._held_by: dict[bytes, dict[ObjectId, None]] = {}
        """Per process, export and detached actors of this node: what it holds, here and at other homes."""
        self._processes: dict[ProcessId, ProcessId] = {}
        """Connected processes of this node, and the driver of the job of each."""
        self._dead_nodes: set[NodeId] = set()
        self._parking = Parking()
        self._watched: set[bytes] = set()
        self._node_handlers: dict[type, Callable[[NodeId, Any], None]] = {}
        """What each message of another daemon, or of this one to itself, does."""
        self._heirs: dict[NodeId, NodeId] = {}
        """Per dead node: who answers for its number."""
        self._in_flux: set[NodeId] = set()
        """Dead nodes of which this node has not told the heir yet what it knows, or which it is rebuilding itself."""

    def _home(self, any_id: bytes) -> NodeId:
        """Who answers for the id now; ``NOBODY`` while what is known of it is being collected."""
        node: NodeId = any_id[:4]  # type: ignore[assignment]  # on the path of every message
        if self._heirs:
            while node in self._heirs:
                if node in self._in_flux:
                    return NOBODY
                node = self._heirs[node]
        return node

    # Holding

    def _hold(self, object_id: ObjectId, member: bytes) -> None:
        """A member wants to hold the id; ``_answer`` tells it how that ended."""
        home = self._home(object_id)
        if home == self.node:
            self._add_holder(HoldRequest(object_id, member))
        else:
            self._foreign.setdefault(object_id, {})[member] = Hold.ASKED
            self._note_held(member, object_id)
            self._list(home, NodeRegister, object_id, member)

    def _add_holder(self, request: HoldRequest, final: bool = False) -> None:
        """Write the holder down. Not *final*: the maker may have told of the id already."""
        object_id, holder = ObjectId(request.id), request.holder
        entry = self._entries.get(object_id)
        if entry is None:
            if final or not self._park(process_of(object_id), request):
                self._answer(object_id, holder, ok=False)
        elif self._may_hold(holder):
            entry.holders[holder] = None
            if home_of(holder) == self.node:
                self._note_held(holder, object_id)
            self._answer(object_id, holder, ok=True)

    def _may_hold(self, holder: bytes) -> bool:
        """Whether the holder can still let go one day."""
        if holder in self._processes or is_container(holder):
            return True
        if home_of(holder) != self.node:
            return home_of(holder) not in self._dead_nodes
        return not is_process(holder)

    def _answer(self, object_id: ObjectId, holder: bytes, ok: bool) -> None:
        """A request to hold is decided; acknowledgements never wait for values."""
        if holder in self._processes:
            self._list(holder, Ack, object_id, ok)
            return
        home = self._home(holder) if is_container(holder) else home_of(holder)
        if home != self.node:
            self._list(home, NodeAck, object_id, holder, ok)
        elif is_container(holder):
            self._contents_answered(ObjectId(holder), object_id, ok)

    def _contents_answered(self, container: ObjectId, object_id: ObjectId, ok: bool) -> None:
        entry = self._entries.get(container)
        if entry is not None and entry.contents.get(object_id) is Hold.ASKED:
            entry.contents[object_id] = Hold.HELD if ok else Hold.GONE
            entry.asked -= 1
            self._acknowledge_publication(container, entry)

    def _acknowledge_publication(self, object_id: ObjectId, entry: Entry) -> None:
        if entry.acknowledge is not None and not entry.asked and entry.copy is not Hold.ASKED:
            self._acknowledge_to(entry.acknowledge, object_id)
            entry.acknowledge = None

    def _acknowledge_to(self, process: ProcessId, object_id: ObjectId) -> None:
        """The process, perhaps of another node, need not keep what the value contains any more."""
        if home_of(process) == self.node:
            self._list(process, PublishAck, object_id)
        else:
            self._list(home_of(process), NodeResolved, object_id)

    def _foreign_answered(self, object_id: ObjectId, member: bytes, ok: bool) -> None:
        """The home answered; what was released or answered meanwhile is not waited for any more."""
        members = self._foreign.get(object_id)
        if members is None or members.get(member) is not Hold.ASKED:
            return
        if ok:
            members[member] = Hold.HELD
        else:
            self._forget_foreign(object_id, member)
        self._answer(object_id, member, ok)

    # Letting go

    def _drop(self, ids: Iterable[ObjectId], holder: bytes) -> None:
        """The holder holds these no more; frees what that leaves without holders, however deep."""
        drops = deque((object_id, holder) for object_id in ids)
        while drops:
            object_id, holder = drops.popleft()
            if self._home(object_id) == self.node:
                drops.extend((content, object_id) for content in self._drop_here(object_id, holder))
            elif holder in self._foreign.get(object_id, ()):
                self._forget_foreign(object_id, holder)
                self._list(self._home(object_id), NodeRelease, object_id, holder)

    def _drop_here(self, object_id: ObjectId, holder: bytes) -> list[ObjectId]:
        """Returns what the object held, if that was its last holder."""
        if self._parking:
            self._parking.discard(lambda r: isinstance(r, HoldRequest) and r.holder == holder, object_id)
        self._note_not_held(holder, object_id)
        entry = self._entries.get(object_id)
        if entry is None:
            return []
        entry.holders.pop(holder, None)
        if entry.holders:
            return []
        del self._entries[object_id]
        self._freed(object_id, entry)
        return [content for content, hold in entry.contents.items() if hold is not Hold.GONE]

    def _freed(self, object_id: ObjectId, entry: Entry) -> None:
        if entry.acknowledge is not None:
            self._acknowledge_to(entry.acknowledge, object_id)
            entry.acknowledge = None
        if object_id in self._watched:
            self._watched.discard(object_id)
            self.outbox.append(ObjectFreed(object_id))

    def _forget_foreign(self, object_id: ObjectId, member: bytes) -> None:
        members = self._foreign[object_id]
        del members[member]
        if not members:
            del self._foreign[object_id]
        self._note_not_held(member, object_id)

    # What each process holds

    def _note_held(self, member: bytes, object_id: ObjectId) -> None:
        if not is_container(member):
            self._held_by.setdefault(member, {})[object_id] = None

    def _note_not_held(self, member: bytes, object_id: ObjectId) -> None:
        held = self._held_by.get(member)
        if held is not None:
            held.pop(object_id, None)
            if not held:
                del self._held_by[member]

    # Sending

    def _park(self, asked: bytes, request: Request) -> bool:
        """Ask the process that must have told what is missing. False when it cannot answer: decide now."""
        process = ProcessId(asked)
        if process not in self._processes:
            return False
        self._tell(process, Ping(self._parking.park(process, request)))
        return True

    def _tell(self, to: bytes, message: msgspec.Struct) -> None:
        """Nothing is sent to processes that have ended or to dead nodes."""
        if to in self._processes or (len(to) == len(self.node) and to not in self._dead_nodes):
            self.outbox.append(Send(to, message))

    def _list(self, to: bytes, kind: type, object_id: bytes, *same: object) -> None:
        """Send ``kind([id], *same)``, in the last message if that differs in nothing but its ids."""
        last = self.outbox[-1] if self.outbox else None
        if type(last) is Send and last.to == to and type(last.message) is kind:
            ids, *others = msgspec.structs.astuple(last.message)
            if others == list(same):
                ids.append(object_id)
                return
        self._tell(to, kind([object_id], *same))

    def _list_home(self, object_id: ObjectId, kind: type, *same: object) -> None:
        """Send ``kind([id], *same)`` to the home of the id, which may be this node."""
        home = self._home(object_id)
        if home == self.node:
            self._node_handlers[kind](home, kind([object_id], *same))
        else:
            self._list(home, kind, object_id, *same)

    def _tell_node(self, node: bytes, message: msgspec.Struct) -> None:
        """Send to a node's daemon, which may be this one."""
        if node == self.node:
            self._node_handlers[type(message)](self.node, message)
        else:
            self._tell(node, message)

    def _require_connected(self, process: ProcessId) -> None:
        if process not in self._processes:
            raise CountingError(f"process {short(process)} is not connected to {self!r}")

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} of node {short(self.node)}: {len(self._entries)} objects, "
            f"{len(self._foreign)} foreign ids, {len(self._processes)} processes, {len(self._parking)} parked>"
        )
