"""Copies of objects of other nodes: the directory and the arena of this node joined to the transfers."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

from remora.base.ids import NodeId, ObjectId, daemon_of
from remora.core.arena import ArenaAllocator
from remora.core.counting.directory import Directory
from remora.core.counting.vocabulary import CancelPull, RaisePull, StartPull
from remora.messages.arena import AllocateBlock, AllocationRefused, BlockGranted, ReleaseBlocks
from remora.messages.objects import Location
from remora.processes.daemon.transfers import Transfers

SPACE_TIMEOUT_S = 30.0
"""How long a pull waits for space; what waits in the store longer than a put does is still wanted by somebody."""


class RemoteObjects:
    """What :class:`~remora.processes.daemon.transfers.Transfers` needs of the daemon, and what needs them.

    The daemon writes what comes from other nodes into the arena itself, as the process number 0 of its node.
    ``carry_out(now_s)`` is that of the object service.
    """

    def __init__(
        self,
        node: NodeId,
        directory: Directory,
        arena: ArenaAllocator,
        carry_out: Callable[[float], None],
        address_of: Callable[[NodeId], str | None],
    ) -> None:
        self.process = daemon_of(node)
        self._directory = directory
        self._arena = arena
        self._carry_out = carry_out
        self.address_of = address_of
        self.transfers: Transfers

    # ------------------------------------------------------------------ what the directory says

    def do(self, effect: StartPull | RaisePull | CancelPull) -> None:
        """Bring a value here, more urgently, or not at all."""
        transfers = self.transfers
        if isinstance(effect, StartPull):
            transfers.start(effect.id, effect.writer, effect.size_bytes, effect.sources, effect.purpose)
        elif isinstance(effect, RaisePull):
            transfers.raise_priority(effect.id, effect.writer, effect.purpose)
        else:
            transfers.cancel(effect.id, effect.writer)

    def on_space(self, message: BlockGranted | AllocationRefused) -> None:
        """The arena answers what :meth:`allocate` asked."""
        if isinstance(message, BlockGranted):
            self.transfers.space_granted(message.request, message.block, message.fresh)
        else:
            self.transfers.space_refused(
                message.request,
                f"the store of this node has no room for {message.size_bytes} bytes: {message.used_bytes} of "
                f"{message.limit_bytes} are in use (waited {message.waited_s:.1f} s)",
            )

    # ------------------------------------------------------------------ what the transfers ask and say (TransferHost)

    def locate(self, object_id: ObjectId, writer: bytes) -> Location | None:
        """Where a value lies on this node, if all of it does."""
        located = self._directory.locate(object_id, writer)
        return located.location if located is not None else None

    def allocate(self, size_bytes: int, request: int) -> None:
        """Ask the arena for a block."""
        now_s = monotonic()
        self._arena.allocate_block(self.process, AllocateBlock(request, size_bytes, SPACE_TIMEOUT_S), now_s)
        self._carry_out(now_s)

    def release(self, offset: int) -> None:
        """A block that was not published is not wanted."""
        now_s = monotonic()
        self._arena.release(self.process, ReleaseBlocks([offset]), now_s)
        self._carry_out(now_s)

    def free(self, location: Location) -> None:
        """A published block is not read by other nodes any more, and nobody else wants it."""
        now_s = monotonic()
        self._arena.free([location.offset], now_s)
        self._carry_out(now_s)

    def arrived(self, object_id: ObjectId, writer: bytes, location: Location) -> None:
        """The whole value is here."""
        now_s = monotonic()
        self._arena.publish(self.process, location.offset, location.size_bytes)
        self._directory.copy_arrived(object_id, writer, location)
        self._carry_out(now_s)

    def failed(self, object_id: ObjectId, writer: bytes, source: bytes, reason: str) -> None:
        """A source gives nothing more; an empty one: the value cannot come at all."""
        self._directory.copy_failed(object_id, writer, source, reason)
        self._carry_out(monotonic())
