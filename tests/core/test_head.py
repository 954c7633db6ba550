"""The head as a machine: nodes join, actors are placed and named, and a head made from its rows goes on."""

from __future__ import annotations

from typing import Any

import pytest

from remora.base.ids import daemon_of, make_object_id, make_process_id
from remora.core.head import Head, Identity
from remora.core.journal import Change
from remora.messages import actors as a
from remora.messages import head as m
from remora.messages import placement_groups as g
from remora.messages.inspection import Jobs, ListJobs
from remora.messages.links import ForProcess, FromProcess
from remora.messages.session import JobEnvironment

ENVIRONMENT = JobEnvironment([], "/", "main.py", "space")
IDENTITY = Identity(cluster=b"cluster", python=(3, 11), first_number=7)
ONE_CPU = {"CPU": 10_000}


class Cluster:
    """A head and what its nodes were sent, with a store of rows that outlives the head."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, bytes], bytes] = {}
        self.head = Head(IDENTITY)
        self.now_s = 100.0
        self.sent: dict[bytes, list[Any]] = {}
        self.calls = 0

    def join(self, name: str = "n", cpus: int = 4, is_head_node: bool = False) -> bytes:
        self.calls += 1
        boot = f"{name}{self.calls}".encode()
        message = m.JoinCluster(
            boot, 1, (3, 11), f"{name}:1", name, 1, {"CPU": cpus * 10_000}, is_head_node=is_head_node
        )
        joined = self.head.join(message, self.now_s)
        assert isinstance(joined, m.Joined)
        self.head.heartbeat_opened(m.HeartbeatHello(joined.node, boot), self.now_s)
        self.sent[joined.node] = []
        self.turn()
        return joined.node

    def boot(self, node: bytes) -> bytes:
        record = self.head.membership.record(node)
        assert record is not None
        return record.boot

    def say(self, node: bytes, *messages: Any) -> None:
        self.head.on_messages(node, list(messages), self.now_s)
        self.turn()

    def turn(self) -> None:
        changes, outbox = self.head.end_turn()
        self.write(changes)
        for effect in outbox:
            self.sent.setdefault(effect.node, []).extend(effect.messages)
        self.head.validate()

    def write(self, changes: list[Change]) -> None:
        for change in changes:
            if change.value is None:
                self.rows.pop((change.kind, change.key), None)
            else:
                self.rows[change.kind, change.key] = change.value

    def restart(self) -> None:
        self.head = Head(IDENTITY)
        self.head.restore([(kind, key, value) for (kind, key), value in self.rows.items()], self.now_s)
        self.head.validate()

    def tick(self, seconds: float, alive: list[bytes]) -> None:
        for _ in range(round(seconds / 0.1)):
            self.now_s += 0.1
            for node in alive:
                self.head.heartbeat(node, m.Heartbeat(1), self.now_s)
            self.head.tick(self.now_s)
            self.turn()

    def take(self, node: bytes, kind: type[Any]) -> list[Any]:
        return [message for message in self.sent[node] if type(message) is kind]


def driver_of(node: bytes) -> bytes:
    return make_process_id(int.from_bytes(node, "big"), 1)


def worker_of(node: bytes, number: int = 10) -> bytes:
    return make_process_id(int.from_bytes(node, "big"), number)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def start_job(cluster: Cluster, node: bytes) -> bytes:
    driver = driver_of(node)
    cluster.say(node, m.JobStarted(driver, ENVIRONMENT, 42, "python main.py"))
    return driver


def create(cluster: Cluster, node: bytes, call: int = 1, max_restarts: int = 0, **options: Any) -> bytes:
    driver = driver_of(node)
    actor = make_object_id(driver, call)  # type: ignore[arg-type]
    resources = options.pop("resources", ONE_CPU)
    spec = a.ActorSpec("Counter", b"class", b"arguments", b"handle", resources=resources, max_restarts=max_restarts)
    cluster.say(node, FromProcess(driver, driver), a.CreateActor(actor, spec, **options))
    return actor


def place(cluster: Cluster, actor: bytes) -> tuple[bytes, bytes]:
    """Let the node that was asked answer; the node and the worker."""
    for node in cluster.sent:
        for message in cluster.take(node, m.PlaceActor):
            if message.actor == actor and cluster.head.membership.is_member(node):
                worker = worker_of(node, 10 + message.attempt)
                cluster.say(node, m.ActorPlaced(actor, message.attempt, worker, f"/w{message.attempt}", 3))
                return node, worker
    raise AssertionError("no node was asked")


def construct(cluster: Cluster, node: bytes, worker: bytes) -> None:
    made = cluster.take(node, a.ConstructActor)[-1]
    cluster.say(node, FromProcess(worker, worker), a.ActorConstructed(made.actor, made.incarnation))


def test_an_actor_is_placed_on_a_node_constructed_there_and_its_creator_hears_of_it(cluster: Cluster) -> None:
    one = cluster.join(is_head_node=True)
    start_job(cluster, one)
    actor = create(cluster, one)
    node, worker = place(cluster, actor)
    construct(cluster, node, worker)
    state = cluster.take(one, a.ActorState)[-1]
    assert (state.state, state.worker, state.address) == (a.ALIVE, worker, "/w1")


def test_an_actor_goes_where_there_is_room_and_waits_when_there_is_none(cluster: Cluster) -> None:
    one = cluster.join(cpus=1, is_head_node=True)
    start_job(cluster, one)
    create(cluster, one, 1)
    waiting = create(cluster, one, 2)
    assert len(cluster.take(one, m.PlaceActor)) == 1
    assert "no room now" in cluster.head.placer.why_waiting(waiting)
    two = cluster.join(cpus=1)
    assert [message.actor for message in cluster.take(two, m.PlaceActor)] == [waiting]


def test_what_an_actor_holds_is_counted_once_though_its_node_told_of_it_before_and_after(cluster: Cluster) -> None:
    one = cluster.join(cpus=3, is_head_node=True)
    start_job(cluster, one)
    actor = create(cluster, one)
    load = m.NodeLoad({"CPU": 30_000}, {"CPU": 20_000})
    cluster.say(one, load)
    place(cluster, actor)
    cluster.say(one, load)
    view = cluster.head.view.get(one)
    assert view is not None
    assert (view.available, view.asked) == ({"CPU": 20_000}, {})


def test_a_node_that_refuses_is_not_asked_again_at_once(cluster: Cluster) -> None:
    one = cluster.join(is_head_node=True)
    start_job(cluster, one)
    actor = create(cluster, one)
    cluster.say(one, m.PlacementRejected(actor, 1, "full"))
    assert len(cluster.take(one, m.PlaceActor)) == 1
    cluster.tick(1.0, [one])
    assert [message.attempt for message in cluster.take(one, m.PlaceActor)] == [1, 2]


def test_a_worker_that_was_found_for_an_attempt_that_is_over_is_ended(cluster: Cluster) -> None:
    one = cluster.join(is_head_node=True)
    driver = start_job(cluster, one)
    actor = create(cluster, one)
    cluster.say(one, FromProcess(driver, driver), a.KillActor(actor))
    assert cluster.take(one, m.CancelPlacement) == [m.CancelPlacement(actor, 1)]
    cluster.say(one, m.ActorPlaced(actor, 1, worker_of(one), "/w", 0))
    assert cluster.take(one, m.KillProcess) == [m.KillProcess(worker_of(one))]


def test_an_actor_whose_node_died_restarts_on_another_one(cluster: Cluster) -> None:
    one = cluster.join(cpus=0, is_head_node=True)
    two = cluster.join(cpus=1)
    start_job(cluster, one)
    actor = create(cluster, one, max_restarts=1)
    node, worker = place(cluster, actor)
    assert node == two
    construct(cluster, two, worker)
    three = cluster.join(cpus=1)
    cluster.head.heartbeat_closed(two, cluster.now_s)
    cluster.tick(1.0, [one, three])
    assert [message.actor for message in cluster.take(three, m.PlaceActor)] == [actor]
    assert [state.state for state in cluster.take(one, a.ActorState)] == [a.ALIVE, a.RESTARTING]
    assert cluster.take(one, m.NodeDead)[0].departure.heir == one


def test_actors_of_a_dead_creator_end_and_detached_ones_do_not(cluster: Cluster) -> None:
    one = cluster.join(cpus=4, is_head_node=True)
    two = cluster.join(cpus=0)
    start_job(cluster, two)
    create(cluster, two, 1)
    detached = create(cluster, two, 2, name="stays", request=1, detached=True, namespace="space")
    cluster.head.heartbeat_closed(two, cluster.now_s)
    cluster.tick(1.0, [one])
    assert [actor.id for actor in cluster.head.registry.actors()] == [detached]
    assert [job.cause != "" for job in cluster.head.jobs.reports()] == [True]


def test_a_head_made_from_what_was_written_down_goes_on(cluster: Cluster) -> None:
    one = cluster.join(is_head_node=True)
    driver = start_job(cluster, one)
    actor = create(cluster, one, name="it", namespace="space", request=9)
    before = repr(cluster.head)
    cluster.restart()
    assert repr(cluster.head) == before.replace(":1>", ":1 not connected>")
    cluster.sent[one].clear()
    again = cluster.head.rejoin(m.Rejoin(one, cluster.boot(one), 0), cluster.now_s)
    assert again[0].received == 2
    assert [type(message) for message in again[1:]] == [ForProcess, a.ActorFound, m.PlaceActor]
    cluster.sent[one] += again
    node, worker = place(cluster, actor)
    construct(cluster, node, worker)
    cluster.restart()
    cluster.head.rejoin(m.Rejoin(one, cluster.boot(one), 4), cluster.now_s)
    cluster.say(one, FromProcess(driver, driver), a.GetActor(10, "it", "space"))
    assert cluster.take(one, a.ActorFound)[-1].actor == actor


def test_what_is_said_to_a_node_in_the_turn_in_which_it_comes_back_is_said_once(cluster: Cluster) -> None:
    one, two = cluster.join(is_head_node=True), cluster.join()
    job = start_job(cluster, one)
    cluster.head.on_messages(one, [m.JobEnded(job, "its driver ended")], cluster.now_s)
    cluster.sent[two] = cluster.head.rejoin(m.Rejoin(two, cluster.boot(two), 0), cluster.now_s)
    cluster.turn()
    assert len(cluster.take(two, m.JobEnded)) == 1


def test_a_node_that_has_not_heard_that_it_joined_is_told_again_what_followed(cluster: Cluster) -> None:
    one = cluster.join(is_head_node=True)
    start_job(cluster, one)
    create(cluster, one, resources={"disk": 1})
    join = m.JoinCluster(b"two", 1, (3, 11), "two:1", "two", 1, {"disk": 1, "CPU": 10_000})
    for _ in range(2):
        joined = cluster.head.join(join, cluster.now_s)
        assert isinstance(joined, m.Joined)
        cluster.sent[joined.node] = []
        cluster.turn()
        assert len(cluster.take(joined.node, m.PlaceActor)) == 1


def test_what_was_confirmed_is_not_kept(cluster: Cluster) -> None:
    one = cluster.join(is_head_node=True)
    start_job(cluster, one)
    create(cluster, one)
    assert any(kind == "said" for kind, _ in cluster.rows)
    cluster.say(one, m.Confirm(1))
    assert not any(kind == "said" for kind, _ in cluster.rows)


def test_another_version_of_python_or_of_the_protocol_is_refused_with_what_to_do(cluster: Cluster) -> None:
    python = cluster.head.join(m.JoinCluster(b"b", 1, (3, 12), "x:1", "x", 1, {}), 0)
    assert isinstance(python, m.JoinRefused)
    assert "start the node with Python 3.11" in python.reason
    protocol = cluster.head.join(m.JoinCluster(b"b", 99, (3, 11), "x:1", "x", 1, {}), 0)
    assert isinstance(protocol, m.JoinRefused)
    assert "same version" in protocol.reason


def test_a_process_that_speaks_nonsense_is_ended_and_its_node_is_not(cluster: Cluster) -> None:
    one = cluster.join(is_head_node=True)
    cluster.say(one, FromProcess(driver_of(one), b""), a.ActorConstructed(bytes(16), 1))
    assert cluster.take(one, m.EndProcess)[0].process == driver_of(one)
    assert cluster.head.membership.is_member(one)


def test_a_head_that_goes_on_after_its_node_has_left_has_no_members_and_no_actors_of_theirs(cluster: Cluster) -> None:
    one, two = cluster.join(is_head_node=True), cluster.join()
    start_job(cluster, two)
    create(cluster, two, name="steady", namespace="space", detached=True, request=1)
    cluster.say(one, m.LeaveCluster("remora stop"))
    cluster.restart()
    cluster.turn()
    assert not cluster.head.membership.views()
    assert not list(cluster.head.links.nodes())
    refused = cluster.head.rejoin(m.Rejoin(two, cluster.boot(two), 0), cluster.now_s)
    assert "the head's node left, which ended the cluster" in refused[0].reason
    three = cluster.join(is_head_node=True)
    cluster.restart()
    assert [view.node for view in cluster.head.membership.views()] == [three]


def leave_as_head_node(cluster: Cluster) -> tuple[bytes, bytes, bytes]:
    """The head's node, which has said that it leaves, and two others that have confirmed all before that."""
    one, two, three = cluster.join(is_head_node=True), cluster.join(), cluster.join()
    cluster.say(one, m.LeaveCluster("remora stop"))
    return one, two, three


def test_the_heads_node_hears_that_it_has_left_when_all_others_have_heard_it(cluster: Cluster) -> None:
    one, two, three = leave_as_head_node(cluster)
    assert [len(cluster.take(node, m.NodeDead)) for node in (one, two, three)] == [0, 1, 1]
    cluster.say(one, m.NodeLoad(ONE_CPU, ONE_CPU))
    assert not cluster.take(one, m.JoinRefused)
    cluster.say(two, m.Confirm(1))
    assert not cluster.take(one, m.NodeDead)
    cluster.head.link_ended(three, cluster.now_s)
    cluster.turn()
    assert [word.departure.is_orderly for word in cluster.take(one, m.NodeDead)] == [True]


def test_the_heads_node_that_leaves_waits_a_second_for_others_that_say_nothing(cluster: Cluster) -> None:
    one, two, three = leave_as_head_node(cluster)
    cluster.tick(0.8, [two, three])
    assert not cluster.take(one, m.NodeDead)
    cluster.tick(0.4, [two, three])
    assert len(cluster.take(one, m.NodeDead)) == 1


def test_a_node_that_leaves_is_told_so_and_its_death_is_orderly(cluster: Cluster) -> None:
    one = cluster.join(is_head_node=True)
    two = cluster.join()
    cluster.say(two, m.LeaveCluster("remora stop"))
    for node in (one, two):
        assert cluster.take(node, m.NodeDead)[0].departure.is_orderly


def test_a_job_that_ends_is_told_to_all_other_nodes_and_listed_with_its_times(cluster: Cluster) -> None:
    one = cluster.join(is_head_node=True)
    two = cluster.join()
    job = start_job(cluster, one)
    cluster.now_s += 5
    cluster.say(one, m.JobEnded(job, "its driver ended"))
    assert cluster.take(two, m.JobEnded) == [m.JobEnded(job, "its driver ended")]
    cluster.say(two, FromProcess(driver_of(two), b""), ListJobs(1))
    (report,) = cluster.take(two, Jobs)[0].jobs
    assert report.ended_s - report.started_s == pytest.approx(5)


def test_a_node_that_joins_hears_of_ended_jobs_whose_detached_actors_live(cluster: Cluster) -> None:
    one = cluster.join(is_head_node=True)
    job = start_job(cluster, one)
    create(cluster, one, 1, name="stays", request=1, detached=True, namespace="space")
    cluster.say(one, m.JobEnded(job, "its driver ended"))
    two = cluster.join()
    assert cluster.take(two, m.JobEnded) == [m.JobEnded(job, "its driver ended")]


def test_an_actor_made_after_the_end_of_its_job_ends_at_once(cluster: Cluster) -> None:
    one = cluster.join(is_head_node=True)
    job = start_job(cluster, one)
    cluster.say(one, m.JobEnded(job, "its driver ended"))
    create(cluster, one)
    assert list(cluster.head.registry.actors()) == []


def test_an_actor_bound_to_a_node_that_is_gone_ends(cluster: Cluster) -> None:
    one = cluster.join(is_head_node=True)
    two = cluster.join()
    start_job(cluster, one)
    cluster.say(two, m.LeaveCluster("done"))
    driver = driver_of(one)
    spec = a.ActorSpec("Counter", b"", b"", strategy=f'{{"node":"{two.hex()}"}}')
    cluster.say(one, FromProcess(driver, driver), a.CreateActor(make_object_id(driver, 5), spec))  # type: ignore[arg-type]
    state = cluster.take(one, a.ActorState)[-1]
    assert state.state == a.DEAD
    assert "no other" in state.cause


def test_a_placement_group_is_reserved_committed_and_outlives_the_head(cluster: Cluster) -> None:
    one = cluster.join(is_head_node=True)
    driver = start_job(cluster, one)
    group = bytes(range(16))
    cluster.say(one, FromProcess(driver, driver), g.CreatePlacementGroup(1, group, [ONE_CPU]))
    cluster.say(one, FromProcess(daemon_of(one), b""), g.WatchPlacementGroup(group))
    (reserve,) = cluster.take(one, g.ReserveBundles)
    cluster.say(one, FromProcess(daemon_of(one), b""), g.BundlesAnswer(group, reserve.attempt, g.RESERVED))
    cluster.restart()
    cluster.head.rejoin(m.Rejoin(one, cluster.boot(one), 0), cluster.now_s)
    cluster.say(one, FromProcess(daemon_of(one), b""), g.BundlesAnswer(group, reserve.attempt, g.COMMITTED))
    assert cluster.take(one, g.PlacementGroupState)[-1].state == g.CREATED
    cluster.say(one, m.JobEnded(driver, "done"))
    assert cluster.take(one, g.PlacementGroupState)[-1].state == g.REMOVED
    assert not [kind for kind, _ in cluster.rows if kind in ("placement_group", "group_watchers")]


def test_a_cluster_that_is_started_again_from_its_state_has_its_names_and_its_detached_actors(cluster: Cluster) -> None:
    old = cluster.join(is_head_node=True)
    start_job(cluster, old)
    actor = create(cluster, old, max_restarts=-1, name="stays", namespace="space", request=1, detached=True)
    node, worker = place(cluster, actor)
    construct(cluster, node, worker)
    lost = create(cluster, old, 2, name="goes", namespace="space", request=2)
    cluster.restart()
    cluster.sent.clear()
    new = cluster.join(is_head_node=True)
    assert [departure.node for departure in cluster.head.membership.departures()] == [old]
    node, worker = place(cluster, actor)
    assert node == new
    construct(cluster, new, worker)
    cluster.say(new, FromProcess(driver_of(new), b""), a.ListActors(1, "space"))
    assert cluster.take(new, a.ActorNames)[0].names == [("space", "stays")]
    cluster.say(new, FromProcess(driver_of(new), b""), a.SubscribeActor(lost))
    assert "started again" in cluster.take(new, a.ActorState)[-1].cause
