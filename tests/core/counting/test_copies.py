"""Copies on several nodes, rule by rule: the reader's half and the home's half of a directory."""

from __future__ import annotations

import pytest
from directory_shell import taken, tell

from remora.base.ids import NodeId, ProcessId, make_object_id, make_process_id, node_of
from remora.base.object_ref import FAILED, INLINE, PENDING, STORED
from remora.core.counting.directory import Directory
from remora.core.counting.entries import Loss, LossReason
from remora.core.counting.local_copies import LocalCopies, LocalCopy
from remora.core.counting.reading import ASK_AGAIN_AFTER_S, SOON, TO_KNOW, Located
from remora.core.counting.vocabulary import (
    CancelPull,
    CountingError,
    FreeLocation,
    KeepLocation,
    RaisePull,
    Send,
    StartPull,
)
from remora.messages import copies as c
from remora.messages import counting as m
from remora.messages.objects import (
    CopiesReleased,
    ForgetGet,
    GetObjects,
    Location,
    ObjectAt,
    ObjectValue,
    ReleaseCopies,
    Value,
    WantCopies,
)

P, Q = make_process_id(1, 1), make_process_id(1, 2)
AFAR = make_process_id(2, 1)
HERE, THERE, YONDER, BEYOND = (node_of(make_process_id(number, 0)) for number in (1, 2, 3, 4))
A = make_object_id(P, 1)
FOREIGN, INSIDE = make_object_id(AFAR, 1), make_object_id(AFAR, 2)
SIZE_BYTES = 100
PLACE = Location(HERE, 4096, SIZE_BYTES)
STORED_THERE = Value(STORED, b"", Location(THERE, 64, SIZE_BYTES), [INSIDE])
SHOWN = Value(STORED, b"", PLACE, [INSIDE])


def describe(loss: Loss) -> bytes:
    return f"{loss.reason.name} {loss.detail}".strip().encode()


def lost(reason: LossReason, detail: str = "") -> Value:
    return Value(FAILED, f"{reason.name} {detail}".strip().encode())


@pytest.fixture
def directory() -> Directory:
    made = Directory(HERE, describe)
    made.nodes_changed([HERE, THERE, YONDER, BEYOND])
    for process in (P, Q):
        made.process_connected(process)
    return made


def at(*sources: NodeId, writer: ProcessId = AFAR) -> ObjectAt:
    return ObjectAt(FOREIGN, STORED_THERE, writer, list(sources))


def read(directory: Directory, process: ProcessId = P) -> None:
    """The process has read the foreign object, and knows where its copy lies."""
    tell(directory, process, GetObjects([FOREIGN]))
    tell(directory, THERE, at(THERE))
    directory.copy_arrived(FOREIGN, AFAR, PLACE)
    taken(directory)


# Reading


def test_a_stored_value_is_pulled_once_for_all_processes_that_ask(directory: Directory) -> None:
    assert tell(directory, P, GetObjects([FOREIGN], 1)) == [Send(THERE, GetObjects([FOREIGN], 1))]
    assert tell(directory, Q, GetObjects([FOREIGN], SOON)) == []
    assert tell(directory, THERE, at(YONDER, THERE)) == [StartPull(FOREIGN, AFAR, SIZE_BYTES, (YONDER, THERE), 1)]
    directory.copy_arrived(FOREIGN, AFAR, PLACE)
    assert taken(directory) == [
        Send(THERE, c.CopyArrived([FOREIGN])),
        Send(P, ObjectValue(FOREIGN, SHOWN, evictable=True)),
        Send(Q, ObjectValue(FOREIGN, SHOWN, evictable=True)),
    ]


def test_who_asks_later_is_shown_the_copy_at_once(directory: Directory) -> None:
    read(directory, P)
    assert tell(directory, Q, GetObjects([FOREIGN])) == [Send(Q, ObjectValue(FOREIGN, SHOWN, evictable=True))]


def test_a_pull_becomes_as_urgent_as_the_most_urgent_of_those_that_wait(directory: Directory) -> None:
    tell(directory, P, GetObjects([FOREIGN], SOON))
    tell(directory, THERE, at(THERE))
    assert tell(directory, Q, GetObjects([FOREIGN], 1)) == [RaisePull(FOREIGN, AFAR, 1)]
    assert tell(directory, P, GetObjects([FOREIGN], 1)) == []


def test_who_wants_only_to_know_is_told_where_the_value_is_and_nothing_is_pulled(directory: Directory) -> None:
    assert tell(directory, P, GetObjects([FOREIGN], TO_KNOW)) == [Send(THERE, GetObjects([FOREIGN], TO_KNOW))]
    assert tell(directory, Q, GetObjects([FOREIGN])) == [Send(THERE, GetObjects([FOREIGN]))]
    assert tell(directory, THERE, ObjectValue(FOREIGN, STORED_THERE)) == [Send(P, ObjectValue(FOREIGN, STORED_THERE))]
    assert tell(directory, THERE, at(THERE)) == [StartPull(FOREIGN, AFAR, SIZE_BYTES, (THERE,), 0)]


def test_an_answer_that_nobody_waits_for_any_more_is_given_back(directory: Directory) -> None:
    tell(directory, P, GetObjects([FOREIGN]), ForgetGet([FOREIGN]))
    assert tell(directory, THERE, at(THERE)) == [Send(THERE, c.CopyDropped([FOREIGN]))]


def test_a_pull_ends_with_the_last_process_that_waits(directory: Directory) -> None:
    tell(directory, P, GetObjects([FOREIGN]))
    tell(directory, THERE, at(THERE))
    directory.process_ended(P, 0.0, at_once=True)
    assert taken(directory) == [CancelPull(FOREIGN, AFAR), Send(THERE, c.CopyDropped([FOREIGN]))]


def test_a_pull_ends_when_the_last_process_that_waits_forgets_it(directory: Directory) -> None:
    tell(directory, P, GetObjects([FOREIGN]))
    tell(directory, Q, GetObjects([FOREIGN]))
    tell(directory, THERE, at(THERE))
    assert tell(directory, P, ForgetGet([FOREIGN])) == []
    assert tell(directory, Q, ForgetGet([FOREIGN])) == [
        CancelPull(FOREIGN, AFAR),
        Send(THERE, c.CopyDropped([FOREIGN])),
    ]


def test_a_copy_that_arrives_when_it_is_not_wanted_is_freed_at_once(directory: Directory) -> None:
    tell(directory, P, GetObjects([FOREIGN]))
    tell(directory, THERE, at(THERE))
    effects = tell(directory, THERE, c.FreeCopies([FOREIGN]))
    assert effects == [
        CancelPull(FOREIGN, AFAR),
        Send(P, ObjectValue(FOREIGN, lost(LossReason.UNKNOWN))),
    ]
    directory.copy_arrived(FOREIGN, AFAR, PLACE)
    assert taken(directory) == [FreeLocation(PLACE)]


def test_a_source_that_fails_is_told_to_the_home_which_names_another(directory: Directory) -> None:
    tell(directory, P, GetObjects([FOREIGN]))
    tell(directory, THERE, at(YONDER))
    directory.copy_failed(FOREIGN, AFAR, YONDER, "it is silent")
    assert taken(directory) == [Send(THERE, c.CopyFailed([FOREIGN], YONDER, "it is silent"))]
    assert tell(directory, THERE, at(BEYOND)) == [StartPull(FOREIGN, AFAR, SIZE_BYTES, (BEYOND,), 0)]


def test_a_node_without_room_says_so_to_its_processes(directory: Directory) -> None:
    tell(directory, P, GetObjects([FOREIGN]))
    tell(directory, THERE, at(THERE))
    directory.copy_failed(FOREIGN, AFAR, b"", "the store is full")
    assert taken(directory) == [
        Send(P, ObjectValue(FOREIGN, lost(LossReason.NO_ROOM, "the store is full"), for_now=True)),
        Send(THERE, c.CopyDropped([FOREIGN])),
    ]
    assert tell(directory, P, GetObjects([FOREIGN])) == [Send(THERE, GetObjects([FOREIGN]))], "not for ever"


def test_processes_are_told_that_an_error_of_the_home_is_for_now_if_it_is(directory: Directory) -> None:
    tell(directory, P, GetObjects([FOREIGN]))
    tell(directory, THERE, at(YONDER))
    error = ObjectValue(FOREIGN, lost(LossReason.UNREACHABLE), for_now=True)
    assert tell(directory, THERE, error) == [CancelPull(FOREIGN, AFAR), Send(P, error)]


def test_an_error_of_the_home_ends_the_pull(directory: Directory) -> None:
    tell(directory, P, GetObjects([FOREIGN]))
    tell(directory, THERE, at(THERE))
    error = ObjectValue(FOREIGN, lost(LossReason.NODE_DIED))
    assert tell(directory, THERE, error) == [CancelPull(FOREIGN, AFAR), Send(P, error)]


def test_the_value_of_another_attempt_replaces_the_one_that_arrives(directory: Directory) -> None:
    tell(directory, P, GetObjects([FOREIGN]))
    tell(directory, THERE, at(THERE))
    other = make_process_id(3, 1)
    assert tell(directory, THERE, at(YONDER, writer=other)) == [
        CancelPull(FOREIGN, AFAR),
        StartPull(FOREIGN, other, SIZE_BYTES, (YONDER,), 0),
    ]


def test_data_is_located_when_it_is_here_arriving_or_asked_for(directory: Directory) -> None:
    assert directory.locate(FOREIGN, AFAR) is None
    tell(directory, P, GetObjects([FOREIGN]))
    assert directory.locate(FOREIGN, AFAR) == Located(None)
    tell(directory, THERE, at(THERE))
    assert directory.locate(FOREIGN, AFAR) == Located(None)
    directory.copy_arrived(FOREIGN, AFAR, PLACE)
    assert directory.locate(FOREIGN, AFAR) == Located(PLACE)
    assert directory.locate(FOREIGN, P) is None
    tell(directory, P, m.Publish(A, Value(STORED, b"", PLACE)))
    assert directory.locate(A, P) == Located(PLACE)


def test_a_result_that_lies_on_another_node_is_pulled_by_its_own_home(directory: Directory) -> None:
    tell(directory, P, m.Publish(A, Value(STORED, b"", Location(THERE, 64, SIZE_BYTES)), AFAR))
    tell(directory, THERE, m.KeepAck(A, True))
    assert tell(directory, Q, GetObjects([A])) == [StartPull(A, AFAR, SIZE_BYTES, (THERE,), 0)]
    directory.copy_arrived(A, AFAR, PLACE)
    shown = Value(STORED, b"", PLACE)
    assert taken(directory) == [Send(Q, ObjectValue(A, shown, evictable=True))]
    assert tell(directory, P, m.Release([A])) == [FreeLocation(PLACE), Send(THERE, m.Unkeep(A, AFAR))]


# Eviction


def test_a_copy_that_nobody_was_told_of_is_freed_at_once(directory: Directory) -> None:
    read(directory)
    directory.process_ended(P, 0.0, at_once=True)
    taken(directory)
    assert directory.evict(1) == SIZE_BYTES
    assert taken(directory) == [FreeLocation(PLACE), Send(THERE, c.CopyDropped([FOREIGN]))]


def test_a_copy_is_freed_when_all_that_were_told_have_released_it(directory: Directory) -> None:
    read(directory)
    tell(directory, Q, GetObjects([FOREIGN]))
    assert directory.evict(1) == 0
    assert taken(directory) == [Send(P, ReleaseCopies([FOREIGN])), Send(Q, ReleaseCopies([FOREIGN]))]
    assert directory.evict(1) == 0
    assert taken(directory) == []
    assert tell(directory, P, CopiesReleased([FOREIGN])) == []
    assert tell(directory, Q, CopiesReleased([FOREIGN])) == [
        FreeLocation(PLACE),
        Send(THERE, c.CopyDropped([FOREIGN])),
    ]


def test_who_uses_a_copy_is_asked_again_only_after_a_while(directory: Directory) -> None:
    read(directory)
    directory.evict(1)
    tell(directory, P, CopiesReleased([]))
    assert (directory.evict(1), taken(directory)) == (0, [])
    assert directory.next_deadline_s == 0.0
    directory.tick(10.0)
    assert directory.next_deadline_s == 10.0 + ASK_AGAIN_AFTER_S
    directory.tick(10.0 + ASK_AGAIN_AFTER_S)
    assert directory.next_deadline_s is None
    directory.evict(1)
    assert taken(directory) == [Send(P, ReleaseCopies([FOREIGN]))]


def test_what_was_told_behind_the_question_is_not_released_by_its_answer(directory: Directory) -> None:
    read(directory)
    directory.evict(1)
    tell(directory, P, GetObjects([FOREIGN]))
    assert tell(directory, P, CopiesReleased([FOREIGN])) == []
    assert directory.locate(FOREIGN, AFAR) == Located(PLACE)


def test_a_process_that_ends_releases_all(directory: Directory) -> None:
    read(directory)
    directory.evict(1)
    taken(directory)
    directory.process_ended(P, 0.0, at_once=True)
    assert taken(directory) == [FreeLocation(PLACE), Send(THERE, c.CopyDropped([FOREIGN]))]


def test_copies_told_least_recently_go_first_and_no_more_than_needed() -> None:
    local = LocalCopies()
    for object_id in (FOREIGN, INSIDE, A):
        local.add(object_id, LocalCopy(STORED_THERE, AFAR, SOON))
        local.arrived(object_id, PLACE)
        local.told(object_id, P)
    local.told(FOREIGN, P)
    assert local.choose(SIZE_BYTES + 1) == ([], {P: [INSIDE, A]})
    assert local.choose(0) == ([], {})


def test_an_answer_to_no_question_is_refused(directory: Directory) -> None:
    with pytest.raises(CountingError, match="not asked"):
        directory.process_message(P, CopiesReleased([FOREIGN]))


# Lending


def publish_stored(directory: Directory) -> Value:
    value = Value(STORED, b"", Location(HERE, 64, SIZE_BYTES))
    assert tell(directory, P, m.Publish(A, value)) == [KeepLocation(Location(HERE, 64, SIZE_BYTES))]
    return value


def test_readers_are_sent_to_each_other_and_all_are_told_of_the_end(directory: Directory) -> None:
    value = publish_stored(directory)
    assert tell(directory, THERE, GetObjects([A])) == [Send(THERE, ObjectAt(A, value, P, [HERE]))]
    assert tell(directory, YONDER, GetObjects([A])) == [Send(YONDER, ObjectAt(A, value, P, [THERE, HERE]))]
    tell(directory, THERE, c.CopyArrived([A]))
    assert tell(directory, P, m.Release([A])) == [
        Send(THERE, c.FreeCopies([A])),
        Send(YONDER, c.FreeCopies([A])),
        FreeLocation(Location(HERE, 64, SIZE_BYTES)),
    ]


def test_a_copy_that_arrived_when_the_object_was_freed_is_told_so(directory: Directory) -> None:
    assert tell(directory, THERE, c.CopyArrived([A])) == [Send(THERE, c.FreeCopies([A]))]


def test_a_reader_whom_nobody_serves_gets_an_error_that_says_why(directory: Directory) -> None:
    publish_stored(directory)
    tell(directory, THERE, GetObjects([A]))
    assert tell(directory, THERE, c.CopyFailed([A], HERE, "the line is cut")) == [
        Send(THERE, ObjectValue(A, lost(LossReason.UNREACHABLE, "the line is cut"), for_now=True))
    ]


def test_the_primary_copy_is_not_sent_for_to_its_own_node(directory: Directory) -> None:
    value = Value(STORED, b"", Location(THERE, 64, SIZE_BYTES))
    tell(directory, P, m.Publish(A, value, AFAR))
    tell(directory, THERE, m.KeepAck(A, True))
    assert tell(directory, THERE, GetObjects([A])) == [Send(THERE, ObjectAt(A, value, AFAR, [THERE]))]
    assert tell(directory, THERE, GetObjects([A], TO_KNOW)) == [Send(THERE, ObjectAt(A, value, AFAR, [THERE]))]


def test_a_copy_takes_the_place_of_one_that_died_with_its_node(directory: Directory) -> None:
    tell(directory, P, m.Publish(A, Value(STORED, b"", Location(THERE, 64, SIZE_BYTES)), AFAR))
    tell(directory, THERE, m.KeepAck(A, True))
    for reader in (YONDER, BEYOND):
        tell(directory, reader, GetObjects([A]), c.CopyArrived([A]))
    directory.node_dead(THERE, HERE, 0.0)
    assert Send(YONDER, c.KeepCopy(A, AFAR, 1)) in taken(directory)
    assert tell(directory, Q, GetObjects([A])) == []
    assert tell(directory, YONDER, c.CopyKept(A, AFAR, False)) == [Send(BEYOND, c.KeepCopy(A, AFAR, 1))]
    assert tell(directory, BEYOND, c.CopyKept(A, AFAR, True)) == [StartPull(A, AFAR, SIZE_BYTES, (BEYOND,), 0)]
    assert directory.value_of(A) == Value(STORED, b"", Location(BEYOND, 0, SIZE_BYTES))


def test_a_value_is_lost_when_no_copy_can_take_the_place(directory: Directory) -> None:
    tell(directory, P, m.Publish(A, Value(STORED, b"", Location(THERE, 64, SIZE_BYTES)), AFAR))
    tell(directory, THERE, m.KeepAck(A, True))
    tell(directory, YONDER, GetObjects([A]))
    directory.node_dead(THERE, HERE, 0.0)
    taken(directory)
    assert tell(directory, YONDER, c.CopyKept(A, AFAR, False)) == [
        Send(YONDER, ObjectValue(A, lost(LossReason.NODE_DIED)))
    ]
    assert directory.value_of(A) == lost(LossReason.NODE_DIED)


# Keeping


def test_as_many_nodes_keep_a_value_as_were_asked_for(directory: Directory) -> None:
    value = publish_stored(directory)
    assert tell(directory, P, WantCopies([A], 3)) == [
        Send(THERE, c.MakeCopy(A, value, P, [HERE], 3)),
        Send(YONDER, c.MakeCopy(A, value, P, [THERE, HERE], 3)),
    ]
    tell(directory, THERE, c.CopyKept(A, P, True))
    assert tell(directory, YONDER, c.CopyDropped([A])) == [Send(BEYOND, c.MakeCopy(A, value, P, [HERE, THERE], 3))]
    tell(directory, BEYOND, c.CopyKept(A, P, True))
    assert tell(directory, P, m.Release([A])) == [
        Send(THERE, m.Unkeep(A, P)),
        Send(BEYOND, m.Unkeep(A, P)),
        FreeLocation(Location(HERE, 64, SIZE_BYTES)),
    ]


def test_another_node_keeps_the_value_when_one_can_read_it_from_nobody(directory: Directory) -> None:
    value = publish_stored(directory)
    tell(directory, P, WantCopies([A], 2))
    assert tell(directory, THERE, c.CopyFailed([A], HERE, "the line is cut")) == [
        Send(THERE, ObjectValue(A, lost(LossReason.UNREACHABLE, "the line is cut"), for_now=True)),
        Send(YONDER, c.MakeCopy(A, value, P, [HERE], 2)),
    ]


def test_a_pending_value_is_copied_when_it_is_there(directory: Directory) -> None:
    tell(directory, P, m.Publish(A, Value(PENDING)))
    assert tell(directory, P, WantCopies([A], 2)) == []
    value = Value(STORED, b"", Location(HERE, 64, SIZE_BYTES))
    assert Send(THERE, c.MakeCopy(A, value, P, [HERE], 2)) in tell(directory, P, m.Resolve(A, value))


def test_a_small_value_needs_no_copies(directory: Directory) -> None:
    tell(directory, P, m.Publish(A, Value(INLINE, b"data")))
    assert tell(directory, P, WantCopies([A], 2)) == []


def test_a_reader_that_has_the_value_is_asked_to_keep_it_before_others_are(directory: Directory) -> None:
    publish_stored(directory)
    tell(directory, BEYOND, GetObjects([A]), c.CopyArrived([A]))
    assert tell(directory, P, WantCopies([A], 2)) == [Send(BEYOND, c.KeepCopy(A, P, 2))]


def test_another_node_keeps_the_value_when_one_dies(directory: Directory) -> None:
    value = publish_stored(directory)
    tell(directory, P, WantCopies([A], 2))
    tell(directory, THERE, c.CopyKept(A, P, True))
    directory.node_dead(THERE, HERE, 0.0)
    assert Send(YONDER, c.MakeCopy(A, value, P, [HERE], 2)) in taken(directory)


def test_a_node_that_joins_keeps_what_no_other_could(directory: Directory) -> None:
    directory.nodes_changed([HERE])
    value = publish_stored(directory)
    assert tell(directory, P, WantCopies([A], 2)) == []
    directory.nodes_changed([HERE, YONDER])
    assert taken(directory) == [Send(YONDER, c.MakeCopy(A, value, P, [HERE], 2))]


def test_a_kept_copy_is_never_evicted_and_shown_as_one_that_stays(directory: Directory) -> None:
    assert tell(directory, THERE, c.MakeCopy(FOREIGN, STORED_THERE, AFAR, [THERE], 2)) == [
        StartPull(FOREIGN, AFAR, SIZE_BYTES, (THERE,), SOON)
    ]
    directory.copy_arrived(FOREIGN, AFAR, PLACE)
    assert taken(directory) == [Send(THERE, c.CopyKept(FOREIGN, AFAR, True))]
    assert (directory.evict(SIZE_BYTES), taken(directory)) == (0, [])
    tell(directory, P, GetObjects([FOREIGN]))
    assert tell(directory, THERE, at(HERE)) == [Send(P, ObjectValue(FOREIGN, SHOWN))]
    assert tell(directory, THERE, c.FreeCopies([FOREIGN])) == []
    assert tell(directory, THERE, m.Unkeep(FOREIGN, AFAR)) == [FreeLocation(PLACE)]


def test_a_secondary_copy_becomes_a_kept_one_when_the_home_says_so(directory: Directory) -> None:
    read(directory)
    assert tell(directory, THERE, c.KeepCopy(FOREIGN, AFAR, 1)) == [Send(THERE, c.CopyKept(FOREIGN, AFAR, True))]
    assert (directory.evict(SIZE_BYTES), taken(directory)) == (0, [])
    assert tell(directory, THERE, c.KeepCopy(INSIDE, AFAR, 1)) == [Send(THERE, c.CopyKept(INSIDE, AFAR, False))]


def test_a_copy_kept_of_a_freed_object_is_let_go(directory: Directory) -> None:
    assert tell(directory, THERE, c.CopyKept(A, P, True)) == [Send(THERE, m.Unkeep(A, P))]


def test_a_kept_copy_stays_when_an_older_drop_arrives(directory: Directory) -> None:
    publish_stored(directory)
    tell(directory, P, WantCopies([A], 2))
    tell(directory, THERE, c.CopyKept(A, P, True), c.CopyDropped([A]))
    assert tell(directory, P, m.Release([A]))[0] == Send(THERE, m.Unkeep(A, P))
