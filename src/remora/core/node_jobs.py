"""The jobs that may have workers on this node, with what their workers are made of, and when each is forgotten.

A job is known here because its driver is here, because a process of it asked for a worker here, or because an actor
of it is placed here. When it has ended it is not over at once: a detached actor lives on, and may ask for workers.

Whoever needs a worker of a job that has ended tells of the job each time, because a node without workers of it may have
forgotten it since; and what is told behind the job's end, or met it on the way, does not make the job begin again.
"""

from __future__ import annotations

from collections.abc import Callable

from remora.base.ids import ProcessId, short
from remora.messages.session import JobEnvironment

REMEMBERED_JOBS = 1000
"""Jobs that have ended, so that they are known as such when they are told of again."""


class NodeJobs:
    """Every job that this node knows.

    Example:
        >>> jobs = NodeJobs()
        >>> jobs.start(driver, environment)
        True
        >>> jobs.ended(driver, is_in_use=False)
        True
        >>> jobs.environment(driver) is None
        True
    """

    def __init__(self) -> None:
        self._environments: dict[bytes, JobEnvironment] = {}
        self._started: set[bytes] = set()
        self._outlived: set[bytes] = set()
        """Those that have ended and were in use here: a detached actor may ask for more of them."""
        self._told_lately: set[bytes] = set()
        """Those of the outlived that were told of since :meth:`forget_unused`: what they are told for is to follow."""
        self._ended: dict[bytes, None] = {}
        """Those that have ended, known or not, that of longest ago first."""

    def start(self, job: bytes, environment: JobEnvironment) -> bool:
        """Its driver, or a node that asks for a worker, has told of it; False when that was told before."""
        if job in self._ended:
            return self.know(job, environment)
        if job in self._started:
            return False
        self._started.add(job)
        self.know(job, environment)
        return True

    def know(self, job: bytes, environment: JobEnvironment) -> bool:
        """Workers of the job can be made from now on; False when they could before."""
        is_new = job not in self._environments
        self._environments.setdefault(job, environment)
        if job in self._ended:
            self._outlived.add(job)
            self._told_lately.add(job)
        return is_new

    def ended(self, job: bytes, is_in_use: bool) -> bool:
        """Its driver has ended; whether the job is forgotten.

        *is_in_use* says that it has workers here, or that somebody waits for one.
        """
        self._started.discard(job)
        self._ended[job] = None
        if len(self._ended) > REMEMBERED_JOBS:
            del self._ended[next(iter(self._ended))]
        if job in self._environments:
            self._outlived.add(job)
        return self.no_longer_used(job, is_in_use)

    def no_longer_used(self, job: bytes, is_in_use: bool) -> bool:
        """Something of it is gone. Whether the job is forgotten, because it has ended and is not in use any more."""
        if job not in self._outlived or is_in_use or job in self._told_lately:
            return False
        self._outlived.discard(job)
        del self._environments[job]
        return True

    def forget_unused(self, is_in_use: Callable[[bytes], bool]) -> list[bytes]:
        """Periodic, for what is waited for no more. Returns the jobs that are forgotten."""
        told_lately, self._told_lately = self._told_lately, set()
        looked_at = list(self._outlived - told_lately)
        return [job for job in looked_at if self.no_longer_used(job, is_in_use(job))]

    def has_ended(self, job: bytes) -> bool:
        """Whether it has ended, and is known here nevertheless."""
        return job in self._outlived

    def environment(self, job: bytes) -> JobEnvironment | None:
        """What the job's driver has told; None when the job is not known, or forgotten."""
        return self._environments.get(job)

    def of_node(self, node: bytes) -> list[ProcessId]:
        """The jobs whose drivers are, or were, on the node."""
        return [ProcessId(job) for job in self._environments if job[: len(node)] == node]

    def validate(self) -> None:
        """
        Raises:
            AssertionError: a job is marked that is not known.
        """
        assert self._started <= self._environments.keys(), f"{self!r}: started"
        assert self._outlived <= self._environments.keys(), f"{self!r}: outlived"
        assert self._told_lately <= self._outlived, f"{self!r}: told lately"
        assert not self._started & self._outlived, f"{self!r}: started and ended"
        assert len(self._ended) <= REMEMBERED_JOBS, f"{self!r}: too many are remembered"

    def __repr__(self) -> str:
        outlived = [short(job) for job in self._outlived]
        return f"<NodeJobs {[short(job) for job in self._environments]}, ended and in use {outlived}>"
