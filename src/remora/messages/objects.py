"""Values of objects: where they are, and how a process asks for one that it does not have.

A value is *data* in one of three states: ``INLINE`` (the serialized bytes are in the message), ``STORED`` (they
lie in a node's arena, at a location), ``FAILED`` (the bytes are a serialized error). The numbers are those of
:mod:`remora.base.object_ref`.
"""

from __future__ import annotations

import msgspec


class Location(msgspec.Struct, array_like=True, frozen=True):
    """A serialized value in the arena of a node: ``size_bytes`` from ``offset``."""

    node: bytes
    offset: int
    size_bytes: int


class Value(msgspec.Struct, array_like=True, frozen=True):
    """A value or an error, and the ids of the refs inside it, which are outside the pickle on purpose."""

    state: int
    data: bytes = b""
    location: Location | None = None
    contents: list[bytes] = []


class GetObjects(msgspec.Struct, array_like=True, tag=50, frozen=True):
    """Process to daemon: answer ``ObjectValue`` for each id as soon as it has a value, now or later."""

    ids: list[bytes]


class ObjectValue(msgspec.Struct, array_like=True, tag=51, frozen=True):
    """Daemon to process: the object has a value, or will never have one."""

    id: bytes
    value: Value


class ForgetGet(msgspec.Struct, array_like=True, tag=52, frozen=True):
    """Process to daemon: nobody here waits for these any more."""

    ids: list[bytes]


MESSAGES = (GetObjects, ObjectValue, ForgetGet)
