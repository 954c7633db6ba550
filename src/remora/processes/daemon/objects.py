"""Objects of the node: the directory (who holds what) and the arena (what lies where), and how they are joined."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from remora.base.errors import ObjectLostError, ObjectStoreFullError, OwnerDiedError
from remora.base.ids import NodeId, ObjectId, ProcessId, short
from remora.core import arena as arena_core
from remora.core.arena_layout import offset_space_of
from remora.core.arena_records import PunchHoles, ReadMemory
from remora.core.counting.directory import Directory
from remora.core.counting.entries import Loss, LossReason
from remora.core.counting.vocabulary import (
    CancelPull,
    FreeLocation,
    KeepLocation,
    ObjectFreed,
    RaisePull,
    Send,
    StartPull,
)
from remora.messages import arena as arena_messages
from remora.messages.counting import Publish, Resolve, Store
from remora.messages.objects import Location
from remora.processes.daemon.connected import ConnectedProcess, ConnectedProcesses
from remora.system.memory_limits import MemoryLimits
from remora.system.shared_memory import SharedMemory

if TYPE_CHECKING:
    from remora.processes.daemon.remote_objects import RemoteObjects


class ObjectService:
    """The directory and the arena of one node.

    ``on_freed(object_id)`` is called for watched objects (:meth:`watch`) that lost their last holder.
    """

    def __init__(
        self,
        node: NodeId,
        limit_bytes: int,
        grace_s: float,
        processes: ConnectedProcesses,
        on_freed: Callable[[ObjectId], None],
    ) -> None:
        self._processes = processes
        self._on_freed = on_freed
        self.memory = SharedMemory.create(offset_space_of(limit_bytes))
        self.arena = arena_core.ArenaAllocator(limit_bytes, self.memory.size_bytes)
        self.directory = Directory(node, self._describe_loss, grace_s)
        self._ends: dict[bytes, str] = {}
        """How other nodes ended, for errors."""
        self._limits = MemoryLimits()
        self._remote: RemoteObjects | None = None
        """Copies of other nodes' objects; a session alone has none."""

    def join_cluster(self, remote: RemoteObjects) -> None:
        """From now on objects come from other nodes, and go there."""
        self._remote = remote

    # ------------------------------------------------------------------ messages

    def on_counting(self, process: ProcessId, message: Any, now_s: float) -> None:
        """A message of counting, or about the value of an object."""
        location = _written_location(message)
        if location is not None:
            self.arena.publish(process, location.offset, location.size_bytes)
        self.directory.process_message(process, message)
        self.carry_out(now_s)

    def on_arena(self, process: ProcessId, message: Any, now_s: float) -> None:
        """A message about space."""
        kind = type(message)
        if kind is arena_messages.AllocateBlock:
            self.arena.allocate_block(process, message, now_s)
        elif kind is arena_messages.AllocateExtent:
            self.arena.allocate_extent(process, message, now_s)
        elif kind is arena_messages.ExtentsReturned:
            self.arena.extents_returned(process, message, now_s)
        elif kind is arena_messages.ReleaseBlocks:
            self.arena.release(process, message, now_s)
        else:
            raise ValueError(f"process {short(process)} sent {message!r}, which only a daemon says")
        self._carry_out_arena(now_s)

    # ------------------------------------------------------------------ other nodes

    def on_node_message(self, node: NodeId, message: Any, now_s: float) -> None:
        """Another node's daemon says something of counting or copies."""
        self.directory.node_message(node, message)
        self.carry_out(now_s)

    def nodes_changed(self, alive: list[NodeId], now_s: float) -> None:
        """These nodes are members now, this one among them."""
        self.directory.nodes_changed(alive)
        self.carry_out(now_s)

    def deaths_before(self, heirs: dict[NodeId, NodeId]) -> None:
        """These nodes had died before this one joined, each with its heir."""
        self.directory.deaths_before(heirs)

    def node_dead(self, node: NodeId, heir: NodeId, how: str, now_s: float) -> None:
        """The node is a member no more; *heir* answers for its objects. *how* it ended is for errors."""
        self._ends[node] = how
        self.directory.node_dead(node, heir, now_s)
        self.carry_out(now_s)

    def _describe_loss(self, loss: Loss) -> bytes:
        """What ``get`` raises for an object that has no value and will never have one."""
        from remora.serialization import serialize_system_error  # imported at the first loss: it costs a start 25 ms

        where = f"node {short(loss.where)}" if len(loss.where) == 4 else f"process {short(loss.where)}"
        if loss.reason is LossReason.NO_ROOM:
            return serialize_system_error(
                ObjectStoreFullError(
                    f"object {short(loss.id)} could not be copied to {where}, to be read there: {loss.detail}"
                )
            )
        error_class = OwnerDiedError if loss.reason is LossReason.MAKER_DIED else ObjectLostError
        detail = loss.detail or self._ends.get(loss.where, "")
        reason = f"{loss.reason.value} ({where}{f': {detail}' if detail else ''})"
        if loss.reason is LossReason.NODE_DIED:
            reason += ". Submit its task again; what must outlive a node can be kept on two, with put(value, copies=2)"
        return serialize_system_error(error_class(object_id=loss.id, reason=reason, node=short(loss.id[:4])))

    # ------------------------------------------------------------------ life of processes

    def process_connected(self, process: ProcessId, job: ProcessId) -> None:
        """A driver or worker is there."""
        self.directory.process_connected(process, job)

    def process_ended(self, connected: ConnectedProcess, now_s: float) -> None:
        """Its connection was read to the end, and it does not run any more."""
        self.directory.process_ended(connected.process, now_s, connected.is_leaving)
        self.arena.process_dead(connected.process, now_s)
        self.carry_out(now_s)

    def job_ended(self, job: ProcessId, now_s: float) -> None:
        """The driver of the job, a process of another node, has ended."""
        self.directory.job_ended(job)
        self.carry_out(now_s)

    def watch(self, object_id: ObjectId) -> bool:
        """Have ``on_freed`` called when the object is freed; false when it is gone already."""
        return self.directory.watch(object_id)

    def keep_detached(self, actor: ObjectId) -> None:
        """A detached actor is made: what its constructor needs stays, also when nobody keeps a handle."""
        self.directory.keep_detached(actor)

    def drop_detached(self, actor: ObjectId, now_s: float) -> None:
        """It is dead for good, or was not made."""
        self.directory.drop_detached(actor)
        self.carry_out(now_s)

    def tick(self, now_s: float) -> float | None:
        """Do what is due; when to come again (monotonic seconds), or None."""
        self.directory.tick(now_s)
        self.arena.tick(now_s)
        self.carry_out(now_s)
        times = [time for time in (self.directory.next_deadline_s, self.arena.next_wakeup_s()) if time is not None]
        return min(times, default=None)

    # ------------------------------------------------------------------ doing what the machines say

    def carry_out(self, now_s: float) -> None:
        """Empty both outboxes."""
        freed: list[int] = []
        directory = self.directory
        while directory.outbox:
            outbox = directory.outbox[:]
            directory.outbox.clear()
            for effect in outbox:
                if isinstance(effect, Send):
                    self._processes.send(effect.to, effect.message)
                elif isinstance(effect, FreeLocation):
                    if self._remote is None or not self._remote.transfers.free_when_served(effect.location):
                        freed.append(effect.location.offset)
                elif isinstance(effect, ObjectFreed):
                    self._on_freed(ObjectId(effect.id))
                elif isinstance(effect, StartPull | RaisePull | CancelPull):
                    assert self._remote is not None, "a session alone has nowhere to bring objects from"
                    self._remote.do(effect)
                else:
                    assert isinstance(effect, KeepLocation), f"a daemon cannot do {effect!r}"
        if freed:
            self.arena.free(freed, now_s)
        self._carry_out_arena(now_s)

    def _carry_out_arena(self, now_s: float) -> None:
        arena = self.arena
        while arena.outbox:
            effect = arena.outbox.pop(0)
            if isinstance(effect, ReadMemory):
                arena.memory_read(now_s, self._limits.available_bytes(), self.memory.resident_bytes())
            elif isinstance(effect, PunchHoles):
                self.memory.punch(effect.ranges)
                arena.punched(now_s)
            elif self._remote is not None and effect.process == self._remote.process:
                self._remote.on_space(effect.message)
            else:
                self._processes.send(effect.process, effect.message)
        if self._remote is not None and arena.lacking_bytes():
            # What lies on other nodes as well makes room for what does not.
            self.directory.evict(arena.lacking_bytes())
            if self.directory.outbox:
                self.carry_out(now_s)

    def descriptors(self) -> list[int]:
        """What a process needs to use the arena."""
        return [self.memory.fd]


def default_limit_bytes() -> int:
    """30 % of the machine's memory."""
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 0.3)


def _written_location(message: Any) -> Location | None:
    """Where the sender of the message has written the object that it tells of."""
    if isinstance(message, Store):
        return message.location
    if isinstance(message, Publish | Resolve) and not message.writer:
        return message.value.location
    return None
