"""The half of counting in a node daemon, rule by rule."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from directory_shell import taken, tell

from remora.base.ids import NodeId, ObjectId, ProcessId, make_object_id, make_process_id, node_of
from remora.base.object_ref import FAILED, INLINE, PENDING, STORED
from remora.core.counting.directory import Directory
from remora.core.counting.entries import Loss, LossReason
from remora.core.counting.exports import REMEMBERED_JOBS
from remora.core.counting.vocabulary import (
    CountingError,
    FreeLocation,
    Hold,
    KeepLocation,
    ObjectFreed,
    Send,
    exports_of,
)
from remora.messages import counting as m
from remora.messages.objects import ForgetGet, GetObjects, Location, ObjectValue, Value

P, Q, R = (make_process_id(1, number) for number in (1, 2, 3))
AFAR = make_process_id(2, 1)
HERE, THERE = node_of(P), node_of(AFAR)
A, B, K = (make_object_id(P, call) for call in (1, 2, 3))
FOREIGN = make_object_id(AFAR, 1)
DATA = Value(INLINE, b"data")
GRACE_S = 5.0


def describe(loss: Loss) -> bytes:
    return f"{loss.reason.name} {loss.where.hex()}".encode()


def lost(reason: LossReason, where: bytes) -> Value:
    return Value(FAILED, f"{reason.name} {where.hex()}".encode())


def containing(*ids: ObjectId) -> Value:
    return Value(INLINE, b"data", None, list(ids))


def stored(offset: int, node: NodeId = HERE, *ids: ObjectId) -> Value:
    return Value(STORED, b"", Location(node, offset, 100), list(ids))


@pytest.fixture
def home() -> Directory:
    directory = Directory(HERE, describe, GRACE_S)
    for process in (P, Q, R):
        directory.process_connected(process, driver=P)
    return directory


# Holders


def test_an_object_lives_as_long_as_it_has_a_holder(home: Directory) -> None:
    tell(home, P, m.Publish(A, DATA))
    assert tell(home, Q, m.Register([A])) == [Send(Q, m.Ack([A], True))]
    tell(home, P, m.Release([A]))
    assert home.is_known(A)
    tell(home, Q, m.Release([A]))
    assert not home.is_known(A)


def test_answers_to_one_message_travel_together(home: Directory) -> None:
    tell(home, P, m.Publish(A, DATA), m.Publish(B, DATA))
    assert tell(home, Q, m.Register([A, B])) == [Send(Q, m.Ack([A, B], True))]


def test_a_pending_object_is_registered_at_once(home: Directory) -> None:
    tell(home, P, m.Publish(A, Value(PENDING)))
    assert tell(home, Q, m.Register([A])) == [Send(Q, m.Ack([A], True))]


def test_an_unknown_id_is_asked_for_at_its_maker_and_gone_after_the_answer(home: Directory) -> None:
    assert tell(home, Q, m.Register([A])) == [Send(P, m.Ping(1))]
    assert tell(home, P, m.Pong(1)) == [Send(Q, m.Ack([A], False))]


def test_an_unknown_id_that_is_published_meanwhile_is_held(home: Directory) -> None:
    tell(home, Q, m.Register([A]))
    assert tell(home, P, m.Publish(A, DATA)) == [Send(Q, m.Ack([A], True))]
    assert tell(home, P, m.Pong(1), m.Release([A])) == []
    assert home.is_known(A)


def test_every_parked_request_has_a_ping_of_its_own(home: Directory) -> None:
    assert tell(home, Q, m.Register([A])) == [Send(P, m.Ping(1))]
    assert tell(home, R, m.Register([B])) == [Send(P, m.Ping(2))]
    assert tell(home, P, m.Pong(1)) == [Send(Q, m.Ack([A], False))]
    assert tell(home, P, m.Publish(B, DATA)) == [Send(R, m.Ack([B], True))]


def test_an_unknown_id_of_a_dead_maker_is_gone_at_once(home: Directory) -> None:
    home.process_ended(P, 0.0, at_once=False)
    assert tell(home, Q, m.Register([A])) == [Send(Q, m.Ack([A], False))]


def test_a_request_parked_for_a_process_is_decided_when_that_ends(home: Directory) -> None:
    tell(home, Q, m.Register([A]))
    home.process_ended(P, 0.0, at_once=False)
    assert taken(home) == [Send(Q, m.Ack([A], False))]


@pytest.mark.parametrize("message", [m.Publish(FOREIGN, DATA), m.Publish(A, DATA), m.Resolve(A, Value(PENDING))])
def test_a_process_cannot_speak_for_others(home: Directory, message: msgspec.Struct) -> None:
    tell(home, P, m.Publish(A, DATA))
    with pytest.raises(CountingError):
        home.process_message(P, message)
    with pytest.raises(CountingError):
        home.process_message(make_process_id(1, 99), message)
    assert taken(home) == []


def test_messages_that_are_not_said_to_a_home_are_refused(home: Directory) -> None:
    with pytest.raises(CountingError, match="no process says"):
        home.process_message(P, m.Ack([A], True))
    with pytest.raises(CountingError, match="no daemon says"):
        home.node_message(THERE, m.Ping(1))


def test_a_watched_object_is_told_when_it_is_freed(home: Directory) -> None:
    assert not home.watch(A)
    tell(home, P, m.Publish(A, DATA))
    assert home.watch(A)
    assert tell(home, P, m.Release([A])) == [ObjectFreed(A)]


# Containers


def test_a_container_holds_what_it_contains_and_says_so(home: Directory) -> None:
    assert tell(home, P, m.Publish(A, DATA), m.Publish(K, containing(A))) == [Send(P, m.PublishAck([K]))]
    tell(home, P, m.Release([A]))
    assert home.is_known(A)
    tell(home, P, m.Release([K]))
    assert not home.is_known(A)


def test_a_container_does_not_hold_itself(home: Directory) -> None:
    assert tell(home, P, m.Publish(K, containing(K))) == [Send(P, m.PublishAck([K]))]
    tell(home, P, m.Release([K]))
    assert not home.is_known(K)


def test_freeing_a_very_deep_container_does_not_recurse(home: Directory) -> None:
    depth = 5000
    ids = [make_object_id(P, 10 + level) for level in range(depth)]
    home.process_message(P, m.Publish(ids[0], DATA))
    for inner, outer in itertools.pairwise(ids):
        home.process_message(P, m.Publish(outer, containing(inner)))
        home.process_message(P, m.Release([inner]))
    home.process_message(P, m.Release([ids[-1]]))
    assert not home.is_known(ids[0])


def test_what_is_gone_inside_does_not_keep_the_publisher_waiting(home: Directory) -> None:
    home.process_ended(Q, 0.0, at_once=True)
    dead = make_object_id(Q, 1)
    assert tell(home, P, m.Publish(K, containing(dead))) == [Send(P, m.PublishAck([K]))]
    assert tell(home, P, m.Release([K])) == []


def test_the_value_of_a_freed_object_leaves_nothing_behind(home: Directory) -> None:
    tell(home, P, m.Publish(A, DATA), m.Publish(K, Value(PENDING)), m.Release([K]))
    assert tell(home, P, m.Resolve(K, containing(A))) == [Send(P, m.PublishAck([K]))]
    tell(home, P, m.Release([A]))
    assert not home.is_known(A)


def test_a_container_freed_before_its_contents_answer_is_acknowledged(home: Directory) -> None:
    assert tell(home, P, m.Publish(K, containing(FOREIGN))) == [Send(THERE, m.NodeRegister([FOREIGN], K))]
    assert tell(home, P, m.Release([K])) == [Send(P, m.PublishAck([K])), Send(THERE, m.NodeRelease([FOREIGN], K))]
    assert tell(home, THERE, m.NodeAck([FOREIGN], K, True)) == []


def test_an_exported_ref_lives_until_the_driver_ends(home: Directory) -> None:
    tell(home, P, m.Publish(A, DATA), m.Release([]))
    tell(home, Q, m.Register([A]), m.Export([A]), m.Release([A]))
    home.process_ended(Q, 0.0, at_once=True)
    tell(home, P, m.Release([A]))
    assert home.is_known(A)
    home.process_ended(P, 0.0, at_once=True)
    assert not home.is_known(A)


def start_worker_of_another_node(home: Directory) -> ProcessId:
    worker = make_process_id(1, 9)
    home.process_connected(worker, AFAR)
    return worker


def test_a_ref_exported_on_another_node_than_the_drivers_lives_until_the_job_ends(home: Directory) -> None:
    worker = start_worker_of_another_node(home)
    own = make_object_id(worker, 1)
    tell(home, worker, m.Publish(own, DATA), m.Export([own]))
    home.process_ended(worker, 0.0, at_once=True)
    row = home.row(own)
    assert row is not None
    assert row.holders == (exports_of(AFAR, HERE),)
    home.job_ended(AFAR)
    taken(home)
    assert not home.is_known(own)


def test_an_exported_ref_of_a_third_node_is_held_there_before_its_process_lets_go(home: Directory) -> None:
    worker, third = start_worker_of_another_node(home), NodeId(bytes([0, 0, 0, 3]))
    theirs, exports = make_object_id(make_process_id(3, 1), 1), exports_of(AFAR, HERE)
    assert tell(home, worker, m.Register([theirs]), m.Export([theirs])) == [
        Send(third, m.NodeRegister([theirs], worker)),
        Send(third, m.NodeRegister([theirs], exports)),
    ]
    tell(home, third, m.NodeAck([theirs], worker, True), m.NodeAck([theirs], exports, True))
    home.process_ended(worker, 0.0, at_once=True)
    assert taken(home) == [Send(third, m.NodeRelease([theirs], worker))]
    home.job_ended(AFAR)
    assert taken(home) == [Send(third, m.NodeRelease([theirs], exports))]


def test_what_is_exported_after_the_end_of_the_job_is_not_held_for_it(home: Directory) -> None:
    worker = start_worker_of_another_node(home)
    own = make_object_id(worker, 1)
    home.job_ended(AFAR)
    for number in range(REMEMBERED_JOBS + 1):
        home.job_ended(make_process_id(2, 2 + number))
    tell(home, worker, m.Publish(own, DATA), m.Export([own]), m.Release([own]))
    assert not home.is_known(own)


def test_exports_of_jobs_of_a_dead_node_are_dropped_after_the_grace(home: Directory) -> None:
    worker = start_worker_of_another_node(home)
    own, late = (make_object_id(worker, call) for call in (1, 2))
    tell(home, worker, m.Publish(own, DATA), m.Export([own]), m.Release([own]))
    home.node_dead(THERE, HERE, 0.0)
    tell(home, worker, m.Publish(late, DATA), m.Export([late]), m.Release([late]))
    assert home.is_known(own)
    assert not home.is_known(late)
    home.tick(GRACE_S)
    assert not home.is_known(own)


def test_an_export_that_waits_for_the_maker_is_forgotten_with_the_job(home: Directory) -> None:
    worker = start_worker_of_another_node(home)
    tell(home, worker, m.Export([A]))
    home.job_ended(AFAR)
    tell(home, P, m.Publish(A, DATA), m.Release([A]))
    assert not home.is_known(A)


# Values


def test_a_value_is_given_at_once_or_when_it_is_there(home: Directory) -> None:
    tell(home, P, m.Publish(A, DATA), m.Publish(B, Value(PENDING)))
    assert tell(home, Q, GetObjects([A, B])) == [Send(Q, ObjectValue(A, DATA))]
    assert tell(home, P, m.Resolve(B, DATA)) == [Send(Q, ObjectValue(B, DATA))]
    assert home.value_of(B) == DATA


def test_who_forgot_a_get_is_not_answered(home: Directory) -> None:
    tell(home, P, m.Publish(A, Value(PENDING)))
    tell(home, Q, GetObjects([A, B, FOREIGN]), ForgetGet([A, B, FOREIGN]))
    assert tell(home, P, m.Resolve(A, DATA), m.Pong(1)) == []
    assert tell(home, THERE, ObjectValue(FOREIGN, DATA)) == []


def test_a_get_of_what_never_was_ends_with_an_error_that_names_its_maker(home: Directory) -> None:
    tell(home, Q, GetObjects([A]))
    assert tell(home, P, m.Pong(1)) == [Send(Q, ObjectValue(A, lost(LossReason.UNKNOWN, P)))]


def test_a_pending_object_fails_with_its_maker_after_the_grace(home: Directory) -> None:
    tell(home, P, m.Publish(A, Value(PENDING)))
    tell(home, Q, m.Register([A]), GetObjects([A]))
    home.process_ended(P, 10.0, at_once=False)
    home.tick(10.0 + GRACE_S)
    assert taken(home) == [Send(Q, ObjectValue(A, lost(LossReason.MAKER_DIED, P)))]


def test_a_worker_may_tell_the_result_of_a_dead_submitter(home: Directory) -> None:
    tell(home, P, m.Publish(A, Value(PENDING)))
    tell(home, Q, m.Register([A]), GetObjects([A]))
    home.process_ended(P, 10.0, at_once=False)
    assert tell(home, R, m.Resolve(A, DATA)) == [Send(Q, ObjectValue(A, DATA))]
    home.tick(100.0)
    assert home.value_of(A) == DATA


def test_an_object_outlives_the_process_that_made_it(home: Directory) -> None:
    tell(home, P, m.Publish(A, DATA))
    tell(home, Q, m.Register([A]))
    home.process_ended(P, 0.0, at_once=True)
    assert tell(home, R, GetObjects([A])) == [Send(R, ObjectValue(A, DATA))]


# Ends


def test_the_holds_of_a_crashed_process_last_for_the_grace(home: Directory) -> None:
    tell(home, P, m.Publish(A, DATA))
    home.process_ended(P, 10.0, at_once=False)
    assert home.next_deadline_s == 10.0 + GRACE_S
    home.tick(10.0 + GRACE_S - 0.1)
    assert tell(home, Q, m.Register([A])) == [Send(Q, m.Ack([A], True))]
    home.tick(10.0 + GRACE_S)
    assert home.is_known(A)
    assert home.next_deadline_s is None
    tell(home, Q, m.Release([A]))
    assert not home.is_known(A)


def test_the_holds_of_a_process_that_left_in_order_end_at_once(home: Directory) -> None:
    tell(home, P, m.Publish(A, DATA))
    tell(home, Q, m.Register([FOREIGN]))
    home.process_ended(P, 0.0, at_once=True)
    assert not home.is_known(A)
    home.process_ended(Q, 0.0, at_once=True)
    assert taken(home) == [Send(THERE, m.NodeRelease([FOREIGN], Q))]


def test_what_a_dead_process_asked_for_is_not_held_for_it(home: Directory) -> None:
    tell(home, Q, m.Register([A]))
    home.process_ended(Q, 0.0, at_once=False)
    assert tell(home, P, m.Publish(A, DATA), m.Release([A])) == []
    assert not home.is_known(A)


# Arena


def test_an_own_value_in_the_arena_is_freed_with_the_object(home: Directory) -> None:
    assert tell(home, P, m.Publish(A, stored(0))) == [KeepLocation(Location(HERE, 0, 100))]
    assert tell(home, P, m.Release([A])) == [FreeLocation(Location(HERE, 0, 100))]


def test_a_large_result_is_handed_over_from_worker_to_submitter_to_home(home: Directory) -> None:
    tell(home, Q, m.Store(A, Location(HERE, 0, 100), P))
    assert tell(home, P, m.Publish(A, stored(0), Q)) == []
    assert tell(home, P, m.DropUnclaimed(Q)) == [Send(Q, m.Ping(1))]
    assert tell(home, Q, m.Pong(1)) == []
    assert tell(home, P, m.Release([A])) == [FreeLocation(Location(HERE, 0, 100))]


def test_a_value_waits_for_the_worker_that_stored_it(home: Directory) -> None:
    tell(home, R, GetObjects([A]))
    assert tell(home, P, m.Publish(A, stored(0), Q)) == [Send(Q, m.Ping(2))]
    assert home.value_of(A) is None
    effects = tell(home, Q, m.Store(A, Location(HERE, 0, 100), P))
    assert effects == [KeepLocation(Location(HERE, 0, 100)), Send(R, ObjectValue(A, stored(0)))]


def test_a_copy_that_was_never_stored_is_a_lost_value(home: Directory) -> None:
    tell(home, P, m.Publish(A, stored(0), Q))
    home.process_ended(Q, 0.0, at_once=False)
    assert home.value_of(A) == lost(LossReason.COPY_LOST, Q)


def test_an_object_freed_before_its_copy_is_stored_frees_that_too(home: Directory) -> None:
    tell(home, P, m.Publish(A, stored(0), Q), m.Release([A]))
    effects = tell(home, Q, m.Store(A, Location(HERE, 0, 100), P))
    assert effects == [KeepLocation(Location(HERE, 0, 100)), FreeLocation(Location(HERE, 0, 100))]


def test_a_result_that_nobody_wants_is_dropped(home: Directory) -> None:
    tell(home, P, m.DropCopy(A, Q))
    assert FreeLocation(Location(HERE, 0, 100)) in tell(home, Q, m.Store(A, Location(HERE, 0, 100), P))


def test_what_a_dead_worker_handed_over_and_nobody_claimed_is_freed(home: Directory) -> None:
    tell(home, Q, m.Store(A, Location(HERE, 0, 100), P), m.Store(B, Location(HERE, 4096, 100), P))
    tell(home, P, m.Publish(A, stored(0), Q))
    home.process_ended(Q, 0.0, at_once=False)
    assert tell(home, P, m.DropUnclaimed(Q)) == [FreeLocation(Location(HERE, 4096, 100))]


def test_two_attempts_may_store_the_same_result(home: Directory) -> None:
    tell(home, Q, m.Store(A, Location(HERE, 0, 100), P))
    home.process_ended(Q, 0.0, at_once=False)
    tell(home, R, m.Store(A, Location(HERE, 4096, 100), P))
    tell(home, P, m.Publish(A, stored(4096), R))
    assert tell(home, P, m.DropUnclaimed(Q)) == [FreeLocation(Location(HERE, 0, 100))]
    assert home.value_of(A) == stored(4096)


def test_the_value_of_a_freed_object_frees_its_place_in_the_arena(home: Directory) -> None:
    tell(home, P, m.Publish(A, Value(PENDING)), m.Release([A]))
    assert tell(home, P, m.Resolve(A, stored(0))) == [FreeLocation(Location(HERE, 0, 100))]


# Other nodes


def test_a_foreign_id_is_registered_at_its_home_before_it_is_acknowledged(home: Directory) -> None:
    assert tell(home, Q, m.Register([FOREIGN])) == [Send(THERE, m.NodeRegister([FOREIGN], Q))]
    assert list(home.held_elsewhere()) == [(FOREIGN, Q, Hold.ASKED)]
    assert tell(home, THERE, m.NodeAck([FOREIGN], Q, True)) == [Send(Q, m.Ack([FOREIGN], True))]
    assert list(home.held_elsewhere()) == [(FOREIGN, Q, Hold.HELD)]
    assert tell(home, Q, m.Release([FOREIGN])) == [Send(THERE, m.NodeRelease([FOREIGN], Q))]


def test_each_process_of_a_node_is_a_holder_of_its_own(home: Directory) -> None:
    tell(home, Q, m.Register([FOREIGN]))
    assert tell(home, R, m.Register([FOREIGN])) == [Send(THERE, m.NodeRegister([FOREIGN], R))]


def test_the_home_writes_down_holders_of_other_nodes(home: Directory) -> None:
    tell(home, P, m.Publish(A, DATA))
    assert tell(home, THERE, m.NodeRegister([A], AFAR)) == [Send(THERE, m.NodeAck([A], AFAR, True))]
    tell(home, P, m.Release([A]))
    assert [row.holders for row in home.rows()] == [(AFAR,)]
    tell(home, THERE, m.NodeRelease([A], AFAR))
    assert not home.is_known(A)


def test_a_node_cannot_speak_for_another(home: Directory) -> None:
    for message in (m.NodeRegister([A], Q), m.NodeRelease([A], Q), m.Sync([(A, Q)], [])):
        with pytest.raises(CountingError):
            home.node_message(THERE, message)


def test_values_are_asked_for_at_the_home_once(home: Directory) -> None:
    assert tell(home, Q, GetObjects([FOREIGN])) == [Send(THERE, GetObjects([FOREIGN]))]
    assert tell(home, R, GetObjects([FOREIGN])) == []
    effects = tell(home, THERE, ObjectValue(FOREIGN, DATA))
    assert effects == [Send(Q, ObjectValue(FOREIGN, DATA)), Send(R, ObjectValue(FOREIGN, DATA))]


def test_a_value_elsewhere_with_refs_of_this_node_inside_is_acknowledged_when_its_copy_is_kept(home: Directory) -> None:
    tell(home, P, m.Publish(B, DATA))
    effects = tell(home, P, m.Publish(A, stored(0, THERE, B), AFAR))
    assert effects == [Send(THERE, m.Keep(A, AFAR, [B]))]
    assert tell(home, THERE, m.KeepAck(A, True)) == [Send(P, m.PublishAck([A]))]


def test_a_copy_on_a_dead_node_is_lost_if_it_was_the_only_one(home: Directory) -> None:
    tell(home, P, m.Publish(A, stored(0, THERE), AFAR))
    tell(home, THERE, m.KeepAck(A, True))
    home.node_dead(THERE, HERE, 0.0)
    assert home.value_of(A) == lost(LossReason.NODE_DIED, THERE)


def test_holders_of_a_dead_node_are_dropped_after_the_grace(home: Directory) -> None:
    tell(home, P, m.Publish(A, DATA))
    tell(home, THERE, m.NodeRegister([A], AFAR))
    tell(home, P, m.Release([A]))
    home.node_dead(THERE, HERE, 0.0)
    assert home.is_known(A)
    home.tick(GRACE_S)
    assert not home.is_known(A)


def test_a_dead_node_is_not_listened_to(home: Directory) -> None:
    tell(home, P, m.Publish(A, DATA))
    home.node_dead(THERE, HERE, 0.0)
    taken(home)
    assert tell(home, THERE, m.NodeRegister([A], AFAR)) == []


def test_after_a_lost_link_each_side_lists_what_it_has(home: Directory) -> None:
    tell(home, Q, m.Register([FOREIGN]), GetObjects([FOREIGN]))
    tell(home, P, m.Publish(A, stored(0, THERE), AFAR))
    home.node_reconnected(THERE)
    assert taken(home) == [
        Send(THERE, m.Sync([(FOREIGN, Q)], [(A, AFAR)])),
        Send(THERE, GetObjects([FOREIGN])),
    ]


def test_what_a_node_does_not_list_it_does_not_hold(home: Directory) -> None:
    tell(home, P, m.Publish(A, DATA), m.Publish(B, DATA))
    tell(home, THERE, m.NodeRegister([A], AFAR))
    tell(home, P, m.Release([A]))
    assert tell(home, THERE, m.Sync([(B, AFAR)], [])) == [Send(THERE, m.NodeAck([B], AFAR, True))]
    assert not home.is_known(A)
    assert [row.holders for row in home.rows()] == [(P, AFAR)]


def test_a_copy_for_another_home_is_kept_by_the_worker_and_then_by_the_home(home: Directory) -> None:
    tell(home, Q, m.Store(FOREIGN, Location(HERE, 0, 100)))
    assert tell(home, THERE, m.Keep(FOREIGN, Q)) == [Send(THERE, m.KeepAck(FOREIGN, True))]
    assert tell(home, Q, m.DropCopy(FOREIGN, Q)) == []
    assert tell(home, THERE, m.Unkeep(FOREIGN, Q)) == [FreeLocation(Location(HERE, 0, 100))]


def test_a_copy_that_a_node_does_not_list_is_dropped(home: Directory) -> None:
    tell(home, Q, m.Store(FOREIGN, Location(HERE, 0, 100)), m.DropCopy(A, P))
    tell(home, THERE, m.Keep(FOREIGN, Q))
    tell(home, Q, m.DropCopy(FOREIGN, Q))
    assert tell(home, THERE, m.Sync([], [])) == [FreeLocation(Location(HERE, 0, 100))]


def test_rows_say_what_every_object_is_and_who_holds_it(home: Directory) -> None:
    tell(home, P, m.Publish(A, DATA), m.Publish(K, stored(0, HERE, A)))
    rows = {row.id: row for row in home.rows()}
    assert (rows[A].state, rows[A].size_bytes, rows[A].holders) == ("inline", 4, (P, K))
    assert (rows[K].state, rows[K].size_bytes, rows[K].contents) == ("stored", 100, (A,))
    assert "2 objects" in repr(home)
