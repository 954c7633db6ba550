"""When worker processes are started, kept and stopped."""

from __future__ import annotations

from typing import Any

import pytest

from remora.core.worker_pool import (
    IDLE_S,
    MAX_START_FAILURES,
    PooledWorker,
    StartWorker,
    StopWorker,
    WorkerPhase,
    WorkerPool,
)

JOB, OTHER_JOB = b"job-one.", b"job-two."
KEY = (JOB, "")


class Rig:
    def __init__(self, cpus: int = 2, **limits: Any) -> None:
        self.outbox: list[Any] = []
        self.pool = WorkerPool(cpus, self.outbox.append, **{"warm": 0, **limits})

    def started(self) -> list[int]:
        numbers = [effect.number for effect in self.outbox if type(effect) is StartWorker]
        self.outbox[:] = [effect for effect in self.outbox if type(effect) is not StartWorker]
        return numbers

    def stopped(self) -> list[int]:
        numbers = [effect.number for effect in self.outbox if type(effect) is StopWorker]
        self.outbox[:] = [effect for effect in self.outbox if type(effect) is not StopWorker]
        return numbers

    def ready(self, number: int, now_s: float = 0.0) -> PooledWorker:
        worker = self.pool.ready(number, b"process%d" % number, f"/w{number}", number, now_s)
        assert worker
        return worker

    def idle_workers(self, count: int, key: tuple[bytes, str] = KEY, now_s: float = 0.0) -> list[PooledWorker]:
        workers: list[PooledWorker] = []
        for _ in range(count):
            self.pool.want(key, 1)
            (number,) = self.started()
            self.ready(number, now_s)
            worker = self.pool.take(key)
            assert worker
            workers.append(worker)
            self.pool.want(key, 0)
        for worker in workers:
            self.pool.give_back(worker, now_s)
        return workers


def test_a_hundred_wanted_workers_are_not_forked_at_once() -> None:
    rig = Rig(cpus=2)
    rig.pool.want(KEY, 100)
    assert rig.started() == [1, 2]
    rig.ready(1)
    rig.pool.want(KEY, 99)
    assert rig.started() == [3]
    rig.pool.validate()


def test_a_job_that_has_ended_leaves_nothing_behind() -> None:
    rig = Rig(cpus=2, warm=1)
    pool = rig.pool
    for number in range(20):
        job = b"job-%03d." % number
        pool.job_started(job)
        (warm,) = rig.started()
        pool.want((job, "env"), 1)
        (wanted,) = rig.started()
        rig.ready(warm)
        pool.want((job, ""), 0)
        pool.start_failed(wanted)
        (again,) = rig.started()
        pool.validate()
        pool.job_ended(job)
        pool.want((job, "env"), 0)
        pool.start_failed(again)  # it was told to stop
        assert set(rig.stopped()) == {warm, again}
        pool.died(b"process%d" % warm)
        pool.validate()
    for kept in (pool._workers, pool._idle, pool._starting, pool._wanted, pool._failures):
        assert not kept


def test_failures_are_counted_for_an_actor_that_outlives_its_job_until_it_is_given_up() -> None:
    rig = Rig(cpus=2)
    rig.pool.job_ended(JOB)
    rig.pool.want(KEY, 1)
    for failures in range(1, MAX_START_FAILURES + 1):
        (number,) = rig.started()
        assert rig.pool.start_failed(number) == (KEY, failures == MAX_START_FAILURES)
        rig.pool.validate()
    assert not rig.started()
    assert not rig.pool._failures
    rig.pool.want(KEY, 1)
    rig.pool.start_failed(*rig.started())
    rig.pool.want(KEY, 0)
    assert not rig.pool._failures, "it waits no more"


def test_no_more_are_started_than_are_wanted() -> None:
    rig = Rig(cpus=8)
    rig.pool.want(KEY, 3)
    rig.pool.want(KEY, 3)
    assert rig.started() == [1, 2, 3]


def test_warm_workers_are_started_for_the_job_and_replaced_when_they_become_actors() -> None:
    rig = Rig(cpus=2, warm=2)
    rig.pool.job_started(JOB)
    assert rig.started() == [1, 2]
    rig.ready(1)
    worker = rig.pool.take(KEY)
    assert worker
    rig.pool.dedicate(worker)
    rig.pool.want(KEY, 0)
    assert rig.started() == [3]


def test_the_worker_that_was_idle_last_is_taken_first() -> None:
    rig = Rig()
    first, second = rig.idle_workers(2)
    assert rig.pool.take(KEY) is second
    assert rig.pool.take(KEY) is first
    assert rig.pool.take(KEY) is None


def test_a_worker_serves_one_job_and_one_environment() -> None:
    rig = Rig()
    rig.idle_workers(1)
    assert rig.pool.take((OTHER_JOB, "")) is None
    assert rig.pool.take((JOB, "pip: numpy")) is None


def test_idle_workers_beyond_the_cpus_are_stopped_after_a_while_the_longest_idle_first() -> None:
    rig = Rig(cpus=2)
    workers = rig.idle_workers(4)
    rig.pool.tick(IDLE_S / 2, lambda worker: True)
    assert not rig.stopped()
    rig.pool.tick(IDLE_S, lambda worker: worker is not workers[0])
    assert rig.stopped() == [workers[1].number, workers[2].number], "the first may not be stopped"
    rig.pool.tick(9 * IDLE_S, lambda worker: True)
    assert not rig.stopped()
    rig.pool.validate()


def test_the_hard_limit_ends_the_starts_and_makes_room_by_idle_workers_of_other_keys() -> None:
    rig = Rig(cpus=2, max_workers=3)
    (idle,) = rig.idle_workers(1, (OTHER_JOB, ""))
    rig.pool.want(KEY, 10)
    starting = rig.started()
    assert len(starting) == 2
    for left in (9, 8, 7):
        rig.ready(starting.pop(0))
        assert rig.pool.take(KEY)
        rig.pool.want(KEY, left)
        starting += rig.started()
    assert rig.stopped() == [idle.number]
    assert not starting
    assert rig.pool.is_full()
    rig.pool.validate()


def test_actors_do_not_count_towards_the_hard_limit() -> None:
    rig = Rig(max_workers=1)
    (worker,) = rig.idle_workers(1)
    assert rig.pool.take(KEY) is worker
    rig.pool.dedicate(worker)
    rig.pool.want(KEY, 1)
    assert rig.started() == [2]


def test_the_end_of_a_job_stops_all_its_workers_but_actors() -> None:
    rig = Rig(cpus=4)
    idle, leased, actor = rig.idle_workers(3)
    assert rig.pool.take(KEY) is actor
    rig.pool.dedicate(actor)
    assert rig.pool.take(KEY) is leased
    rig.pool.want(KEY, 1)
    (starting,) = rig.started()
    rig.pool.job_ended(JOB)
    assert sorted(rig.stopped()) == sorted([idle.number, leased.number, starting])
    rig.pool.give_back(leased, 0.0)
    assert leased.phase is WorkerPhase.STOPPING
    assert rig.pool.ready(starting, b"late....", "/late", 9, 0.0) is None
    assert rig.stopped() == [starting], "it is told again, now that it can hear"
    rig.pool.validate()


def test_workers_that_cannot_start_are_given_up_and_not_warmed_for_ever() -> None:
    rig = Rig(cpus=2, warm=1)
    rig.pool.job_started(JOB)
    given_up = []
    for _ in range(3):
        (number,) = rig.started()
        given_up.append(rig.pool.start_failed(number)[1])
    assert given_up == [False, False, True]
    assert not rig.started()
    rig.pool.want(KEY, 1)
    assert len(rig.started()) == 1, "a request tries again"


def test_what_cannot_be_is_refused_and_changes_nothing() -> None:
    rig = Rig()
    (worker,) = rig.idle_workers(1)
    before = repr(rig.pool)
    for call in (
        lambda: rig.pool.ready(1, b"again...", "/w", 0, 0.0),
        lambda: rig.pool.ready(77, b"unknown.", "/w", 0, 0.0),
        lambda: rig.pool.start_failed(1),
        lambda: rig.pool.give_back(worker, 0.0),
        lambda: rig.pool.dedicate(worker),
    ):
        with pytest.raises(ValueError, match=r"starting|start|given back|actor"):
            call()
    assert repr(rig.pool) == before
    rig.pool.validate()


def test_a_dead_worker_is_forgotten_and_a_stranger_ignored() -> None:
    rig = Rig()
    (worker,) = rig.idle_workers(1)
    assert rig.pool.died(worker.process) is worker
    assert rig.pool.died(b"stranger") is None
    assert rig.pool.take(KEY) is None
    rig.pool.validate()


def test_no_worker_idles_for_a_job_that_has_ended() -> None:
    rig = Rig()
    rig.pool.job_started(KEY[0])
    rig.pool.job_ended(KEY[0])
    rig.pool.want(KEY, 1)  # an actor of the job, which nobody waits for when its worker has come
    (number,) = rig.started()
    rig.pool.want(KEY, 0)
    rig.ready(number)
    assert rig.pool.count(WorkerPhase.STOPPING) == 1
    rig.pool.job_started(KEY[0])
    assert not rig.started(), "an ended job is not started again by a late word"
    rig.pool.validate()
