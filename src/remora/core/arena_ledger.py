"""Who has what in the arena: extents, blocks cut from them, blocks of their own, and the sums of all that.

Each step keeps the pages of :class:`ArenaSpace` in agreement. What is granted to whom, and when, is decided in
:mod:`remora.core.arena`. What a process has not published does not outlive it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from remora.base.ids import ProcessId, short
from remora.core.arena_layout import BUFFER_ALIGNMENT_BYTES, footprint_of
from remora.core.arena_records import ArenaBlock, ArenaError, ArenaUsage, Extent, Tenant
from remora.core.arena_space import NOBODY, ArenaSpace
from remora.messages.arena import Block, ReturnedExtent, Writer


class ArenaLedger:
    """Entries for every byte that *space* holds."""

    def __init__(self, space: ArenaSpace) -> None:
        self.tenants: dict[ProcessId, Tenant] = {}
        self._space = space
        self._blocks: dict[int, ArenaBlock] = {}
        self._published_by: Counter[ProcessId] = Counter()
        self._published_bytes = 0

    def __repr__(self) -> str:
        return f"<ArenaLedger {len(self._blocks)} blocks, {len(self.tenants)} tenants>"

    def tenant(self, process: ProcessId) -> Tenant:
        """The entry of a live process."""
        return self.tenants.setdefault(process, Tenant(process))

    def enter_extent(self, process: ProcessId, offset: int, size_bytes: int) -> None:
        """The process has an extent now."""
        self.tenants[process].extents[offset] = Extent(offset, size_bytes, process)

    def enter_block(self, process: ProcessId, offset: int, size_bytes: int) -> None:
        """The process has a block now, to write to and to publish."""
        self._blocks[offset] = ArenaBlock(offset, size_bytes, process, published=False)
        self.tenants[process].unpublished.add(offset)

    def publish(self, process: ProcessId, offset: int, size_bytes: int) -> None:
        """An object of the process lies here from now on.

        Raises:
            ArenaError: the process did not reserve these bytes, or published them already.
        """
        tenant = self.tenants.get(process)
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

    def free(self, offsets: Sequence[int]) -> dict[ProcessId, list[int]]:
        """Published blocks are gone. Returns those of them that are their owner's again, to be cut anew.

        Raises:
            ArenaError: no published block starts there.
        """
        blocks = [block for block in map(self._blocks.get, offsets) if block is not None and block.published]
        if len(blocks) < len(offsets) or len({*offsets}) < len(offsets):
            raise ArenaError(f"not every one of {list(offsets)[:10]} is a published object, or one is there twice")
        freed_of_owner: defaultdict[ProcessId, list[int]] = defaultdict(list)
        for block in blocks:
            self._forget_published(block)
            if block.extent is None:
                self._give_back_block(block)
            else:
                freed_of_owner[block.writer].append(block.offset)
        return freed_of_owner

    def release(self, process: ProcessId, offsets: Sequence[int]) -> None:
        """The process will not publish these blocks.

        Raises:
            ArenaError: they are not unpublished blocks of the process.
        """
        tenant = self.tenants.get(process)
        if tenant is None or not tenant.unpublished.issuperset(offsets) or len({*offsets}) < len(offsets):
            raise ArenaError(f"process {short(process)} released {offsets[:10]}, which are not its unpublished blocks")
        self._release(tenant, offsets)

    def take_back(self, process: ProcessId, returned: Sequence[ReturnedExtent]) -> None:
        """The extents belong to nobody now: their objects and the kept blocks stay, the rest is free.

        Raises:
            ArenaError: they are not extents of the process, or a kept block is not inside of them.
        """
        tenant = self.tenants.get(process)
        if len({one.offset for one in returned}) < len(returned):
            raise ArenaError(f"process {short(process)} returned an extent twice")
        for one in returned:
            extent = tenant.extents.get(one.offset) if tenant is not None else None
            if extent is None or not all(_is_inside(kept, extent) for kept in one.kept):
                raise ArenaError(f"process {short(process)} returned {one}, which is not its extent")
        if tenant is not None:
            for one in returned:
                self._break_up(tenant, tenant.extents.pop(one.offset), one.kept)

    def evict_tenant(self, process: ProcessId) -> None:
        """The process is gone, and what it has not published with it."""
        tenant = self.tenants.get(process)
        if tenant is None:
            return
        self.take_back(process, [ReturnedExtent(offset) for offset in tenant.extents])
        self._release(tenant, list(tenant.unpublished))
        del self.tenants[process]
        self._space.forget_writer(process)

    def usage(self) -> ArenaUsage:
        """The store in numbers."""
        reserved_bytes = sum(self.reserved_by(process) for process in self.tenants)
        return ArenaUsage(
            limit_bytes=self._space.limit_bytes,
            used_bytes=self._published_bytes,
            reserved_bytes=reserved_bytes,
            warm_bytes=self._space.warm_bytes,
            lost_bytes=self._space.held_bytes - self._published_bytes - reserved_bytes,
            free_bytes=self._space.free_bytes,
            committed_bytes=self._space.committed_bytes,
        )

    def reserved_by(self, process: ProcessId) -> int:
        """Bytes that the process may write to and has not published."""
        tenant = self.tenants.get(process)
        if tenant is None:
            return 0
        extents = sum(extent.reserved_bytes for extent in tenant.extents.values())
        return extents + sum(self._blocks[offset].size_bytes for offset in tenant.unpublished)

    def largest_writers(self, count: int) -> list[Writer]:
        """The processes whose published objects take most."""
        return [Writer(process, used) for process, used in self._published_by.most_common(count)]

    def published_by(self) -> dict[ProcessId, int]:
        """Bytes of the objects that each process wrote and that are still there, also of processes that are gone."""
        return dict(self._published_by)

    def block_bytes(self, offset: int) -> int:
        """What the object at *offset* takes of the store; 0 when none is published there."""
        block = self._blocks.get(offset)
        return block.size_bytes if block is not None and block.published else 0

    def validate(self) -> None:
        """Raise when a byte is in use twice or lost, or a sum is wrong. Walks over everything."""
        extents = [extent for tenant in self.tenants.values() for extent in tenant.extents.values()]
        outside = [(block.offset, block.size_bytes) for block in self._blocks.values() if block.extent is None]
        self._space.validate([*outside, *((extent.offset, extent.size_bytes) for extent in extents)])
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
            extent = self.tenants[block.writer].extents[block.extent]
            extent.blocks.remove(block.offset)
            extent.published_bytes -= block.size_bytes

    def _give_back_block(self, block: ArenaBlock) -> None:
        writer = block.writer if block.writer in self.tenants else NOBODY
        self._space.give_back_block(writer, block.offset, block.size_bytes)

    def _release(self, tenant: Tenant, offsets: Iterable[int]) -> None:
        for offset in offsets:
            tenant.unpublished.remove(offset)
            self._give_back_block(self._blocks.pop(offset))

    def _break_up(self, tenant: Tenant, extent: Extent, kept: Iterable[Block]) -> None:
        for block in kept:
            if block.offset not in self._blocks:
                self._blocks[block.offset] = ArenaBlock(block.offset, block.size_bytes, tenant.process, published=False)
                tenant.unpublished.add(block.offset)
                extent.blocks.add(block.offset)
        blocks = [self._blocks[offset] for offset in extent.blocks]
        for one in blocks:
            one.extent = None
        self._space.give_back_around(
            tenant.process, extent.offset, extent.size_bytes, [(one.offset, one.size_bytes) for one in blocks]
        )


def _is_inside(block: Block, extent: Extent) -> bool:
    is_aligned = block.offset % BUFFER_ALIGNMENT_BYTES == 0 and block.size_bytes % BUFFER_ALIGNMENT_BYTES == 0
    ends_inside = block.offset + block.size_bytes <= extent.offset + extent.size_bytes
    return is_aligned and block.size_bytes > 0 and block.offset >= extent.offset and ends_inside
