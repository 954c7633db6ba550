"""The internal key-value store: small values that all processes of a cluster, or of a session, share."""

from __future__ import annotations

from collections.abc import Iterable

from remora.core.journal import Journal, NoJournal
from remora.messages.key_value import (
    KEY_DELETE,
    KEY_EXISTS,
    KEY_GET,
    KEY_LIST,
    KEY_PUT,
    MAX_KEY_BYTES,
    KeyValueAnswer,
    KeyValueRequest,
)

KEY_VALUE = "key_value"


class KeyValueTable:
    """Values by namespace and key.

    Example:
        >>> table = KeyValueTable()
        >>> table.answer(KeyValueRequest(1, KEY_PUT, b"", b"key", b"value"))
        KeyValueAnswer(request=1, count=1, value=b'', keys=[])
    """

    def __init__(self, journal: Journal | None = None) -> None:
        self._journal = NoJournal() if journal is None else journal
        self._namespaces: dict[bytes, dict[bytes, bytes]] = {}

    def answer(self, request: KeyValueRequest) -> KeyValueAnswer:
        """Do what is asked.

        Raises:
            ValueError: there is no such operation, or the key is too long to be written down.
        """
        number, namespace, key = request.request, request.namespace, request.key
        values = self._namespaces.get(namespace, {})
        operation = request.operation
        if operation == KEY_GET:
            value = values.get(key)
            return KeyValueAnswer(number) if value is None else KeyValueAnswer(number, 1, value)
        if operation == KEY_EXISTS:
            return KeyValueAnswer(number, int(key in values))
        if operation == KEY_LIST:
            return KeyValueAnswer(number, keys=sorted(each for each in values if each.startswith(key)))
        if operation == KEY_PUT:
            if len(namespace) + len(key) > MAX_KEY_BYTES:
                raise ValueError(f"a key has {len(namespace) + len(key)} bytes with its namespace")
            is_new = key not in values
            if is_new or request.overwrite:
                self._namespaces.setdefault(namespace, values)[key] = request.value
                self._journal.touch(KEY_VALUE, row_key(namespace, key))
            return KeyValueAnswer(number, int(is_new))
        if operation == KEY_DELETE:
            doomed = [each for each in values if each.startswith(key)] if request.by_prefix else [key]
            return KeyValueAnswer(number, sum(self._delete(namespace, each) for each in doomed))
        raise ValueError(f"there is no key-value operation {operation}")

    def _delete(self, namespace: bytes, key: bytes) -> bool:
        values = self._namespaces.get(namespace, {})
        if key not in values:
            return False
        del values[key]
        if not values:
            del self._namespaces[namespace]
        self._journal.touch(KEY_VALUE, row_key(namespace, key))
        return True

    def record(self, row: bytes) -> bytes | None:
        """The value to be written down under this row's key."""
        namespace, key = split_row_key(row)
        return self._namespaces.get(namespace, {}).get(key)

    def restore(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Take over what was written down."""
        for row, value in rows:
            namespace, key = split_row_key(row)
            self._namespaces.setdefault(namespace, {})[key] = value

    def __repr__(self) -> str:
        return f"<KeyValueTable { {namespace: len(values) for namespace, values in self._namespaces.items()} }>"


def row_key(namespace: bytes, key: bytes) -> bytes:
    """Both in one, so that no two pairs are the same."""
    return len(namespace).to_bytes(4, "big") + namespace + key


def split_row_key(row: bytes) -> tuple[bytes, bytes]:
    """Namespace and key of a row."""
    end = 4 + int.from_bytes(row[:4], "big")
    return row[4:end], row[end:]
