"""Watches workers that are children of this process, and ends what they leave behind.

The zygote uses it for the workers that it forks, the node daemon for those that a killed zygote left to it. Workers
are subreapers: what they start stays below them while they live, and comes to us when they die. So each child of
ours that is no worker and is not spared is an orphan of a dead worker, and is killed.
"""

from __future__ import annotations

import os
import select

from remora.messages.children import Exited
from remora.system.oom_kills import OomKillCounter
from remora.system.process_control import children_of, kill_group_quietly, kill_quietly, open_pidfd, reap


class ChildSupervisor:
    """Told which children are workers, it reports how each ended. ``fileno()`` is readable when one has."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._pidfds: dict[int, int] = {}
        self._workers: dict[int, int] = {}
        self._spared: set[int] = set()
        self._oom_kills = OomKillCounter()

    def __repr__(self) -> str:
        orphans = len(self._pidfds) - len(self._workers)
        return f"<ChildSupervisor workers={sorted(self._workers)} orphans={orphans}>"

    def fileno(self) -> int:
        """The descriptor to poll; call :meth:`reap` when it is readable."""
        return self._epoll.fileno()

    @property
    def workers(self) -> dict[int, int]:
        """Worker number by pid, of all that have not been reported as ended."""
        return self._workers

    def watch_worker(self, pid: int, worker_number: int) -> None:
        """Child *pid*, which leads a process group of its own, is a worker."""
        self._watch(pid)
        self._workers[pid] = worker_number

    def spare(self, pid: int) -> None:
        """Child *pid* is no worker and no orphan either: leave it to the caller."""
        self._spared.add(pid)

    def reap(self) -> list[Exited]:
        """Reap the children that have ended, kill the orphans that they left, and say how workers ended."""
        exited = []
        any_ended = False
        while pids := [pid for pid in self._ready_pids() if self._has_ended(pid)]:
            any_ended = True
            for pid in pids:
                report = self._reap_one(pid)
                if report is not None:
                    exited.append(report)
        if any_ended:
            self.kill_orphans()
        return exited

    def kill_orphans(self) -> None:
        """Kill every child that is neither a worker nor spared; :meth:`reap` reaps them and what they leave."""
        for pid in children_of(os.getpid()):
            if pid not in self._pidfds and pid not in self._spared:
                kill_quietly(pid)
                self._watch(pid)

    def close(self) -> None:
        """Close the descriptors; nothing is killed."""
        for pidfd in self._pidfds.values():
            os.close(pidfd)
        self._pidfds.clear()
        self._workers.clear()
        self._epoll.close()

    def _watch(self, pid: int) -> None:
        pidfd = open_pidfd(pid)
        self._pidfds[pid] = pidfd
        self._epoll.register(pidfd, select.EPOLLIN)

    def _ready_pids(self) -> list[int]:
        ready = {fd for fd, _ in self._epoll.poll(0)}
        return [pid for pid, pidfd in self._pidfds.items() if pidfd in ready]

    def _has_ended(self, pid: int) -> bool:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def _reap_one(self, pid: int) -> Exited | None:
        # While it is a zombie its pid, and so the number of its group, cannot be given to another process.
        if pid in self._workers:
            kill_group_quietly(pid)
        status = reap(pid)
        pidfd = self._pidfds.pop(pid)
        # Closing alone does not end the registration while a child that was just forked has a copy.
        self._epoll.unregister(pidfd)
        os.close(pidfd)
        number = self._workers.pop(pid, None)
        if number is None:
            return None
        out_of_memory = self._oom_kills.explains(status.signal)
        return Exited(number, pid, status.exit_code, status.signal, out_of_memory)
