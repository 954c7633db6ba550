"""Errors about objects: not ready, lost, too large, or not to be pickled."""

from __future__ import annotations

from remora.base.remora_error import RemoraError
from remora.base.wording import format_size, name_object, sentences, where


class GetTimeoutError(RemoraError, TimeoutError):
    """``get`` or another wait ended before its object was ready. The object is still being made: get it again."""

    def __init__(
        self, message: str = "", *, timeout_s: float | None = None, pending: int = 0, object_id: bytes = b""
    ) -> None:
        self.timeout_s = timeout_s
        self.pending = pending
        self.object_id = object_id
        waited = f" within {timeout_s:g} s" if timeout_s is not None else ""
        what = name_object(object_id)
        if pending > 1:
            what = f"{pending} objects, among them {what},"
        super().__init__(
            message or sentences(f"{what} did not get ready{waited}", "Call get again with a longer timeout")
        )


class ObjectLostError(RemoraError):
    """The value of an object is nowhere any more and cannot be made again."""

    HAPPENED = "is lost"

    def __init__(
        self, message: str = "", *, object_id: bytes = b"", reason: str = "", node: str = "", site: str = ""
    ) -> None:
        self.object_id = object_id
        self.reason = reason
        self.node = node
        self.site = site
        super().__init__(
            message
            or sentences(
                f"{name_object(object_id)}{where(0, node)} {self.HAPPENED}",
                reason,
                f"It was made at {site}" if site else "",
            )
        )


class ObjectFetchTimedOutError(ObjectLostError):
    """No node that has a copy could deliver it in time."""

    HAPPENED = "could not be fetched in time"


class ObjectFreedError(ObjectLostError):
    """The object was freed by hand while refs to it were left."""

    HAPPENED = "was freed by an explicit call"


class OwnerDiedError(ObjectLostError):
    """The process that had to make or to name the value died before it did."""

    HAPPENED = "will never have a value, because the process that was to give it died"


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """The object was freed while a ref was left: an error in Remora, or a ref that was rebuilt from its bytes."""

    HAPPENED = "was already freed although this ref points to it"


class ObjectReconstructionFailedError(ObjectLostError):
    """The value is lost, and the task that made it cannot make it again."""

    HAPPENED = "is lost and cannot be made again"


class ObjectReconstructionFailedMaxAttemptsExceededError(ObjectReconstructionFailedError):
    """The value is lost, and the task that made it has no retry left."""

    HAPPENED = "is lost, and the task that made it has no retry left"


class ObjectReconstructionFailedLineageEvictedError(ObjectReconstructionFailedError):
    """The value is lost, and how it was made is no longer recorded."""

    HAPPENED = "is lost, and the record of how it was made was dropped to save memory"


class PlasmaObjectNotAvailable(RemoraError):
    """The object is not in this node's store."""


class ObjectRefStreamEndOfStreamError(RemoraError):
    """The generator task has no more items."""


class ObjectStoreFullError(RemoraError):
    """The object does not fit into the store, or the machine has no memory left to grow it."""

    def __init__(
        self,
        message: str = "",
        *,
        size_bytes: int = 0,
        used_bytes: int = 0,
        limit_bytes: int = 0,
        reason: str = "",
        largest_holders: str = "",
    ) -> None:
        self.size_bytes = size_bytes
        self.used_bytes = used_bytes
        self.limit_bytes = limit_bytes
        super().__init__(
            message
            or sentences(
                f"an object of {format_size(size_bytes)} does not fit into the object store: "
                f"{format_size(used_bytes)} of {format_size(limit_bytes)} are in use",
                reason,
                f"Largest: {largest_holders}" if largest_holders else "",
                "Drop refs and arrays that are no longer needed, or start the node with a larger object_store_memory "
                "(of init, or --object-store-memory of `remora start`)",
            )
        )


class OutOfDiskError(RemoraError):
    """The disk that objects are spilled to is full."""


class SerializationError(RemoraError, TypeError):
    """A value cannot be pickled. The message names the place inside the value; ``path`` is that place alone."""

    def __init__(self, message: str = "", *, path: str = "", reason: str = "", advice: str = "") -> None:
        self.path = path
        self.reason = reason
        super().__init__(message or sentences(f"{path or 'the value'}: {reason or 'cannot be pickled'}", advice))


class DeserializationError(RemoraError):
    """A value that was pickled elsewhere cannot be rebuilt in this process; ``__cause__`` says why."""

    def __init__(self, message: str = "", *, object_id: bytes = b"", type_name: str = "") -> None:
        self.object_id = object_id
        self.type_name = type_name
        super().__init__(message or sentences(f"{name_object(object_id)} cannot be rebuilt in this process"))
