"""Reference counting: what processes, node daemons and homes tell each other about refs.

Every id has a home, the daemon of the node in its first four bytes. The home keeps the id's *holders*: process
ids (8 bytes), container ids (16 bytes: another object whose value has the ref inside) and exports of a job
from one node (13 bytes: the node, ``*``, the driver's process id). The node of a holder is in its first four bytes too.

All of it depends on order: messages of one connection are handled in the order in which they were written.
Between daemons, ``GetObjects`` and ``ObjectValue`` ask the home for a value and answer as they do in a node.
"""

from __future__ import annotations

import msgspec

from remora.messages.objects import Location, Value


class Publish(msgspec.Struct, array_like=True, tag=20, frozen=True):
    """Process to daemon: this id of mine is about to leave the process; I hold it.

    ``value.state`` is ``PENDING`` while a task makes it. ``writer`` is the process that wrote a stored value, when
    that is not the sender. With contents, or with a value on another node, ``PublishAck`` answers.
    """

    id: bytes
    value: Value
    writer: bytes = b""


class Resolve(msgspec.Struct, array_like=True, tag=21, frozen=True):
    """Process to daemon: the value of an id that was published pending. Sent also when nobody here holds the id."""

    id: bytes
    value: Value
    writer: bytes = b""


class PublishAck(msgspec.Struct, array_like=True, tag=22, frozen=True):
    """Daemon to process: the home holds what the object contains, or has freed the object already."""

    ids: list[bytes]


class Register(msgspec.Struct, array_like=True, tag=23, frozen=True):
    """Process to daemon: I hold these ids now. ``Ack`` answers each, whether they have a value or not."""

    ids: list[bytes]


class Ack(msgspec.Struct, array_like=True, tag=24, frozen=True):
    """Daemon to process: the homes have written you down, or (``ok`` false) these ids are gone for ever."""

    ids: list[bytes]
    ok: bool


class Release(msgspec.Struct, array_like=True, tag=25, frozen=True):
    """Process to daemon: I hold these ids no more. Never sent while a ``Register`` of the id is unanswered."""

    ids: list[bytes]


class Ping(msgspec.Struct, array_like=True, tag=26, frozen=True):
    """Daemon to process: somebody asked for something that you may have told me, but I have not read it yet."""

    number: int


class Pong(msgspec.Struct, array_like=True, tag=27, frozen=True):
    """Process to daemon: the answer to ``Ping``; what was written before it has been read when this is read."""

    number: int


class Export(msgspec.Struct, array_like=True, tag=28, frozen=True):
    """Process to daemon: these refs were pickled outside of Remora's serializers; the job holds them to its end."""

    ids: list[bytes]


class Store(msgspec.Struct, array_like=True, tag=29, frozen=True):
    """Worker to daemon: I wrote the value of an id that another process made.

    ``keeper`` is the submitter when it is a process of this node: the copy is handed over to it. Else it is empty
    and the worker keeps the copy until its ``DropCopy``.
    """

    id: bytes
    location: Location
    keeper: bytes = b""


class DropCopy(msgspec.Struct, array_like=True, tag=30, frozen=True):
    """Process to daemon: I keep the copy no more that ``writer`` (perhaps myself) stored.

    A submitter says so of a result that nobody wants, a worker when the submitter has acknowledged or died.
    """

    id: bytes
    writer: bytes


class DropUnclaimed(msgspec.Struct, array_like=True, tag=31, frozen=True):
    """Submitter to daemon: ``writer`` died; what it stored for me and I have not published, drop."""

    writer: bytes


class ItemAck(msgspec.Struct, array_like=True, tag=32, gc=False):
    """Submitter to worker: the refs of this generator item are registered here, or dropped."""

    call: int
    item: int


class NodeRegister(msgspec.Struct, array_like=True, tag=33, frozen=True):
    """Daemon to home: the holder, a process or container of the sender's node, holds these ids now."""

    ids: list[bytes]
    holder: bytes


class NodeAck(msgspec.Struct, array_like=True, tag=34, frozen=True):
    """Home to daemon: the answer to ``NodeRegister``."""

    ids: list[bytes]
    holder: bytes
    ok: bool


class NodeRelease(msgspec.Struct, array_like=True, tag=35, frozen=True):
    """Daemon to home: the holder holds these ids no more."""

    ids: list[bytes]
    holder: bytes


class Keep(msgspec.Struct, array_like=True, tag=36, frozen=True):
    """Home to another node's daemon: keep the copy of my object that ``writer`` stored with you.

    ``contents`` are the ids inside, for the heir of a home that dies.
    """

    id: bytes
    writer: bytes
    contents: list[bytes] = []


class KeepAck(msgspec.Struct, array_like=True, tag=37, frozen=True):
    """The answer to ``Keep``: the copy is kept for the home, or (``ok`` false) there is none."""

    id: bytes
    ok: bool


class Unkeep(msgspec.Struct, array_like=True, tag=38, frozen=True):
    """Home to another node's daemon: the object is freed, drop the copy."""

    id: bytes
    writer: bytes


class Sync(msgspec.Struct, array_like=True, tag=39, frozen=True):
    """Daemon to daemon, first message of every connection after a lost one: all that the sender has with you.

    ``held`` are the ids of yours that it holds or has asked for, each with its holder; ``kept`` its own objects
    of which it keeps, or has asked to keep, a copy with you, each with its writer; ``copies`` the ids of yours of which
    it has, or receives, a copy that it may drop. What is not listed is over.
    """

    held: list[tuple[bytes, bytes]]
    kept: list[tuple[bytes, bytes]]
    copies: list[bytes] = []


MESSAGES = (
    Publish,
    Resolve,
    PublishAck,
    Register,
    Ack,
    Release,
    Ping,
    Pong,
    Export,
    Store,
    DropCopy,
    DropUnclaimed,
    ItemAck,
    NodeRegister,
    NodeAck,
    NodeRelease,
    Keep,
    KeepAck,
    Unkeep,
    Sync,
)
