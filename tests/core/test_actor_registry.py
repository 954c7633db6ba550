"""The life of actors: construction, restarts, names, handles, and the end of jobs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from remora.core.actor_effects import (
    CancelPlacement,
    CreationSettled,
    KillWorker,
    ReleaseSpec,
    RequestPlacement,
    Send,
)
from remora.core.actor_registry import ActorRegistry
from remora.messages.actors import (
    ALIVE,
    DEAD,
    PENDING_CREATION,
    RESTARTING,
    ActorConstructed,
    ActorFound,
    ActorSpec,
    ActorState,
    ConstructActor,
    CreateActor,
    EndActor,
)
from remora.messages.objects import Value

DRIVER, OTHER = b"driver-1", b"driver-2"
JOB, OTHER_JOB = b"job-one.", b"job-two."


class Rig:
    def __init__(self) -> None:
        self.registry = ActorRegistry()
        self.actors = 0
        self.workers = 0

    def create(self, process: bytes = DRIVER, job: bytes = JOB, max_restarts: int = 0, **options: Any) -> bytes:
        self.actors += 1
        actor = b"actor-%010d" % self.actors
        spec = ActorSpec("Counter", b"class", b"arguments", b"handle", max_restarts=max_restarts)
        request = self.actors if "name" in options else 0
        self.registry.create(process, job, CreateActor(actor, spec, request=request, **options))
        return actor

    def place(self, actor: bytes) -> bytes:
        self.workers += 1
        worker = b"work%04d" % self.workers
        self.registry.placed(actor, worker, f"/w{self.workers}", self.workers)
        return worker

    def alive(self, **options: Any) -> tuple[bytes, bytes]:
        actor = self.create(**options)
        worker = self.place(actor)
        self.registry.constructed(worker, ActorConstructed(actor, 1))
        self.registry.outbox.clear()
        return actor, worker

    def take(self, kind: type[Any]) -> list[Any]:
        """The effects, or the messages sent, of this kind."""
        found: list[Any] = [effect for effect in self.registry.outbox if type(effect) is kind]
        found += [e.message for e in self.registry.outbox if type(e) is Send and type(e.message) is kind]
        return found

    def last_state(self) -> ActorState:
        state: ActorState = self.take(ActorState)[-1]
        return state


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_an_actor_is_placed_constructed_and_its_creator_hears_where_it_lives(rig: Rig) -> None:
    actor = rig.create()
    (request,) = rig.take(RequestPlacement)
    assert request.actor == actor
    worker = rig.place(actor)
    (construct,) = rig.take(ConstructActor)
    assert (construct.incarnation, construct.spec.arguments) == (1, b"arguments")
    rig.registry.constructed(worker, ActorConstructed(actor, 1))
    assert rig.last_state() == ActorState(actor, ALIVE, 1, worker, "/w1", 1)
    assert rig.take(CreationSettled) == [CreationSettled(actor, None, "")]


def test_where_an_actor_will_live_is_not_told_before_it_is_constructed(rig: Rig) -> None:
    actor = rig.create()
    rig.place(actor)
    rig.registry.subscribe(OTHER, actor)
    assert rig.last_state() == ActorState(actor, PENDING_CREATION)


def test_the_error_of_a_constructor_is_kept_for_those_who_call_later(rig: Rig) -> None:
    actor = rig.create(max_restarts=5)
    worker = rig.place(actor)
    error = Value(3, b"pickled error")
    rig.registry.constructed(worker, ActorConstructed(actor, 1, error))
    assert rig.take(CreationSettled) == [CreationSettled(actor, error, "its constructor raised an exception")]
    rig.registry.subscribe(OTHER, actor)
    assert (rig.last_state().state, rig.last_state().error) == (DEAD, error)
    rig.registry.worker_died(worker, "exit")
    assert len(rig.take(RequestPlacement)) == 1, "a constructor that raises is not tried again"


@pytest.mark.parametrize(("max_restarts", "workers"), [(0, 1), (2, 3), (-1, 6)])
def test_a_dead_worker_is_replaced_up_to_max_restarts(rig: Rig, max_restarts: int, workers: int) -> None:
    actor = rig.create(max_restarts=max_restarts)
    for incarnation in range(1, 7):
        if len(rig.take(RequestPlacement)) < incarnation:
            break
        worker = rig.place(actor)
        rig.registry.constructed(worker, ActorConstructed(actor, incarnation))
        rig.registry.worker_died(worker, "killed by signal 9")
        rig.registry.validate()
    assert rig.workers == workers
    assert rig.last_state().cause == "killed by signal 9"
    assert rig.last_state().state == (RESTARTING if max_restarts < 0 else DEAD)


def test_a_worker_that_dies_in_the_constructor_costs_a_restart(rig: Rig) -> None:
    actor = rig.create(max_restarts=1)
    rig.registry.worker_died(rig.place(actor), "exit code 1")
    assert rig.last_state().state == RESTARTING
    rig.registry.worker_died(rig.place(actor), "exit code 1")
    assert rig.last_state().state == DEAD
    assert rig.take(CreationSettled) == [CreationSettled(actor, None, "exit code 1")]


def test_exit_actor_is_the_end_whatever_restarts_are_left(rig: Rig) -> None:
    actor, worker = rig.alive(max_restarts=-1)
    rig.registry.exiting(worker, actor, 1)
    rig.registry.worker_died(worker, "exit code 0")
    assert (rig.last_state().state, rig.last_state().cause) == (DEAD, "exit_actor was called")


def test_kill_is_the_end_at_once_unless_a_restart_is_allowed(rig: Rig) -> None:
    actor, worker = rig.alive(max_restarts=1)
    rig.registry.kill(actor, no_restart=False)
    assert rig.take(KillWorker) == [KillWorker(worker)]
    assert not rig.take(ActorState)
    rig.registry.worker_died(worker, "killed")
    assert rig.last_state().state == RESTARTING
    rig.registry.kill(actor, no_restart=True)
    assert rig.last_state() == ActorState(actor, DEAD, 1, cause="it was killed by kill()")
    assert rig.take(CancelPlacement) == [CancelPlacement(actor)]
    assert rig.take(ReleaseSpec) == [ReleaseSpec(actor)]
    late = rig.place(actor)
    assert rig.take(KillWorker)[-1] == KillWorker(late), "a worker that came too late is not left behind"


def test_the_last_handle_lets_queued_calls_end(rig: Rig) -> None:
    actor, worker = rig.alive(name="counter", max_restarts=-1)
    rig.registry.handles_gone(actor)
    assert rig.take(EndActor) == [EndActor(actor)]
    assert not rig.take(KillWorker)
    assert not rig.registry.names(), "its name is free already"
    rig.registry.worker_died(worker, "exit code 0")
    assert not rig.take(RequestPlacement)
    assert not list(rig.registry.actors())
    rig.registry.job_ended(JOB)
    assert not rig.take(KillWorker)


def test_the_last_handle_of_an_actor_without_a_worker_takes_its_request_back(rig: Rig) -> None:
    actor = rig.create()
    rig.registry.handles_gone(actor)
    assert rig.take(CancelPlacement) == [CancelPlacement(actor)]


def test_a_detached_actor_outlives_its_handles_and_its_job(rig: Rig) -> None:
    actor, _ = rig.alive(name="keeper", detached=True)
    other, worker = rig.alive(name="counter")
    rig.registry.handles_gone(actor)
    rig.registry.job_ended(JOB)
    assert rig.take(KillWorker) == [KillWorker(worker)]
    assert rig.registry.names() == [("", "keeper")]
    rig.registry.kill(actor, no_restart=True)
    assert not rig.registry.names()
    rig.registry.subscribe(OTHER, actor)
    assert rig.last_state().cause == "it was killed by kill()"
    rig.registry.subscribe(OTHER, other)
    assert rig.last_state().cause == "its job ended"


def test_the_end_of_a_job_does_not_wait_for_the_last_calls_of_its_actors(rig: Rig) -> None:
    actor, worker = rig.alive()
    _, foreign = rig.alive(job=OTHER_JOB)
    rig.registry.handles_gone(actor)
    rig.registry.job_ended(JOB)
    assert rig.take(KillWorker) == [KillWorker(worker)]
    assert foreign != worker


def test_an_actor_outlives_its_creator(rig: Rig) -> None:
    actor, _ = rig.alive(process=OTHER)
    rig.registry.subscribe(DRIVER, actor)
    rig.registry.outbox.clear()
    rig.registry.process_gone(OTHER)
    assert not rig.registry.outbox
    rig.registry.kill(actor, no_restart=True)
    assert [e.process for e in rig.registry.outbox if type(e) is Send] == [DRIVER]


def test_a_name_has_one_holder_and_the_error_names_it(rig: Rig) -> None:
    first, _ = rig.alive(name="counter", namespace="shop")
    rig.create(OTHER, name="counter", namespace="shop")
    (found,) = rig.take(ActorFound)
    assert not found.actor
    for words in ("'counter' is taken", "'shop'", "(Counter) alive", "get_if_exists=True"):
        assert words in found.error
    assert len(list(rig.registry.actors())) == 1
    elsewhere = rig.create(OTHER, name="counter", namespace="office")
    assert rig.take(ActorFound)[-1].actor == elsewhere
    assert rig.registry.names("shop") == [("shop", "counter")]
    assert rig.registry.names() == [("office", "counter"), ("shop", "counter")]
    assert first != elsewhere


def test_get_if_exists_gives_the_one_that_is_there(rig: Rig) -> None:
    actor, _ = rig.alive(name="counter")
    rig.create(OTHER, name="counter", get_if_exists=True)
    (found,) = rig.take(ActorFound)
    assert (found.actor, found.handle, found.created) == (actor, b"handle", False)
    assert rig.last_state().state == ALIVE
    rig.registry.kill(actor, no_restart=True)
    assert Send(OTHER, rig.last_state()) in rig.registry.outbox
    assert rig.last_state().state == DEAD


def test_the_name_of_a_dead_actor_is_free(rig: Rig) -> None:
    _, worker = rig.alive(name="counter")
    rig.registry.worker_died(worker, "killed")
    again = rig.create(name="counter")
    assert rig.take(ActorFound)[-1].actor == again


def test_a_missing_name_is_answered_with_the_nearest(rig: Rig) -> None:
    rig.registry.find(DRIVER, 7, "countr", "shop")
    assert rig.take(ActorFound)[-1].error.endswith("this namespace has no named actors")
    rig.alive(name="counter", namespace="shop")
    rig.registry.find(DRIVER, 8, "countr", "shop")
    assert rig.take(ActorFound)[-1].error.endswith("Did you mean 'counter'?")
    rig.registry.find(DRIVER, 9, "xyz", "shop")
    assert rig.take(ActorFound)[-1].error.endswith("there are 'counter'")
    rig.registry.find(DRIVER, 9, "counter", "")
    assert "there is one in namespace 'shop'" in rig.take(ActorFound)[-1].error
    rig.registry.find(DRIVER, 10, "counter", "shop")
    assert rig.take(ActorFound)[-1].handle == b"handle"


def test_an_unknown_actor_is_dead_and_says_so(rig: Rig) -> None:
    rig.registry.subscribe(DRIVER, b"never-was-there.")
    assert rig.last_state().state == DEAD
    assert "no such actor" in rig.last_state().cause


def test_every_state_says_what_callers_must_know_of_the_options(rig: Rig) -> None:
    spec = ActorSpec("Counter", b"class", b"", max_concurrency=8, max_task_retries=3, max_pending_calls=9)
    rig.registry.create(DRIVER, JOB, CreateActor(b"threaded-actor-1", spec))
    rig.registry.subscribe(OTHER, b"threaded-actor-1")
    worker = rig.place(b"threaded-actor-1")
    rig.registry.constructed(worker, ActorConstructed(b"threaded-actor-1", 1))
    rig.registry.kill(b"threaded-actor-1", no_restart=True)
    rig.registry.subscribe(OTHER, b"threaded-actor-1")
    options = [(s.is_ordered, s.max_task_retries, s.max_pending_calls) for s in rig.take(ActorState)]
    assert options == [(False, 3, 9)] * len(options)


def test_who_unsubscribes_hears_nothing_more(rig: Rig) -> None:
    actor, worker = rig.alive()
    rig.registry.unsubscribe(DRIVER, actor)
    rig.registry.worker_died(worker, "killed")
    assert not rig.take(ActorState)
    rig.registry.validate()


def test_an_actor_that_cannot_be_placed_is_dead_with_the_reason(rig: Rig) -> None:
    actor = rig.create()
    rig.registry.unplaceable(actor, "no worker could be started: exit code 1")
    assert rig.take(CreationSettled)[-1].cause == "no worker could be started: exit code 1"


def test_the_last_words_of_a_killed_actor_are_no_error_to_a_registry_that_was_restored() -> None:
    old = Rig()
    actor = old.create()
    worker = old.place(actor)
    old.registry.kill(actor, no_restart=True)
    record, spec = old.registry.table.record(actor), old.registry.table.spec(actor)
    assert record is not None
    assert spec is not None
    registry = ActorRegistry()
    registry.table.restore([record], {actor: spec}, {})
    registry.constructed(worker, ActorConstructed(actor, 1))
    registry.exiting(worker, actor, 1)
    assert not registry.outbox
    registry.validate()


def test_what_cannot_be_is_refused_and_changes_nothing(rig: Rig) -> None:
    actor, worker = rig.alive()
    before = repr(rig.registry)
    spec = ActorSpec("Counter", b"", b"")
    impossible: list[Callable[[], None]] = [
        lambda: rig.registry.create(DRIVER, JOB, CreateActor(actor, spec)),
        lambda: rig.registry.create(DRIVER, JOB, CreateActor(b"another-actor-id", spec, "name")),
        lambda: rig.registry.placed(actor, b"another.", "/w", 0),
        lambda: rig.registry.constructed(worker, ActorConstructed(actor, 1)),
        lambda: rig.registry.constructed(worker, ActorConstructed(actor, 2)),
        lambda: rig.registry.exiting(b"stranger", actor, 1),
    ]
    for call in impossible:
        with pytest.raises(ValueError, match=r"twice|no answer|has a worker|speaks for"):
            call()
    assert repr(rig.registry) == before
    assert not rig.registry.outbox


class Living(RuleBasedStateMachine):
    """Random lives. The model is one small state per actor and the set of names."""

    @initialize()
    def begin(self) -> None:
        self.rig = Rig()
        self.lives: dict[bytes, int] = {}
        self.limit: dict[bytes, int] = {}
        self.deaths: dict[bytes, int] = {}
        self.name: dict[bytes, str] = {}
        self.placing: set[bytes] = set()
        self.worker: dict[bytes, bytes] = {}
        self.constructing: dict[bytes, int] = {}
        self.told: dict[bytes, ActorState] = {}

    def follow(self) -> None:
        for effect in self.rig.registry.outbox:
            if type(effect) is RequestPlacement:
                assert effect.actor not in self.placing
                self.placing.add(effect.actor)
            elif type(effect) is CancelPlacement:
                self.placing.discard(effect.actor)
            elif type(effect) is KillWorker:
                self.worker = {a: w for a, w in self.worker.items() if w != effect.process or self.is_live(a)}
            elif type(effect) is Send and type(effect.message) is ActorState:
                known = self.told.get(effect.message.actor)
                assert known is None or known.state != DEAD, "dead is the last word"
                assert known is None or known.incarnation <= effect.message.incarnation
                self.told[effect.message.actor] = effect.message
        self.rig.registry.outbox.clear()

    def is_live(self, actor: bytes) -> bool:
        return self.lives[actor] != DEAD

    def died(self, actor: bytes) -> None:
        self.lives[actor] = DEAD
        self.name.pop(actor, None)
        self.worker.pop(actor, None)
        self.constructing.pop(actor, None)

    @rule(max_restarts=st.integers(-1, 2), name=st.sampled_from(["", "a", "b"]))
    def create(self, max_restarts: int, name: str) -> None:
        options: dict[str, Any] = {"name": name} if name else {}
        actor = self.rig.create(max_restarts=max_restarts, **options)
        if name:
            (found,) = self.rig.take(ActorFound)
            assert bool(found.error) == (name in self.name.values())
            if found.error:
                self.follow()
                return
            self.name[actor] = name
        self.lives[actor] = PENDING_CREATION
        self.limit[actor] = max_restarts
        self.deaths[actor] = 0
        self.follow()

    @precondition(lambda self: self.placing)
    @rule(data=st.data())
    def place(self, data: st.DataObject) -> None:
        actor = data.draw(st.sampled_from(sorted(self.placing)))
        self.placing.discard(actor)
        worker = self.rig.place(actor)
        if self.is_live(actor):
            self.worker[actor] = worker
            self.constructing[actor] = self.rig.take(ConstructActor)[-1].incarnation
        self.follow()

    @precondition(lambda self: self.constructing)
    @rule(data=st.data(), raises=st.sampled_from([False, False, True]))
    def construct(self, data: st.DataObject, raises: bool) -> None:
        actor = data.draw(st.sampled_from(sorted(self.constructing)))
        incarnation = self.constructing.pop(actor)
        error = Value(3, b"error") if raises else None
        self.rig.registry.constructed(self.worker[actor], ActorConstructed(actor, incarnation, error))
        self.lives[actor] = ALIVE
        if raises:
            self.died(actor)
        self.follow()

    @precondition(lambda self: self.worker)
    @rule(data=st.data(), exits=st.booleans())
    def worker_dies(self, data: st.DataObject, exits: bool) -> None:
        actor = data.draw(st.sampled_from(sorted(self.worker)))
        worker = self.worker.pop(actor)
        exits = exits and self.lives[actor] == ALIVE
        if exits:
            self.rig.registry.exiting(worker, actor, self.told[actor].incarnation)
        self.rig.registry.worker_died(worker, "killed")
        self.constructing.pop(actor, None)
        if exits or self.deaths[actor] == self.limit[actor]:
            self.died(actor)
        else:
            self.deaths[actor] += 1
            self.lives[actor] = RESTARTING
        self.follow()

    @precondition(lambda self: any(state != DEAD for state in self.lives.values()))
    @rule(data=st.data(), by=st.sampled_from(["kill", "handles"]))
    def end(self, data: st.DataObject, by: str) -> None:
        actor = data.draw(st.sampled_from(sorted(a for a in self.lives if self.is_live(a))))
        if by == "kill":
            self.rig.registry.kill(actor, no_restart=True)
        else:
            self.rig.registry.handles_gone(actor)
        self.died(actor)
        self.follow()

    @rule()
    def job_ends(self) -> None:
        self.rig.registry.job_ended(JOB)
        for actor in list(self.lives):
            if self.is_live(actor):
                self.died(actor)
        self.follow()

    @invariant()
    def the_world_was_told_the_truth(self) -> None:
        if not hasattr(self, "rig"):
            return
        self.rig.registry.validate()
        assert sorted(self.name.values()) == [name for _, name in self.rig.registry.names()]
        assert len(set(self.name.values())) == len(self.name), "names are unique"
        for actor, state in self.lives.items():
            assert state == PENDING_CREATION or self.told[actor].state == state
            if state in (PENDING_CREATION, RESTARTING):
                assert (actor in self.placing) != (actor in self.worker), "something is on the way"


Living.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestLiving = Living.TestCase
