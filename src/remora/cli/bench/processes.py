"""The processes that belong to one side, and what they use.

A side's processes are found in two ways, either is enough: by a variable in their environment, which every child
inherits (daemons leave the process tree of whoever started them), and by descent (some processes write their title
over their environment).
"""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

#: Holds a value that only one side's processes have.
MARK_VARIABLE = "REMORA_BENCH_SIDE"

_MEMORY_FIELD = "Pss:"
_LISTEN = "0A"
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Footprint:
    """What a group of processes uses.

    Attributes:
        processes: How many there are.
        memory_bytes: Their proportional set size.
        listening_ports: TCP ports that they listen on.
    """

    processes: int
    memory_bytes: int
    listening_ports: int


def side_pids(root: int, mark: str) -> list[int]:
    """The side's processes: `root`, its descendants, and all that were started with `MARK_VARIABLE` set to `mark`."""
    wanted = f"{MARK_VARIABLE}={mark}".encode()
    found, parents = {root}, {}
    for pid in _all_pids():
        parents[pid] = _parent(pid)
        if wanted in _read(pid, "environ").split(b"\0"):
            found.add(pid)
    while grown := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= grown
    return sorted(pid for pid in found if pid in parents)


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of these processes so far; those that ended count as 0."""
    total_ticks = 0
    for pid in pids:
        if fields := _stat_fields(pid):
            total_ticks += int(fields[11]) + int(fields[12])
    return total_ticks / _TICKS_PER_S


def footprint(pids: list[int]) -> Footprint:
    """What these processes use now."""
    memory_kb = 0
    for pid in pids:
        for line in _read(pid, "smaps_rollup").decode().splitlines():
            if line.startswith(_MEMORY_FIELD):
                memory_kb += int(line.split()[1])
    return Footprint(len(pids), memory_kb * 1024, _listening_ports(pids))


def kill_all(pids: list[int]) -> None:
    """Ends these processes at once."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _read(pid: int, name: str) -> bytes:
    """A file of /proc; empty when the process has ended or is another user's."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _stat_fields(pid: int) -> list[bytes]:
    """Fields 3 and on of /proc/PID/stat; the name before them may contain spaces."""
    return _read(pid, "stat").rpartition(b")")[2].split()


def _parent(pid: int) -> int:
    fields = _stat_fields(pid)
    return int(fields[1]) if fields else 0


def _listening_ports(pids: list[int]) -> int:
    inodes = {inode for pid in pids for inode in _socket_inodes(pid)}
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in _lines_of_table(table):
            fields = line.split()
            if fields[3] == _LISTEN and fields[9] in inodes:
                ports.add(fields[1].rpartition(":")[2])
    return len(ports)


def _lines_of_table(table: str) -> list[str]:
    try:
        return Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    except OSError:
        return []


def _socket_inodes(pid: int) -> set[str]:
    inodes = set()
    folder = f"/proc/{pid}/fd"
    with contextlib.suppress(OSError):
        for descriptor in os.listdir(folder):
            with contextlib.suppress(OSError):
                target = os.readlink(f"{folder}/{descriptor}")
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
    return inodes
