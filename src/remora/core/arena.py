"""The arena's allocator, a machine of the node daemon: who has which bytes of the store.

Processes ask for a **block** (one object) or an **extent** (to cut objects from without asking). What they write is
reserved for them until they publish it; what they publish stays until the directory frees it, also when they are
gone. Freed space of an extent goes back to its owner, other space becomes a warm hole that its writer gets first.

The shell sends what is in the outbox, in order, and answers ``ReadMemory`` with :meth:`ArenaAllocator.memory_read`
and ``PunchHoles`` with :meth:`ArenaAllocator.punched`. A process may be declared dead only when it is gone: until
then it may write to what it has reserved.
"""

from __future__ import annotations

from collections.abc import Sequence

from remora.base.ids import ProcessId
from remora.core.arena_layout import extent_size_of, footprint_of, offset_space_of, round_up_to_pages
from remora.core.arena_ledger import ArenaLedger
from remora.core.arena_records import ArenaUsage, PunchHoles, ReadMemory, Send, SpaceRequest
from remora.core.arena_requests import Grant, SpaceQueue
from remora.core.arena_space import ArenaSpace
from remora.messages.arena import (
    AllocateBlock,
    AllocateExtent,
    AllocationRefused,
    Block,
    BlockGranted,
    BlocksFreed,
    ExtentGranted,
    ExtentsReturned,
    ReleaseBlocks,
    ReturnExtents,
)

WRITERS_IN_ERROR = 5


class ArenaAllocator:
    """Space for ``limit_bytes`` in a memory file of ``offset_space_bytes``.

    Example:
        >>> arena = ArenaAllocator(1 << 30)
        >>> arena.allocate_block(process, AllocateBlock(request=1, size_bytes=100_000), now_s=0.0)
        >>> arena.outbox
        [ReadMemory()]
    """

    def __init__(self, limit_bytes: int, offset_space_bytes: int | None = None) -> None:
        self.outbox: list[Send | PunchHoles | ReadMemory] = []
        self.extent_size_bytes = extent_size_of(limit_bytes)
        self.space = ArenaSpace(limit_bytes, offset_space_bytes or offset_space_of(limit_bytes))
        self._queue = SpaceQueue(self.space, self.outbox)
        self._ledger = ArenaLedger(self.space)

    def __repr__(self) -> str:
        return f"<ArenaAllocator {self._ledger!r}, {self.space!r}, {self._queue!r}>"

    def allocate_block(self, process: ProcessId, message: AllocateBlock, now_s: float) -> None:
        """The process wants space for one object; answered by ``BlockGranted`` or ``AllocationRefused``."""
        size_bytes = round_up_to_pages(footprint_of(message.size_bytes))
        self._ask(
            SpaceRequest(
                process=process,
                request=message.request,
                asked_bytes=message.size_bytes,
                size_bytes=size_bytes,
                minimum_bytes=size_bytes,
                is_extent=False,
                since_s=now_s,
                deadline_s=now_s + message.timeout_s,
            ),
            now_s,
        )

    def allocate_extent(self, process: ProcessId, message: AllocateExtent, now_s: float) -> None:
        """The process wants an extent; answered by ``ExtentGranted`` or ``AllocationRefused``.

        Raises:
            ArenaError: it returns what it does not have.
        """
        self._ledger.take_back(process, message.returned)
        minimum_bytes = round_up_to_pages(footprint_of(message.minimum_bytes))
        self._ask(
            SpaceRequest(
                process=process,
                request=message.request,
                asked_bytes=message.minimum_bytes,
                size_bytes=max(minimum_bytes, self.extent_size_bytes),
                minimum_bytes=minimum_bytes,
                is_extent=True,
                since_s=now_s,
                deadline_s=now_s + message.timeout_s,
            ),
            now_s,
        )

    def publish(self, process: ProcessId, offset: int, size_bytes: int) -> None:
        """An object of the process lies here from now on.

        Raises:
            ArenaError: the process did not reserve these bytes, or published them already.
        """
        self._ledger.publish(process, offset, size_bytes)

    def free(self, offsets: Sequence[int], now_s: float) -> None:
        """Nobody needs the published objects at these offsets any more, and nobody has them mapped and in use.

        Raises:
            ArenaError: no published object starts there.
        """
        for owner, freed in self._ledger.free(offsets).items():
            self.outbox.append(Send(owner, BlocksFreed(freed)))
        self._serve(now_s)

    def release(self, process: ProcessId, message: ReleaseBlocks, now_s: float) -> None:
        """The process will not publish these blocks.

        Raises:
            ArenaError: they are not unpublished blocks of the process.
        """
        self._ledger.release(process, message.offsets)
        self._serve(now_s)

    def extents_returned(self, process: ProcessId, message: ExtentsReturned, now_s: float) -> None:
        """The answer to ``ReturnExtents``.

        Raises:
            ArenaError: the process returns what it does not have.
        """
        self._ledger.take_back(process, message.extents)
        if process in self._ledger.tenants:
            self._ledger.tenants[process].asked_to_return = False
        self._serve(now_s)

    def process_dead(self, process: ProcessId, now_s: float) -> None:
        """The process is gone: what it published stays, the rest of its extents and blocks is free."""
        self._queue.drop_process(process)
        self._ledger.evict_tenant(process)
        self._serve(now_s)

    def memory_read(self, now_s: float, available_bytes: int, resident_bytes: int) -> None:
        """The machine has *available_bytes* left, what is kept back not counted; the file has *resident_bytes*."""
        self._queue.memory_read(now_s, available_bytes, resident_bytes)
        self._serve(now_s)

    def punched(self, now_s: float) -> None:
        """The ranges of the last ``PunchHoles`` have no memory any more."""
        self._queue.punched()
        self._serve(now_s)

    def tick(self, now_s: float) -> None:
        """Time has passed: refuse what waited too long, look again at the machine's memory."""
        for request in self._queue.take_expired(now_s):
            self._refuse(request, "machine" if request.short_of_memory else "full", now_s)
        self._queue.poll_memory(now_s)
        self._serve(now_s)

    def lacking_bytes(self) -> int:
        """How much must be freed for the request that has waited longest; 0 when nothing waits for that."""
        if not self._queue.waiting or not self._queue.wants_reserved_back:
            return 0
        return max(0, self._queue.waiting[0].minimum_bytes - self.space.free_bytes)

    def next_wakeup_s(self) -> float | None:
        """When :meth:`tick` is due, or None when nobody waits."""
        if not self._queue.waiting:
            return None
        deadline_s = min(request.deadline_s for request in self._queue.waiting)
        poll_s = self._queue.next_poll_s()
        return deadline_s if poll_s is None else min(deadline_s, poll_s)

    def usage(self) -> ArenaUsage:
        """The store in numbers."""
        return self._ledger.usage()

    def reserved_by(self, process: ProcessId) -> int:
        """Bytes that the process may write to and has not published."""
        return self._ledger.reserved_by(process)

    def published_by(self) -> dict[ProcessId, int]:
        """Bytes of the objects that each process wrote and that are still there, also of processes that are gone."""
        return self._ledger.published_by()

    def block_bytes(self, offset: int) -> int:
        """What the object at *offset* takes of the store; 0 when none is published there."""
        return self._ledger.block_bytes(offset)

    def validate(self) -> None:
        """Raise when a byte is in use twice or lost, or a sum is wrong. Walks over everything."""
        self._ledger.validate()

    def _ask(self, request: SpaceRequest, now_s: float) -> None:
        self._ledger.tenant(request.process)
        if request.minimum_bytes > self.space.limit_bytes:
            self._refuse(request, "too large", now_s)
            return
        self._queue.waiting.append(request)
        self._serve(now_s)

    def _serve(self, now_s: float) -> None:
        while (grant := self._queue.next_grant(now_s)) is not None:
            self._record(grant)
        if self._queue.wants_reserved_back:
            self._ask_reserved_back()

    def _record(self, grant: Grant) -> None:
        process, request = grant.request.process, grant.request.request
        where = Block(grant.offset, grant.size_bytes)
        if grant.request.is_extent:
            self._ledger.enter_extent(process, grant.offset, grant.size_bytes)
            self.outbox.append(Send(process, ExtentGranted(request, where, grant.fresh)))
        else:
            self._ledger.enter_block(process, grant.offset, grant.size_bytes)
            self.outbox.append(Send(process, BlockGranted(request, where, grant.fresh)))

    def _ask_reserved_back(self) -> None:
        for tenant in self._ledger.tenants.values():
            if not tenant.asked_to_return and any(extent.reserved_bytes for extent in tenant.extents.values()):
                tenant.asked_to_return = True
                self.outbox.append(Send(tenant.process, ReturnExtents()))

    def _refuse(self, request: SpaceRequest, reason: str, now_s: float) -> None:
        usage = self.usage()
        refusal = AllocationRefused(
            request=request.request,
            reason=reason,
            size_bytes=request.asked_bytes,
            limit_bytes=usage.limit_bytes,
            used_bytes=usage.used_bytes,
            reserved_bytes=usage.reserved_bytes,
            free_bytes=usage.free_bytes,
            room_bytes=self._queue.growth.room_bytes,
            waited_s=now_s - request.since_s,
            writers=self._ledger.largest_writers(WRITERS_IN_ERROR),
        )
        self.outbox.append(Send(request.process, refusal))
