"""How many CPUs this process may use: the smaller of its affinity and its cgroups' quotas."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUP_ROOT = Path("/sys/fs/cgroup")


def available_cpus(proc: Path = Path("/proc/self"), root: Path = CGROUP_ROOT) -> int:
    """CPUs that may be used at the same time, at least 1; a part of a CPU counts as one.

    Example:
        >>> available_cpus()  # in a container that was started with --cpus=1.5
        2
    """
    count = float(len(os.sched_getaffinity(0)))
    for quota in _quotas(proc, root):
        count = min(count, quota)
    return max(1, math.ceil(count))


def _quotas(proc: Path, root: Path) -> Iterator[float]:
    """The quota of every group from this process's own up to the root, in CPUs, version 2 and version 1."""
    for controllers, group in _groups(proc):
        if not controllers:
            for base in (root, root / "unified"):
                for directory in _upwards(base, group):
                    yield from _quota_v2(directory)
        elif "cpu" in controllers:
            for base in (root / "cpu", root / ",".join(controllers)):
                for directory in _upwards(base, group):
                    yield from _quota_v1(directory)


def _groups(proc: Path) -> Iterator[tuple[list[str], str]]:
    """Controllers (none for version 2) and path of each group that this process is in."""
    text = _read(proc / "cgroup")
    for line in text.splitlines():
        _, controllers, group = line.split(":", 2)
        yield [name for name in controllers.split(",") if name], group


def _upwards(base: Path, group: str) -> Iterator[Path]:
    """The group's directory and those above it. Inside a container the path may name what only the host sees."""
    path = PurePosixPath(group.lstrip("/"))
    for part in (path, *path.parents):
        yield base / part


def _quota_v2(directory: Path) -> Iterator[float]:
    fields = _read(directory / "cpu.max").split()
    if len(fields) == 2 and fields[0] != "max":
        yield int(fields[0]) / int(fields[1])


def _quota_v1(directory: Path) -> Iterator[float]:
    quota, period = _read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")
    if quota and period and int(quota) > 0:
        yield int(quota) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return ""
