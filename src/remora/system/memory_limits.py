"""How much memory the machine has left for this process, before the kernel starts to kill.

The least of ``MemAvailable`` and of what every memory cgroup above this process has left, version 1 and 2. A cgroup's
page cache that it has not used lately is not counted as used: the kernel takes that back without killing anybody.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MIN_KEPT_BACK_BYTES = 256 << 20
KEPT_BACK_PERCENT = 3
UNLIMITED_FROM_BYTES = 1 << 60
"""Version 1 says "no limit" with a number near 2**63."""


class MemoryReading(NamedTuple):
    """``available_bytes`` may be taken (negative: too much is taken already); ``limited_by`` says what is tightest."""

    available_bytes: int
    limited_by: str


class _Files(NamedTuple):
    """Names of a cgroup version's files; the usage is never above the smallest of the limits."""

    limits: tuple[str, ...]
    usage: str
    idle_cache: str


_VERSION_1 = _Files(("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = _Files(("memory.max", "memory.high"), "memory.current", "inactive_file")


class MemoryLimits:
    """The limits above this process, found once and read on each call.

    Example:
        >>> MemoryLimits().read()
        MemoryReading(available_bytes=23400000000, limited_by='the machine')
    """

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._meminfo = proc / "meminfo"
        self._groups = list(_memory_cgroups(proc / "self"))

    def __repr__(self) -> str:
        return f"<MemoryLimits {[str(folder) for folder, _ in self._groups]}>"

    def read(self) -> MemoryReading:
        """What may still be taken, after max(256 MB, 3 %) are kept back. Takes about 50 us.

        Raises:
            OSError: there is no readable /proc/meminfo.
        """
        return min((self._machine(), *self._groups_left()))

    def available_bytes(self) -> int:
        """The number of :meth:`read` alone."""
        return self.read().available_bytes

    def _machine(self) -> MemoryReading:
        fields = dict(line.split(":", 1) for line in self._meminfo.read_text().splitlines() if ":" in line)
        total, available = (int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
        return MemoryReading(available - _kept_back(total), "the machine")

    def _groups_left(self) -> Iterator[MemoryReading]:
        for folder, files in self._groups:
            limit = min((_read_limit(folder / name) for name in files.limits), default=UNLIMITED_FROM_BYTES)
            usage = _read_number(folder / files.usage)
            if limit >= UNLIMITED_FROM_BYTES or usage is None:
                continue
            left = limit - usage + _read_statistic(folder / "memory.stat", files.idle_cache)
            yield MemoryReading(left - _kept_back(limit), f"memory cgroup {folder}")


def _kept_back(total_bytes: int) -> int:
    return max(MIN_KEPT_BACK_BYTES, total_bytes * KEPT_BACK_PERCENT // 100)


def _memory_cgroups(process: Path) -> Iterator[tuple[Path, _Files]]:
    """The folders of this process's memory cgroups and of all above them, as far as they are mounted here."""
    mounts = list(_cgroup_mounts(process / "mountinfo"))
    for hierarchy, controllers, path in _own_cgroups(process / "cgroup"):
        is_version_2 = hierarchy == "0" and not controllers
        if not is_version_2 and "memory" not in controllers.split(","):
            continue
        for mount, root, mounted_version_2 in mounts:
            if mounted_version_2 != is_version_2:
                continue
            folder = mount / _below(path, root)
            files = _VERSION_2 if is_version_2 else _VERSION_1
            for one in (folder, *folder.parents):
                if (one / files.usage).exists():
                    yield one, files
                if one == mount:
                    break


def _cgroup_mounts(mountinfo: Path) -> Iterator[tuple[Path, str, bool]]:
    """Mount point, the cgroup that is mounted there, and whether it is version 2; of version 1 only memory."""
    for line in _lines(mountinfo):
        place, _, kind = line.partition(" - ")
        root, mount = place.split()[3:5]
        filesystem, _, options = kind.split()[:3]
        if filesystem == "cgroup2" or (filesystem == "cgroup" and "memory" in options.split(",")):
            yield Path(_unescape(mount)), _unescape(root), filesystem == "cgroup2"


def _own_cgroups(cgroup: Path) -> Iterator[tuple[str, str, str]]:
    for line in _lines(cgroup):
        hierarchy, controllers, path = line.split(":", 2)
        yield hierarchy, controllers, path


def _below(path: str, root: str) -> str:
    """*path* as seen from a mount of *root*; the mount itself when the path lies outside, as in some containers."""
    root = root.rstrip("/")
    inside = path == root or path.startswith(root + "/")
    below = path[len(root) :].strip("/") if inside else ""
    return "" if ".." in below.split("/") else below


def _unescape(field: str) -> str:
    return field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text().splitlines() if line]
    except FileNotFoundError:
        return []


def _read_limit(path: Path) -> int:
    number = _read_number(path)
    return UNLIMITED_FROM_BYTES if number is None else number


def _read_number(path: Path) -> int | None:
    """The number in the file; None when it says ``max``, or when the cgroup is gone."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _read_statistic(path: Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(name + " ")), 0)
