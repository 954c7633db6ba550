"""What a simulated process remembers of its objects and calls, and what it needs of the world around it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from remora.base.ids import NodeId, ObjectId, ProcessId
from remora.messages.objects import Location, Value


class Item(msgspec.Struct, array_like=True, frozen=True):
    """A generator item."""

    call: int
    item: int
    value: Value


class End(msgspec.Struct, array_like=True, frozen=True):
    """The sender's socket was read to its end."""


class NodeDied(msgspec.Struct, array_like=True, frozen=True):
    """Head to daemon: the node is dead, and this one is its heir."""

    node: bytes
    heir: bytes


@dataclass
class OwnObject:
    """An object made by this process, as long as a ref lives or its value is awaited."""

    value: Value
    published: bool = False


@dataclass(eq=False)
class RunningCall:
    """A task here, between its arrival and the end of its user code."""

    told: bool
    variables: list[ObjectId]
    orphaned: bool = False
    items: int = 0


@dataclass
class SubmittedCall:
    """A call from here whose arguments are held."""

    worker: ProcessId
    held: tuple[ObjectId, ...]
    result: ObjectId
    told: bool
    replied: bool = False


class Network:
    """What a client needs of the world around it."""

    send: Callable[[bytes, bytes, msgspec.Struct], None]
    new_location: Callable[[NodeId], Location]
    look: Callable[[Location], None]
    """A process looks at this place, which must be there."""
    actors: dict[ProcessId, ObjectId]
    """Per process that is an actor: the object that its creation made."""
