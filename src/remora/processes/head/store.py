"""Where the head writes down its state: SQLite, or PostgreSQL for those who run one. One schema for both.

The head has its whole state in memory, and reads the store once, when it starts. So a store is rows by kind and key,
and a transaction is a batch of rows to set or to remove. What the values mean is in :mod:`remora.core.head_rows`.

SQLite commits with ``synchronous=NORMAL`` in WAL mode: what was committed survives the death of the head, and of
every process, but the last moments may be lost when the machine loses power; then the head's node is gone, too.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from remora.base.remora_error import RemoraError
from remora.core.journal import Change
from remora.processes.head.configuration import HEAD_STATE

SCHEMA_VERSION = 1
POSTGRESQL_LOCK = 0x52454D4F
"""The advisory lock that one head has for as long as it is connected."""
LOCK_TIMEOUT_S = 5.0
SQLITE_LOCK_TIMEOUT_S = 5.0
MAX_PARAMETERS = 500
"""Keys in one statement that removes rows."""

_metadata = sa.MetaData()
_rows = sa.Table(
    "remora_head",
    _metadata,
    sa.Column("kind", sa.String(32), primary_key=True),
    sa.Column("key", sa.LargeBinary, primary_key=True),
    sa.Column("value", sa.LargeBinary, nullable=False),
)
_schema = sa.Table("remora_head_schema", _metadata, sa.Column("version", sa.Integer, primary_key=True))


class StoreError(RemoraError, RuntimeError):
    """The head's state cannot be read or written; the text says where, why, and what to do."""


class HeadStore:
    """Rows of ``(kind, key, value)`` in a database. To be used by one thread at a time.

    Example:
        >>> store = HeadStore(store_url("", session_directory))
        >>> store.commit([Change("key_value", b"key", b"value")])
        >>> store.load()
        [('key_value', b'key', b'value')]
    """

    def __init__(self, url: str) -> None:
        """
        Raises:
            StoreError: there is no such database, it is damaged, may not be written to, belongs to another version
                of Remora, or another head uses it.
        """
        self._connection: sa.Connection | None = None
        try:
            self._engine = _make_engine(url)
        except (sa.exc.ArgumentError, ValueError, ImportError) as error:
            why = _reason(error) if _parsed(url) else "characters as / and @ in a password are written as %2F and %40"
            raise StoreError(f"the head cannot use {_shown(url)!r} for its state: {why}") from error
        self._shown = _shown(url)
        try:
            self._connect()
            self._prepare()
        except sa.exc.SQLAlchemyError as error:
            self.close()
            if "database is locked" in _reason(error):
                raise _used_by_another(self._shown) from error
            raise StoreError(
                f"the head's state in {self._shown} cannot be opened: {_reason(error)}. If it is damaged, move it away "
                "to begin a new cluster, or start the head with another place for its state"
            ) from error
        except StoreError:
            self.close()
            raise

    def load(self) -> list[tuple[str, bytes, bytes]]:
        """All rows.

        Raises:
            StoreError: they cannot be read.
        """
        try:
            with self._connect().begin():
                rows = self._connect().execute(sa.select(_rows.c.kind, _rows.c.key, _rows.c.value)).all()
        except sa.exc.SQLAlchemyError as error:
            raise StoreError(f"the head's state in {self._shown} cannot be read: {_reason(error)}") from error
        return [(kind, bytes(key), bytes(value)) for kind, key, value in rows]

    def commit(self, changes: Iterable[Change]) -> None:
        """Write all of them or none; when this returns they survive the death of this process.

        Raises:
            StoreError: nothing was written, or it is not known whether it was. Doing it again is right.
        """
        changes = list(changes)
        try:
            connection = self._connect()
            with connection.begin():
                self._set(connection, [change for change in changes if change.value is not None])
                self._remove(connection, [change for change in changes if change.value is None])
        except (sa.exc.SQLAlchemyError, StoreError) as error:
            self._disconnect()
            raise StoreError(f"the head's state cannot be written to {self._shown}: {_reason(error)}") from error

    def close(self) -> None:
        """Let the database go."""
        self._disconnect()
        if hasattr(self, "_engine"):
            self._engine.dispose()

    # ------------------------------------------------------------------ statements

    def _set(self, connection: sa.Connection, changes: list[Change]) -> None:
        if not changes:
            return
        statement = _insert(self._engine.dialect.name)
        statement = statement.on_conflict_do_update(
            index_elements=[_rows.c.kind, _rows.c.key], set_={"value": statement.excluded.value}
        )
        connection.execute(statement, [{"kind": c.kind, "key": c.key, "value": c.value} for c in changes])

    def _remove(self, connection: sa.Connection, changes: list[Change]) -> None:
        by_kind: dict[str, list[bytes]] = {}
        for change in changes:
            by_kind.setdefault(change.kind, []).append(change.key)
        for kind, keys in by_kind.items():
            for start in range(0, len(keys), MAX_PARAMETERS):
                some = keys[start : start + MAX_PARAMETERS]
                connection.execute(sa.delete(_rows).where(_rows.c.kind == kind, _rows.c.key.in_(some)))

    # ------------------------------------------------------------------ the connection

    def _connect(self) -> sa.Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
            if self._engine.dialect.name == "postgresql":
                self._lock_postgresql(self._connection)
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # A connection that is broken cannot even be closed without an error.
            with contextlib.suppress(sa.exc.SQLAlchemyError):
                connection.invalidate()
                connection.close()

    def _lock_postgresql(self, connection: sa.Connection) -> None:
        """Another head may not have the same state. The server needs a moment to see that one was killed."""
        deadline_s = time.monotonic() + LOCK_TIMEOUT_S
        while True:
            with connection.begin():
                has_lock = connection.execute(sa.select(sa.func.pg_try_advisory_lock(POSTGRESQL_LOCK))).scalar()
            if has_lock:
                return
            if time.monotonic() > deadline_s:
                self._disconnect()
                raise _used_by_another(self._shown)
            time.sleep(0.1)

    def _prepare(self) -> None:
        connection = self._connect()
        with connection.begin():
            _metadata.create_all(connection)
            versions = connection.execute(sa.select(_schema.c.version)).scalars().all()
            if not versions:
                connection.execute(sa.insert(_schema), [{"version": SCHEMA_VERSION}])
            elif versions[0] != SCHEMA_VERSION:
                raise StoreError(
                    f"the head's state in {self._shown} has version {versions[0]} of its schema and this Remora needs "
                    f"{SCHEMA_VERSION}: use the Remora that wrote it, or another place"
                )
            # A database that may only be read is found out now, not at the first change.
            connection.execute(sa.update(_schema).values(version=SCHEMA_VERSION))


def _used_by_another(shown: str) -> StoreError:
    return StoreError(
        f"the head's state in {shown} is used by another head: stop that one, or give this one a place of its own"
    )


def store_url(state: str, session_directory: str) -> str:
    """The URL of a database for what a user gave as *state*: a folder, which is made, a URL, or nothing.

    Raises:
        StoreError: the folder is not there.
    """
    if "://" in state:
        return state
    folder = os.path.abspath(os.path.expanduser(state)) if state else session_directory
    # Who starts a head has made the folder. It is not made here: the session may have been ended and removed meanwhile.
    if not os.path.isdir(folder):
        raise StoreError(f"the folder {folder!r} for the head's state is not there")
    return sa.URL.create("sqlite", database=os.path.join(folder, HEAD_STATE)).render_as_string(False)


def _make_engine(url: str) -> sa.Engine:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = sa.create_engine(parsed, poolclass=sa.pool.NullPool, connect_args={"check_same_thread": False})
        sa.event.listen(engine, "connect", _set_up_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    if parsed.get_backend_name() != "postgresql":
        raise StoreError(f"the head keeps its state in a folder, sqlite:// or postgresql://, not in {_shown(url)!r}")
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    try:
        return sa.create_engine(parsed, poolclass=sa.pool.NullPool, connect_args={"connect_timeout": 5})
    except ImportError as error:
        raise StoreError("PostgreSQL needs its driver: pip install 'psycopg[binary]' where the head runs") from error


def _insert(dialect: str) -> Any:
    """The dialect's own INSERT, which can replace; only the one that is used is imported."""
    if dialect == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(_rows)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(_rows)


def _set_up_sqlite(connection: Any, record: Any) -> None:
    # SQLAlchemy's own "begin" event opens transactions; the driver must not open other ones by itself.
    connection.isolation_level = None
    # Exclusive: a second head is refused, and no shared memory file is needed.
    timeout_ms = round(SQLITE_LOCK_TIMEOUT_S * 1000)
    for pragma in (f"busy_timeout={timeout_ms}", "locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _shown(url: str) -> str:
    """The URL without its password, which may be in the query, too."""
    parsed = _parsed(url)
    if parsed is None:
        return f"{url.partition(':')[0]}://..."
    secrets = {name: "***" for name in parsed.query if "password" in name.lower()}
    return parsed.update_query_dict(secrets).render_as_string(hide_password=True)


def _parsed(url: str) -> sa.URL | None:
    """The URL, or None for what is none: then nobody knows what of it is a password."""
    try:
        return sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        return None


def _reason(error: Exception) -> str:
    """What the database said, without SQLAlchemy's frame around it."""
    original = getattr(error, "orig", None)
    return str(original if original is not None else error).strip()
