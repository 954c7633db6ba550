"""Whether the kernel killed a child because memory ended: it counts such kills, without a name."""

from __future__ import annotations

import os
import signal

CGROUP_ROOT = "/sys/fs/cgroup"


class OomKillCounter:
    """Tells for each child that died by SIGKILL whether an out-of-memory kill was counted since the last one.

    The counter of this process's own memory cgroup is preferred; that of the whole machine is read only when the
    cgroup has none, since it also counts the neighbours.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = path if path is not None else find_counter()
        self._seen = self._read()

    def explains(self, signal_number: int | None) -> bool:
        """Whether a child's end by *signal_number* was such a kill; each counted kill explains one end."""
        if signal_number != signal.SIGKILL or self._read() <= self._seen:
            return False
        self._seen += 1
        return True

    def _read(self) -> int:
        try:
            with open(self.path) as file:
                for line in file:
                    name, _, count = line.partition(" ")
                    if name == "oom_kill":
                        return int(count)
        except OSError:
            # The cgroup is gone or hidden: then the death is reported as a plain SIGKILL.
            return 0
        return 0


def find_counter(proc_cgroup: str = "/proc/self/cgroup", root: str = CGROUP_ROOT) -> str:
    """The file that counts the out-of-memory kills of this process's cgroup, or else of the machine."""
    candidates = []
    with open(proc_cgroup) as file:
        for line in file:
            _, controllers, group = line.rstrip("\n").split(":", 2)
            if "memory" in controllers.split(","):
                candidates.append(f"{root}/memory{group}/memory.oom_control")
                candidates.append(f"{root}/memory/memory.oom_control")
            elif not controllers:
                candidates.append(f"{root}{group}/memory.events")
                candidates.append(f"{root}/memory.events")
    for path in candidates:
        if os.path.exists(path):
            return path
    return "/proc/vmstat"
