"""Frames: a little-endian 32-bit length, then a MessagePack array of messages.

A frame holds a list, so that a burst of small calls costs one encoding, one system call and one decoding.

Here is what travels within a node; :mod:`remora.messages.node_wire` adds what nodes tell each other. A decoder takes
milliseconds to build, so a process that meets no other node builds none for their messages.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import ModuleType
from typing import Any, Union

import msgspec

from remora.messages import (
    actors,
    arena,
    children,
    counting,
    inspection,
    key_value,
    leases,
    objects,
    placement_groups,
    session,
    tasks,
)

MODULES: tuple[ModuleType, ...] = (
    session,
    counting,
    arena,
    objects,
    leases,
    tasks,
    actors,
    inspection,
    children,
    placement_groups,
    key_value,
)
"""Those with messages between the processes of one node, in the order of their tags."""

HEADER_SIZE_BYTES = 4
MAX_FRAME_BYTES = 1 << 30
MAX_FRAME_MESSAGES = 512
"""Bounds, with the next, the time that one encoding holds the GIL."""
FULL_FRAME_BYTES = 4 << 20
"""A frame that has come to this size takes no more messages."""
GROUP_MESSAGES = 32
"""Messages that are encoded at a time, before the size is looked at: so many of the largest are far below a frame."""
_ARRAY_HEADER_BYTES = 5
_ARRAY_OF_32_BITS = 0xDD

_encoder = msgspec.msgpack.Encoder()
_pack_array_header = struct.Struct(">BI").pack_into
_pack_length = struct.Struct("<I").pack_into
unpack_length = struct.Struct("<I").unpack_from


def encode_frame(messages: list[Any]) -> bytearray:
    """One frame with all *messages*, in order."""
    frame = bytearray(HEADER_SIZE_BYTES + 60 * len(messages))
    _encoder.encode_into(messages, frame, HEADER_SIZE_BYTES)
    _pack_length(frame, 0, len(frame) - HEADER_SIZE_BYTES)
    return frame


def encode_batch(outgoing: list[Any]) -> tuple[bytearray, int]:
    """One frame with the first of *outgoing*, and how many they are: not all when they are many, or large.

    Other threads may append to the list meanwhile.
    """
    messages = outgoing[:MAX_FRAME_MESSAGES]
    if len(messages) <= GROUP_MESSAGES:
        return encode_frame(messages), len(messages)
    frame = bytearray(HEADER_SIZE_BYTES + _ARRAY_HEADER_BYTES + 60 * len(messages))
    end, count = HEADER_SIZE_BYTES + _ARRAY_HEADER_BYTES, 0
    while count < len(messages) and end < FULL_FRAME_BYTES:
        group = messages[count : count + GROUP_MESSAGES]
        # Each group is an array of its own: its header lies over the end of the group before, which is put back.
        header_bytes = 1 if len(group) < 16 else 3
        covered = frame[end - header_bytes : end]
        _encoder.encode_into(group, frame, end - header_bytes)
        frame[end - header_bytes : end] = covered
        end = len(frame)
        count += len(group)
    _pack_array_header(frame, HEADER_SIZE_BYTES, _ARRAY_OF_32_BITS, count)
    _pack_length(frame, 0, end - HEADER_SIZE_BYTES)
    return frame, count


def body_decoder(modules: tuple[ModuleType, ...]) -> Callable[[memoryview | bytes | bytearray], list[Any]]:
    """A function that gives the messages of one frame's body, when they are of *modules*.

    It raises ``msgspec.DecodeError`` when the bytes are not MessagePack, or no message of theirs.
    """
    kinds = tuple(message for module in modules for message in module.MESSAGES)
    decoder: msgspec.msgpack.Decoder[list[Any]] = msgspec.msgpack.Decoder(list[Union[kinds]])  # type: ignore[valid-type] # noqa: UP007

    def decode(body: memoryview | bytes | bytearray) -> list[Any]:
        try:
            return decoder.decode(body)
        except (UnicodeDecodeError, RecursionError) as error:  # which msgspec lets through
            raise msgspec.DecodeError(str(error)) from None

    return decode


decode_body = body_decoder(MODULES)
"""The messages of one frame's body from a process of this node; raises ``msgspec.DecodeError`` for anything else."""
