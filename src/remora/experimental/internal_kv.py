"""The internal key-value store, with Ray's names: small values that every process of the cluster reads and writes.

Values live in the head, and outlive its restart; in a session of one machine they end with it. Keys, values and
namespaces are ``bytes``, or ``str`` that is encoded as UTF-8.
"""

from __future__ import annotations

from remora.base import runtime
from remora.base.runtime import KeyValueResult
from remora.messages.key_value import (
    KEY_DELETE,
    KEY_EXISTS,
    KEY_GET,
    KEY_LIST,
    KEY_PUT,
    MAX_KEY_BYTES,
)

MAX_VALUE_BYTES = 16 * 1024 * 1024
"""The head keeps every value in memory, twice with its database: larger ones belong into the object store."""

Bytes = bytes | str

__all__ = [
    "_internal_kv_del",
    "_internal_kv_exists",
    "_internal_kv_get",
    "_internal_kv_initialized",
    "_internal_kv_list",
    "_internal_kv_put",
]


def _internal_kv_initialized() -> bool:
    """Whether there is a session, and so a store.

    Example:
        >>> _internal_kv_initialized()
        True
    """
    return runtime.current is not None and runtime.current.is_connected


def _internal_kv_get(key: Bytes, *, namespace: Bytes | None = None) -> bytes | None:
    """The value of *key*; None when it has none.

    Raises:
        RuntimeError: there is no session.
        TypeError: the key or the namespace is neither ``bytes`` nor ``str``.

    Example:
        >>> _internal_kv_get("model", namespace="training")
        b'v2'
    """
    count, value, _ = _ask("_internal_kv_get", KEY_GET, key, namespace)
    return value if count else None


def _internal_kv_exists(key: Bytes, *, namespace: Bytes | None = None) -> bool:
    """Whether *key* has a value.

    Raises:
        RuntimeError: there is no session.
        TypeError: the key or the namespace is neither ``bytes`` nor ``str``.

    Example:
        >>> _internal_kv_exists("model", namespace="training")
        True
    """
    return _ask("_internal_kv_exists", KEY_EXISTS, key, namespace)[0] > 0


def _internal_kv_put(key: Bytes, value: Bytes, overwrite: bool = True, *, namespace: Bytes | None = None) -> bool:
    """Give *key* a value. When this returns, the head has written it down.

    Parameters:
        overwrite: whether the value of a key that has one already is replaced.

    Returns:
        Whether the key had a value before.

    Raises:
        RuntimeError: there is no session.
        TypeError: an argument is neither ``bytes`` nor ``str``.
        ValueError: the value is larger than 16 MB, or the key with its namespace than 2,000 bytes.

    Example:
        >>> _internal_kv_put("model", b"v2", namespace="training")
        False
    """
    data = _to_bytes("_internal_kv_put", "value", value)
    if len(data) > MAX_VALUE_BYTES:
        raise ValueError(
            f"_internal_kv_put(): the value of {key!r} has {len(data):,} bytes, and at most {MAX_VALUE_BYTES:,} are "
            "taken: use remora.put() for large values"
        )
    return _ask("_internal_kv_put", KEY_PUT, key, namespace, data, overwrite)[0] == 0


def _internal_kv_del(key: Bytes, *, del_by_prefix: bool = False, namespace: Bytes | None = None) -> int:
    """Remove *key*, or all keys that begin with it; how many were removed.

    Parameters:
        del_by_prefix: whether *key* is the beginning of all keys to be removed.

    Raises:
        RuntimeError: there is no session.
        TypeError: the key or the namespace is neither ``bytes`` nor ``str``.

    Example:
        >>> _internal_kv_del("mod", del_by_prefix=True, namespace="training")
        1
    """
    return _ask("_internal_kv_del", KEY_DELETE, key, namespace, by_prefix=del_by_prefix)[0]


def _internal_kv_list(prefix: Bytes, *, namespace: Bytes | None = None) -> list[bytes]:
    """All keys that begin with *prefix*, sorted.

    Raises:
        RuntimeError: there is no session.
        TypeError: the prefix or the namespace is neither ``bytes`` nor ``str``.

    Example:
        >>> _internal_kv_list("", namespace="training")
        [b'model']
    """
    return _ask("_internal_kv_list", KEY_LIST, prefix, namespace)[2]


def _ask(
    function: str,
    operation: int,
    key: Bytes,
    namespace: Bytes | None,
    value: bytes = b"",
    overwrite: bool = True,
    by_prefix: bool = False,
) -> KeyValueResult:
    current = runtime.current
    if current is None:
        raise RuntimeError(f"{function}() was called before remora.init(): there is no store to ask")
    space = _to_bytes(function, "namespace", namespace if namespace is not None else b"")
    name = _to_bytes(function, "key", key)
    if operation == KEY_PUT and len(space) + len(name) > MAX_KEY_BYTES:
        raise ValueError(
            f"{function}(): the key has {len(space) + len(name):,} bytes with its namespace, and at most "
            f"{MAX_KEY_BYTES:,} are taken: use a digest of it"
        )
    return current.key_value(operation, space, name, value, overwrite, by_prefix)


def _to_bytes(function: str, argument: str, value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, bytes):
        raise TypeError(f"{function}(): {argument} must be bytes or str, not {value!r} ({type(value).__name__})")
    return value
