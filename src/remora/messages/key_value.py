"""The internal key-value store: small values by key, for libraries; in a cluster the head keeps it."""

from __future__ import annotations

import msgspec

KEY_PUT = 0
"""Set ``key`` to ``value``; an existing one stays unless ``overwrite``. ``count`` of the answer is 1 for a new key."""
KEY_GET = 1
"""Answered with ``value``, or ``count`` 0."""
KEY_EXISTS = 2
"""Answered with ``count`` 1 or 0."""
KEY_DELETE = 3
"""Remove ``key``, or all that begin with it when ``by_prefix``. Answered with their ``count``."""
KEY_LIST = 4
"""Answered with the ``keys`` that begin with ``key``, sorted."""
MAX_KEY_BYTES = 2000
"""Of a key with its namespace: PostgreSQL refuses a row with a much longer key, and all that is written with it."""


class KeyValueRequest(msgspec.Struct, array_like=True, tag=200, frozen=True):
    """Process to daemon, daemon to head: one operation on the internal key-value store, ``KEY_PUT`` to ``KEY_LIST``.

    Keys of different namespaces have nothing to do with each other.
    """

    request: int
    operation: int
    namespace: bytes
    key: bytes
    value: bytes = b""
    overwrite: bool = True
    by_prefix: bool = False


class KeyValueAnswer(msgspec.Struct, array_like=True, tag=201, frozen=True):
    """The answer; which fields mean something depends on the operation."""

    request: int
    count: int = 0
    value: bytes = b""
    keys: list[bytes] = []


MESSAGES = (KeyValueRequest, KeyValueAnswer)
