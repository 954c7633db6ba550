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
    """Home to a node: pull a copy and keep it. ``CopyKept`` answers when it is there, or ``CopyDropped``."""

    id: bytes
    value: Value
    writer: bytes
    sources: list[bytes]


class KeepCopy(msgspec.Struct, array_like=True, tag=145, frozen=True):
    """Home to a node that has a secondary copy: keep it. ``CopyKept`` answers."""

    id: bytes
    writer: bytes


class CopyKept(msgspec.Struct, array_like=True, tag=146, frozen=True):
    """Daemon to home: the copy is kept, or (``ok`` false) there is no whole one here."""

    id: bytes
    writer: bytes
    ok: bool


MESSAGES = (CopyArrived, CopyDropped, CopyFailed, FreeCopies, MakeCopy, KeepCopy, CopyKept)
