"""The client's use of the arena: storing serialized values, viewing stored ones, answering the daemon about space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from remora.messages import arena as messages
from remora.messages.objects import Location
from remora.processes.arena_client import ArenaWriter, Reservation, full_error
from remora.processes.arena_reader import ArenaReader
from remora.serialization import Serialized
from remora.system.shared_memory import SharedMemory

if TYPE_CHECKING:
    from remora.base.object_ref import ObjectRef
    from remora.processes.client.client import Client

Answer = messages.BlockGranted | messages.ExtentGranted | messages.AllocationRefused


class ArenaClient:
    """Shared memory of this node, for one process."""

    def __init__(self, client: Client, descriptor: int) -> None:
        self._client = client
        self._memory = SharedMemory(descriptor)
        self._writer = ArenaWriter(self._memory, client.welcome.store_limit_bytes)
        self._lazy_reader: ArenaReader | None = None
        self._answers: dict[int, Answer | None] = {}

    @property
    def _reader(self) -> ArenaReader:
        if self._lazy_reader is None:
            self._lazy_reader = ArenaReader(self._memory)
        return self._lazy_reader

    @property
    def is_idle(self) -> bool:
        """Whether no view could die unnoticed."""
        return self._lazy_reader is None or not self._lazy_reader.pin_count()

    # ------------------------------------------------------------------ writing

    def store(self, serialized: Serialized) -> Location:
        """Write a value. It is to be published, by this process or by whom the location is told, or discarded.

        Raises:
            ObjectStoreFullError: it does not fit, also after waiting for what is in use to be dropped.
        """
        size_bytes = serialized.size_bytes
        reservation = self.reserve(size_bytes)
        parts = serialized.parts()
        try:
            reservation.write([buffer for _, buffer in parts], [offset for offset, _ in parts])
        except BaseException:
            self.discard(Location(self._client.node, reservation.offset, size_bytes))
            raise
        return Location(self._client.node, reservation.offset, size_bytes)

    def reserve(self, size_bytes: int, *, own_pages: bool = False) -> Reservation:
        """Space for an object.

        Raises:
            ObjectStoreFullError: there is none.
        """
        client = self._client
        with client.lock:
            reservation = self._writer.reserve(size_bytes, own_pages=own_pages)
            if reservation is not None:
                return reservation
            client.check_alive()
            # Space of views that died since the last look may be what is missing.
            self.drain()
            client.refs.drain()
            question = self._writer.ask(size_bytes, own_pages=own_pages)
            number = question.request
            self._answers[number] = None
            client.send_to_daemon(question)
        client.flush_daemon()
        client.wait_until(lambda: self._answers[number] is not None or client.ended)
        with client.lock:
            answer = self._answers.pop(number)
            if answer is None:
                client.check_alive()
            if isinstance(answer, messages.AllocationRefused):
                self._writer.refused(answer)
                raise full_error(answer, client.describe_holders(answer.writers))
            assert answer is not None, "check_alive raises when the session has ended"
            return self._writer.granted(answer)

    def published(self, offset: int) -> None:
        """The daemon is told of the object at this offset. Wants the lock."""
        self._writer.published(offset)

    def discard(self, location: Location) -> None:
        """The space is not needed: nothing was published there."""
        with self._client.lock:
            message = self._writer.release(location.offset)
            if message is not None:
                self._client.send_to_daemon(message)

    def on_message(self, message: Any) -> None:
        """The daemon says something about space."""
        kind = type(message)
        with self._client.lock:
            if kind is messages.BlocksFreed:
                self._writer.blocks_freed(message)
            elif kind is messages.ReturnExtents:
                self._client.send_to_daemon(self._writer.return_extents())
            elif message.request in self._answers:
                self._answers[message.request] = message
            else:
                raise ValueError(f"the daemon sent {message!r}, which answers nothing that was asked here")

    # ------------------------------------------------------------------ reading

    def view(self, location: Location, keep: ObjectRef[Any], copy: bool = False) -> memoryview | bytearray:
        """The bytes of a stored object; *keep*, its ref, lives as long as anything that is built on them."""
        with self._client.lock:
            view = self._reader.view(location.offset, location.size_bytes, keep)
        return bytearray(view) if copy else view

    def drain(self) -> None:
        """Let go of the refs that dead views kept. Wants the lock; refs have no destructor that runs code."""
        if self._lazy_reader is not None:
            self._lazy_reader.drain().clear()

    def close(self) -> None:
        """Stop writing. Views that users still have stay valid, so the mapping for reading stays."""
        self._writer.close()
