"""The arena's allocator, a machine of the node daemon: who has which bytes of the store.

Processes ask for a **block** (one object) or an **extent** (to cut objects from without asking). What they write is
reserved for them until they publish it; what they publish stays until the directory frees it, also when they are
gone. Freed space of an extent goes back to its owner, other space becomes a warm hole that its writer gets first.

The shell sends what is in the outbox, in order, and answers ``ReadMemory`` with :meth:`ArenaAllocator.memory_read`
and ``PunchHoles`` with :meth:`ArenaAllocator.punched`. A process may be declared dead only when it is gone: until
then it may write to what it has reserved.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from heapq import nlargest

from remora.base.ids import ProcessId, short
from remora.core.arena_layout import (
    BUFFER_ALIGNMENT_BYTES,
    extent_size_of,
    footprint_of,
    offset_space_of,
    round_up_to_pages,
)
from remora.core.arena_records import (
    ArenaBlock,
    ArenaError,
    ArenaUsage,
    Extent,
    PunchHoles,
    ReadMemory,
    Send,
    SpaceRequest,
    Tenant,
)
from remora.core.arena_requests import Grant, SpaceQueue
from remora.core.arena_space import NOBODY, ArenaSpace
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
    ReturnedExtent,
    ReturnExtents,
    Writer,
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
        self._tenants: dict[ProcessId, Tenant] = {}
        self._blocks: dict[int, ArenaBlock] = {}
        self._published_by: Counter[ProcessId] = Counter()
        self._published_bytes = 0

    def __repr__(self) -> str:
        return f"<ArenaAllocator {len(self._blocks)} blocks, {self.space!r}, {self._queue!r}>"

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
        self._take_back(process, message.returned)
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
        tenant = self._tenants.get(process)
        block = self._blocks.get(offset)
        if block is not None:
            if tenant is None or offset not in tenant.unpublished or size_bytes > block.size_bytes:
                raise ArenaError(f"process {short(process)} published {size_bytes} bytes in {block}")
            tenant.unpublished.remove(offset)
            block.published = True
        else:
            block = self._cut(tenant, process, offset, size_bytes)
            self._blocks[offset] = block
        self._published_by[process] += block.size_bytes
        self._published_bytes += block.size_bytes

    def free(self, offsets: Sequence[int], now_s: float) -> None:
        """Nobody needs the published objects at these offsets any more, and nobody has them mapped and in use.

        Raises:
            ArenaError: no published object starts there.
        """
        blocks = [self._blocks.get(offset) for offset in offsets]
        if None in blocks or not all(block.published for block in blocks if block) or len({*offsets}) < len(offsets):
            raise ArenaError(f"not every one of {list(offsets)[:10]} is a published object, or one is there twice")
        freed_of_owner: defaultdict[ProcessId, list[int]] = defaultdict(list)
        for block in blocks:
            if block is not None:
                self._forget_published(block)
                if block.extent is None:
                    self._give_back_block(block)
                else:
                    freed_of_owner[block.writer].append(block.offset)
        for owner, freed in freed_of_owner.items():
            self.outbox.append(Send(owner, BlocksFreed(freed)))
        self._serve(now_s)

    def release(self, process: ProcessId, message: ReleaseBlocks, now_s: float) -> None:
        """The process will not publish these blocks.

        Raises:
            ArenaError: they are not unpublished blocks of the process.
        """
        tenant = self._tenants.get(process)
        offsets = set(message.offsets)
        if tenant is None or not offsets <= tenant.unpublished:
            raise ArenaError(f"process {short(process)} released {message.offsets[:10]}, not all of them unpublished")
        tenant.unpublished -= offsets
        for offset in offsets:
            self._give_back_block(self._blocks.pop(offset))
        self._serve(now_s)

    def extents_returned(self, process: ProcessId, message: ExtentsReturned, now_s: float) -> None:
        """The answer to ``ReturnExtents``.

        Raises:
            ArenaError: the process returns what it does not have.
        """
        self._take_back(process, message.extents)
        if process in self._tenants:
            self._tenants[process].asked_to_return = False
        self._serve(now_s)

    def process_dead(self, process: ProcessId, now_s: float) -> None:
        """The process is gone: what it published stays, the rest of its extents and blocks is free."""
        self._queue.drop_process(process)
        tenant = self._tenants.get(process)
        if tenant is not None:
            self._take_back(process, [ReturnedExtent(offset) for offset in tenant.extents])
            for offset in tenant.unpublished:
                self._give_back_block(self._blocks.pop(offset))
            del self._tenants[process]
            self.space.forget_writer(process)
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

    def next_wakeup_s(self) -> float | None:
        """When :meth:`tick` is due, or None when nobody waits."""
        if not self._queue.waiting:
            return None
        deadline_s = min(request.deadline_s for request in self._queue.waiting)
        poll_s = self._queue.next_poll_s()
        return deadline_s if poll_s is None else min(deadline_s, poll_s)

    def usage(self) -> ArenaUsage:
        """The store in numbers."""
        reserved_bytes = sum(self.reserved_by(process) for process in self._tenants)
        return ArenaUsage(
            limit_bytes=self.space.limit_bytes,
            used_bytes=self._published_bytes,
            reserved_bytes=reserved_bytes,
            warm_bytes=self.space.warm_bytes,
            lost_bytes=self.space.held_bytes - self._published_bytes - reserved_bytes,
            free_bytes=self.space.free_bytes,
            committed_bytes=self.space.committed_bytes,
        )

    def reserved_by(self, process: ProcessId) -> int:
        """Bytes that the process may write to and has not published."""
        tenant = self._tenants.get(process)
        if tenant is None:
            return 0
        extents = sum(extent.reserved_bytes for extent in tenant.extents.values())
        return extents + sum(self._blocks[offset].size_bytes for offset in tenant.unpublished)

    def published_by(self) -> dict[ProcessId, int]:
        """Bytes of the objects that each process wrote and that are still there, also of processes that are gone."""
        return dict(self._published_by)

    def largest_blocks(self, count: int) -> list[ArenaBlock]:
        """The largest published objects."""
        published = (block for block in self._blocks.values() if block.published)
        return nlargest(count, published, key=lambda block: block.size_bytes)

    def validate(self) -> None:
        """Raise when a byte is in use twice or lost, or a sum is wrong. Walks over everything."""
        extents = [extent for tenant in self._tenants.values() for extent in tenant.extents.values()]
        outside = [(block.offset, block.size_bytes) for block in self._blocks.values() if block.extent is None]
        self.space.validate([*outside, *((extent.offset, extent.size_bytes) for extent in extents)])
        cursor = 0
        for block in sorted(self._blocks.values(), key=lambda block: block.offset):
            if block.offset < cursor:
                raise AssertionError(f"{block} overlaps the block before it")
            cursor = block.offset + block.size_bytes
        for extent in extents:
            inside = [self._blocks[offset] for offset in extent.blocks]
            if any(block.extent != extent.offset or not block.published for block in inside):
                raise AssertionError(f"{extent} has blocks that are not published in it")
            if sum(block.size_bytes for block in inside) != extent.published_bytes:
                raise AssertionError(f"{extent} counts its published bytes wrongly")
        if sum(self._published_by.values()) != self._published_bytes or self.usage().lost_bytes < 0:
            raise AssertionError(f"published bytes are counted wrongly: {self.usage()}")

    def _ask(self, request: SpaceRequest, now_s: float) -> None:
        self._tenants.setdefault(request.process, Tenant(request.process))
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
        tenant = self._tenants[process]
        where = Block(grant.offset, grant.size_bytes)
        if grant.request.is_extent:
            tenant.extents[grant.offset] = Extent(grant.offset, grant.size_bytes, process)
            self.outbox.append(Send(process, ExtentGranted(request, where, grant.fresh)))
        else:
            self._blocks[grant.offset] = ArenaBlock(grant.offset, grant.size_bytes, process, published=False)
            tenant.unpublished.add(grant.offset)
            self.outbox.append(Send(process, BlockGranted(request, where, grant.fresh)))

    def _ask_reserved_back(self) -> None:
        for tenant in self._tenants.values():
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
            writers=[Writer(writer, used) for writer, used in self._published_by.most_common(WRITERS_IN_ERROR)],
        )
        self.outbox.append(Send(request.process, refusal))

    def _cut(self, tenant: Tenant | None, process: ProcessId, offset: int, size_bytes: int) -> ArenaBlock:
        extent = tenant.extent_of(offset) if tenant is not None else None
        footprint = footprint_of(size_bytes)
        if extent is None or offset % BUFFER_ALIGNMENT_BYTES or offset + footprint > extent.offset + extent.size_bytes:
            raise ArenaError(f"process {short(process)} published {size_bytes} bytes at {offset}, not reserved for it")
        extent.blocks.add(offset)
        extent.published_bytes += footprint
        return ArenaBlock(offset, footprint, process, published=True, extent=extent.offset)

    def _forget_published(self, block: ArenaBlock) -> None:
        del self._blocks[block.offset]
        self._published_bytes -= block.size_bytes
        self._published_by[block.writer] -= block.size_bytes
        if not self._published_by[block.writer]:
            del self._published_by[block.writer]
        if block.extent is not None:
            extent = self._tenants[block.writer].extents[block.extent]
            extent.blocks.remove(block.offset)
            extent.published_bytes -= block.size_bytes

    def _give_back_block(self, block: ArenaBlock) -> None:
        writer = block.writer if block.writer in self._tenants else NOBODY
        self.space.give_back_block(writer, block.offset, block.size_bytes)

    def _take_back(self, process: ProcessId, returned: Iterable[ReturnedExtent]) -> None:
        """The extents belong to nobody now: their objects and the kept blocks stay, the rest is free."""
        tenant = self._tenants.get(process)
        returned = list(returned)
        if len({one.offset for one in returned}) < len(returned):
            raise ArenaError(f"process {short(process)} returned an extent twice")
        for one in returned:
            extent = tenant.extents.get(one.offset) if tenant is not None else None
            if extent is None or not all(_is_inside(kept, extent) for kept in one.kept):
                raise ArenaError(f"process {short(process)} returned {one}, which is not its extent")
        if tenant is not None:
            for one in returned:
                self._break_up(tenant, tenant.extents.pop(one.offset), one.kept)

    def _break_up(self, tenant: Tenant, extent: Extent, kept: Iterable[Block]) -> None:
        for block in kept:
            if block.offset not in self._blocks:
                self._blocks[block.offset] = ArenaBlock(block.offset, block.size_bytes, tenant.process, published=False)
                tenant.unpublished.add(block.offset)
                extent.blocks.add(block.offset)
        blocks = [self._blocks[offset] for offset in extent.blocks]
        for one in blocks:
            one.extent = None
        self.space.give_back_around(
            tenant.process, extent.offset, extent.size_bytes, [(one.offset, one.size_bytes) for one in blocks]
        )


def _is_inside(block: Block, extent: Extent) -> bool:
    is_aligned = block.offset % BUFFER_ALIGNMENT_BYTES == 0 and block.size_bytes % BUFFER_ALIGNMENT_BYTES == 0
    ends_inside = block.offset + block.size_bytes <= extent.offset + extent.size_bytes
    return is_aligned and block.size_bytes > 0 and block.offset >= extent.offset and ends_inside
