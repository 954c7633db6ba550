"""The client's use of the arena: storing serialized values, viewing stored ones, answering the daemon about space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from remora.messages import arena as messages
from remora.messages.objects import Location
from remora.processes.arena_client import ArenaWriter, Reservation, full_error
from remora.processes.arena_reader import ArenaReader
from remora.processes.client.young_objects import YoungObjects
from remora.serialization import Serialized
from remora.system.pinned_memory import Pin
from remora.system.shared_memory import SharedMemory

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike

    from remora.base.ids import ObjectId
    from remora.base.object_ref import ObjectRef
    from remora.processes.client.client import Client
    from remora.processes.client.created_arrays import CreatedArrays

Answer = messages.BlockGranted | messages.ExtentGranted | messages.AllocationRefused


class ArenaClient:
    """Shared memory of this node, for one process."""

    def __init__(self, client: Client, descriptor: int) -> None:
        self._client = client
        self._memory = SharedMemory(descriptor)
        self._writer = ArenaWriter(self._memory, client.welcome.store_limit_bytes)
        self._lazy_reader: ArenaReader | None = None
        self._answers: dict[int, Answer | None] = {}
        self._abandoned: set[int] = set()
        """Requests whose asker was interrupted."""
        self._created: CreatedArrays | None = None
        self._young = YoungObjects(lambda ref: client.refs.publish(ref), self.release)

    @property
    def _reader(self) -> ArenaReader:
        if self._lazy_reader is None:
            self._lazy_reader = ArenaReader(self._memory)
        return self._lazy_reader

    @property
    def is_idle(self) -> bool:
        """Whether no view could die unnoticed."""
        return not self._young and (self._lazy_reader is None or not self._lazy_reader.pin_count())

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
            # Space of what died since the last look may be all that is missing.
            self._collect()
            reservation = self._writer.reserve(size_bytes, own_pages=own_pages)
            if reservation is not None:
                return reservation
            self._young.publish_all()
            client.refs.drain()
            client.late_publications.flush()
            question = self._writer.ask(size_bytes, own_pages=own_pages)
            number = question.request
            self._answers[number] = None
            client.send_to_daemon(question)
        client.flush_daemon()
        try:
            client.wait_until(lambda: self._answers[number] is not None or client.ended)
        except BaseException:  # Ctrl-C, or a cancel
            self._abandon(number)
            raise
        with client.lock:
            answer = self._answers.pop(number)
            if answer is None:
                client.check_alive()
            if isinstance(answer, messages.AllocationRefused):
                self._writer.refused(answer)
                raise full_error(answer, client.describe_holders(answer.writers))
            assert answer is not None, "check_alive raises when the session has ended"
            return self._writer.granted(answer)

    def _abandon(self, number: int) -> None:
        """Nobody waits for the answer any more: the space goes back when it comes."""
        with self._client.lock:
            answer = self._answers.pop(number)
            if answer is None:
                self._abandoned.add(number)
            else:
                self._decline(answer)

    def _decline(self, answer: Answer) -> None:
        if isinstance(answer, messages.AllocationRefused):
            self._writer.refused(answer)
            return
        message = self._writer.release(self._writer.granted(answer).offset)
        if message is not None:
            self._client.send_to_daemon(message)

    def publish_soon(self, ref: ObjectRef[Any]) -> None:
        """The ref of what was just stored here; its death before the next look costs no message. Wants the lock."""
        self._young.add(ref, ref.data.offset)

    def has_escaped(self, offset: int) -> None:
        """The object at this offset is a matter of counting now, not only of its ref's life here. Wants the lock."""
        self._young.published(offset)

    def published(self, offset: int) -> None:
        """The daemon is told of the object at this offset. Wants the lock."""
        self._young.published(offset)
        self._writer.published(offset)

    def discard(self, location: Location) -> None:
        """The space is not needed: nothing was published there."""
        with self._client.lock:
            self.release(location.offset)

    def release(self, offset: int) -> None:
        """What was reserved at this offset will not be published. Wants the lock."""
        message = self._writer.release(offset)
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
            elif message.request in self._abandoned:
                self._abandoned.discard(message.request)
                self._decline(message)
            elif message.request in self._answers:
                self._answers[message.request] = message
            else:
                raise ValueError(f"the daemon sent {message!r}, which answers nothing that was asked here")

    # ------------------------------------------------------------------ arrays that are filled in the store

    def create_array(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray[Any, Any]:
        """A writable array in the store, of arbitrary content; see :func:`remora.create`.

        Raises:
            ObjectStoreFullError: it does not fit.
        """
        import numpy as np  # a process that creates none needs no numpy

        from remora.processes.client.created_arrays import CreatedArrays, NewArrayLayout, fill_pages

        layout = NewArrayLayout(shape, np.dtype(dtype))
        reservation = self.reserve(layout.size_bytes, own_pages=True)
        location = Location(self._client.node, reservation.offset, layout.size_bytes)
        try:
            with self._client.lock:
                if self._created is None:
                    self._created = CreatedArrays()
                array, in_store = self._created.open(layout, reservation, location, self._reader)
        except BaseException:
            self.discard(location)
            raise
        # From here on the array owns the reservation and gives it back when it is dropped.
        fill_pages(in_store, self._writer, layout.size_bytes)
        self._memory.write(reservation.offset, layout.head)
        return array

    @property
    def has_created(self) -> bool:
        """Whether there may be an array that :meth:`seal` knows."""
        return self._created is not None

    def seal(self, array: object, object_id: ObjectId) -> ObjectRef[Any] | None:
        """The object that the created *array* becomes, to be published; None when it is no such array.

        Wants the lock.
        """
        return self._created.seal(array, object_id) if self._created is not None else None

    # ------------------------------------------------------------------ reading

    def view(self, location: Location, keep: ObjectRef[Any]) -> memoryview:
        """The bytes of a stored object; *keep*, its ref, lives as long as anything that is built on them."""
        with self._client.lock:
            if self._memory.fd < 0:
                self._client.check_alive()
            return self._reader.view(location.offset, location.size_bytes, keep)

    def pins(self) -> list[Pin]:
        """What views of stored objects keep. Wants the lock; for inspection."""
        return [] if self._lazy_reader is None else self._lazy_reader.pins()

    def drain(self) -> None:
        """The regular look: let go of what is dead, and publish what is young. Wants the lock."""
        self._collect()
        self._young.publish_all()

    def _collect(self) -> None:
        """Let go of what is dead: first of views, since what they kept may be the last ref of a young object."""
        self._collect_views()
        self._young.drain()

    def _collect_views(self) -> None:
        """Views keep refs, whose death runs no code, and reservations."""
        if self._created is not None:
            self._created.drain()
        if self._lazy_reader is not None:
            for kept in self._lazy_reader.drain():
                if type(kept) is Reservation:
                    self.release(kept.offset)

    def close(self) -> None:
        """Stop reading and writing. Views that users still have stay valid, and with them the mapping they look at."""
        with self._client.lock:
            self._collect()
            self._writer.close()
            if self._lazy_reader is not None:
                self._lazy_reader.close()
            self._memory.close()
