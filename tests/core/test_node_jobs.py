"""How long a node knows what the workers of a job are made of."""

from __future__ import annotations

from remora.core.node_jobs import REMEMBERED_JOBS, NodeJobs
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
    assert not jobs.no_longer_used(JOB, is_in_use=False), "it runs"
    assert jobs.ended(JOB, is_in_use=False)
    assert jobs.environment(JOB) is None
    assert not jobs.ended(JOB, is_in_use=False), "nobody knows it"
    jobs.validate()


def test_a_job_that_has_ended_is_known_until_its_last_worker_ends() -> None:
    jobs = NodeJobs()
    jobs.start(JOB, ENVIRONMENT)
    assert not jobs.ended(JOB, is_in_use=True)
    assert not jobs.no_longer_used(JOB, is_in_use=True)
    assert jobs.environment(JOB) == ENVIRONMENT
    assert jobs.no_longer_used(JOB, is_in_use=False)
    assert jobs.environment(JOB) is None
    jobs.validate()


def test_a_job_that_is_told_of_after_its_end_is_forgotten_with_its_last_worker() -> None:
    """An actor of it lives here, or on the node that tells; it tells again whenever it wants a worker."""
    jobs = NodeJobs()
    jobs.know(JOB, ENVIRONMENT)
    jobs.ended(JOB, is_in_use=True)
    for is_told in (jobs.know, jobs.start):
        is_told(JOB, ENVIRONMENT)
        assert jobs.has_ended(JOB)
        assert not jobs.no_longer_used(JOB, is_in_use=True)
        assert jobs.environment(JOB) == ENVIRONMENT
        assert not jobs.no_longer_used(JOB, is_in_use=False), "what it was told for may not have come yet"
        assert jobs.forget_unused(lambda job: True) == []
        assert jobs.no_longer_used(JOB, is_in_use=False)
        assert jobs.environment(JOB) is None
        jobs.validate()


def test_a_job_whose_end_is_heard_of_before_its_start_does_not_begin() -> None:
    """The head tells of the end, a node of the job: they come in any order."""
    jobs = NodeJobs()
    assert not jobs.ended(JOB, is_in_use=False)
    assert jobs.start(JOB, ENVIRONMENT), "workers can be made of it, if anybody waits for one"
    assert jobs.forget_unused(lambda job: False) == [], "what it was told for may not have come yet"
    assert jobs.forget_unused(lambda job: True) == []
    assert jobs.forget_unused(lambda job: False) == [JOB]
    assert jobs.environment(JOB) is None
    jobs.validate()


def test_only_so_many_ended_jobs_are_remembered() -> None:
    jobs = NodeJobs()
    for number in range(3 * REMEMBERED_JOBS):
        job = NODE + number.to_bytes(4, "big")
        jobs.start(job, ENVIRONMENT)
        assert jobs.ended(job, is_in_use=False)
        assert not jobs.has_ended(job)
    jobs.validate()
    assert jobs.of_node(NODE) == []
