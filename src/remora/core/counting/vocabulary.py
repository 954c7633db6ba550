"""Words that both halves of counting share: holders, what a machine asks its shell to do, the error."""

from __future__ import annotations

from enum import IntEnum

import msgspec

from remora.base.ids import NODE_ID_SIZE_BYTES, OBJECT_ID_SIZE_BYTES, PROCESS_ID_SIZE_BYTES, NodeId, ProcessId
from remora.messages.objects import Location

DAEMON = b""
"""The destination of a process's messages to its own node daemon."""

EXPORTED = b"*"
"""Between a node's id and the process id of a job's driver: the holder of refs that processes of the job on this node
pickled outside of our serializers."""

DETACHED = b"!"
"""Behind a node's id: the holder of the creation objects of detached actors, as long as these may be constructed."""


class Hold(IntEnum):
    """What somebody has of an id at its home. A release is never sent from ``ASKED``: the answer is awaited."""

    NONE = 0
    ASKED = 1
    HELD = 2
    GONE = 3


class CountingError(Exception):
    """A transition that the protocol does not have. Nothing was changed; the caller is at fault."""


class Send(msgspec.Struct, frozen=True):
    """Send *message* to a process (8 bytes), to a node's daemon (4 bytes) or to the own daemon (``DAEMON``)."""

    to: bytes
    message: msgspec.Struct


class LetGo(msgspec.Struct, frozen=True):
    """The call is settled and closed: drop the strong references to what its arguments contain."""

    worker: ProcessId
    call: int


class KeepLocation(msgspec.Struct, frozen=True):
    """From now on the directory owns this piece of the arena, whatever becomes of the process that wrote it."""

    location: Location


class FreeLocation(msgspec.Struct, frozen=True):
    """Nobody needs this piece of the arena any more."""

    location: Location


class ObjectFreed(msgspec.Struct, frozen=True):
    """A watched object has lost its last holder."""

    id: bytes


class StartPull(msgspec.Struct, frozen=True):
    """Bring the value that *writer* stored to this node, from one of *sources*, the best first.

    ``copy_arrived`` or ``copy_failed`` of the directory answers. Of a pull that is under way: go on with these sources.
    """

    id: bytes
    writer: bytes
    size_bytes: int
    sources: tuple[bytes, ...]
    purpose: int


class RaisePull(msgspec.Struct, frozen=True):
    """The pull that is under way has become more urgent."""

    id: bytes
    writer: bytes
    purpose: int


class CancelPull(msgspec.Struct, frozen=True):
    """Nobody wants the value here any more: end the pull, if it has not failed already, free its space, say nothing."""

    id: bytes
    writer: bytes


Effect = Send | LetGo | KeepLocation | FreeLocation | ObjectFreed | StartPull | RaisePull | CancelPull


def is_process(holder: bytes) -> bool:
    """Whether the holder is a process."""
    return len(holder) == PROCESS_ID_SIZE_BYTES


def is_container(holder: bytes) -> bool:
    """Whether the holder is an object that has the ref inside its value."""
    return len(holder) == OBJECT_ID_SIZE_BYTES


def exports_of(job: ProcessId, node: NodeId) -> bytes:
    """The holder of what processes of the job on the node pickled outside of our serializers."""
    return node + EXPORTED + job


def is_exports(holder: bytes) -> bool:
    """Whether the holder keeps refs for a job, to its end."""
    return len(holder) == NODE_ID_SIZE_BYTES + len(EXPORTED) + PROCESS_ID_SIZE_BYTES


def job_of_exports(holder: bytes) -> ProcessId:
    """The job, named by its driver, for which such a holder keeps refs."""
    return ProcessId(holder[-PROCESS_ID_SIZE_BYTES:])


NOBODY = NodeId(b"")
"""The home of an id while its node is dead and the heir does not answer for it yet. Nothing is sent there."""


def home_of(any_id: bytes) -> NodeId:
    """The node that an object or holder of any kind was made on."""
    return NodeId(any_id[:4])
