"""What nodes do when a home dies, rule by rule: reporting to its heir, and being the heir."""

from __future__ import annotations

import pytest
from directory_shell import taken, tell

from remora.base.ids import NodeId, ProcessId, make_object_id, make_process_id, node_of
from remora.base.object_ref import FAILED, INLINE, PENDING, STORED
from remora.core.counting.directory import Directory
from remora.core.counting.entries import Loss, LossReason
from remora.core.counting.reporting import OFFER_PATIENCE_S
from remora.core.counting.vocabulary import CountingError, Effect, FreeLocation, Hold, KeepLocation, Send
from remora.messages import copies as c
from remora.messages import counting as m
from remora.messages.objects import GetObjects, HomeDied, Location, ObjectAt, ObjectValue, OfferValues, Value

P, Q = make_process_id(1, 1), make_process_id(1, 2)
DEAD_PROCESS, AFAR = make_process_id(2, 1), make_process_id(3, 1)
HERE, DEAD, THERE, YONDER = (node_of(make_process_id(number, 0)) for number in (1, 2, 3, 4))
A = make_object_id(P, 1)
LEFT, LEFT_TOO = make_object_id(DEAD_PROCESS, 1), make_object_id(DEAD_PROCESS, 2)
"""Objects of the dead home."""
DATA = Value(INLINE, b"data")
SIZE_BYTES = 100
PLACE = Location(HERE, 4096, SIZE_BYTES)
LOST = Value(FAILED, LossReason.NODE_DIED.name.encode())


def describe(loss: Loss) -> bytes:
    return loss.reason.name.encode()


@pytest.fixture
def directory() -> Directory:
    made = Directory(HERE, describe)
    made.nodes_changed([HERE, DEAD, THERE, YONDER])
    for process in (P, Q):
        made.process_connected(process)
    return made


def die(directory: Directory, heir: NodeId, answered: bool = True) -> list[Effect]:
    """The home dies, and no process here knows any of its values."""
    directory.node_dead(DEAD, heir, 0.0)
    asked = taken(directory)
    if not answered:
        return asked
    return tell(directory, P, OfferValues([DEAD], [])) + tell(directory, Q, OfferValues([DEAD], []))


def report(*held: tuple[bytes, bytes], **more: list[object]) -> c.HomeReport:
    empty: dict[str, list[object]] = {"copies": [], "values": [], "contained": []}
    return c.HomeReport(DEAD, list(held), **(empty | more))  # type: ignore[arg-type]


def reported(writer: ProcessId = DEAD_PROCESS, *contents: bytes, kept: bool = False) -> c.ReportedCopy:
    value = Value(STORED, b"", Location(THERE, 64, SIZE_BYTES), list(contents))
    return c.ReportedCopy(LEFT, writer, value, whole=True, kept=kept)


# Reporting


def test_processes_are_asked_what_they_know_before_the_node_reports(directory: Directory) -> None:
    tell(directory, P, m.Register([LEFT]))
    tell(directory, DEAD, m.NodeAck([LEFT], P, True))
    tell(directory, P, m.Publish(A, DATA))
    tell(directory, DEAD, m.NodeRegister([A], LEFT_TOO))
    assert die(directory, THERE, answered=False) == [Send(P, HomeDied([DEAD])), Send(Q, HomeDied([DEAD]))]
    assert tell(directory, P, OfferValues([DEAD], [(LEFT, DATA)])) == []
    assert tell(directory, Q, OfferValues([DEAD], [])) == [
        Send(THERE, c.HomeReport(DEAD, [(LEFT, P)], [], [(LEFT, DATA)], [(LEFT_TOO, A)]))
    ]


def test_a_process_that_does_not_answer_is_waited_for_only_so_long(directory: Directory) -> None:
    die(directory, THERE, answered=False)
    tell(directory, P, OfferValues([DEAD], []))
    assert directory.next_deadline_s == OFFER_PATIENCE_S
    directory.tick(OFFER_PATIENCE_S)
    assert taken(directory) == [Send(THERE, report())]
    assert tell(directory, Q, OfferValues([DEAD], [(LEFT, DATA)])) == []


def test_a_process_that_ends_has_answered(directory: Directory) -> None:
    die(directory, THERE, answered=False)
    directory.process_ended(P, 0.0, at_once=True)
    directory.process_ended(Q, 0.0, at_once=True)
    assert taken(directory) == [Send(THERE, report())]


def test_what_is_said_while_processes_are_asked_goes_into_the_report(directory: Directory) -> None:
    tell(directory, P, m.Register([LEFT]))
    tell(directory, DEAD, m.NodeAck([LEFT], P, True))
    die(directory, THERE, answered=False)
    assert tell(directory, P, m.Release([LEFT]), GetObjects([LEFT_TOO])) == []
    assert tell(directory, Q, m.Register([LEFT_TOO])) == []
    tell(directory, P, OfferValues([DEAD], []))
    assert tell(directory, Q, OfferValues([DEAD], [])) == [
        Send(THERE, report((LEFT_TOO, Q))),
        Send(THERE, m.NodeRegister([LEFT_TOO], Q)),
        Send(THERE, GetObjects([LEFT_TOO])),
    ]


def test_copies_are_reported_and_kept_for_the_heir(directory: Directory) -> None:
    tell(directory, P, m.Store(LEFT, PLACE))
    tell(directory, DEAD, m.Keep(LEFT, P, [A]))
    tell(directory, P, m.DropCopy(LEFT, P))
    value = Value(STORED, b"", PLACE, [A])
    assert die(directory, THERE) == [
        Send(THERE, report(copies=[c.ReportedCopy(LEFT, P, value, whole=True, kept=True)]))
    ]
    assert tell(directory, THERE, m.Unkeep(LEFT, P)) == [FreeLocation(PLACE)]


def test_the_heir_is_the_home_from_now_on(directory: Directory) -> None:
    die(directory, THERE)
    assert tell(directory, P, m.Register([LEFT])) == [Send(THERE, m.NodeRegister([LEFT], P))]
    assert tell(directory, THERE, m.NodeAck([LEFT], P, True)) == [Send(P, m.Ack([LEFT], True))]
    assert tell(directory, P, GetObjects([LEFT])) == [Send(THERE, GetObjects([LEFT]))]
    assert tell(directory, THERE, m.NodeRegister([A], LEFT_TOO)) == [Send(P, m.Ping(1))]


def test_the_next_heir_is_told_of_all_for_whom_the_last_one_answered(directory: Directory) -> None:
    tell(directory, P, m.Register([LEFT]))
    die(directory, THERE)
    directory.node_dead(THERE, YONDER, 1.0)
    assert taken(directory) == [Send(P, HomeDied([THERE, DEAD])), Send(Q, HomeDied([THERE, DEAD]))]
    tell(directory, P, OfferValues([THERE, DEAD], []))
    assert tell(directory, Q, OfferValues([THERE, DEAD], [])) == [
        Send(YONDER, c.HomeReport(THERE, [(LEFT, P)], [], [], [])),
        Send(YONDER, m.NodeRegister([LEFT], P)),
    ]


def test_a_heir_that_dies_before_it_was_told_is_told_nothing(directory: Directory) -> None:
    die(directory, THERE, answered=False)
    directory.node_dead(THERE, YONDER, 1.0)
    taken(directory)
    assert tell(directory, P, OfferValues([DEAD], [])) == []
    tell(directory, P, OfferValues([THERE, DEAD], []))
    assert tell(directory, Q, OfferValues([THERE, DEAD], [])) == [Send(YONDER, c.HomeReport(THERE, [], [], [], []))]


def test_a_node_that_joins_knows_the_heirs_of_those_who_died_before(directory: Directory) -> None:
    directory.deaths_before({DEAD: THERE})
    assert tell(directory, P, m.Register([LEFT])) == [Send(THERE, m.NodeRegister([LEFT], P))]


def test_a_node_dies_once_and_its_heir_lives(directory: Directory) -> None:
    with pytest.raises(CountingError):
        directory.node_dead(DEAD, DEAD, 0.0)
    with pytest.raises(CountingError):
        directory.node_dead(HERE, THERE, 0.0)
    die(directory, THERE)
    with pytest.raises(CountingError):
        directory.node_dead(DEAD, THERE, 0.0)
    with pytest.raises(CountingError):
        directory.node_dead(YONDER, DEAD, 0.0)


# Being the heir


def test_entries_are_made_when_all_nodes_have_reported(directory: Directory) -> None:
    die(directory, HERE)
    tell(directory, THERE, report((LEFT, AFAR)))
    assert not directory.is_known(LEFT)
    tell(directory, YONDER, report(values=[(LEFT, DATA)]))
    assert [(row.id, row.holders) for row in directory.rows()] == [(LEFT, (AFAR,))]
    assert directory.value_of(LEFT) == DATA
    assert tell(directory, THERE, GetObjects([LEFT])) == [Send(THERE, ObjectValue(LEFT, DATA))]
    tell(directory, THERE, m.NodeRelease([LEFT], AFAR))
    assert not directory.is_known(LEFT)


def test_a_node_that_dies_is_not_waited_for_and_its_processes_hold_nothing(directory: Directory) -> None:
    die(directory, HERE)
    tell(directory, THERE, report((LEFT, AFAR)))
    directory.node_dead(THERE, HERE, 1.0)
    tell(directory, P, OfferValues([THERE], []))
    tell(directory, Q, OfferValues([THERE], []))
    tell(directory, YONDER, report(), c.HomeReport(THERE, [], [], [], []))
    assert list(directory.rows()) == []


def test_what_comes_after_a_report_waits_for_the_entries(directory: Directory) -> None:
    die(directory, HERE)
    held = m.NodeRegister([LEFT], AFAR)
    assert tell(directory, THERE, report((LEFT, AFAR)), held, GetObjects([LEFT])) == []
    assert tell(directory, YONDER, report(values=[(LEFT, DATA)])) == [
        Send(THERE, m.NodeAck([LEFT], AFAR, True)),
        Send(THERE, ObjectValue(LEFT, DATA)),
    ]


def test_what_comes_before_the_heir_knows_that_it_is_one_waits_too(directory: Directory) -> None:
    assert tell(directory, THERE, report((LEFT, AFAR)), GetObjects([LEFT])) == []
    die(directory, HERE)
    assert tell(directory, YONDER, report()) == [Send(THERE, ObjectValue(LEFT, LOST))]


def test_processes_of_the_heir_itself_wait_like_all_others(directory: Directory) -> None:
    tell(directory, P, m.Register([LEFT]))
    die(directory, HERE)
    assert tell(directory, Q, GetObjects([LEFT])) == []
    tell(directory, THERE, report())
    assert tell(directory, YONDER, report(values=[(LEFT, DATA)])) == [
        Send(P, m.Ack([LEFT], True)),
        Send(Q, ObjectValue(LEFT, DATA)),
    ]
    assert list(directory.held_elsewhere()) == []
    tell(directory, P, m.Release([LEFT]))
    assert not directory.is_known(LEFT)


def test_a_kept_copy_is_the_primary_one_and_another_is_asked_to_be(directory: Directory) -> None:
    die(directory, HERE)
    tell(directory, THERE, report((LEFT, AFAR), copies=[reported(kept=True)]))
    tell(directory, YONDER, report())
    assert directory.value_of(LEFT) == Value(STORED, b"", Location(THERE, 0, SIZE_BYTES))


def test_a_copy_that_was_only_lent_is_asked_to_be_the_primary_one(directory: Directory) -> None:
    die(directory, HERE)
    tell(directory, THERE, report((LEFT, AFAR), copies=[reported()]))
    assert tell(directory, YONDER, report()) == [Send(THERE, c.KeepCopy(LEFT, DEAD_PROCESS, 1))]
    assert tell(directory, P, GetObjects([LEFT])) == []
    effects = tell(directory, THERE, c.CopyKept(LEFT, DEAD_PROCESS, True))
    assert [type(effect).__name__ for effect in effects] == ["StartPull"]


def test_what_another_attempt_stored_is_freed(directory: Directory) -> None:
    die(directory, HERE)
    tell(directory, THERE, report((LEFT, AFAR), copies=[reported(kept=True)]))
    assert tell(directory, YONDER, report(copies=[reported(AFAR)])) == [Send(YONDER, c.FreeCopies([LEFT]))]


def test_an_object_that_nobody_holds_is_freed_with_all_its_copies(directory: Directory) -> None:
    die(directory, HERE)
    tell(directory, THERE, report(copies=[reported(kept=True)]))
    assert tell(directory, YONDER, report(copies=[reported()])) == [
        Send(YONDER, c.FreeCopies([LEFT])),
        Send(THERE, m.Unkeep(LEFT, DEAD_PROCESS)),
    ]


def test_an_object_of_which_there_is_no_value_is_lost(directory: Directory) -> None:
    die(directory, HERE)
    tell(directory, THERE, report((LEFT, AFAR)))
    tell(directory, YONDER, report())
    assert directory.value_of(LEFT) == LOST
    assert tell(directory, P, GetObjects([LEFT_TOO])) == [Send(P, ObjectValue(LEFT_TOO, LOST))]


def test_an_error_is_the_value_only_if_nobody_knows_more(directory: Directory) -> None:
    die(directory, HERE)
    tell(directory, THERE, report((LEFT, AFAR), values=[(LEFT, LOST)]))
    tell(directory, YONDER, report(values=[(LEFT, DATA)]))
    assert directory.value_of(LEFT) == DATA


def test_what_a_container_held_elsewhere_is_held_on_and_released_with_it(directory: Directory) -> None:
    inside = make_object_id(AFAR, 7)
    die(directory, HERE)
    value = Value(INLINE, b"", None, [inside])
    tell(directory, THERE, report((LEFT, AFAR), values=[(LEFT, value)], contained=[(LEFT, inside)]))
    assert tell(directory, YONDER, report()) == []
    assert list(directory.held_elsewhere()) == [(inside, LEFT, Hold.HELD)]
    assert tell(directory, THERE, m.NodeRelease([LEFT], AFAR)) == [Send(THERE, m.NodeRelease([inside], LEFT))]


def test_what_a_container_of_the_dead_home_contains_and_nobody_holds_is_asked_for(directory: Directory) -> None:
    inside = make_object_id(AFAR, 7)
    die(directory, HERE)
    tell(directory, THERE, report((LEFT, AFAR), copies=[reported(DEAD_PROCESS, inside, kept=True)]))
    assert tell(directory, YONDER, report()) == [Send(THERE, m.NodeRegister([inside], LEFT))]


def test_what_a_lost_container_held_is_released(directory: Directory) -> None:
    inside = make_object_id(AFAR, 7)
    die(directory, HERE)
    tell(directory, THERE, report((LEFT, AFAR), contained=[(LEFT, inside)]))
    assert tell(directory, YONDER, report()) == [Send(THERE, m.NodeRelease([inside], LEFT))]


def test_a_node_reports_once(directory: Directory) -> None:
    die(directory, HERE)
    tell(directory, THERE, report())
    with pytest.raises(CountingError, match="twice"):
        directory.node_message(THERE, report())


# Results whose submitter is dead


def test_a_worker_gives_a_result_to_a_home_on_another_node(directory: Directory) -> None:
    result = make_object_id(AFAR, 9)
    value = Value(STORED, b"", PLACE, [A])
    tell(directory, P, m.Publish(A, DATA))
    assert tell(directory, P, m.Resolve(result, value)) == [
        KeepLocation(PLACE),
        Send(THERE, c.NodeResolve(result, value, P)),
    ]
    assert tell(directory, THERE, m.Keep(result, P, [A])) == [Send(THERE, m.KeepAck(result, True))]
    assert tell(directory, THERE, c.NodeResolved([result])) == [Send(P, m.PublishAck([result]))]
    assert tell(directory, THERE, m.Unkeep(result, P)) == [FreeLocation(PLACE)]


def test_a_home_takes_a_result_from_afar_or_lets_it_go(directory: Directory) -> None:
    value = Value(STORED, b"", Location(THERE, 64, SIZE_BYTES))
    tell(directory, P, m.Publish(A, Value(PENDING)))
    assert tell(directory, THERE, c.NodeResolve(A, value, AFAR)) == [Send(THERE, m.Keep(A, AFAR))]
    assert tell(directory, THERE, m.KeepAck(A, True)) == [Send(THERE, c.NodeResolved([A]))]
    assert directory.value_of(A) == value
    other = make_process_id(4, 1)
    assert tell(directory, YONDER, c.NodeResolve(A, value, other)) == [
        Send(YONDER, m.Unkeep(A, other)),
        Send(YONDER, c.NodeResolved([A])),
    ]
    with pytest.raises(CountingError):
        directory.node_message(YONDER, c.NodeResolve(A, value, AFAR))


def test_a_result_for_a_home_that_is_dead_is_let_go(directory: Directory) -> None:
    value = Value(STORED, b"", PLACE, [A])
    tell(directory, P, m.Publish(A, DATA))
    die(directory, THERE, answered=False)
    assert tell(directory, P, m.Resolve(LEFT, value)) == [Send(P, m.PublishAck([LEFT])), FreeLocation(PLACE)]


def test_who_waits_for_a_home_to_take_a_result_waits_no_longer_when_it_dies(directory: Directory) -> None:
    tell(directory, P, m.Publish(A, DATA))
    tell(directory, P, m.Resolve(LEFT, Value(INLINE, b"", None, [A])))
    assert Send(P, m.PublishAck([LEFT])) in die(directory, THERE, answered=False)


def test_an_unread_source_is_asked_for_again_at_the_heir(directory: Directory) -> None:
    value = Value(STORED, b"", Location(DEAD, 64, SIZE_BYTES))
    tell(directory, P, GetObjects([LEFT]))
    tell(directory, DEAD, ObjectAt(LEFT, value, DEAD_PROCESS, [DEAD]))
    arriving = c.ReportedCopy(LEFT, DEAD_PROCESS, value, whole=False, kept=False, sources=[DEAD])
    assert die(directory, THERE) == [Send(THERE, report(copies=[arriving])), Send(THERE, GetObjects([LEFT]))]
