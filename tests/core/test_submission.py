"""Which record goes where: depth, requests for leases, and what happens when workers vanish."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from remora.core.function_shapes import REMEMBERED_SHAPES, FunctionShapes
from remora.core.submission import FORCE_GRACE_S, LINGER_S, Fail, Push, Submission
from remora.core.task_queue import MAX_DEPTH, LeasedWorker, TaskShape
from remora.messages.leases import CancelRequest, KillLeased, LeaseGranted, RequestLease, ReturnLease

ONE_CPU = {"CPU": 10_000}
QUICK_S = 10e-6
SLOW_S = 0.02


class Record:
    def __init__(self, call: int, shape: TaskShape, retries_left: int = 3) -> None:
        self.call = call
        self.shape = shape
        self.retries_left = retries_left


class Rig:
    """A submission with a daemon that grants when it is told to."""

    def __init__(self, request_limit: int = 4) -> None:
        self.tasks: Submission[Any] = Submission(request_limit)
        self.calls = 0
        self.leases = 0

    def submit(self, shape: TaskShape, count: int = 1, retries: int = 3) -> list[LeasedWorker[Any] | None]:
        workers = []
        for _ in range(count):
            self.calls += 1
            workers.append(self.tasks.submit(Record(self.calls, shape, retries)))
        return workers

    def grant(self, request: int) -> tuple[LeasedWorker[Any], list[int]]:
        self.leases += 1
        granted = self.tasks.granted(LeaseGranted(request, self.leases, b"workerid", "/w", self.leases))
        assert granted is not None
        worker, records = granted
        return worker, [record.call for record in records]

    def sent(self, kind: type[Any]) -> list[Any]:
        found = [effect for effect in self.tasks.outbox if type(effect) is kind]
        self.tasks.outbox = [effect for effect in self.tasks.outbox if type(effect) is not kind]
        return found

    def worker_with(self, shape: TaskShape, count: int) -> tuple[LeasedWorker[Any], list[int]]:
        self.submit(shape, count)
        return self.grant(self.sent(RequestLease)[0].request)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_new_function_is_sent_one_at_a_time(rig: Rig) -> None:
    _, calls = rig.worker_with(rig.tasks.shape(ONE_CPU), 10)
    assert calls == [1]


def test_depth_doubles_while_tasks_are_quick_and_stops_at_its_limit(rig: Rig) -> None:
    shape = rig.tasks.shape(ONE_CPU)
    worker, _ = rig.worker_with(shape, 5000)
    deepest = [len(worker.in_flight)]
    while len(deepest) < 2000:
        call = next(iter(worker.in_flight))
        rig.tasks.completed(worker, call, QUICK_S)
        deepest.append(len(worker.in_flight))
    assert max(deepest[:2]) == 2
    assert max(deepest) == MAX_DEPTH == shape.depth


def test_slow_tasks_are_never_queued_behind_each_other(rig: Rig) -> None:
    shape = rig.tasks.shape(ONE_CPU)
    worker, _ = rig.worker_with(shape, 50)
    for _ in range(20):
        rig.tasks.completed(worker, next(iter(worker.in_flight)), 0.0012)
        assert len(worker.in_flight) == 1


def test_no_more_than_a_time_slice_of_work_is_in_flight(rig: Rig) -> None:
    shape = rig.tasks.shape(ONE_CPU)
    worker, _ = rig.worker_with(shape, 3000)
    for _ in range(1000):
        rig.tasks.completed(worker, next(iter(worker.in_flight)), 0.0005)
        assert len(worker.in_flight) * 0.0005 <= 0.004


def run_over_a_line(rig: Rig, latency_s: float, task_s: float, count: int) -> tuple[float, int]:
    """One worker behind a line with this round trip takes *count* tasks, on a clock that is moved by hand.

    Returns when the last reply came, and the most tasks that were in flight at once. The worker answers each task when
    it is done.
    """
    shape = rig.tasks.shape(ONE_CPU)
    now_s, free_s, most = 0.0, 0.0, 0
    worker, first = rig.worker_with(shape, count)
    coming: list[tuple[float, int]] = []

    def send(calls: list[int]) -> None:
        nonlocal free_s
        for call in calls:
            free_s = max(free_s, now_s + latency_s / 2) + task_s
            coming.append((free_s + latency_s / 2, call))

    send(first)
    while coming:
        now_s, call = coming.pop(0)
        duration_s = worker.share_s(now_s, 1, latency_s)
        was_lone = not worker.in_flight
        send([record.call for record in rig.tasks.completed(worker, call, duration_s)])
        most = max(most, len(worker.in_flight))
        if was_lone:
            worker.busy_since_s = now_s
    return now_s, most


def test_a_line_with_latency_is_filled_with_quick_tasks(rig: Rig) -> None:
    end_s, most = run_over_a_line(rig, latency_s=0.005, task_s=0.0001, count=2000)
    assert end_s < 2 * 2000 * 0.0001
    assert most > 0.005 / 0.0001


def test_slow_tasks_are_not_queued_behind_each_other_over_a_line_with_latency(rig: Rig) -> None:
    _, most = run_over_a_line(rig, latency_s=0.005, task_s=0.002, count=50)
    assert most == 1


def test_one_slow_reply_ends_the_depth_at_once(rig: Rig) -> None:
    shape = rig.tasks.shape(ONE_CPU)
    shape.set_depth(MAX_DEPTH)
    worker, calls = rig.worker_with(shape, 1000)
    assert len(calls) == MAX_DEPTH
    rig.tasks.completed(worker, calls[0], SLOW_S)
    assert shape.depth == 1


def test_a_quick_function_does_not_wait_behind_a_slow_one(rig: Rig) -> None:
    slow, quick = rig.tasks.shape(ONE_CPU), rig.tasks.shape(ONE_CPU)
    assert slow.queue is quick.queue
    quick.set_depth(64)
    worker, calls = rig.worker_with(slow, 1)
    assert calls == [1]
    assert rig.submit(quick, 3) == [None, None, None]
    assert [record.call for record in rig.tasks.completed(worker, 1, SLOW_S)] == [2, 3, 4]
    assert rig.submit(slow) == [None]
    for call in (2, 3):
        assert not rig.tasks.completed(worker, call, QUICK_S)
    assert [record.call for record in rig.tasks.completed(worker, 4, QUICK_S)] == [5]


def test_a_burst_is_spread_over_workers_and_single_calls_stay_with_one(rig: Rig) -> None:
    shape = rig.tasks.shape(ONE_CPU)
    workers = [rig.worker_with(shape, 1)[0]]
    rig.submit(shape)
    workers.append(rig.grant(rig.sent(RequestLease)[0].request)[0])
    rig.tasks.completed(workers[0], 1, QUICK_S)
    rig.tasks.completed(workers[1], 2, QUICK_S)
    shape.set_depth(64)
    burst = Counter(worker.lease for worker in rig.submit(shape, 40) if worker)
    assert burst == {1: 20, 2: 20}
    for worker in workers:
        for call in list(worker.in_flight):
            rig.tasks.completed(worker, call, QUICK_S)
    singles = set()
    for call in range(43, 50):
        (single,) = rig.submit(shape)
        assert single
        singles.add(single.lease)
        rig.tasks.completed(single, call, QUICK_S)
    assert len(singles) == 1


def test_the_end_of_a_burst_is_shared(rig: Rig) -> None:
    shape = rig.tasks.shape(ONE_CPU)
    rig.submit(shape, 101)
    request = rig.sent(RequestLease)
    first, _ = rig.grant(request[0].request)
    rig.grant(request[1].request)
    shape.set_depth(MAX_DEPTH)
    assert len(rig.tasks.completed(first, next(iter(first.in_flight)), QUICK_S)) == 50


def test_a_burst_of_submits_asks_for_leases_a_logarithmic_number_of_times() -> None:
    rig = Rig(request_limit=64)
    rig.submit(rig.tasks.shape(ONE_CPU), 10_000)
    requests = rig.sent(RequestLease)
    assert sum(request.count for request in requests) == 64
    assert len(requests) <= 8


def test_a_function_known_to_be_quick_asks_for_few_leases() -> None:
    rig = Rig(request_limit=64)
    shape = rig.tasks.shape(ONE_CPU)
    shape.set_depth(MAX_DEPTH)
    rig.submit(shape, 2 * MAX_DEPTH)
    assert sum(request.count for request in rig.sent(RequestLease)) == 2


def test_more_leases_may_be_held_than_may_be_asked_for(rig: Rig) -> None:
    shape = rig.tasks.shape(ONE_CPU)
    rig.submit(shape, 50)
    for _ in range(30):
        request = next(iter(shape.queue.requests))
        _, calls = rig.grant(request)
        assert len(calls) == 1
        rig.tasks.validate()


def test_idle_leases_linger_and_are_returned(rig: Rig) -> None:
    shape = rig.tasks.shape(ONE_CPU)
    worker, _ = rig.worker_with(shape, 1)
    rig.tasks.completed(worker, 1, QUICK_S)
    rig.tasks.tick(10.0)
    rig.tasks.tick(10.0 + LINGER_S / 2)
    assert not rig.sent(ReturnLease)
    assert rig.submit(shape) == [worker]
    rig.tasks.completed(worker, 2, QUICK_S)
    rig.tasks.tick(10.0 + LINGER_S)
    assert not rig.sent(ReturnLease), "it was used meanwhile"
    rig.tasks.tick(10.0 + 2 * LINGER_S)
    assert rig.sent(ReturnLease) == [ReturnLease([worker.lease])]


def test_a_reclaimed_worker_gets_nothing_more_and_is_returned_when_it_is_empty(rig: Rig) -> None:
    shape = rig.tasks.shape(ONE_CPU)
    worker, _ = rig.worker_with(shape, 5)
    rig.sent(RequestLease)
    rig.tasks.reclaim(worker.lease)
    assert not rig.sent(ReturnLease)
    assert not rig.tasks.completed(worker, 1, QUICK_S)
    assert rig.sent(ReturnLease) == [ReturnLease([worker.lease])]
    assert rig.tasks.has_unanswered_requests()
    rig.tasks.reclaim(worker.lease)
    rig.tasks.validate()


def test_a_queue_without_a_worker_takes_back_what_lingers_for_another(rig: Rig) -> None:
    worker, _ = rig.worker_with(rig.tasks.shape(ONE_CPU), 1)
    rig.tasks.completed(worker, 1, QUICK_S)
    rig.submit(rig.tasks.shape({"CPU": 20_000}))
    assert rig.sent(ReturnLease) == [ReturnLease([worker.lease])]


def test_requests_are_taken_back_when_nothing_waits(rig: Rig) -> None:
    shape = rig.tasks.shape(ONE_CPU)
    shape.set_depth(2)
    rig.submit(shape, 3)
    (first, second) = rig.sent(RequestLease)
    worker, _ = rig.grant(first.request)
    rig.tasks.completed(worker, 1, QUICK_S)
    rig.tasks.tick(1.0)
    assert rig.sent(CancelRequest) == [CancelRequest(second.request)]
    late, calls = rig.grant(second.request)
    assert late.is_open
    assert calls == []


def run_and_rest(rig: Rig, shape: TaskShape, now_s: float) -> float:
    """One task runs at a worker of its own; when this returns, nothing has been asked for or held for long."""
    worker, (call,) = rig.worker_with(shape, 1)
    rig.tasks.completed(worker, call, QUICK_S)
    for _ in range(3):
        now_s += 1.1 * LINGER_S
        rig.tasks.tick(now_s)
    assert rig.sent(ReturnLease) == [ReturnLease([worker.lease])]
    rig.tasks.validate()
    return now_s


def test_a_sort_of_tasks_that_has_nothing_to_do_is_forgotten(rig: Rig) -> None:
    now_s = 1.0
    for number in range(100):
        now_s = run_and_rest(rig, rig.tasks.shape({"CPU": 10_000, f"group-{number}": 1}), now_s)
        assert not rig.tasks._queues
        assert not rig.tasks._queue_of
    assert rig.tasks.is_idle


def test_a_shape_is_of_use_after_its_queue_was_dropped(rig: Rig) -> None:
    quick, other = rig.tasks.shape(ONE_CPU), rig.tasks.shape(ONE_CPU)
    now_s = run_and_rest(rig, quick, 1.0)
    depth = quick.depth
    assert depth > 1
    now_s = run_and_rest(rig, quick, now_s)
    assert quick.depth > depth, "what was learned of the function is kept"
    new = rig.tasks.shape(ONE_CPU)
    worker, _ = rig.worker_with(new, 1)
    rig.tasks.completed(worker, rig.calls, QUICK_S)
    assert rig.submit(quick) == [worker], "it has the workers of the tasks that are like it"
    rig.tasks.completed(worker, rig.calls, QUICK_S)
    assert rig.submit(other) == [worker]
    assert quick.queue is other.queue is new.queue
    assert rig.tasks.cancel(worker.in_flight[rig.calls]) is worker
    rig.tasks.validate()


def test_a_worker_that_does_not_end_with_a_forced_call_is_ended_by_its_daemon(rig: Rig) -> None:
    worker, (call,) = rig.worker_with(rig.tasks.shape(ONE_CPU), 1)
    rig.tasks.forced(worker, worker.in_flight[call], 10.0)
    rig.tasks.tick(9.99 + FORCE_GRACE_S)
    assert not rig.sent(KillLeased)
    rig.tasks.tick(10.0 + FORCE_GRACE_S)
    rig.tasks.tick(20.0)
    assert rig.sent(KillLeased) == [KillLeased(worker.lease)], "once"


@pytest.mark.parametrize("end", ["it replies", "its connection ends", "it dies", "the session ends"])
def test_a_worker_that_obeys_is_not_killed(rig: Rig, end: str) -> None:
    worker, (call,) = rig.worker_with(rig.tasks.shape(ONE_CPU), 1)
    rig.tasks.forced(worker, worker.in_flight[call], 10.0)
    if end == "it replies":
        rig.tasks.completed(worker, call, QUICK_S)
    elif end == "its connection ends":
        rig.tasks.close(worker)
    elif end == "it dies":
        rig.tasks.worker_died(worker, call, "killed")
    else:
        rig.tasks.abandon("over")
    rig.tasks.tick(10.0 + 2 * FORCE_GRACE_S)
    assert not rig.sent(KillLeased)


def test_a_worker_that_comes_for_what_was_forgotten_goes_back_at_once(rig: Rig) -> None:
    shape = rig.tasks.shape(ONE_CPU)
    rig.submit(shape)
    (request,) = rig.sent(RequestLease)
    (record,) = rig.tasks.records()
    rig.tasks.cancel(record)
    rig.tasks.tick(1.0)
    assert rig.sent(CancelRequest) == [CancelRequest(request.request)]
    rig.tasks.tick(1.1)
    assert not rig.tasks.is_idle, "a worker may be on its way"
    rig.tasks.tick(1.0 + 1.1 * LINGER_S)
    assert rig.tasks.is_idle
    assert rig.tasks.granted(LeaseGranted(request.request, 1, b"workerid", "/w", 1)) is None
    assert rig.sent(ReturnLease) == [ReturnLease([1])]
    rig.tasks.request_failed(request.request, "no worker could be started")
    assert not rig.tasks.outbox
    rig.submit(shape)
    assert rig.sent(RequestLease)[0].request != request.request


def test_a_function_remembers_some_of_the_shapes_that_it_was_called_in(rig: Rig) -> None:
    shapes = FunctionShapes()
    used = rig.tasks.shape(ONE_CPU)
    shapes.keep("used", used)
    rig.worker_with(used, 1)
    now_s = 1.0
    for number in range(10 * REMEMBERED_SHAPES):
        shape = rig.tasks.shape({"CPU": 10_000, f"group-{number}": 1})
        shapes.keep(number, shape)
        assert shapes.get(number) is shape
        for _ in range(2):
            now_s += 1.1 * LINGER_S
            rig.tasks.tick(now_s)
    assert len(shapes) <= REMEMBERED_SHAPES + 1
    assert shapes.get("used") is used
    assert shapes.get(0) is None


def test_a_function_remembers_every_shape_with_something_to_do(rig: Rig) -> None:
    shapes = FunctionShapes()
    for number in range(2 * REMEMBERED_SHAPES):
        shapes.keep(number, rig.tasks.shape({f"group-{number}": 1}))
    assert len(shapes) == 2 * REMEMBERED_SHAPES
    for now_s in (1.0, 2.0):
        rig.tasks.tick(now_s)
    for number in range(2 * REMEMBERED_SHAPES):
        shapes.keep(f"later-{number}", rig.tasks.shape({f"group-{number}": 2}))
    assert shapes.get(0) is None, "it has had nothing to do for a while"


def test_handed_back_calls_go_first_at_no_charge_and_elsewhere(rig: Rig) -> None:
    shape = rig.tasks.shape(ONE_CPU)
    shape.set_depth(4)
    rig.submit(shape, 6)
    requests = rig.sent(RequestLease)
    first, calls = rig.grant(requests[0].request)
    assert calls == [1, 2, 3, 4]
    retries = [record.retries_left for record in first.in_flight.values()]
    rig.tasks.handed_back(first, [2, 3, 4])
    _, moved = rig.grant(requests[1].request)
    assert moved == [2], "its function is known to be slow now"
    assert retries == [3, 3, 3, 3]
    assert [record.call for record in shape.queue.waiting] == [3, 4, 5, 6]


def test_calls_handed_back_go_to_an_idle_worker_by_the_outbox(rig: Rig) -> None:
    shape = rig.tasks.shape(ONE_CPU)
    rig.submit(shape, 2)
    requests = rig.sent(RequestLease)
    first, _ = rig.grant(requests[0].request)
    second, _ = rig.grant(requests[1].request)
    shape.set_depth(4)
    rig.tasks.completed(second, 2, QUICK_S)
    rig.tasks.completed(first, 1, QUICK_S)
    assert rig.submit(shape, 3).count(first) >= 1
    victim = first if len(first.in_flight) == 2 else second
    idle_or_less = second if victim is first else first
    last = list(victim.in_flight)[-1]
    for call in list(idle_or_less.in_flight):
        rig.tasks.completed(idle_or_less, call, QUICK_S)
    rig.tasks.handed_back(victim, [last])
    (push,) = rig.sent(Push)
    assert push.worker is idle_or_less
    assert [record.call for record in push.records] == [last]


def test_only_what_a_dead_worker_began_is_charged(rig: Rig) -> None:
    shape = rig.tasks.shape(ONE_CPU)
    shape.set_depth(4)
    worker, _ = rig.worker_with(shape, 4)
    records = list(worker.in_flight.values())
    rig.tasks.close(worker)
    rig.tasks.validate()
    rig.tasks.worker_died(worker, 2, "killed")
    assert [record.retries_left for record in records] == [2, 2, 3, 3], "the reply to the first was lost"
    assert list(shape.queue.waiting) == records
    assert rig.tasks.has_unanswered_requests()


def test_a_worker_without_a_connection_is_kept_until_its_death_is_known(rig: Rig) -> None:
    shape = rig.tasks.shape(ONE_CPU)
    worker, _ = rig.worker_with(shape, 1)
    rig.tasks.close(worker)
    assert not rig.tasks.completed(worker, 1, QUICK_S)
    assert rig.submit(shape) == [None]
    rig.tasks.tick(5.0)
    rig.tasks.tick(6.0)
    assert not rig.sent(ReturnLease)
    rig.tasks.validate()
    rig.tasks.worker_died(worker, None, "killed")
    assert not rig.tasks.workers()
    assert rig.tasks.has_unanswered_requests()


def test_a_call_out_of_retries_fails_with_the_cause_and_the_others_move_on(rig: Rig) -> None:
    shape = rig.tasks.shape(ONE_CPU)
    shape.set_depth(4)
    rig.submit(shape, 2, retries=0)
    worker, _ = rig.grant(rig.sent(RequestLease)[0].request)
    rig.tasks.worker_died(worker, 1, "signal 9")
    (failure,) = rig.sent(Fail)
    assert (failure.record.call, failure.cause) == (1, "signal 9")
    assert [record.call for record in shape.queue.waiting] == [2]


def test_an_exception_is_retried_only_when_it_may_be_and_retries_are_left(rig: Rig) -> None:
    shape = rig.tasks.shape(ONE_CPU)
    rig.submit(shape, 1, retries=1)
    worker, _ = rig.grant(rig.sent(RequestLease)[0].request)
    assert rig.tasks.raised(worker, 1, QUICK_S, may_retry=True)[0]
    (push,) = rig.sent(Push)
    assert [record.call for record in push.records] == [1]
    assert not rig.tasks.raised(worker, 1, QUICK_S, may_retry=True)[0]
    rig.submit(shape, 1)
    assert not rig.tasks.raised(worker, 2, QUICK_S, may_retry=False)[0]


def test_infinite_retries_never_run_out(rig: Rig) -> None:
    shape = rig.tasks.shape(ONE_CPU)
    rig.submit(shape, 1, retries=-1)
    for _ in range(5):
        worker, _ = rig.grant(next(iter(shape.queue.requests)))
        rig.tasks.worker_died(worker, 1, "killed")
    assert not rig.sent(Fail)


def test_a_queued_call_is_cancelled_without_a_trace_and_a_sent_one_names_its_worker(rig: Rig) -> None:
    shape = rig.tasks.shape(ONE_CPU)
    records = [Record(call, shape) for call in (1, 2, 3)]
    for record in records:
        rig.tasks.submit(record)
    worker, _ = rig.grant(rig.sent(RequestLease)[0].request)
    assert rig.tasks.cancel(records[0]) is worker
    assert rig.tasks.cancel(records[2]) is None
    assert rig.tasks.cancel(records[1]) is None
    assert rig.tasks.worker_of(records[0]) is worker, "when it is cancelled again"
    assert rig.tasks.worker_of(records[1]) is None
    assert not rig.tasks.completed(worker, 1, QUICK_S)
    assert shape.queue.backlog() == len(shape.queue.waiting) == 0
    rig.tasks.validate()


def test_a_request_that_cannot_be_granted_fails_what_waits(rig: Rig) -> None:
    rig.submit(rig.tasks.shape(ONE_CPU, environment="broken"), 3)
    requests = rig.sent(RequestLease)
    rig.tasks.request_failed(requests[0].request, "pip failed")
    assert [effect.record.call for effect in rig.sent(Fail)] == [1, 2, 3]
    assert rig.sent(CancelRequest)
    rig.tasks.validate()


def test_after_a_failed_request_the_loss_of_the_last_worker_asks_again(rig: Rig) -> None:
    shape = rig.tasks.shape(ONE_CPU)
    worker, _ = rig.worker_with(shape, 2)
    for request in list(shape.queue.requests):
        rig.tasks.request_failed(request, "no worker could be started")
    assert not rig.sent(Fail), "there is a worker"
    rig.sent(RequestLease)
    rig.tasks.reclaim(worker.lease)
    assert rig.sent(RequestLease)


def test_a_grant_that_nobody_asked_for_is_refused_and_changes_nothing(rig: Rig) -> None:
    rig.submit(rig.tasks.shape(ONE_CPU))
    before = repr(rig.tasks)
    with pytest.raises(ValueError, match="never made"):
        rig.grant(77)
    assert repr(rig.tasks) == before


def test_the_end_of_the_session_fails_everything(rig: Rig) -> None:
    rig.worker_with(rig.tasks.shape(ONE_CPU), 3)
    rig.tasks.abandon("the node daemon was killed")
    assert sorted(effect.record.call for effect in rig.sent(Fail)) == [1, 2, 3]


def test_a_task_submitted_after_the_end_of_the_session_waits_for_nothing(rig: Rig) -> None:
    shape = rig.tasks.shape(ONE_CPU)
    rig.worker_with(shape, 3)
    rig.tasks.abandon("the node daemon was killed")
    rig.tasks.outbox.clear()
    assert rig.tasks.submit(Record(9, shape)) is None
    rig.tasks.abandon("the node daemon was killed")
    assert [effect.record.call for effect in rig.sent(Fail)] == [9]
    rig.tasks.validate()


class Submitting(RuleBasedStateMachine):
    """Random days of a submitter. Every record ends once, and starts at most 1 + max_retries times."""

    @initialize()
    def begin(self) -> None:
        self.tasks: Submission[Any] = Submission(request_limit=3)
        self.shapes = [
            self.tasks.shape(ONE_CPU),
            self.tasks.shape(ONE_CPU),
            self.tasks.shape({"CPU": 20_000}),
        ]
        self.open_requests: Counter[int] = Counter()
        self.cancelled_requests: Counter[int] = Counter()
        self.running: dict[int, LeasedWorker[Any]] = {}
        self.records: dict[int, Record] = {}
        self.max_retries: dict[int, int] = {}
        self.charges: Counter[int] = Counter()
        self.ended: Counter[int] = Counter()
        self.leases = 0
        self.now_s = 1.0

    def drain_outbox(self) -> None:
        for effect in self.tasks.outbox:
            if type(effect) is RequestLease:
                self.open_requests[effect.request] = effect.count
            elif type(effect) is CancelRequest:
                self.cancelled_requests[effect.request] = self.open_requests.pop(effect.request, 0)
            elif type(effect) is ReturnLease:
                for lease in effect.leases:
                    assert not self.running.pop(lease).in_flight
            elif type(effect) is Fail:
                self.ended[effect.record.call] += 1
            else:
                assert type(effect) is Push
                assert effect.worker.lease in self.running
        self.tasks.outbox.clear()

    def pick(self, data: st.DataObject, busy: bool = True) -> LeasedWorker[Any]:
        return data.draw(st.sampled_from([w for w in self.running.values() if w.in_flight or not busy]))

    @rule(shape=st.integers(0, 2), count=st.integers(1, 12), retries=st.integers(0, 2))
    def submit(self, shape: int, count: int, retries: int) -> None:
        for _ in range(count):
            record = Record(len(self.records) + 1, self.shapes[shape], retries)
            self.records[record.call] = record
            self.max_retries[record.call] = retries
            self.tasks.submit(record)

    @precondition(lambda self: +self.open_requests)
    @rule(data=st.data())
    def grant(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(+self.open_requests)))
        self.open_requests[request] -= 1
        self.leases += 1
        granted = self.tasks.granted(LeaseGranted(request, self.leases, b"workerid", "/w", 0))
        assert granted is not None, "it is asked for"
        worker, records = granted
        assert [record.call for record in records] == list(worker.in_flight)
        self.running[self.leases] = worker

    @precondition(lambda self: +self.cancelled_requests)
    @rule(data=st.data())
    def grant_late(self, data: st.DataObject) -> None:
        """The grant and the cancelling of its request met on the way."""
        request = data.draw(st.sampled_from(sorted(+self.cancelled_requests)))
        self.cancelled_requests[request] -= 1
        self.leases += 1
        granted = self.tasks.granted(LeaseGranted(request, self.leases, b"workerid", "/w", 0))
        if granted is None:
            assert self.tasks.outbox.pop() == ReturnLease([self.leases])
        else:
            self.running[self.leases] = granted[0]

    @rule(shape=st.integers(0, 2))
    def another_function(self, shape: int) -> None:
        queue = self.shapes[shape].queue
        self.shapes[shape] = self.tasks.shape(queue.resources)

    @precondition(lambda self: any(w.in_flight for w in self.running.values()))
    @rule(data=st.data(), duration_s=st.sampled_from([QUICK_S, QUICK_S, 0.0008, SLOW_S]), replies=st.integers(1, 9))
    def complete(self, data: st.DataObject, duration_s: float, replies: int) -> None:
        worker = self.pick(data)
        for call in list(worker.in_flight)[:replies]:
            self.tasks.completed(worker, call, duration_s)
            self.ended[call] += 1

    @precondition(lambda self: any(w.in_flight for w in self.running.values()))
    @rule(data=st.data())
    def raise_exception(self, data: st.DataObject) -> None:
        worker = self.pick(data)
        call = next(iter(worker.in_flight))
        retried, _ = self.tasks.raised(worker, call, QUICK_S, may_retry=True)
        (self.charges if retried else self.ended)[call] += 1

    @precondition(lambda self: any(w.in_flight for w in self.running.values()))
    @rule(data=st.data(), started=st.integers(0, 2))
    def hand_back(self, data: st.DataObject, started: int) -> None:
        worker = self.pick(data)
        before = {call: record.retries_left for call, record in worker.in_flight.items()}
        self.tasks.handed_back(worker, list(worker.in_flight)[started:])
        assert before == {call: self.records[call].retries_left for call in before}

    @precondition(lambda self: self.running)
    @rule(data=st.data(), started=st.booleans())
    def kill(self, data: st.DataObject, started: bool) -> None:
        worker = self.pick(data, busy=False)
        del self.running[worker.lease]
        running = next(iter(worker.in_flight), None) if started else None
        if running is not None:
            self.charges[running] += 1
        self.tasks.worker_died(worker, running, "killed")

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def reclaim(self, data: st.DataObject) -> None:
        self.tasks.reclaim(self.pick(data, busy=False).lease)

    @precondition(lambda self: len(self.ended) < len(self.records))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(sorted(set(self.records) - set(self.ended))))
        if self.tasks.cancel(self.records[call]) is None:
            self.ended[call] += 1

    @rule(passed_s=st.sampled_from([0.05, 0.3]))
    def tick(self, passed_s: float) -> None:
        self.now_s += passed_s
        self.tasks.tick(self.now_s)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        if not hasattr(self, "tasks"):
            return
        self.drain_outbox()
        self.tasks.validate()
        assert not self.ended or max(self.ended.values()) == 1
        for call, charges in self.charges.items():
            assert charges <= 1 + self.max_retries[call], "a charge is a start that did not end the task"

    def teardown(self) -> None:
        if not hasattr(self, "tasks"):
            return
        for _ in range(5000):
            self.drain_outbox()
            busy = [w for w in self.running.values() if w.in_flight]
            if busy:
                call = next(iter(busy[0].in_flight))
                self.tasks.completed(busy[0], call, QUICK_S)
                self.ended[call] += 1
            elif +self.open_requests:
                request = min(+self.open_requests)
                self.open_requests[request] -= 1
                self.leases += 1
                granted = self.tasks.granted(LeaseGranted(request, self.leases, b"workerid", "/w", 0))
                assert granted is not None, "it is asked for"
                self.running[self.leases] = granted[0]
            else:
                break
        assert set(self.ended) == set(self.records), "every record ends"


Submitting.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSubmitting = Submitting.TestCase
