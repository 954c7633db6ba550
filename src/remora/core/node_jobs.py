"""The jobs that may have workers on this node, with what their workers are made of, and when each is forgotten.

A job is known here because its driver is here, because a process of it asked for a worker here, or because an actor
of it is placed here. When it has ended it is not over at once: a detached actor lives on, and may ask for workers.
"""

from __future__ import annotations

from remora.base.ids import ProcessId, short
from remora.messages.session import JobEnvironment


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

    def start(self, job: bytes, environment: JobEnvironment) -> bool:
        """Its driver, or a node that asks for a worker, has told of it; False when that was told before."""
        if job in self._started:
            return False
        self._started.add(job)
        self.know(job, environment)
        return True

    def know(self, job: bytes, environment: JobEnvironment) -> bool:
        """Workers of the job can be made from now on; False when they could before."""
        self._outlived.discard(job)
        is_new = job not in self._environments
        self._environments.setdefault(job, environment)
        return is_new

    def ended(self, job: bytes, is_in_use: bool) -> bool:
        """Its driver has ended; whether the job is forgotten.

        *is_in_use* says that it has workers here, or that an actor of it waits for one.
        """
        self._started.discard(job)
        if job in self._environments:
            self._outlived.add(job)
        return self.worker_ended(job, is_in_use)

    def worker_ended(self, job: bytes, is_in_use: bool) -> bool:
        """A worker of it is gone. Whether the job is forgotten, because it has ended and is not in use any more."""
        if job not in self._outlived or is_in_use:
            return False
        self._outlived.discard(job)
        del self._environments[job]
        return True

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

    def __repr__(self) -> str:
        outlived = [short(job) for job in self._outlived]
        return f"<NodeJobs {[short(job) for job in self._environments]}, ended and in use {outlived}>"
