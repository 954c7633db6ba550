"""The bytes of a serialized value; docs/value-format.md describes them for other languages.

A value that starts with 0x80 is a plain pickle. Anything else starts with a header of 16 bytes, little-endian::

    magic 'R' | version | kind | flags | count (u32) | length (u64)
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import msgspec

from remora.base.errors import DeserializationError

if TYPE_CHECKING:
    from remora.base.object_ref import ObjectRef

PICKLE_START: Final = 0x80
MAGIC: Final = 0x52
VERSION: Final = 1

KIND_PICKLE: Final = 1
"""``count`` times (offset u64, size u64) of the buffers, then ``length`` bytes of pickle, then the buffers."""
KIND_BYTES: Final = 2
"""``length`` bytes from offset 64."""
KIND_ERROR: Final = 3
"""``length`` bytes of MessagePack from offset 16: what failed."""
KIND_ARRAY: Final = 4
"""``count`` dimensions (u64 each), a byte with the length of the dtype's name, the name, then ``length`` bytes."""

FLAG_FORTRAN: Final = 1
"""Of an array: the first index varies fastest."""

HEADER_SIZE_BYTES: Final = 16
ALIGNMENT_BYTES: Final = 64

_header = struct.Struct("<BBBBIQ")
pack_header = _header.pack
unpack_header = _header.unpack_from


class Serialized(msgspec.Struct, frozen=True):
    """A value as bytes that are not joined yet.

    It may point into the value itself (the memory of an array, a large ``bytes``): it is to be written, or turned into
    bytes with :meth:`to_bytes`, before control goes back to the user.

    Attributes:
        size_bytes: of the whole value.
        refs: the refs inside the value, each once, in the order in which they were met.
    """

    size_bytes: int
    data: bytes | None = None
    pieces: list[tuple[int, Any]] = []
    refs: list[ObjectRef[Any]] = []

    def parts(self) -> list[tuple[int, bytes | memoryview]]:
        """``(offset, buffer)`` in ascending order; what lies between two parts is padding of any content."""
        if self.data is not None:
            return [(0, self.data)]
        return self.pieces

    def to_bytes(self) -> bytes:
        """The value in one piece, to travel inside a message."""
        if self.data is not None:
            return self.data
        joined: list[bytes | memoryview] = []
        position = 0
        for offset, buffer in self.pieces:
            if offset != position:
                joined.append(bytes(offset - position))
            joined.append(buffer)
            position = offset + len(buffer)
        return b"".join(joined)


def serialized_bytes(data: bytes, refs: list[ObjectRef[Any]]) -> Serialized:
    """A value that is in one piece already."""
    return Serialized(len(data), data, [], refs)


def align(offset: int) -> int:
    """The next offset at which a buffer may start."""
    return (offset + ALIGNMENT_BYTES - 1) & -ALIGNMENT_BYTES


def assemble_pickle(
    chunks: list[bytes], buffers: list[memoryview], refs: list[ObjectRef[Any]], *, force_frame: bool = False
) -> Serialized:
    """Puts the chunks of one pickle and its out-of-band buffers in their places."""
    if not buffers and not force_frame and len(chunks) == 1:
        return Serialized(len(chunks[0]), chunks[0], [], refs)
    pickle_size = sum(map(len, chunks))
    pieces: list[tuple[int, Any]] = []
    position = 0
    if buffers or force_frame:
        position = HEADER_SIZE_BYTES + 16 * len(buffers)
    body_start = position
    body: list[bytes] = list(chunks)
    position += pickle_size
    table: list[int] = []
    placed: list[tuple[int, memoryview]] = []
    for buffer in buffers:
        position = align(position)
        table += (position, len(buffer))
        placed.append((position, buffer))
        position += len(buffer)
    if body_start:
        head = pack_header(MAGIC, VERSION, KIND_PICKLE, 0, len(buffers), pickle_size)
        head += struct.pack(f"<{len(table)}Q", *table)
        if len(body) == 1 and len(body[0]) < 4096:
            head, body = head + body[0], []
        pieces.append((0, head))
    for chunk in body:
        pieces.append((body_start, chunk))
        body_start += len(chunk)
    pieces += placed
    return Serialized(position, None, pieces, refs)


def bytes_frame(value: bytes) -> Serialized:
    """A large ``bytes`` as a value that points to it."""
    head = pack_header(MAGIC, VERSION, KIND_BYTES, 0, 0, len(value)).ljust(ALIGNMENT_BYTES, b"\0")
    return Serialized(ALIGNMENT_BYTES + len(value), None, [(0, head), (ALIGNMENT_BYTES, value)], [])


def read_header(data: bytes | memoryview, *, object_id: bytes = b"") -> tuple[int, int, int, int]:
    """Kind, flags, count and length of a framed value.

    Raises:
        DeserializationError: this is no value, or one of a later version.
    """
    if len(data) < HEADER_SIZE_BYTES:
        raise DeserializationError(
            f"{len(data)} bytes that start with {bytes(data[:8])!r} are no serialized value: too short",
            object_id=object_id,
        )
    magic, version, kind, flags, count, length = unpack_header(data)
    if magic != MAGIC or version != VERSION:
        raise DeserializationError(
            f"{len(data)} bytes that start with {bytes(data[:8])!r} are no serialized value of version {VERSION}: "
            "the sender runs another version of Remora, or the bytes were damaged",
            object_id=object_id,
        )
    return kind, flags, count, length
