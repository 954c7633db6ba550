"""Identifiers, the same bytes in every language.

An object id is 16 bytes, four big-endian unsigned 32-bit numbers::

    node | process | call | item

*node* and *process* name the process that made the id and are never reused; *call* counts that process's
calls and puts; *item* numbers the returns of one call. So a caller knows the ids of all returns of a call
before it sends it, a retry makes the same ids again, and any id tells which node is its home.

A process id is the first 8 bytes of every id that the process makes. A task id is the first 12 bytes of the
ids of its returns. An actor is named by the id of the object that its creation makes.
"""

from __future__ import annotations

import struct
from typing import NewType

ObjectId = NewType("ObjectId", bytes)
"""16 bytes: node, process, call, item."""
TaskId = NewType("TaskId", bytes)
"""12 bytes: node, process, call."""
ProcessId = NewType("ProcessId", bytes)
"""8 bytes: node, process."""
NodeId = NewType("NodeId", bytes)
"""4 bytes."""
ActorId = NewType("ActorId", bytes)
"""16 bytes: the object id of the actor's creation."""

OBJECT_ID_SIZE_BYTES = 16
PROCESS_ID_SIZE_BYTES = 8
NODE_ID_SIZE_BYTES = 4

_pack_pair = struct.Struct(">II").pack
_unpack_pair = struct.Struct(">II").unpack


def make_process_id(node: int, process: int) -> ProcessId:
    """The id of the *process*-th process of node number *node*."""
    return ProcessId(_pack_pair(node, process))


def daemon_of(node: bytes) -> ProcessId:
    """The process id of a node's daemon, ``node.0``."""
    return ProcessId(node + bytes(PROCESS_ID_SIZE_BYTES - NODE_ID_SIZE_BYTES))


def make_object_id(process: ProcessId, call: int, item: int = 0) -> ObjectId:
    """The id of the *item*-th object that call number *call* of *process* makes."""
    return ObjectId(process + _pack_pair(call, item))


def make_task_id(process: bytes, call: int) -> TaskId:
    """What the ids of all returns of call number *call* of *process* begin with."""
    return TaskId(process + call.to_bytes(4, "big"))


def process_of(object_id: bytes) -> ProcessId:
    """The process that made the id."""
    return ProcessId(object_id[:8])


def node_of(any_id: bytes) -> NodeId:
    """The node of an object, task or process id; for an object that is its home."""
    return NodeId(any_id[:4])


def call_and_item_of(object_id: bytes) -> tuple[int, int]:
    """The call number and the item number of an object id."""
    call, item = _unpack_pair(object_id[8:16])
    return call, item


def short(any_id: bytes) -> str:
    """How messages to people write an id: ``node.process.call.item``, as far as the id goes.

    The node in hexadecimal without leading zeros, as ``nodes()`` and the Python API show it, the rest in decimal.
    """
    numbers = [int.from_bytes(any_id[i : i + 4], "big") for i in range(0, len(any_id), 4)]
    return ".".join([*(f"{node:x}" for node in numbers[:1]), *map(str, numbers[1:])])
