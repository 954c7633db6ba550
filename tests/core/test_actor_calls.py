"""Order per caller, the window, and what becomes of calls when the actor's worker dies."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from remora.base.errors import PendingCallsLimitExceeded
from remora.core.actor_calls import ActorCalls
from remora.messages.actors import ALIVE, DEAD, PENDING_CREATION, RESTARTING, ActorState

ACTOR = b"actor-id-16bytes"


class Record:
    def __init__(self, call: int, retries_left: int = 0) -> None:
        self.call = call
        self.retries_left = retries_left

    def __repr__(self) -> str:
        return f"call {self.call}"


def told(state: int, incarnation: int = 1, cause: str = "") -> ActorState:
    return ActorState(ACTOR, state, incarnation, b"workerid", "/a", 0, cause)


def alive(ordered: bool = True, max_pending_calls: int = -1, window: int = 1000) -> ActorCalls[Record]:
    calls: ActorCalls[Record] = ActorCalls(ACTOR, ordered, max_pending_calls, window)
    calls.actor_state(told(ALIVE))
    return calls


def numbers(records: Any) -> list[int]:
    return [record.call for record in records]


def test_calls_wait_in_order_until_the_actor_is_alive() -> None:
    calls: ActorCalls[Record] = ActorCalls(ACTOR, True)
    assert not any(calls.submit(Record(call)) for call in range(5))
    assert not calls.actor_state(told(PENDING_CREATION, 0))
    assert numbers(calls.actor_state(told(ALIVE))) == [0, 1, 2, 3, 4]
    assert calls.submit(Record(5))


def test_an_actor_that_nobody_remembers_is_dead_whichever_worker_it_had_last() -> None:
    calls = alive()
    calls.submit(Record(1))
    calls.connection_lost()
    assert not calls.actor_state(told(DEAD, 0, "it is not known any more"))
    assert numbers(effect.record for effect in calls.outbox) == [1]


def test_pending_arguments_hold_back_later_calls_of_an_ordered_actor() -> None:
    calls = alive()
    calls.submit_unready(Record(1))
    assert not calls.submit(Record(2))
    calls.submit_unready(Record(3))
    assert not calls.arguments_ready(3)
    assert numbers(calls.arguments_ready(1)) == [1, 2, 3]
    assert calls.submit(Record(4))


def test_pending_arguments_hold_back_only_themselves_at_an_unordered_actor() -> None:
    calls = alive(ordered=False)
    calls.submit_unready(Record(1))
    assert calls.submit(Record(2))
    assert numbers(calls.arguments_ready(1)) == [1]


def test_a_call_that_is_repeated_goes_before_one_that_waits_for_its_result() -> None:
    calls = alive()
    record = Record(1, retries_left=1)
    assert calls.submit(record)
    calls.submit_unready(Record(2))
    calls.completed(1)
    assert numbers(calls.submit_again(record)) == [1]
    calls.validate()
    calls.actor_state(told(DEAD))
    assert calls.submit_again(Record(3)) == ()
    assert [effect.record.call for effect in calls.outbox] == [1, 2, 3]


def test_an_actor_that_turns_out_to_be_unordered_lets_calls_go_past_one_that_waits_for_arguments() -> None:
    calls: ActorCalls[Record] = ActorCalls(ACTOR, ordered=True)
    calls.submit_unready(Record(1))
    assert not calls.submit(Record(2))
    calls.configure(ordered=False, max_pending_calls=-1)
    assert numbers(calls.actor_state(told(ALIVE))) == [2]
    calls.validate()
    assert numbers(calls.arguments_ready(1)) == [1]


@pytest.mark.parametrize("ordered", [True, False])
def test_a_call_that_ended_with_its_actor_may_be_cancelled_when_its_arguments_are_errors(ordered: bool) -> None:
    calls = alive(ordered)
    record = Record(1)
    calls.submit_unready(record)
    calls.actor_state(told(DEAD))
    assert calls.cancel(record) == (False, [])
    assert calls.pending() == 0
    calls.validate()


@pytest.mark.parametrize(("next_state", "sent"), [(told(DEAD), []), (told(ALIVE, 2), [2])])
def test_calls_after_a_kill_wait_for_the_word_of_the_daemon(next_state: ActorState, sent: list[int]) -> None:
    calls = alive()
    assert calls.submit(Record(1))
    calls.kill_sent()
    assert not calls.submit(Record(2))
    assert not calls.completed(1), "a reply that was on its way does not open the actor again"
    calls.validate()
    assert numbers(calls.actor_state(next_state)) == sent
    assert numbers(effect.record for effect in calls.outbox) == ([] if sent else [2])


def test_a_cancelled_call_leaves_no_hole() -> None:
    calls = alive()
    first, second = Record(1), Record(2)
    calls.submit_unready(first)
    calls.submit(second)
    assert calls.cancel(first) == (False, [second])
    assert not calls.arguments_ready(1)
    assert calls.cancel(second) == (True, ())
    calls.validate()


def test_a_cancelled_call_in_the_middle_is_never_sent() -> None:
    calls: ActorCalls[Record] = ActorCalls(ACTOR, True)
    records = [Record(call) for call in range(3)]
    for record in records:
        calls.submit(record)
    assert calls.cancel(records[1]) == (False, [])
    assert calls.pending() == 2
    assert numbers(calls.actor_state(told(ALIVE))) == [0, 2]


def test_the_window_bounds_what_is_in_flight_and_refills_by_half() -> None:
    calls = alive(window=4)
    assert [calls.submit(Record(call)) for call in range(8)] == [True] * 4 + [False] * 4
    assert not calls.completed(0)
    assert numbers(calls.completed(1)) == [4, 5]


def test_an_unordered_actor_has_no_window_because_all_calls_in_it_might_wait_for_the_next() -> None:
    calls = alive(ordered=False, window=4)
    assert all(calls.submit(Record(call)) for call in range(5000))


def test_what_the_daemon_says_of_the_actor_holds_for_calls_that_waited_for_it() -> None:
    calls: ActorCalls[Record] = ActorCalls(ACTOR, True)
    cancelled = Record(0)
    calls.submit(cancelled)
    calls.cancel(cancelled)
    for call in range(1, 5):
        calls.submit(Record(call))
    calls.configure(ordered=True, max_pending_calls=4)
    assert numbers(calls.waiting()) == [1, 2, 3, 4]
    with pytest.raises(PendingCallsLimitExceeded):
        calls.submit(Record(5))


def test_more_calls_than_max_pending_calls_are_refused_and_leave_no_trace() -> None:
    calls = alive(max_pending_calls=2)
    calls.submit(Record(1))
    calls.submit_unready(Record(2))
    for submit in (calls.submit, calls.submit_unready):
        with pytest.raises(PendingCallsLimitExceeded, match="2 pending calls"):
            submit(Record(3))
    calls.arguments_ready(2)
    calls.completed(1)
    assert calls.submit(Record(4))


def test_calls_that_may_be_repeated_move_to_the_next_worker_in_order_and_others_fail() -> None:
    calls = alive()
    records = [Record(1, 1), Record(2, 0), Record(3, -1)]
    for record in records:
        calls.submit(record)
    assert not calls.actor_state(told(RESTARTING, cause="signal 9"))
    (failure,) = calls.outbox
    assert (failure.record.call, failure.died, failure.state.cause) == (2, False, "signal 9")
    assert not calls.submit(Record(4))
    assert numbers(calls.actor_state(told(ALIVE, 2))) == [1, 3, 4]
    assert [record.retries_left for record in records] == [0, 0, -1]


def test_a_new_worker_without_word_of_the_old_one_counts_as_its_death() -> None:
    calls = alive()
    calls.submit(Record(1))
    assert not calls.actor_state(told(ALIVE, 2))
    assert numbers(failure.record for failure in calls.outbox) == [1]


def test_what_was_in_flight_when_the_connection_broke_is_lost_although_the_worker_lives() -> None:
    calls = alive()
    for call in range(3):
        assert calls.submit(Record(call, retries_left=call % 2))
    calls.connection_lost()
    assert not calls.submit(Record(3))
    assert numbers(calls.actor_state(told(ALIVE))) == [1, 3]
    assert [(failed.record.call, failed.died) for failed in calls.outbox] == [(0, False), (2, False)]
    calls.validate()


def test_the_same_word_twice_changes_nothing_while_the_connection_stands() -> None:
    calls = alive()
    assert calls.submit(Record(1))
    assert not calls.actor_state(told(ALIVE))
    assert numbers(calls.in_flight.values()) == [1]
    assert not calls.outbox


def test_calls_that_did_not_start_move_on_at_no_charge() -> None:
    calls = alive()
    records = [Record(1), Record(2), Record(3, 1)]
    for record in records:
        calls.submit(record)
    calls.connection_lost(not_started={2, 3})
    assert not calls.submit(Record(4))
    assert not calls.actor_state(told(RESTARTING))
    assert numbers(failure.record for failure in calls.outbox) == [1]
    assert numbers(calls.actor_state(told(ALIVE, 2))) == [2, 3, 4]
    assert records[2].retries_left == 1


def test_everything_fails_when_the_actor_is_dead_and_so_does_what_comes_later() -> None:
    calls = alive()
    calls.submit(Record(1, -1))
    calls.submit_unready(Record(2))
    cancelled = Record(3)
    calls.submit(cancelled)
    calls.cancel(cancelled)
    calls.actor_state(told(DEAD, cause="killed by ray.kill"))
    assert not calls.submit(Record(4))
    calls.submit_unready(Record(5))
    assert numbers(failure.record for failure in calls.outbox) == [1, 2, 4, 5]
    assert all(failure.died and failure.state.cause == "killed by ray.kill" for failure in calls.outbox)
    assert not calls.arguments_ready(2), "its arguments come too late"


def test_an_exception_is_repeated_while_retries_are_left() -> None:
    calls = alive()
    calls.submit(Record(1, 1))
    retried, records = calls.raised(1, may_retry=True)
    assert retried
    assert numbers(records) == [1]
    assert calls.raised(1, may_retry=True) == (False, [])
    assert calls.pending() == 0


@pytest.mark.parametrize(("state", "words"), [(ActorState(b"x" * 16, ALIVE), "told of actor"), (told(ALIVE, 0), "0")])
def test_a_word_that_cannot_be_is_refused_and_changes_nothing(state: ActorState, words: str) -> None:
    calls = alive()
    calls.submit(Record(1))
    before = repr(calls)
    with pytest.raises(ValueError, match=words):
        calls.actor_state(state)
    assert repr(calls) == before


class Calling(RuleBasedStateMachine):
    """Random days of one caller, beside a worker that is a plain list."""

    @initialize(ordered=st.booleans(), window=st.integers(1, 6))
    def begin(self, ordered: bool, window: int) -> None:
        self.ordered = ordered
        self.calls: ActorCalls[Record] = ActorCalls(ACTOR, ordered, window=window)
        self.records: dict[int, Record] = {}
        self.retries: dict[int, int] = {}
        self.starts: dict[int, int] = {}
        self.ended: dict[int, str] = {}
        self.unready: set[int] = set()
        self.worker: list[int] = []
        self.incarnation = 0
        self.state = PENDING_CREATION
        self.reached: list[int] = []

    def sent(self, records: Any) -> None:
        for record in records:
            assert self.state == ALIVE
            assert record.call not in self.unready
            self.starts[record.call] = self.starts.get(record.call, 0) + 1
            self.worker.append(record.call)
            self.reached.append(record.call)

    def fail_lost(self) -> None:
        for failure in self.calls.outbox:
            assert failure.record.call not in self.ended
            self.ended[failure.record.call] = "failed"
        self.calls.outbox.clear()

    @rule(retries=st.integers(0, 2), ready=st.booleans())
    def submit(self, retries: int, ready: bool) -> None:
        record = Record(len(self.records), retries)
        self.records[record.call] = record
        self.retries[record.call] = retries
        if not ready:
            self.unready.add(record.call)
            self.calls.submit_unready(record)
        elif self.calls.submit(record):
            self.sent([record])

    @precondition(lambda self: self.unready)
    @rule(data=st.data())
    def arguments_ready(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(sorted(self.unready)))
        self.unready.discard(call)
        self.sent(self.calls.arguments_ready(call))

    @precondition(lambda self: self.worker)
    @rule(replies=st.integers(1, 5))
    def complete(self, replies: int) -> None:
        for _ in range(min(replies, len(self.worker))):
            call = self.worker.pop(0)
            self.ended[call] = "done"
            self.sent(self.calls.completed(call))

    @rule(after=st.sampled_from([ALIVE, RESTARTING]), lost=st.booleans())
    def move_on(self, after: int, lost: bool) -> None:
        if self.state == DEAD or (self.state != ALIVE and after == RESTARTING):
            return
        if self.state == ALIVE:
            if lost:
                not_started = set(self.worker[1:])
                self.calls.connection_lost(not_started)
                for call in not_started:
                    self.starts[call] -= 1
            self.worker.clear()
            self.state = RESTARTING
            self.calls.actor_state(told(RESTARTING, self.incarnation))
            self.reached.clear()
            self.fail_lost()
        if after == ALIVE:
            self.incarnation += 1
            self.state = ALIVE
            self.sent(self.calls.actor_state(told(ALIVE, self.incarnation)))

    @precondition(lambda self: self.incarnation > 3)
    @rule()
    def die(self) -> None:
        self.state = DEAD
        self.worker.clear()
        assert not self.calls.actor_state(told(DEAD, self.incarnation))

    @precondition(lambda self: len(self.ended) < len(self.records))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(sorted(set(self.records) - set(self.ended))))
        in_flight, records = self.calls.cancel(self.records[call])
        if not in_flight:
            self.ended[call] = "cancelled"
        else:
            assert call in self.worker
        self.sent(records)

    @invariant()
    def order_is_kept_and_nothing_is_lost(self) -> None:
        if not hasattr(self, "calls"):
            return
        self.fail_lost()
        self.calls.validate()
        assert list(self.calls.in_flight) == self.worker
        assert self.calls.pending() == len(self.records) - len(self.ended)
        if self.ordered:
            assert self.reached == sorted(self.reached), "each worker gets this caller's calls in order"
        for call, starts in self.starts.items():
            assert starts <= 1 + self.retries[call]
        if self.state == ALIVE and not self.worker:
            left = set(self.records) - set(self.ended)
            assert not left or (min(left) if self.ordered else next(iter(left))) in self.unready, "something must move"


Calling.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
TestCalling = Calling.TestCase
