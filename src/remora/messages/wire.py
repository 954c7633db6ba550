"""Frames: a little-endian 32-bit length, then a MessagePack array of messages.

A frame holds a list, so that a burst of small calls costs one encoding, one system call and one decoding.
"""

from __future__ import annotations

import struct
from types import ModuleType
from typing import Any, Union

import msgspec

from remora.messages import (
    actors,
    arena,
    children,
    copies,
    counting,
    head,
    inspection,
    leases,
    links,
    objects,
    placement_groups,
    session,
    tasks,
    transfer,
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
    links,
    copies,
    head,
    transfer,
    placement_groups,
)
"""All that define messages, in the order of their tags."""

ALL_MESSAGES: tuple[type[msgspec.Struct], ...] = tuple(message for module in MODULES for message in module.MESSAGES)

HEADER_SIZE_BYTES = 4
MAX_FRAME_BYTES = 1 << 30

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[list[Any]] = msgspec.msgpack.Decoder(
    list[Union[ALL_MESSAGES]]  # type: ignore[valid-type] # noqa: UP007
)
_pack_length = struct.Struct("<I").pack_into
unpack_length = struct.Struct("<I").unpack_from


def encode_frame(messages: list[Any]) -> bytearray:
    """One frame with all *messages*, in order."""
    frame = bytearray(HEADER_SIZE_BYTES + 60 * len(messages))
    _encoder.encode_into(messages, frame, HEADER_SIZE_BYTES)
    _pack_length(frame, 0, len(frame) - HEADER_SIZE_BYTES)
    return frame


def decode_body(body: memoryview | bytes | bytearray) -> list[Any]:
    """The messages of one frame's body.

    Raises:
        msgspec.DecodeError: the bytes are not MessagePack, or no message of ours.
    """
    try:
        return _decoder.decode(body)
    except (UnicodeDecodeError, RecursionError) as error:  # which msgspec lets through
        raise msgspec.DecodeError(str(error)) from None
