"""The half of counting in a process, rule by rule."""

from __future__ import annotations

import msgspec
import pytest

from remora.base.ids import ObjectId, ProcessId, make_object_id, make_process_id
from remora.base.object_ref import INLINE, PENDING, STORED
from remora.core.counting.process import ProcessRefs
from remora.core.counting.vocabulary import DAEMON, CountingError, LetGo, Send
from remora.messages.counting import (
    DropCopy,
    DropUnclaimed,
    Export,
    ItemAck,
    Pong,
    Publish,
    Register,
    Release,
    Resolve,
    Store,
)
from remora.messages.objects import Location, Value
from remora.messages.tasks import Close, ReplyAck

ME = make_process_id(1, 1)
PEER = make_process_id(1, 2)
OTHER = make_process_id(1, 3)
AFAR = make_process_id(2, 1)


def mine(call: int) -> ObjectId:
    return make_object_id(ME, call)


def theirs(call: int, process: ProcessId = PEER) -> ObjectId:
    return make_object_id(process, call)


A, K, X = theirs(1), theirs(2), theirs(3)


def value_with(*contents: ObjectId) -> Value:
    return Value(INLINE, b"", None, list(contents))


@pytest.fixture
def refs() -> ProcessRefs:
    return ProcessRefs(ME)


def sent(refs: ProcessRefs) -> list[tuple[bytes, msgspec.Struct] | LetGo]:
    """What the machine asks for, taken as a shell would, after its invariants were checked."""
    refs.validate()
    effects, refs.outbox = refs.outbox, []
    found: list[tuple[bytes, msgspec.Struct] | LetGo] = []
    for effect in effects:
        assert isinstance(effect, Send | LetGo)
        found.append((effect.to, effect.message) if isinstance(effect, Send) else effect)
    return found


def to_daemon(*messages: msgspec.Struct) -> list[tuple[bytes, msgspec.Struct]]:
    return [(DAEMON, message) for message in messages]


def start_task(refs: ProcessRefs, *ids: ObjectId, call: int = 7, submitter: ProcessId = PEER) -> None:
    refs.task_received(submitter, call, list(ids))
    refs.appeared(ids)


def keep(refs: ProcessRefs, object_id: ObjectId, call: int = 70) -> None:
    """Make this process a holder of the id, by a task that is over."""
    start_task(refs, object_id, call=call, submitter=OTHER)
    assert not refs.task_ended(OTHER, call)
    refs.acknowledged([object_id], ok=True)
    sent(refs)


# What a worker borrows


def test_a_nested_ref_that_is_dropped_before_the_task_ends_costs_nothing(refs: ProcessRefs) -> None:
    start_task(refs, A)
    refs.died([A])
    assert refs.task_ended(PEER, 7) is True
    assert sent(refs) == []
    assert refs.is_quiet


def test_a_kept_ref_is_registered_and_the_task_closed_after_the_answer(refs: ProcessRefs) -> None:
    start_task(refs, A)
    assert refs.task_ended(PEER, 7) is False
    assert sent(refs) == to_daemon(Register([A]))
    refs.acknowledged([A], ok=True)
    assert sent(refs) == [(PEER, Close(7))]
    refs.died([A])
    assert sent(refs) == to_daemon(Release([A]))


def test_a_gone_ref_closes_the_task_too(refs: ProcessRefs) -> None:
    start_task(refs, A)
    refs.task_ended(PEER, 7)
    refs.acknowledged([A], ok=False)
    assert sent(refs)[-1] == (PEER, Close(7))
    refs.died([A])
    assert sent(refs) == []


def test_a_task_whose_refs_are_held_already_is_closed_by_its_reply(refs: ProcessRefs) -> None:
    keep(refs, A)
    refs.task_received(PEER, 7, [A])
    assert refs.task_ended(PEER, 7) is True
    assert sent(refs) == []


def test_nothing_is_released_while_its_registration_is_unanswered(refs: ProcessRefs) -> None:
    start_task(refs, A)
    refs.task_ended(PEER, 7)
    refs.died([A])
    assert sent(refs) == [(DAEMON, Register([A])), (PEER, Close(7))]
    refs.acknowledged([A], ok=True)
    assert sent(refs) == to_daemon(Release([A]))


def test_a_ref_that_died_and_came_again_while_registering_stays_held(refs: ProcessRefs) -> None:
    start_task(refs, A)
    refs.task_ended(PEER, 7)
    refs.died([A])
    start_task(refs, A, call=8)
    refs.acknowledged([A], ok=True)
    assert refs.task_ended(PEER, 8) is True
    assert (DAEMON, Release([A])) not in sent(refs)


def test_a_death_told_before_the_birth_is_not_forgotten(refs: ProcessRefs) -> None:
    refs.task_received(PEER, 7, [A])
    refs.died([A])
    refs.appeared([A])
    assert refs.task_ended(PEER, 7) is True
    assert sent(refs) == []


def test_a_death_told_after_the_next_birth_changes_nothing(refs: ProcessRefs) -> None:
    keep(refs, A)
    refs.appeared([A])
    refs.died([A])
    assert sent(refs) == []
    refs.died([A])
    assert sent(refs) == to_daemon(Release([A]))


def test_every_carrier_of_a_kept_ref_waits_for_its_registration(refs: ProcessRefs) -> None:
    start_task(refs, A, call=7)
    refs.task_received(AFAR, 8, [A])
    assert refs.task_ended(AFAR, 8) is False
    assert sent(refs) == to_daemon(Register([A]))
    refs.died([A])
    assert refs.task_ended(PEER, 7) is True
    refs.acknowledged([A], ok=True)
    assert sent(refs) == [(AFAR, Close(8)), (DAEMON, Release([A]))]


def test_registrations_of_one_task_travel_in_one_message(refs: ProcessRefs) -> None:
    start_task(refs, A, X)
    refs.task_ended(PEER, 7)
    assert sent(refs) == to_daemon(Register([A, X]))


def test_a_ref_from_nowhere_is_registered_at_once(refs: ProcessRefs) -> None:
    refs.appeared([A])
    assert sent(refs) == to_daemon(Register([A]))


def test_a_task_handed_back_unstarted_leaves_no_trace(refs: ProcessRefs) -> None:
    refs.task_received(PEER, 7, [A])
    refs.task_handed_back(PEER, 7)
    assert sent(refs) == []
    assert refs.is_quiet


def test_a_ref_that_was_unpickled_outside_does_not_rest_on_a_task_that_waits(refs: ProcessRefs) -> None:
    refs.task_received(PEER, 7, [A])
    refs.loaded(A)
    assert sent(refs) == to_daemon(Register([A]))
    refs.task_handed_back(PEER, 7)
    refs.acknowledged([A], ok=True)
    refs.loaded(A)
    refs.died([A, A])
    assert sent(refs) == to_daemon(Release([A]))


def test_a_started_task_cannot_be_handed_back(refs: ProcessRefs) -> None:
    start_task(refs, A)
    with pytest.raises(CountingError, match="was started"):
        refs.task_handed_back(PEER, 7)


# Containers


def test_a_ref_out_of_a_held_container_needs_nothing_while_the_container_is_held(refs: ProcessRefs) -> None:
    keep(refs, K)
    refs.unpacked(K, [A], appeared=[A])
    refs.died([A])
    refs.died([K])
    assert sent(refs) == to_daemon(Release([K]))


def test_a_container_is_released_after_the_refs_out_of_it_are_held(refs: ProcessRefs) -> None:
    keep(refs, K)
    refs.unpacked(K, [A], appeared=[A])
    refs.died([K])
    assert sent(refs) == to_daemon(Register([A]))
    refs.acknowledged([A], ok=True)
    assert sent(refs) == to_daemon(Release([K]))


def test_a_ref_out_of_a_container_that_is_only_covered_takes_its_covers(refs: ProcessRefs) -> None:
    start_task(refs, K)
    refs.unpacked(K, [A], appeared=[A])
    assert refs.task_ended(PEER, 7) is False
    assert sent(refs) == to_daemon(Register([K, A]))
    refs.died([K])
    refs.acknowledged([K], ok=True)
    assert sent(refs) == to_daemon(Release([K]))
    refs.acknowledged([A], ok=True)
    assert sent(refs) == [(PEER, Close(7))]


def test_nested_containers_ground_on_the_outermost_that_is_held(refs: ProcessRefs) -> None:
    keep(refs, K)
    refs.unpacked(K, [X], appeared=[X])
    refs.unpacked(X, [A], appeared=[A])
    refs.died([X])
    refs.died([K])
    assert sent(refs) == to_daemon(Register([A]))


# What a process publishes


def test_an_own_ref_is_held_from_publication_to_death(refs: ProcessRefs) -> None:
    refs.publish(mine(1), value_with())
    refs.died([mine(1)])
    assert sent(refs) == to_daemon(Publish(mine(1), value_with()), Release([mine(1)]))
    assert refs.is_quiet


def test_nothing_is_published_twice(refs: ProcessRefs) -> None:
    refs.publish(mine(1), value_with())
    with pytest.raises(CountingError, match="cannot publish"):
        refs.publish(mine(1), value_with())
    with pytest.raises(CountingError, match="cannot publish"):
        refs.publish(A, value_with())


def test_a_task_stays_open_until_the_home_holds_what_was_packed(refs: ProcessRefs) -> None:
    start_task(refs, A)
    refs.publish(mine(1), value_with(A))
    refs.died([A])
    assert refs.task_ended(PEER, 7) is False
    assert sent(refs) == to_daemon(Publish(mine(1), value_with(A)))
    refs.publish_acknowledged([mine(1)])
    assert sent(refs) == [(PEER, Close(7))]


def test_a_pending_result_is_resolved_although_its_ref_is_dead(refs: ProcessRefs) -> None:
    refs.publish(mine(1), Value(PENDING))
    refs.died([mine(1)])
    refs.resolve(mine(1), value_with())
    assert sent(refs)[-1] == (DAEMON, Resolve(mine(1), value_with()))
    assert refs.is_quiet


def test_an_exported_ref_is_never_released(refs: ProcessRefs) -> None:
    start_task(refs, A)
    refs.export(A)
    refs.export(A)
    assert sent(refs) == to_daemon(Register([A]), Export([A]))
    refs.acknowledged([A], ok=True)
    refs.died([A])
    assert refs.task_ended(PEER, 7) is True
    assert sent(refs) == []


def test_a_ping_is_answered_behind_all_publications(refs: ProcessRefs) -> None:
    refs.publish(mine(1), value_with())
    refs.pinged(5)
    assert sent(refs) == to_daemon(Publish(mine(1), value_with()), Pong(5))


@pytest.mark.parametrize("ids", [[A], [mine(1)]])
def test_answers_that_nobody_awaits_are_refused(refs: ProcessRefs, ids: list[ObjectId]) -> None:
    refs.publish(mine(1), value_with())
    with pytest.raises(CountingError):
        refs.acknowledged(ids, ok=True)
    with pytest.raises(CountingError):
        refs.publish_acknowledged(ids)
    refs.validate()


# Results with refs


def test_a_fresh_ref_in_a_result_is_kept_until_the_reply_is_acknowledged(refs: ProcessRefs) -> None:
    refs.publish(mine(1), value_with())
    refs.result_packed(PEER, 7, [mine(1)])
    refs.died([mine(1)])
    assert refs.task_ended(PEER, 7) is True
    assert sent(refs) == to_daemon(Publish(mine(1), value_with()))
    assert not refs.is_quiet
    refs.reply_acked(PEER, 7)
    assert sent(refs) == to_daemon(Release([mine(1)]))


def test_a_result_cannot_carry_a_ref_that_is_dead_here(refs: ProcessRefs) -> None:
    with pytest.raises(CountingError, match="no ref lives here"):
        refs.result_packed(PEER, 7, [A])
    assert refs.is_quiet


def test_a_ref_of_the_arguments_that_is_returned_is_not_kept(refs: ProcessRefs) -> None:
    start_task(refs, A)
    refs.result_packed(PEER, 7, [A])
    refs.died([A])
    assert refs.task_ended(PEER, 7) is True
    assert sent(refs) == []
    assert refs.is_quiet


def test_a_reply_with_refs_is_acknowledged_when_they_are_held(refs: ProcessRefs) -> None:
    refs.reply_received(PEER, 7, [A], appeared=[A])
    assert sent(refs) == to_daemon(Register([A]))
    refs.acknowledged([A], ok=True)
    assert sent(refs) == [(PEER, ReplyAck(7)), LetGo(PEER, 7)]


def test_a_reply_that_nobody_wants_is_acknowledged_at_once(refs: ProcessRefs) -> None:
    refs.reply_received(PEER, 7, [A])
    assert sent(refs) == [(PEER, ReplyAck(7)), LetGo(PEER, 7)]


def test_the_contents_of_a_published_result_wait_for_the_home_instead(refs: ProcessRefs) -> None:
    refs.publish(mine(1), Value(PENDING))
    refs.resolve(mine(1), value_with(A))
    refs.reply_received(PEER, 7, [A])
    assert sent(refs)[-1] == (DAEMON, Resolve(mine(1), value_with(A)))
    refs.publish_acknowledged([mine(1)])
    assert sent(refs) == [(PEER, ReplyAck(7)), LetGo(PEER, 7)]


def test_arguments_are_let_go_at_the_close_and_not_at_an_early_reply(refs: ProcessRefs) -> None:
    refs.publish(mine(1), value_with())
    refs.submitted(PEER, 7, [mine(1)])
    refs.reply_received(PEER, 7, closed=False)
    assert LetGo(PEER, 7) not in sent(refs)
    refs.close_received(PEER, 7)
    assert sent(refs) == [LetGo(PEER, 7)]


def test_arguments_are_let_go_only_when_the_refs_of_the_reply_are_held(refs: ProcessRefs) -> None:
    refs.publish(mine(1), value_with())
    refs.submitted(PEER, 7, [mine(1)])
    refs.reply_received(PEER, 7, [A], appeared=[A])
    assert LetGo(PEER, 7) not in sent(refs)
    refs.acknowledged([A], ok=True)
    assert sent(refs) == [(PEER, ReplyAck(7)), LetGo(PEER, 7)]


def test_an_own_argument_that_comes_back_needs_no_message(refs: ProcessRefs) -> None:
    refs.publish(mine(1), value_with())
    refs.submitted(PEER, 7, [mine(1)])
    sent(refs)
    refs.reply_received(PEER, 7, [mine(1)])
    assert sent(refs) == [LetGo(PEER, 7)]


def test_a_ref_that_comes_back_out_of_an_inlined_value_is_held_before_the_arguments_go(refs: ProcessRefs) -> None:
    refs.submitted(PEER, 7, [A])
    refs.reply_received(PEER, 7, [A], appeared=[A])
    assert sent(refs) == to_daemon(Register([A]))
    refs.acknowledged([A], ok=True)
    assert sent(refs) == [LetGo(PEER, 7)]


def test_a_call_handed_back_may_be_submitted_again(refs: ProcessRefs) -> None:
    refs.submitted(PEER, 7, [A])
    with pytest.raises(CountingError, match="cannot be submitted again"):
        refs.submitted(PEER, 7, [A])
    refs.handed_back(PEER, 7)
    assert sent(refs) == [LetGo(PEER, 7)]
    refs.submitted(PEER, 7, [A])


def test_a_second_reply_and_a_close_out_of_the_blue_are_refused(refs: ProcessRefs) -> None:
    refs.submitted(PEER, 7, [A])
    with pytest.raises(CountingError):
        refs.close_received(PEER, 7)
    refs.reply_received(PEER, 7, closed=False)
    with pytest.raises(CountingError):
        refs.reply_received(PEER, 7)
    with pytest.raises(CountingError):
        refs.reply_acked(PEER, 7)


def test_items_are_acknowledged_one_by_one(refs: ProcessRefs) -> None:
    refs.item_received(PEER, 7, 0, [A], appeared=[A])
    refs.item_received(PEER, 7, 1, [X])
    assert sent(refs) == [(DAEMON, Register([A])), (PEER, ItemAck(7, 1))]
    refs.acknowledged([A], ok=True)
    assert sent(refs) == [(PEER, ItemAck(7, 0))]


def test_a_yielded_ref_is_kept_until_its_item_is_acknowledged(refs: ProcessRefs) -> None:
    refs.publish(mine(1), value_with())
    refs.item_packed(PEER, 7, 0, [mine(1)])
    refs.died([mine(1)])
    sent(refs)
    refs.item_acked(PEER, 7, 0)
    assert sent(refs) == to_daemon(Release([mine(1)]))


# Copies


def test_a_big_result_is_handed_over_on_one_node(refs: ProcessRefs) -> None:
    here = Location(b"\0\0\0\1", 0, 10)
    assert refs.task_ended(PEER, 7, stored={A: here}) is True
    assert sent(refs) == to_daemon(Store(A, here, PEER))
    assert refs.is_quiet


def test_a_big_result_for_another_node_is_kept_until_it_is_acknowledged(refs: ProcessRefs) -> None:
    here, result = Location(b"\0\0\0\1", 0, 10), theirs(1, AFAR)
    assert refs.task_ended(AFAR, 7, stored={result: here}) is True
    assert sent(refs) == to_daemon(Store(result, here))
    refs.reply_acked(AFAR, 7)
    assert sent(refs) == to_daemon(DropCopy(result, ME))


def test_a_reply_with_a_copy_on_another_node_waits_until_the_home_keeps_it(refs: ProcessRefs) -> None:
    there = Value(STORED, b"", Location(b"\0\0\0\2", 0, 10), [])
    refs.publish(mine(1), there, writer=AFAR)
    refs.reply_received(AFAR, 7, remote_copies=[mine(1)])
    assert sent(refs) == to_daemon(Publish(mine(1), there, AFAR))
    refs.publish_acknowledged([mine(1)])
    assert sent(refs) == [(AFAR, ReplyAck(7)), LetGo(AFAR, 7)]


# Deaths


def test_the_death_of_a_worker_closes_its_calls(refs: ProcessRefs) -> None:
    refs.submitted(PEER, 7, [A])
    refs.submitted(OTHER, 8, [A])
    refs.peer_died(PEER)
    assert sent(refs) == [LetGo(PEER, 7), (DAEMON, DropUnclaimed(PEER))]


def test_the_refs_of_a_dead_workers_reply_are_registered_without_an_acknowledgement(refs: ProcessRefs) -> None:
    refs.reply_received(PEER, 7, [A], closed=False, appeared=[A])
    refs.peer_died(PEER)
    refs.acknowledged([A], ok=False)
    assert sent(refs) == [(DAEMON, Register([A])), (DAEMON, DropUnclaimed(PEER)), LetGo(PEER, 7)]


def test_the_death_of_a_submitter_drops_what_waited_for_its_acknowledgement(refs: ProcessRefs) -> None:
    refs.publish(mine(1), value_with())
    refs.result_packed(AFAR, 7, [mine(1)])
    refs.died([mine(1)])
    refs.task_ended(AFAR, 7)
    sent(refs)
    refs.peer_died(AFAR)
    assert sent(refs) == to_daemon(Release([mine(1)]))


def test_a_task_of_a_dead_submitter_registers_what_it_keeps_and_tells_nobody(refs: ProcessRefs) -> None:
    start_task(refs, A, submitter=AFAR)
    refs.peer_died(AFAR)
    refs.result_packed(AFAR, 7, [X])
    refs.task_ended(AFAR, 7)
    refs.acknowledged([A], ok=True)
    assert sent(refs) == to_daemon(Register([A]))
    assert refs.is_quiet


# Actors


@pytest.fixture
def actor() -> ProcessRefs:
    return ProcessRefs(ME, own_actor=A)


def test_an_actor_does_not_hold_itself_at_rest(actor: ProcessRefs) -> None:
    start_task(actor, A)
    assert actor.task_ended(PEER, 7) is True
    assert not actor.own_actor_is_lent
    assert sent(actor) == []


def test_an_actor_that_lends_its_handle_in_a_call_holds_itself_until_the_call_is_closed(actor: ProcessRefs) -> None:
    actor.submitted(OTHER, 1, [A])
    assert actor.own_actor_is_lent
    assert actor.task_ended(PEER, 7) is False
    assert sent(actor) == to_daemon(Register([A]))
    actor.acknowledged([A], ok=True)
    assert sent(actor) == [(PEER, Close(7))]
    actor.reply_received(OTHER, 1)
    assert sent(actor) == [LetGo(OTHER, 1), (DAEMON, Release([A]))]


def test_an_actor_that_returns_its_handle_holds_itself_until_the_acknowledgement(actor: ProcessRefs) -> None:
    actor.result_packed(PEER, 7, [A])
    assert actor.task_ended(PEER, 7) is False
    actor.acknowledged([A], ok=True)
    assert sent(actor) == [(DAEMON, Register([A])), (PEER, Close(7))]
    actor.reply_acked(PEER, 7)
    assert sent(actor) == to_daemon(Release([A]))


def test_an_actor_that_packs_its_handle_holds_itself_until_the_home_does(actor: ProcessRefs) -> None:
    actor.publish(mine(1), value_with(A))
    actor.acknowledged([A], ok=True)
    sent(actor)
    actor.publish_acknowledged([mine(1)])
    assert sent(actor) == to_daemon(Release([A]))
