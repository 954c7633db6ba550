"""The connections on which objects travel between node daemons, one reader and one server on each.

The reader says `DataHello`, then asks with `ReadChunks`, as often and as early as it likes. The server answers each
chunk with 12 bytes, three little-endian unsigned 32-bit numbers: a status, a size, and the number of the request, which
counts all chunks asked for on this connection from 0, modulo 2**32. After ``CHUNK_FOLLOWS`` come that many bytes of the
serialized value, after any other status none. Answers come in the order asked, but for chunks that are not there yet.
``CHUNK_WAITS`` is no answer, and its number means nothing: it comes while the server waits for chunks itself and has
no other to send, so that the reader can tell a slow source from a dead one.

`ReadChunks.received` counts the answers that were read to their end, since the connection began. Until then the server
lets nobody reuse the memory of the chunk: the network may still be reading it. A reader that wants nothing more for
now says `ReadChunks` with no chunks, so that the last ones are let go.
"""

from __future__ import annotations

import struct

import msgspec

ANSWER_HEADER = struct.Struct("<III")
MAX_REQUEST_NUMBER = 2**32 - 1

CHUNK_FOLLOWS = 0
"""The bytes follow."""
CHUNK_WAITS = 1
"""The server is still receiving itself what was asked for; answers follow."""
CHUNK_NOT_HERE = 2
"""The server does not have the object, and is not receiving it, or with another size."""
CHUNK_TIMED_OUT = 3
"""The server waited for the chunk for as long as it does; it may come yet."""


class DataHello(msgspec.Struct, array_like=True, tag=180, frozen=True):
    """First frame of the reader, which is the daemon of this node."""

    node: bytes


class WantedChunk(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """``size_bytes`` from ``offset`` (bytes from its start) of the value of this object that *writer* wrote."""

    id: bytes
    writer: bytes
    offset: int
    size_bytes: int


class ReadChunks(msgspec.Struct, array_like=True, tag=181, frozen=True):
    """Reader to server: answer these chunks; *received* answers were read to their end."""

    chunks: list[WantedChunk]
    received: int


MESSAGES = (DataHello, ReadChunks)
