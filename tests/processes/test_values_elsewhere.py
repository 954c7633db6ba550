"""What a process does with the values that its daemon tells it."""

from __future__ import annotations

import itertools
from contextlib import suppress
from threading import RLock
from types import SimpleNamespace
from typing import Any

import pytest

from remora.base.errors import GetTimeoutError, ObjectStoreFullError
from remora.base.ids import make_object_id, make_process_id, node_of
from remora.base.object_ref import BORROWED, FAILED, INLINE, STORED, ObjectRef
from remora.messages.objects import ForgetGet, GetObjects, Location, ObjectValue, Value
from remora.processes.client.refs import ELSEWHERE, Refs, value_of
from remora.processes.client.values import Values
from remora.serialization import serialize, serialize_system_error

PROCESS = make_process_id(1, 1)
HERE = Location(node_of(PROCESS), 0, 100)
AFAR = make_process_id(2, 1)
THERE = Location(node_of(AFAR), 64, 100)
NO_ROOM = Value(FAILED, serialize_system_error(ObjectStoreFullError("no room")))


class Daemon:
    """A client of one ref in a cluster, whose daemon gives ``answers``, one to each question."""

    def __init__(self, ref: ObjectRef[Any]) -> None:
        self.answers: list[ObjectValue] = []
        self.asked: list[GetObjects] = []
        client: Any = SimpleNamespace(
            process=PROCESS,
            node=node_of(PROCESS),
            next_call=itertools.count(1),
            lock=RLock(),
            refs=SimpleNamespace(find=lambda object_id: ref),
            is_in_cluster=True,
            check_alive=lambda: None,
            send_to_daemon=self.asked.append,
            nudge=lambda: self.values.on_value(self.answers.pop(0)),
            wait_until=lambda done, deadline_s, ref: done(),
        )
        self.values = Values(client)


def test_who_waits_for_a_value_that_came_meanwhile_as_an_argument_is_told() -> None:
    ref: ObjectRef[Any] = ObjectRef(make_object_id(AFAR, 1), STORED, HERE, published=True)
    answer = ObjectValue(ref.id, Value(STORED, b"", HERE))
    assert Daemon(ref).values.on_value(answer) is ref


def test_an_error_for_now_is_that_of_one_get_and_the_next_one_asks_again() -> None:
    ref: ObjectRef[Any] = ObjectRef(make_object_id(AFAR, 1), BORROWED, THERE, published=True)
    daemon = Daemon(ref)
    serialized = serialize("value")
    daemon.answers = [
        ObjectValue(ref.id, NO_ROOM, for_now=True),
        ObjectValue(ref.id, Value(INLINE, serialized.to_bytes())),
    ]
    with pytest.raises(ObjectStoreFullError, match="no room"):
        daemon.values.get_one(ref, None)
    assert daemon.values.get_one(ref, None) == "value"
    assert daemon.asked == [GetObjects([ref.id])] * 2


def test_an_error_of_the_value_itself_is_not_asked_for_again() -> None:
    ref: ObjectRef[Any] = ObjectRef(make_object_id(AFAR, 1), BORROWED, THERE, published=True)
    daemon = Daemon(ref)
    daemon.answers = [ObjectValue(ref.id, NO_ROOM)]
    for _ in range(2):
        with pytest.raises(ObjectStoreFullError, match="no room"):
            daemon.values.get_one(ref, None)
    assert daemon.asked == [GetObjects([ref.id])]


def test_a_thread_that_is_about_to_see_an_error_for_now_sees_it() -> None:
    ref: ObjectRef[Any] = ObjectRef(make_object_id(AFAR, 1), BORROWED, THERE, published=True)
    daemon = Daemon(ref)
    with daemon.values.using(ref):
        daemon.values.on_value(ObjectValue(ref.id, NO_ROOM, for_now=True))
        daemon.values.ask_again([ref])
        assert ref.state == FAILED
    daemon.values.ask_again([ref])
    assert (ref.state, ref.data) == (BORROWED, THERE)


@pytest.mark.parametrize("location", [THERE, None])
def test_others_are_told_that_the_value_lies_elsewhere_and_an_heir_is_not_offered_the_error(
    location: Location | None,
) -> None:
    refs = Refs(PROCESS, lambda message: None, lambda process, message: None, lambda function: None)
    (ref,) = refs.instances([make_object_id(AFAR, 1)])[0]
    ref.data = location
    inside = make_object_id(AFAR, 2)
    ref.contents = (inside,)
    daemon = Daemon(ref)
    daemon.values.on_value(ObjectValue(ref.id, NO_ROOM, for_now=True))
    with suppress(ObjectStoreFullError):
        daemon.values.load(ref)
    assert value_of(ref) == Value(STORED, b"", location or Location(ELSEWHERE, 0, 0), [inside])
    assert refs.known_values([node_of(AFAR)]) == []


class Asker:
    """A process with one ref of another node's object, of which the daemon says nothing."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.refs = Refs(PROCESS, lambda message: None, lambda process, message: None, lambda function: None)
        client: Any = SimpleNamespace(
            process=PROCESS,
            node=node_of(PROCESS),
            next_call=itertools.count(1),
            lock=RLock(),
            refs=self.refs,
            is_in_cluster=True,
            check_alive=lambda: None,
            send_to_daemon=self.said.append,
            nudge=lambda: None,
            wait_until=lambda done, deadline_s, ref: done(),
            describe_pending=lambda ref: "it is far away",
        )
        self.values = Values(client)
        self.refs.on_died = self.values.on_refs_died
        self.id = make_object_id(AFAR, 1)
        self.refs.machine.task_received(AFAR, 1, [self.id])

    def adopt(self) -> ObjectRef[Any]:
        """The ref, as it comes inside of a call that is open."""
        (ref,) = self.refs.adopt([self.id])
        return ref

    def give_up(self, ref: ObjectRef[Any]) -> None:
        """A get that ends before the value is there."""
        with pytest.raises(GetTimeoutError, match="it is far away"):
            self.values.get_one(ref, 0.0)


def test_a_value_is_not_fetched_any_more_when_who_gave_up_waiting_has_dropped_its_ref() -> None:
    asker = Asker()
    ref = asker.adopt()
    asker.give_up(ref)
    asker.refs.drain()
    assert asker.said == [GetObjects([asker.id])]
    del ref
    asker.refs.drain()
    assert asker.said == [GetObjects([asker.id]), ForgetGet([asker.id])]
    asker.give_up(asker.adopt())
    assert asker.said[2:] == [GetObjects([asker.id])]


def test_a_value_comes_although_its_reader_gives_up_again_and_again_while_it_keeps_the_ref() -> None:
    asker = Asker()
    ref = asker.adopt()
    for _ in range(3):
        asker.give_up(ref)
        asker.refs.drain()
    assert asker.said == [GetObjects([asker.id])]


def test_a_value_whose_ref_died_and_came_again_is_still_wanted() -> None:
    asker = Asker()
    asker.give_up(asker.adopt())
    ref = asker.adopt()
    asker.refs.drain()
    asker.give_up(ref)
    assert asker.said == [GetObjects([asker.id])]
