"""Who gets which worker: fairness, blocking, reclaiming, deaths, and what is said when it takes long."""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from remora.base.resources import Resources
from remora.core.lease import ActorDelayed, ActorPlaced, ActorUnplaceable, RejectRequest, Send
from remora.core.lease_fairness import QUANTUM_S
from remora.core.lease_queue import UNUSED_CLAIMS, LeaseQueue
from remora.core.leases import PATIENCE_S, LeaseTable
from remora.core.worker_pool import StartWorker, StopWorker, WorkerPhase
from remora.messages.leases import LeaseBroken, LeaseDelayed, LeaseEnded, LeaseGranted, ReclaimLease, RequestFailed

JOB, OTHER_JOB = b"job-one.", b"job-two."
DRIVER, SECOND, THIRD = b"driver-1", b"driver-2", b"driver-3"
ONE = Resources.of(num_cpus=1)


class Rig:
    """A lease table whose workers start at once when told to, and which remembers what was sent."""

    def __init__(self, cpus: float = 2, **limits: Any) -> None:
        total = Resources.of(num_cpus=cpus, num_gpus=limits.pop("gpus", 0), resources=limits.pop("resources", None))
        self.table = LeaseTable(total, **{"warm": 0, **limits})
        self.now_s = 100.0
        self.workers = 0
        self.requests = 0
        self.starts = True
        self.granted: list[tuple[bytes, LeaseGranted]] = []
        self.placed: list[ActorPlaced] = []
        self.other: list[Any] = []
        self.starting: deque[int] = deque()
        self.stopped: list[int] = []

    def request(self, process: bytes = DRIVER, need: Resources = ONE, job: bytes = JOB, count: int = 1) -> int:
        self.requests += 1
        self.table.request(process, job, self.requests, need, count=count, now_s=self.now_s)
        self.run()
        return self.requests

    def run(self) -> None:
        """Do what the table asks for until it asks for nothing more."""
        while self.table.outbox or (self.starts and self.starting):
            for effect in self.table.outbox:
                self.do(effect)
            self.table.outbox.clear()
            if self.starts and self.starting:
                self.ready(self.starting.popleft())
        self.table.validate()

    def do(self, effect: Any) -> None:
        if type(effect) is StartWorker:
            self.starting.append(effect.number)
        elif type(effect) is StopWorker:
            self.stopped.append(effect.number)
        elif type(effect) is ActorPlaced:
            self.placed.append(effect)
        elif type(effect) is Send and type(effect.message) is LeaseGranted:
            self.granted.append((effect.process, effect.message))
        else:
            self.other.append(effect)

    def ready(self, number: int) -> None:
        self.workers += 1
        self.table.worker_ready(number, b"work%04d" % number, f"/w{number}", number, self.now_s)

    def take(self) -> list[tuple[bytes, LeaseGranted]]:
        granted, self.granted = self.granted, []
        return granted

    def holders(self) -> list[bytes]:
        return [process for process, _ in self.take()]

    def give_back(self, process: bytes, grant: LeaseGranted) -> None:
        self.table.returned(process, [grant.lease], self.now_s)
        self.run()

    def tick(self, passed_s: float) -> list[Any]:
        self.now_s += passed_s
        self.table.tick(self.now_s)
        self.run()
        other, self.other = self.other, []
        return other


def test_a_request_gets_a_worker_and_its_cpus_until_it_is_returned() -> None:
    rig = Rig(cpus=1)
    first, second = rig.request(), rig.request()
    ((_, grant),) = rig.take()
    assert (grant.request, grant.worker, grant.address) == (first, b"work0001", "/w1")
    rig.give_back(DRIVER, grant)
    ((_, again),) = rig.take()
    assert (again.request, again.worker) == (second, b"work0001")
    assert rig.workers == 1
    assert again.lease != grant.lease


def test_no_more_workers_are_started_than_can_run() -> None:
    rig = Rig(cpus=2)
    rig.starts = False
    rig.request(count=100)
    assert len(rig.starting) == 2


def test_requesters_take_turns_whatever_they_ask_for() -> None:
    rig = Rig(cpus=1)
    rig.request(DRIVER, count=50)
    rig.request(SECOND, count=2)
    rig.request(THIRD, Resources.of(num_cpus=0.5))
    order = []
    for _ in range(6):
        ((process, grant),) = rig.take()
        order.append(process)
        rig.give_back(process, grant)
    assert order == [DRIVER, THIRD, SECOND, DRIVER, SECOND, DRIVER]


def test_jobs_take_turns_and_never_share_a_worker() -> None:
    rig = Rig(cpus=1)
    rig.request(DRIVER, count=10)
    rig.request(SECOND, count=10)
    rig.request(THIRD, job=OTHER_JOB, count=10)
    order: list[bytes] = []
    job_of: dict[bytes, bool] = {}
    for _ in range(8):
        ((process, grant),) = rig.take()
        order.append(process)
        assert job_of.setdefault(grant.worker, process == THIRD) == (process == THIRD)
        rig.give_back(process, grant)
    assert order.count(THIRD) == 4


def test_a_blocked_worker_lends_its_cpu_and_has_it_back_at_once() -> None:
    rig = Rig(cpus=1)
    rig.request(count=3)
    ((_, first),) = rig.take()
    rig.table.blocked(first.worker, rig.now_s)
    rig.run()
    ((_, second),) = rig.take()
    assert second.worker != first.worker
    rig.table.unblocked(first.worker, rig.now_s)
    assert rig.table.ledger.free()["CPU"] == -10_000
    rig.give_back(DRIVER, second)
    assert not rig.take(), "one CPU was in use twice"
    rig.give_back(DRIVER, first)
    assert len(rig.take()) == 1


def test_states_of_workers_whose_lease_has_ended_are_ignored() -> None:
    rig = Rig()
    rig.request()
    ((_, grant),) = rig.take()
    rig.table.blocked(grant.worker, rig.now_s)
    rig.give_back(DRIVER, grant)
    rig.table.unblocked(grant.worker, rig.now_s)
    rig.table.blocked(grant.worker, rig.now_s)
    rig.table.blocked(DRIVER, rig.now_s)
    rig.run()
    assert rig.table.ledger.available() == {"CPU": 2.0}


def test_what_a_blocked_worker_waits_for_comes_before_new_work() -> None:
    rig = Rig(cpus=1)
    rig.request(DRIVER, count=10)
    ((_, outer),) = rig.take()
    rig.table.request(outer.worker, JOB, 1, ONE, now_s=rig.now_s)
    rig.table.blocked(outer.worker, rig.now_s)
    rig.run()
    ((process, inner),) = rig.take()
    assert process == outer.worker
    rig.table.request(inner.worker, JOB, 1, ONE, now_s=rig.now_s)
    rig.table.request(outer.worker, JOB, 2, ONE, now_s=rig.now_s)
    rig.table.blocked(inner.worker, rig.now_s)
    rig.run()
    assert rig.holders() == [inner.worker], "the deepest first"


def test_one_who_has_more_gives_a_lease_to_one_who_starves() -> None:
    rig = Rig(cpus=2)
    rig.request(DRIVER, count=9)
    rig.request(SECOND)
    reclaims = [effect for effect in rig.other if type(effect.message) is ReclaimLease]
    rig.other.clear()
    assert [effect.process for effect in reclaims] == [DRIVER]
    grants = {grant.lease: grant for _, grant in rig.take()}
    rig.give_back(DRIVER, grants[reclaims[0].message.lease])
    assert rig.holders() == [SECOND]
    assert not rig.tick(2 * QUANTUM_S), "one each, and nobody has none"


def test_more_submitters_than_cpus_take_turns_by_a_quantum() -> None:
    rig = Rig(cpus=1)
    rig.request(DRIVER, count=9)
    rig.request(SECOND, count=9)
    assert not rig.other
    (effect,) = rig.tick(2 * QUANTUM_S)
    ((_, grant),) = rig.take()
    assert (effect.process, effect.message.lease) == (DRIVER, grant.lease)
    assert not rig.tick(2 * QUANTUM_S), "it is asked once"
    rig.give_back(DRIVER, grant)
    assert rig.holders() == [SECOND]


def test_the_table_says_when_the_next_lease_may_be_taken_back() -> None:
    rig = Rig(cpus=1)
    rig.request(DRIVER)
    assert rig.table.next_reclaim_s(rig.now_s) is None, "nobody waits"
    rig.request(SECOND)
    assert rig.table.next_reclaim_s(rig.now_s) == rig.now_s + QUANTUM_S
    assert rig.tick(2 * QUANTUM_S)
    assert rig.table.next_reclaim_s(rig.now_s) is None, "it is asked back already"


def test_nothing_is_reclaimed_that_would_not_help() -> None:
    rig = Rig(cpus=2, resources={"ssd": 1})
    rig.request(DRIVER, Resources.of(num_cpus=0.5, resources={"ssd": 1}), count=1)
    rig.request(SECOND, Resources.of(num_cpus=0.5), count=3)
    rig.request(THIRD, Resources.of(resources={"ssd": 1}))
    (effect,) = rig.tick(2 * QUANTUM_S)
    assert effect.process == DRIVER


def test_a_task_for_many_cpus_is_not_starved_by_small_ones() -> None:
    rig = Rig(cpus=4)
    rig.request(DRIVER, count=1000)
    running = deque(rig.take())
    big = rig.request(SECOND, Resources.of(num_cpus=4))
    for _ in range(200):
        rig.tick(0.05)
        if running:
            rig.give_back(*running.popleft())
        for process, grant in rig.take():
            if grant.request == big:
                return
            running.append((process, grant))
    pytest.fail("10 s have passed")


def test_while_cpus_gather_something_passes_by_now_and_then() -> None:
    rig = Rig(cpus=2)
    rig.request(DRIVER, count=2)
    (_, polling), first = rig.take()
    big = rig.request(SECOND, Resources.of(num_cpus=2))
    rig.request(THIRD)
    rig.give_back(*first)
    (third,) = rig.take()
    assert third[0] == THIRD
    rig.tick(1.5)
    rig.give_back(*third)
    rig.request(polling.worker)
    rig.tick(1.0)
    assert not rig.take(), "one CPU is kept for the task that needs two"
    waited_s = 0.0
    while waited_s < 10:
        rig.tick(0.05)
        waited_s += 0.05
        for process, grant in rig.take():
            assert grant.request != big
            assert process == polling.worker
            assert waited_s > 2
            return
    pytest.fail("a task that polls for another one without blocking waits for ever")


def test_a_worker_that_comes_back_serves_who_waits_for_one_to_start() -> None:
    rig = Rig(cpus=2)
    rig.request()
    ((_, grant),) = rig.take()
    rig.starts = False
    number = rig.request()
    assert not rig.take()
    rig.give_back(DRIVER, grant)
    assert [(again.request, again.worker) for _, again in rig.take()] == [(number, grant.worker)]


def test_gpus_are_granted_by_index() -> None:
    rig = Rig(cpus=4, gpus=2)
    rig.request(need=Resources.of(num_gpus=1), count=3)
    grants = [grant for _, grant in rig.take()]
    assert [grant.gpu_ids for grant in grants] == [(0,), (1,)]
    rig.give_back(DRIVER, grants[1])
    assert rig.take()[0][1].gpu_ids == (1,)


def test_what_no_node_has_is_said_after_a_moment_and_granted_when_one_comes() -> None:
    rig = Rig(cpus=2)
    number = rig.request(need=Resources.of(num_cpus=8))
    assert not rig.tick(0.5)
    (effect,) = rig.tick(0.6)
    assert effect.message.request == number
    assert "no node has CPU 8, the most is 2" in effect.message.reason
    assert not rig.tick(10), "it is said once"
    rig.request()
    assert len(rig.take()) == 1, "it stands in nobody's way"
    rig.table.resources_changed(Resources.of(num_cpus=9), [], rig.now_s)
    rig.run()
    assert [grant.request for _, grant in rig.take()] == [number]


def test_what_living_actors_hold_is_said() -> None:
    rig = Rig(cpus=1)
    rig.table.request_actor(b"actor-00" * 2, JOB, ONE, ONE, now_s=rig.now_s)
    rig.request()
    (effect,) = rig.tick(6)
    assert "1 living actors hold CPU 1 of this node's CPU 1" in effect.message.reason


def test_the_limit_of_workers_is_said() -> None:
    rig = Rig(cpus=1, max_workers=2)
    rig.request(count=5)
    for _ in range(2):
        ((_, grant),) = rig.take()
        rig.table.blocked(grant.worker, rig.now_s)
        rig.run()
    assert not rig.take()
    (effect,) = rig.tick(2)
    assert type(effect.message) is LeaseDelayed
    assert "2 workers, which is its limit, and 2 of them are blocked" in effect.message.reason


def test_a_request_of_another_node_is_granted_what_fits_and_the_rest_rejected() -> None:
    rig = Rig(cpus=2)
    rig.table.request(DRIVER, JOB, 1, ONE, count=3, is_forwarded=True, now_s=rig.now_s)
    rig.run()
    assert rig.holders() == [DRIVER, DRIVER]
    assert rig.other == [RejectRequest(DRIVER, 1, 1)]
    rig.tick(1.0)
    assert not rig.take()


def test_a_patient_request_of_another_node_takes_its_turn_for_a_while() -> None:
    rig = Rig(cpus=1)
    rig.request(SECOND)
    ((_, grant),) = rig.take()
    rig.now_s += 2 * QUANTUM_S
    rig.table.request(DRIVER, JOB, 7, ONE, count=2, is_forwarded=True, is_patient=True, now_s=rig.now_s)
    rig.run()
    assert rig.other == [Send(SECOND, ReclaimLease(grant.lease))]
    rig.give_back(SECOND, grant)
    assert rig.holders() == [DRIVER]
    assert RejectRequest(DRIVER, 7, 1) in rig.tick(PATIENCE_S)
    assert not rig.table.waiting()


def test_a_request_of_another_node_that_this_one_can_never_grant_is_rejected_at_once() -> None:
    rig = Rig(cpus=1)
    need = Resources.of(num_gpus=1)
    rig.table.request(DRIVER, JOB, 7, need, is_forwarded=True, is_patient=True, now_s=rig.now_s)
    rig.run()
    assert rig.other == [RejectRequest(DRIVER, 7, 1)]


def test_a_full_node_rejects_what_needs_another_worker() -> None:
    rig = Rig(cpus=1, max_workers=1)
    rig.request()
    ((_, grant),) = rig.take()
    rig.table.blocked(grant.worker, rig.now_s)
    rig.table.request(SECOND, JOB, 7, ONE, is_forwarded=True, is_patient=True, now_s=rig.now_s)
    rig.run()
    assert rig.other == [RejectRequest(SECOND, 7, 1)]


def test_leases_are_numbered_by_node() -> None:
    rig = Rig(cpus=1, node=b"\0\0\0\5")
    rig.request()
    ((_, grant),) = rig.take()
    assert grant.lease == 5 << 32 | 1
    with pytest.raises(ValueError, match="never granted"):
        rig.table.returned(DRIVER, [1], rig.now_s)
    rig.give_back(DRIVER, grant)


def test_units_that_wait_may_be_taken_back_and_added() -> None:
    rig = Rig(cpus=1)
    number = rig.request(count=4)
    rig.take()
    assert rig.table.queued(DRIVER, number) == 3
    assert rig.table.take_back(DRIVER, number, 2, rig.now_s) == 2
    rig.table.want_more(DRIVER, number, 1, rig.now_s)
    assert rig.table.queued(DRIVER, number) == 2
    assert rig.table.take_back(DRIVER, number, 9, rig.now_s) == 2
    assert rig.table.take_back(DRIVER, number, 1, rig.now_s) == 0
    with pytest.raises(ValueError, match="no request number"):
        rig.table.want_more(DRIVER, number, 1, rig.now_s)


def test_a_worker_that_submitted_elsewhere_is_not_stopped_for_idling() -> None:
    rig = Rig(cpus=1)
    rig.request(need=Resources(), count=2)
    (_, first), (_, second) = rig.take()
    rig.table.is_submitter = lambda process: process == first.worker
    rig.give_back(DRIVER, first)
    rig.now_s += 1
    rig.give_back(DRIVER, second)
    rig.tick(3.0)
    assert rig.stopped == [int(second.worker[4:])]


def test_an_actor_gets_a_worker_of_its_own_even_while_all_cpus_are_in_use() -> None:
    rig = Rig(cpus=1)
    rig.request()
    rig.table.request_actor(b"actor-00" * 2, JOB, Resources(), ONE, now_s=rig.now_s)
    rig.run()
    (placed,) = rig.placed
    assert placed.worker.process != rig.take()[0][1].worker
    rig.table.worker_died(placed.worker.process, "exit", rig.now_s)
    rig.table.request_actor(b"actor-00" * 2, JOB, Resources(), ONE, now_s=rig.now_s)
    rig.run()
    assert len(rig.placed) == 2, "again, after its worker died"


@pytest.mark.parametrize("count", [1, 5])
def test_actors_cost_one_worker_each(count: int) -> None:
    rig = Rig(cpus=2)
    for number in range(count):
        rig.table.request_actor(b"actor-%02d" % number * 2, JOB, Resources(), ONE, now_s=rig.now_s)
    rig.run()
    assert len(rig.placed) == rig.workers == count


def test_an_actor_needs_a_node_that_has_what_it_asks_for_to_be_placed() -> None:
    rig = Rig(cpus=0)
    rig.table.request_actor(b"actor-00" * 2, JOB, Resources(), ONE, now_s=rig.now_s)
    rig.run()
    (effect,) = rig.tick(2)
    assert "no node has any 'CPU'" in effect.reason
    rig.table.resources_changed(ONE, [], rig.now_s)
    rig.run()
    assert len(rig.placed) == 1
    assert rig.table.ledger.available() == {"CPU": 1.0}


def test_actors_that_have_ended_or_wait_no_more_leave_nothing_behind() -> None:
    rig = Rig(cpus=1)
    actors = [b"actor-%02d" % number * 2 for number in range(6)]
    for actor in actors[:3]:
        rig.table.request_actor(actor, JOB, Resources(), ONE, now_s=rig.now_s)
    rig.run()
    assert set(rig.table._queue._requesters) == set(actors[:3]), "they live"
    for placed in rig.placed[:2]:
        rig.table.worker_died(placed.worker.process, "exit", rig.now_s)
    assert set(rig.table._queue._requesters) == {actors[2]}
    rig.table.request_actor(actors[2], JOB, Resources(), ONE, now_s=rig.now_s)
    rig.table.worker_died(rig.placed[2].worker.process, "exit", rig.now_s)
    rig.run()
    assert set(rig.table._queue._requesters) == {actors[2]}, "it was started again before its first worker was dead"
    rig.table.worker_died(rig.placed[3].worker.process, "exit", rig.now_s)

    rig.starts = False
    rig.table.request_actor(actors[3], JOB, Resources(), ONE, now_s=rig.now_s)
    rig.run()
    rig.table.requester_gone(actors[3], rig.now_s)
    assert not rig.table._queue._requesters, "it was ended while its worker was started"
    rig.table.request_actor(actors[4], JOB, Resources.of(num_gpus=1), ONE, now_s=rig.now_s)
    rig.table.requester_gone(actors[4], rig.now_s)
    assert not rig.table._queue._requesters, "it was ended while it waited for resources"
    rig.table.request_actor(actors[5], JOB, Resources(), ONE, now_s=rig.now_s)
    rig.run()
    while rig.starting:
        rig.table.worker_start_failed(rig.starting.popleft(), "broken", rig.now_s)
        rig.run()
    assert [effect.actor for effect in rig.other if type(effect) is ActorUnplaceable] == [actors[5]]
    assert not rig.table._queue._requesters, "no worker could be started"


def test_an_actor_that_cannot_be_placed_says_so() -> None:
    rig = Rig(cpus=1)
    rig.table.request_actor(b"actor-00" * 2, JOB, Resources.of(num_gpus=1), ONE, now_s=rig.now_s)
    (effect,) = rig.tick(2)
    assert type(effect) is ActorDelayed
    assert "GPU" in effect.reason


def test_the_death_of_a_worker_is_told_to_its_holder_and_frees_its_resources() -> None:
    rig = Rig(cpus=1)
    rig.request(count=2)
    ((_, grant),) = rig.take()
    rig.table.blocked(grant.worker, rig.now_s)
    rig.table.worker_died(grant.worker, "killed by signal 9", rig.now_s)
    rig.run()
    (effect,) = rig.other
    assert effect == Send(DRIVER, LeaseBroken(grant.lease, grant.worker, "killed by signal 9"))
    ((_, second),) = rig.take()
    rig.table.returned(DRIVER, [grant.lease], rig.now_s)
    assert second.worker != grant.worker


def test_workers_of_a_requester_that_is_gone_end_what_they_run_first() -> None:
    rig = Rig(cpus=1)
    rig.request(DRIVER, count=5)
    ((_, grant),) = rig.take()
    rig.request(SECOND)
    rig.other.clear()
    rig.table.requester_gone(DRIVER, rig.now_s)
    rig.run()
    assert rig.other == [Send(grant.worker, LeaseEnded(grant.lease))]
    assert not rig.take()
    rig.table.worker_idle(grant.worker, rig.now_s)
    rig.run()
    assert rig.holders() == [SECOND]


def test_a_cancelled_request_is_never_granted_and_costs_nothing() -> None:
    rig = Rig(cpus=2)
    rig.starts = False
    number = rig.request(count=3)
    assert rig.table.ledger.available() == {"CPU": 0}
    rig.table.cancel(DRIVER, number, rig.now_s)
    rig.table.cancel(DRIVER, 77, rig.now_s)
    assert rig.table.ledger.available() == {"CPU": 2.0}
    rig.starts = True
    rig.run()
    assert not rig.take()


def test_a_worker_that_cannot_start_fails_the_request_after_some_tries() -> None:
    rig = Rig(cpus=1)
    rig.starts = False
    number = rig.request(count=2)
    rig.table.request_actor(b"actor-00" * 2, JOB, Resources(), ONE, now_s=rig.now_s)
    rig.run()
    for _ in range(4):
        if rig.starting:
            rig.table.worker_start_failed(rig.starting.popleft(), "exit code 1", rig.now_s)
            rig.run()
    failed, unplaceable = rig.other
    assert failed == Send(DRIVER, RequestFailed(number, "no worker could be started: exit code 1"))
    assert type(unplaceable) is ActorUnplaceable
    assert rig.table.ledger.available() == {"CPU": 1.0}


def test_the_end_of_a_job_drops_its_requests_and_stops_its_workers() -> None:
    rig = Rig(cpus=2)
    rig.request(count=5)
    grants = rig.take()
    rig.table.requester_gone(DRIVER, rig.now_s)
    rig.table.job_ended(JOB, rig.now_s)
    rig.run()
    assert len(rig.stopped) == 2
    for _, grant in grants:
        rig.table.worker_died(grant.worker, "stopped", rig.now_s)
    rig.run()
    assert rig.table.ledger.available() == {"CPU": 2.0}
    assert not rig.take()


def test_an_actor_that_waits_for_its_worker_gets_one_after_the_end_of_its_job() -> None:
    rig = Rig(cpus=2)
    rig.starts = False
    rig.table.request_actor(b"actor-00" * 2, JOB, Resources(), ONE, now_s=rig.now_s)
    rig.run()
    first = rig.starting.popleft()
    rig.table.job_ended(JOB, rig.now_s)
    rig.starts = True
    rig.run()
    assert rig.stopped[0] == first
    assert len(rig.placed) == 1
    assert rig.table.pool.count(WorkerPhase.IDLE) == 0


def test_a_job_is_awaited_while_somebody_waits_for_resources_or_for_a_worker_of_it() -> None:
    rig = Rig(cpus=1)
    rig.starts = False
    rig.request(job=OTHER_JOB)
    rig.table.request_actor(b"actor-00" * 2, JOB, ONE, ONE, now_s=rig.now_s)
    rig.run()
    assert rig.table.awaits_worker_of(JOB), "it waits for its CPU"
    assert rig.table.awaits_worker_of(OTHER_JOB), "its worker is started"
    rig.starts = True
    rig.run()
    assert not rig.table.awaits_worker_of(OTHER_JOB)
    rig.starts = False
    rig.give_back(*rig.take()[0])
    assert rig.table.awaits_worker_of(JOB), "it waits for its worker"
    rig.starts = True
    rig.run()
    assert len(rig.placed) == 1
    assert not rig.table.awaits_worker_of(JOB)


@pytest.mark.parametrize("lease", [0, 7])
def test_the_return_of_a_lease_that_was_never_granted_changes_nothing(lease: int) -> None:
    rig = Rig()
    rig.request()
    ((_, grant),) = rig.take()
    before = repr(rig.table)
    with pytest.raises(ValueError, match="never granted"):
        rig.table.returned(DRIVER, [grant.lease, lease], rig.now_s)
    with pytest.raises(ValueError, match="returns <Lease"):
        rig.table.returned(SECOND, [grant.lease], rig.now_s)
    assert repr(rig.table) == before


def test_a_request_number_is_used_once() -> None:
    rig = Rig(cpus=0)
    number = rig.request()
    before = repr(rig.table)
    with pytest.raises(ValueError, match="twice"):
        rig.table.request(DRIVER, JOB, number, ONE, now_s=rig.now_s)
    with pytest.raises(ValueError, match="0 leases"):
        rig.table.request(DRIVER, JOB, number + 1, ONE, count=0, now_s=rig.now_s)
    assert repr(rig.table) == before


def fibonacci_workers(n: int, cpus: int) -> tuple[int, int]:
    """Run fib(n) by tasks that block in get; returns its value and how many workers there were."""
    rig = Rig(cpus=cpus)
    parent: dict[bytes, bytes] = {}
    arguments: dict[tuple[bytes, int], int] = {}
    waiting: dict[bytes, list[int]] = {}
    task: dict[bytes, tuple[bytes, LeaseGranted]] = {}
    answer: list[int] = []

    def submit(process: bytes, argument: int) -> None:
        arguments[process, rig.request(process)] = argument

    def finish(worker: bytes, value: int) -> None:
        process, grant = task.pop(worker)
        rig.give_back(process, grant)
        if process == DRIVER:
            answer.append(value)
            return
        waiting[process].append(value)
        if len(waiting[process]) == 2:
            rig.table.unblocked(process, rig.now_s)
            finish(process, sum(waiting.pop(process)))

    submit(DRIVER, n)
    while not answer:
        granted = rig.take()
        assert granted, "nobody can go on"
        for process, grant in granted:
            argument = arguments.pop((process, grant.request))
            task[grant.worker] = (process, grant)
            parent[grant.worker] = process
            if argument < 2:
                finish(grant.worker, argument)
                continue
            waiting[grant.worker] = []
            for smaller in (argument - 1, argument - 2):
                submit(grant.worker, smaller)
            rig.table.blocked(grant.worker, rig.now_s)
            rig.run()
    return answer[0], rig.workers


@pytest.mark.parametrize("cpus", [1, 2])
def test_recursion_by_tasks_ends_and_needs_as_many_workers_as_it_is_deep(cpus: int) -> None:
    value, workers = fibonacci_workers(11, cpus)
    assert value == 89
    assert workers <= 11 * cpus + cpus


def test_ten_thousand_requests_are_not_looked_at_for_each_event() -> None:
    rig = Rig(cpus=1)
    for number in range(10_000):
        rig.table.request(DRIVER, JOB, number + 1, ONE, now_s=rig.now_s)
    looked_at = 0
    original = rig.table.ledger.fits

    def fits(need: Resources) -> bool:
        nonlocal looked_at
        looked_at += 1
        return original(need)

    rig.table.ledger.fits = fits  # type: ignore[method-assign]
    rig.starts = False
    for effect in rig.table.outbox:
        rig.do(effect)
    rig.table.outbox.clear()
    rig.ready(rig.starting.popleft())
    for _ in range(10):
        (grant,) = [e.message for e in rig.table.outbox if type(e) is Send and type(e.message) is LeaseGranted]
        rig.table.outbox.clear()
        rig.table.returned(DRIVER, [grant.lease], rig.now_s)
    assert looked_at <= 10 * 5


def test_sorts_of_workers_that_nobody_asks_for_any_more_are_forgotten() -> None:
    rig = Rig(cpus=2, resources={f"group-{number}": 1 for number in range(3 * UNUSED_CLAIMS)})
    kept = rig.request(need=Resources.of(num_cpus=1, resources={"group-0": 1}))
    ((_, grant),) = rig.take()
    assert grant.request == kept
    for number in range(1, 3 * UNUSED_CLAIMS):
        rig.request(need=Resources.of(num_cpus=1, resources={f"group-{number}": 1}))
        ((process, other),) = rig.take()
        rig.give_back(process, other)
    queue = rig.table._queue
    assert len(queue._demands) == len(list(queue.claims())) == UNUSED_CLAIMS + 1
    rig.request(need=Resources.of(num_cpus=1, resources={"group-1": 1}))
    assert len(rig.take()) == 1, "what was forgotten is asked for again"
    rig.table.requester_gone(DRIVER, rig.now_s)
    assert {demand.need for demand in queue._demands.values()} == {
        lease.claim.demand.need for lease in rig.table.leases()
    }, "what its workers still run"
    for lease in rig.table.leases():
        rig.table.worker_idle(lease.worker.process, rig.now_s)
    rig.run()
    assert not queue._demands
    assert not queue._requesters


def test_a_number_is_free_again_when_its_request_is_granted_or_cancelled() -> None:
    rig = Rig(cpus=1)
    number = rig.request(count=2)
    with pytest.raises(ValueError, match="twice"):
        rig.table.request(DRIVER, JOB, number, Resources.of(num_gpus=1), now_s=rig.now_s)
    rig.table.cancel(DRIVER, number, rig.now_s)
    rig.table.request(DRIVER, JOB, number, Resources.of(num_gpus=1), now_s=rig.now_s)
    rig.run()
    assert [demand.need for demand in rig.table._queue.pending()] == [Resources.of(num_gpus=1)]


class Leasing(RuleBasedStateMachine):
    """Random days of a node. The model is what each requester holds and waits for."""

    @initialize(cpus=st.integers(1, 3), unused_claims=st.sampled_from([0, 1, UNUSED_CLAIMS]))
    def begin(self, cpus: int, unused_claims: int) -> None:
        self.rig = Rig(cpus=cpus, gpus=1)
        self.rig.table._queue = LeaseQueue(unused_claims)
        self.held: dict[int, tuple[bytes, LeaseGranted]] = {}
        self.wanted: Counter[tuple[bytes, int]] = Counter()
        self.need: dict[int, Resources] = {}
        self.dead: set[bytes] = set()
        self.reclaimed: set[int] = set()
        self.blocked: set[bytes] = set()
        self.orphans: set[bytes] = set()

    def follow(self) -> None:
        self.rig.run()
        for process, grant in self.rig.take():
            assert grant.worker not in {held.worker for _, held in self.held.values()}, "a worker is granted twice"
            assert grant.worker not in self.dead
            assert process not in self.dead
            assert self.wanted[process, grant.request] > 0, "nobody asked for it"
            self.wanted[process, grant.request] -= 1
            self.held[grant.lease] = (process, grant)
        for effect in self.rig.other:
            message = effect.message
            if type(message) is ReclaimLease:
                assert self.held[message.lease][0] == effect.process
                self.reclaimed.add(message.lease)
            elif type(message) is LeaseBroken:
                assert self.held.pop(message.lease)[0] == effect.process
            elif type(message) is LeaseEnded:
                self.orphans.add(effect.process)
        self.rig.other.clear()

    def processes(self) -> list[bytes]:
        workers = [grant.worker for _, grant in self.held.values()]
        return [p for p in [DRIVER, SECOND, *workers] if p not in self.dead]

    @rule(
        data=st.data(),
        cpus=st.sampled_from([0, 0.5, 1, 1, 2]),
        gpus=st.sampled_from([0, 0, 0, 0.5, 1]),
        count=st.integers(1, 4),
    )
    def request(self, data: st.DataObject, cpus: float, gpus: float, count: int) -> None:
        candidates = self.processes()
        if not candidates:
            return
        process = data.draw(st.sampled_from(candidates))
        number = self.rig.requests + 1
        self.wanted[process, number] = count
        self.need[number] = Resources.of(num_cpus=cpus, num_gpus=gpus)
        self.rig.request(process, self.need[number], count=count)
        self.follow()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        lease = data.draw(st.sampled_from(sorted(self.held)))
        process, grant = self.held[lease]
        if process in self.dead:
            return
        del self.held[lease]
        self.blocked.discard(grant.worker)
        self.rig.give_back(process, grant)
        self.follow()

    @precondition(lambda self: self.held)
    @rule(data=st.data(), block=st.booleans())
    def block(self, data: st.DataObject, block: bool) -> None:
        worker = self.held[data.draw(st.sampled_from(sorted(self.held)))][1].worker
        (self.rig.table.blocked if block else self.rig.table.unblocked)(worker, self.rig.now_s)
        (self.blocked.add if block else self.blocked.discard)(worker)
        self.follow()

    @precondition(lambda self: +self.wanted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        process, number = data.draw(st.sampled_from(sorted(+self.wanted)))
        del self.wanted[process, number]
        self.rig.table.cancel(process, number, self.rig.now_s)
        self.follow()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def kill_worker(self, data: st.DataObject) -> None:
        self.gone(self.held[data.draw(st.sampled_from(sorted(self.held)))][1].worker, is_worker=True)

    @precondition(lambda self: SECOND not in self.dead)
    @rule()
    def kill_driver(self) -> None:
        self.gone(SECOND, is_worker=False)

    def gone(self, process: bytes, is_worker: bool) -> None:
        self.dead.add(process)
        self.blocked.discard(process)
        orphaned = [lease for lease, (holder, grant) in self.held.items() if grant.worker == process]
        if is_worker:
            self.rig.table.worker_died(process, "killed", self.rig.now_s)
        else:
            self.rig.table.requester_gone(process, self.rig.now_s)
        for key in [key for key in self.wanted if key[0] == process]:
            del self.wanted[key]
        self.follow()
        for lease in orphaned:
            self.held.pop(lease, None)

    @precondition(lambda self: self.orphans)
    @rule()
    def orphan_ends(self) -> None:
        worker = self.orphans.pop()
        self.blocked.discard(worker)
        for lease in [lease for lease, (_, grant) in self.held.items() if grant.worker == worker]:
            del self.held[lease]
        self.rig.table.worker_idle(worker, self.rig.now_s)
        self.follow()

    @rule(passed_s=st.sampled_from([0.01, 0.2, 3.0]))
    def tick(self, passed_s: float) -> None:
        self.rig.now_s += passed_s
        self.rig.table.tick(self.rig.now_s)
        self.follow()

    @invariant()
    def only_what_there_is_is_in_use(self) -> None:
        if not hasattr(self, "rig"):
            return
        self.rig.table.validate()
        gpus = Counter[int]()
        for _, grant in self.held.values():
            if grant.worker not in self.dead:
                for index in grant.gpu_ids:
                    gpus[index] += self.need[grant.request].units["GPU"]
        assert all(units <= 10_000 for units in gpus.values())

    def teardown(self) -> None:
        """Nobody starves: holders return what they are asked for, blocked ones wake, and everyone is served."""
        if not hasattr(self, "rig"):
            return
        for _ in range(3000):
            if not self.starving():
                break
            while self.orphans:
                self.orphan_ends()
            for worker in list(self.blocked):
                self.rig.table.unblocked(worker, self.rig.now_s)
            self.blocked.clear()
            for lease in list(self.reclaimed):
                self.reclaimed.discard(lease)
                if lease in self.held and self.held[lease][0] not in self.dead:
                    self.rig.give_back(*self.held.pop(lease))
            self.tick(0.05)
        assert not self.starving()

    def starving(self) -> set[tuple[bytes, int]]:
        """Requests of those who have no lease of the sort at all."""
        has = {(process, self.need[grant.request]) for process, grant in self.held.values()}
        room = self.rig.table.ledger.total.units
        return {
            (process, number)
            for process, number in +self.wanted
            if self.need[number].fits_into(room) and (process, self.need[number]) not in has
        }


Leasing.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLeasing = Leasing.TestCase
