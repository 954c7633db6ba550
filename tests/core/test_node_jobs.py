"""How long a node knows what the workers of a job are made of."""

from __future__ import annotations

from remora.core.node_jobs import NodeJobs
from remora.messages.session import JobEnvironment

NODE, OTHER_NODE = b"\0\0\0\1", b"\0\0\0\2"
JOB = NODE + b"\0\0\0\1"
ENVIRONMENT = JobEnvironment([], "/", "main.py", "space")


def test_a_job_that_is_told_again_is_not_started_again() -> None:
    jobs = NodeJobs()
    assert jobs.start(JOB, ENVIRONMENT)
    assert not jobs.start(JOB, ENVIRONMENT)
    assert not jobs.know(JOB, ENVIRONMENT)
    assert jobs.of_node(NODE) == [JOB]
    assert jobs.of_node(OTHER_NODE) == []
    jobs.validate()


def test_a_job_without_workers_is_forgotten_when_it_ends() -> None:
    jobs = NodeJobs()
    jobs.start(JOB, ENVIRONMENT)
    assert not jobs.worker_ended(JOB, is_in_use=False), "it runs"
    assert jobs.ended(JOB, is_in_use=False)
    assert jobs.environment(JOB) is None
    assert not jobs.ended(JOB, is_in_use=False), "nobody knows it"
    jobs.validate()


def test_a_job_that_has_ended_is_known_until_its_last_worker_ends() -> None:
    jobs = NodeJobs()
    jobs.start(JOB, ENVIRONMENT)
    assert not jobs.ended(JOB, is_in_use=True)
    assert not jobs.worker_ended(JOB, is_in_use=True)
    assert jobs.environment(JOB) == ENVIRONMENT
    assert jobs.worker_ended(JOB, is_in_use=False)
    assert jobs.environment(JOB) is None
    jobs.validate()


def test_a_job_that_is_told_of_after_its_end_is_not_forgotten_between_two_workers() -> None:
    """Whoever has told of it, because an actor of it lives there, does not tell again."""
    jobs = NodeJobs()
    jobs.know(JOB, ENVIRONMENT)
    jobs.ended(JOB, is_in_use=True)
    assert not jobs.know(JOB, ENVIRONMENT)
    assert not jobs.worker_ended(JOB, is_in_use=False)
    assert jobs.environment(JOB) == ENVIRONMENT
    jobs.validate()
