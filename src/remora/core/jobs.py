"""The jobs of a cluster: which run, which ran, and with which environment their workers are made."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from remora.base.ids import short
from remora.core.journal import Journal
from remora.messages.head import JobStarted
from remora.messages.inspection import JobReport
from remora.messages.session import JobEnvironment

JOB = "job"
REMEMBERED_JOBS = 1000
"""Ended jobs that are still listed."""


class JobRecord(msgspec.Struct, array_like=True, frozen=True):
    """A job as it is written down."""

    report: JobReport
    environment: JobEnvironment


class JobTable:
    """Every job that runs, and those that ended last. Times are seconds since 1970."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._running: dict[bytes, JobRecord] = {}
        self._ended: dict[bytes, JobRecord] = {}

    def started(self, message: JobStarted, at_s: float) -> None:
        """A driver began a job; one that is known is told again by a daemon that was not sure.

        Raises:
            ValueError: the job has ended.
        """
        if message.job in self._ended:
            raise ValueError(f"job {short(message.job)} starts after it has ended")
        if message.job in self._running:
            return
        environment = message.environment
        report = JobReport(message.job, message.pid, environment.namespace, message.entrypoint, at_s)
        self._running[message.job] = JobRecord(report, environment)
        self._journal.touch(JOB, message.job)

    def ended(self, job: bytes, cause: str, at_s: float) -> bool:
        """The driver has ended; False when the job did not run."""
        record = self._running.pop(job, None)
        if record is None:
            return False
        report = msgspec.structs.replace(record.report, ended_s=at_s, cause=cause)
        self._ended[job] = JobRecord(report, record.environment)
        self._journal.touch(JOB, job)
        return True

    def forget_oldest(self, in_use: Iterable[bytes]) -> None:
        """Drop the oldest ended jobs above the limit; those *in_use* still have detached actors to be restarted."""
        excess = len(self._ended) - REMEMBERED_JOBS
        if excess <= 0:
            return
        kept = set(in_use)
        for job in [job for job in self._ended if job not in kept][:excess]:
            del self._ended[job]
            self._journal.touch(JOB, job)

    def of_node(self, node: bytes) -> list[bytes]:
        """The running jobs whose driver is on the node."""
        return [job for job in self._running if job.startswith(node)]

    def has_ended(self, job: bytes) -> bool:
        """Whether the job is known to be over."""
        return job in self._ended

    def environment(self, job: bytes) -> JobEnvironment | None:
        """What workers of the job need; also after its end, for its detached actors."""
        record = self._running.get(job) or self._ended.get(job)
        return record.environment if record is not None else None

    def reports(self) -> list[JobReport]:
        """All of them, ended ones first."""
        return [record.report for record in (*self._ended.values(), *self._running.values())]

    def record(self, job: bytes) -> JobRecord | None:
        """What is to be written down."""
        return self._running.get(job) or self._ended.get(job)

    def restore(self, records: Iterable[JobRecord]) -> None:
        """Take over what was written down."""
        for record in sorted(records, key=lambda record: record.report.ended_s):
            table = self._ended if record.report.ended_s else self._running
            table[record.report.job] = record

    def validate(self) -> None:
        """
        Raises:
            AssertionError: a job runs and has ended.
        """
        assert not self._running.keys() & self._ended.keys(), f"{self!r}: running and ended"
        assert all(record.report.ended_s for record in self._ended.values()), f"{self!r}: times"

    def __repr__(self) -> str:
        return f"<JobTable {len(self._running)} running, {len(self._ended)} ended>"
