"""Where a session keeps its sockets and logs, and how the next start finds what a killed one left behind.

Below a base directory that only this user can enter, ``/run/user/UID/remora`` or else ``/tmp/remora-UID``::

    NAME.lock     who runs the session; locked (flock) by its daemon for as long as that lives
    NAME/         sockets and logs, or a link to where they are when another root was asked for
    current       a link to the session that was started last

A lock that nobody holds marks the leftovers of a session that was killed. The lock is made and locked before its
folder and removed after it, so there is never a folder without a lock. Because sockets are always reached through
the short base, a folder under a very long path works too.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from time import monotonic, sleep
from typing import Self

import msgspec

SOCKET_PATH_LIMIT_BYTES = 107
LOCK_SUFFIX = ".lock"
CURRENT = "current"
DAEMON_SOCKET = "daemon"
DAEMON_LOG = "daemon.log"
ROOT_VARIABLE = "REMORA_TMPDIR"


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What the lock file says: the session's folder and the driver (0: none) that it belongs to."""

    directory: str
    driver_pid: int
    started_at_s: float


class SessionDirectory:
    """The folder of one session, with the lock that keeps it. Make it with :meth:`create` or :meth:`attach`."""

    def __init__(self, path: str, lock: int = -1) -> None:
        self.path = path
        self.lock = lock

    def __repr__(self) -> str:
        return f"<SessionDirectory {self.path} {'locked by this process' if self.lock >= 0 else 'not locked here'}>"

    @classmethod
    def create(cls, driver_pid: int, now_s: float, root: str | None = None, base: str | None = None) -> Self:
        """A new, locked session folder that is the ``current`` one.

        *root* is where the folder really lies; by default ``REMORA_TMPDIR`` from the environment, or else the base.

        Raises:
            OSError: no place can be written to, or the base belongs to somebody else.
        """
        root = root or os.environ.get(ROOT_VARIABLE)
        while True:
            base_path = open_base(base)
            path = f"{base_path}/{driver_pid}-{os.urandom(3).hex()}"
            lock = _make_lock(path + LOCK_SUFFIX)
            if lock is not None:
                break
        session = cls(path, lock)
        try:
            _make_folder(path, root)
            record = SessionRecord(directory=path, driver_pid=driver_pid, started_at_s=now_s)
            os.write(lock, msgspec.json.encode(record))
            _point_current_to(base_path, os.path.basename(path))
        except OSError:
            session.remove()
            raise
        return session

    @classmethod
    def attach(cls, path: str, lock: int = -1) -> Self:
        """The folder that another process made; *lock* is the descriptor inherited from it."""
        return cls(path, lock)

    def file(self, name: str) -> str:
        """The path of *name* in this folder; short enough for a socket if *name* is."""
        return f"{self.path}/{name}"

    def unlock_here(self) -> None:
        """Close this process's descriptor of the lock; who inherited it still holds it."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1

    def remove(self) -> None:
        """Remove the folder, then its lock, then the base if it is empty. Removing twice does no harm."""
        _remove_session(self.path)
        self.unlock_here()
        base = os.path.dirname(self.path)
        with contextlib.suppress(OSError):
            os.rmdir(base)

    def remove_if_abandoned(self) -> bool:
        """Remove everything unless a process holds the lock; whether nothing is left."""
        lock = _try_lock(self.path + LOCK_SUFFIX)
        if lock is None:
            return not os.path.lexists(self.path + LOCK_SUFFIX)
        self.unlock_here()
        self.lock = lock
        self.remove()
        return True


def _make_folder(path: str, root: str | None) -> None:
    if root is None:
        os.mkdir(path, 0o700)
        return
    real = f"{os.path.abspath(root)}/remora-{os.path.basename(path)}"
    os.makedirs(os.path.dirname(real), exist_ok=True)
    os.symlink(real, path)
    os.mkdir(real, 0o700)


def open_base(base: str | None = None) -> str:
    """The directory that holds this user's sessions, made when it is not there.

    Raises:
        PermissionError: it exists and belongs to another user.
        FileNotFoundError: none can be made.
    """
    candidates = [base] if base else base_directories()
    for path in candidates:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            _check_owner(path)
        except OSError:
            # No /run/user for this user, as in most containers.
            continue
        return path
    raise FileNotFoundError(f"no session directory can be made: neither of {', '.join(candidates)} is possible")


def _check_owner(path: str) -> None:
    if not _is_own_directory(path):
        raise PermissionError(
            f"{path} is where the sessions of user {os.getuid()} belong, but it is not a directory of that user: "
            "somebody else made it, and must remove it"
        )
    if os.lstat(path).st_mode & 0o077:
        os.chmod(path, 0o700)


def _is_own_directory(path: str) -> bool:
    status = os.lstat(path)
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def base_directories() -> list[str]:
    """Where sessions of this user may be, the preferred place first. ``TMPDIR`` has no say: it may be any length."""
    uid = os.getuid()
    return [f"/run/user/{uid}/remora", f"/tmp/remora-{uid}"]


def remove_leftovers(base: str | None = None) -> list[str]:
    """Remove the folders of sessions whose lock nobody holds; their paths."""
    removed = []
    for directory in [base] if base else base_directories():
        for path in _session_paths(directory):
            # What cannot be removed (a root's file in it) is no reason not to start.
            with contextlib.suppress(OSError):
                if _try_remove(path):
                    removed.append(path)
    return removed


def running_sessions(base: str | None = None) -> list[SessionRecord]:
    """The sessions of this user that run now, the one that was started last first."""
    records = []
    for directory in [base] if base else base_directories():
        for path in _session_paths(directory):
            with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
                if _is_locked(path + LOCK_SUFFIX):
                    with open(path + LOCK_SUFFIX, "rb") as file:
                        records.append(msgspec.json.decode(file.read(), type=SessionRecord))
    return sorted(records, key=lambda record: record.started_at_s, reverse=True)


def wait_removed(path: str, timeout_s: float) -> bool:
    """Wait until nobody holds the lock of the session in *path* any more; false when *timeout_s* is over."""
    deadline_s = monotonic() + timeout_s
    while True:
        try:
            if not _is_locked(path + LOCK_SUFFIX):
                return True
        except FileNotFoundError:
            return True
        if monotonic() > deadline_s:
            return False
        sleep(0.01)  # a lock cannot be waited for with an end but by asking again


def _session_paths(base: str) -> list[str]:
    """The sessions in *base*; none when somebody else made it, to be taken for a session or to have a link followed."""
    try:
        names = os.listdir(base) if _is_own_directory(base) else []
    except FileNotFoundError:
        return []
    return [f"{base}/{name.removesuffix(LOCK_SUFFIX)}" for name in names if name.endswith(LOCK_SUFFIX)]


def _make_lock(path: str) -> int | None:
    """A new lock file, locked; None when somebody else saw it before it was locked, or made the same name."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except (FileExistsError, FileNotFoundError):
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    # A cleaner that came between open and flock has removed the name.
    if os.fstat(lock).st_nlink == 0:
        os.close(lock)
        return None
    return lock


def _try_lock(path: str) -> int | None:
    """The lock of a session that nobody holds, now held by this process; None when it is held or gone."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    if os.fstat(lock).st_nlink == 0:
        os.close(lock)
        return None
    return lock


def _is_locked(path: str) -> bool:
    lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _try_remove(path: str) -> bool:
    lock = _try_lock(path + LOCK_SUFFIX)
    if lock is None:
        return False
    try:
        _remove_session(path)
    finally:
        os.close(lock)
    return True


def _remove_session(path: str) -> None:
    """Folder first, lock last."""
    base, name = os.path.split(path)
    if os.path.islink(path):
        _remove_tree(os.readlink(path))
        os.unlink(path)
    else:
        _remove_tree(path)
    with contextlib.suppress(FileNotFoundError):
        if os.readlink(f"{base}/{CURRENT}") == name:
            os.unlink(f"{base}/{CURRENT}")
    for left in (f"{base}/{CURRENT}.{name}", path + LOCK_SUFFIX):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(left)


def _remove_tree(path: str) -> None:
    """Remove a directory and what is in it; others may remove at the same time. (``shutil`` costs 5 ms to import.)"""
    with contextlib.suppress(FileNotFoundError):
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    _remove_tree(entry.path)
                else:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(entry.path)
        os.rmdir(path)


def _point_current_to(base: str, name: str) -> None:
    temporary = f"{base}/{CURRENT}.{name}"
    os.symlink(name, temporary)
    os.replace(temporary, f"{base}/{CURRENT}")
