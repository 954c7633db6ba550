"""Copies of one object on several nodes: between its home and the daemons that have, or are receiving, one.

A node asks with ``GetObjects`` and is answered with ``ObjectAt``; what it then has is a *secondary* copy, which it may
evict. The *primary* copy, and those that were asked for with ``WantCopies``, are *kept* until the home frees the object
(``Unkeep``).
"""

from __future__ import annotations

import msgspec

from remora.messages.objects import Value


class CopyArrived(msgspec.Struct, array_like=True, tag=140, frozen=True):
    """Daemon to home: the whole value of these is here now."""

    ids: list[bytes]


class CopyDropped(msgspec.Struct, array_like=True, tag=141, frozen=True):
    """Daemon to home: I neither have nor receive a copy of these any more."""

    ids: list[bytes]


class CopyFailed(msgspec.Struct, array_like=True, tag=142, frozen=True):
    """Daemon to home: the node *source* does not give me its copy, and why; answer with another source or an error."""

    ids: list[bytes]
    source: bytes
    reason: str = ""


class FreeCopies(msgspec.Struct, array_like=True, tag=143, frozen=True):
    """Home to every node that has or receives a secondary copy: the object is freed."""

    ids: list[bytes]


class MakeCopy(msgspec.Struct, array_like=True, tag=144, frozen=True):
    """Home to a node: pull a copy and keep it. ``CopyKept`` answers when it is there, or ``CopyDropped``.

    ``wanted`` is on how many nodes the value is to be kept; the home's heir will want to know.
    """

    id: bytes
    value: Value
    writer: bytes
    sources: list[bytes]
    wanted: int


class KeepCopy(msgspec.Struct, array_like=True, tag=145, frozen=True):
    """Home to a node that has a secondary copy: keep it. ``CopyKept`` answers."""

    id: bytes
    writer: bytes
    wanted: int


class CopyKept(msgspec.Struct, array_like=True, tag=146, frozen=True):
    """Daemon to home: the copy is kept, or (``ok`` false) there is no whole one here."""

    id: bytes
    writer: bytes
    ok: bool


class ReportedCopy(msgspec.Struct, array_like=True, frozen=True):
    """A copy on the reporting node: ``value`` has its size and contents, ``sources`` are those of one that arrives."""

    id: bytes
    writer: bytes
    value: Value
    whole: bool
    kept: bool
    wanted: int = 1
    sources: list[bytes] = []


class HomeReport(msgspec.Struct, array_like=True, tag=147, frozen=True):
    """Daemon to the heir of a dead home: all that this node has of the ids for which *node* answered.

    ``held`` are those that processes and containers of this node hold or asked for, each with its holder; ``values``
    what processes of this node know; ``contained`` which of those ids (containers) hold which ids of this home.
    """

    node: bytes
    held: list[tuple[bytes, bytes]]
    copies: list[ReportedCopy]
    values: list[tuple[bytes, Value]]
    contained: list[tuple[bytes, bytes]]


class NodeResolve(msgspec.Struct, array_like=True, tag=148, frozen=True):
    """Daemon to home: ``writer``, a worker here whose submitter died, made the value of a pending id.

    A stored value is kept here for the home. ``NodeResolved`` answers when what it contains is held.
    """

    id: bytes
    value: Value
    writer: bytes


class NodeResolved(msgspec.Struct, array_like=True, tag=149, frozen=True):
    """Home to daemon: the answer to ``NodeResolve``, whatever became of the value."""

    ids: list[bytes]


MESSAGES = (
    CopyArrived,
    CopyDropped,
    CopyFailed,
    FreeCopies,
    MakeCopy,
    KeepCopy,
    CopyKept,
    HomeReport,
    NodeResolve,
    NodeResolved,
)
