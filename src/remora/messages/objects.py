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
    """Process to daemon, and daemon to home: answer for each id as soon as it has a value, now or later.

    ``purpose`` says how urgent it is that the value comes to this node: 0 somebody waits to read it, 1 a task waits
    for it as its argument, 2 it may be wanted soon; 3: it need not come, only its being there is to be told.
    """

    ids: list[bytes]
    purpose: int = 0


class ObjectValue(msgspec.Struct, array_like=True, tag=51, frozen=True):
    """Daemon to process: the object has a value, or will never have one.

    Where a value lies that is ``evictable`` the process tells nobody: whoever looks at it must be known to the daemon,
    which asks with ``ReleaseCopies`` before it frees the place. An error ``for_now`` is the end of what was asked until
    now only: the value is stored on another node, could not be brought to this one, and may be asked for again.
    """

    id: bytes
    value: Value
    evictable: bool = False
    for_now: bool = False


class ForgetGet(msgspec.Struct, array_like=True, tag=52, frozen=True):
    """Process to daemon: nobody here waits for these any more."""

    ids: list[bytes]


class ReleaseCopies(msgspec.Struct, array_like=True, tag=53, frozen=True):
    """Daemon to process: the store needs space; which of these copies of values from other nodes do you not use?"""

    ids: list[bytes]


class CopiesReleased(msgspec.Struct, array_like=True, tag=54, frozen=True):
    """Process to daemon: the answer to ``ReleaseCopies``. It looks at these no more, unless it asks again."""

    ids: list[bytes]


class ObjectAt(msgspec.Struct, array_like=True, tag=55, frozen=True):
    """Home to a node that asked with ``GetObjects``: the stored value lies elsewhere, pull a copy of it.

    ``sources`` are nodes to read it from, the best first; the first may be receiving it itself, the others have it
    whole. The node that asked is among them when it has the value already. The home has written it down as receiving,
    until its ``CopyArrived`` or ``CopyDropped``. Data is named by id and ``writer``: two attempts may have stored it.
    """

    id: bytes
    value: Value
    writer: bytes
    sources: list[bytes]


class WantCopies(msgspec.Struct, array_like=True, tag=56, frozen=True):
    """Process to daemon to home: keep the values of these, once they are stored, on ``count`` nodes."""

    ids: list[bytes]
    count: int


class HomeDied(msgspec.Struct, array_like=True, tag=57, frozen=True):
    """Daemon to process: the home of all ids that start with one of *nodes* died; answer with ``OfferValues``."""

    nodes: list[bytes]


class OfferValues(msgspec.Struct, array_like=True, tag=58, frozen=True):
    """Process to daemon: the answer to ``HomeDied``, at once. ``values`` are those known here of live refs.

    Only values and errors that are in the process itself; what is stored in an arena is found by its node.
    """

    nodes: list[bytes]
    values: list[tuple[bytes, Value]]


MESSAGES = (
    GetObjects,
    ObjectValue,
    ForgetGet,
    ReleaseCopies,
    CopiesReleased,
    ObjectAt,
    WantCopies,
    HomeDied,
    OfferValues,
)
