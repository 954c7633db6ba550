"""Which node's worker a request gets: room, strategies, refusals, deaths, and what is said of it."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from lease_cluster import ONE, LeaseCluster, driver, node_id

from remora.base.bundle_names import in_group
from remora.base.ids import node_of
from remora.base.resources import Resources
from remora.base.scheduling import IN, LabelCondition, Strategy
from remora.core.lease import ActorDelayed, ActorPlaced, ActorUnplaceable
from remora.core.leases import PATIENCE_S
from remora.core.routed_requests import RETRY_S, ToNode
from remora.core.worker_pool import StopWorker
from remora.messages.leases import (
    MAX_LEASES_ASKED,
    RUNNING_UNKNOWN,
    CancelRequest,
    KillLeased,
    LeaseDelayed,
    LeaseGranted,
    ReclaimLease,
    RequestLease,
)
from remora.messages.links import LeaseRejected, ProcessGone

NOTHING = Resources()
TWO = Resources.of(num_cpus=2)
GPU = Resources.of(num_cpus=1, num_gpus=1)
DRIVER = driver(1)


def on_node(number: int, soft: bool = False) -> str:
    return Strategy(node=node_id(number).hex(), soft=soft).encode()


def requests_sent(cluster: LeaseCluster) -> list[tuple[int, int]]:
    """To which node, for how many."""
    return [
        (int.from_bytes(effect.node, "big"), effect.message.count)
        for effect in cluster.sent
        if isinstance(effect.message, RequestLease)
    ]


def two_busy_nodes() -> LeaseCluster:
    """Node 1 can run nothing; nodes 2 and 3 have one CPU each, which their own drivers hold, and all know that."""
    cluster = LeaseCluster(NOTHING, ONE, ONE)
    cluster.request(driver(2))
    cluster.request(driver(3))
    cluster.run()
    cluster.tell_all()
    return cluster


def node_gets_room(cluster: LeaseCluster, number: int) -> None:
    """Its driver gives a lease back, and all hear of that."""
    cluster.give_back(next(lease for lease, (holder, _) in cluster.held.items() if holder == driver(number)))
    cluster.tell_all()


def test_without_other_nodes_everything_is_the_tables_business() -> None:
    cluster = LeaseCluster(TWO)
    cluster.request(DRIVER, count=5)
    cluster.run()
    assert cluster.nodes_of_grants() == [1, 1]
    assert cluster.nodes[node_id(1)].table.queued(DRIVER, 1) == 3
    assert not cluster.sent


@pytest.mark.parametrize("count", [-1, 0, MAX_LEASES_ASKED + 1, 2**64 - 1])
@pytest.mark.parametrize("process", [driver(1), driver(2)], ids=["here", "elsewhere"])
def test_a_request_for_workers_without_number_is_refused_before_it_is_begun(process: bytes, count: int) -> None:
    node = LeaseCluster(TWO, TWO).nodes[node_id(1)]
    request = RequestLease(1, {}, count=count)
    ask = node.router.request if node_of(process) == node.node else node.router.from_process
    with pytest.raises(ValueError, match="one request is for"):
        ask(process, process, request, now_s=0.0)
    assert not node.router.outbox
    assert not node.table.leases()


def test_this_node_comes_first_and_the_rest_goes_where_there_is_room() -> None:
    cluster = LeaseCluster(TWO, TWO, ONE)
    cluster.request(DRIVER, count=4)
    cluster.run()
    assert cluster.nodes_of_grants() == [1, 1, 2, 2] or cluster.nodes_of_grants() == [1, 1, 2, 3]
    cluster.request(DRIVER, count=3)
    cluster.run()
    assert cluster.nodes_of_grants() == [1, 1, 2, 2, 3]
    assert cluster.nodes[node_id(1)].table.queued(DRIVER, 2) == 2, "what has no room waits here"


def test_one_message_asks_a_node_for_all_it_has_room_for() -> None:
    cluster = LeaseCluster(NOTHING, Resources.of(num_cpus=8))
    cluster.request(DRIVER, count=6)
    assert requests_sent(cluster) == [(2, 6)]


def test_a_worker_of_another_node_is_returned_there() -> None:
    cluster = LeaseCluster(NOTHING, ONE)
    cluster.request(DRIVER)
    cluster.run()
    ((_, grant),) = cluster.take()
    assert grant.lease >> 32 == 2
    assert grant.address == "host-2:7000", "of its daemon: sockets of workers are on their own nodes"
    cluster.give_back(grant.lease)
    cluster.run()
    assert cluster.nodes[node_id(2)].is_idle
    assert not list(cluster.nodes[node_id(1)].router.remote_leases())


@pytest.mark.parametrize("place", [1, 2])
def test_a_holder_has_its_worker_killed_wherever_it_is_and_hears_of_its_end(place: int) -> None:
    cluster = LeaseCluster(*((ONE, NOTHING) if place == 1 else (NOTHING, ONE)))
    cluster.request(DRIVER)
    cluster.run()
    ((_, grant),) = cluster.take()
    here, there = cluster.nodes[node_id(1)], cluster.nodes[node_id(place)]
    here.router.kill(DRIVER, KillLeased(grant.lease), cluster.now_s)
    effects = here.router.outbox
    if place == 2:
        (effect,) = [effect for effect in effects if isinstance(effect, ToNode)]
        assert effect.node == node_id(2)
        there.router.from_process(DRIVER, DRIVER, effect.message, cluster.now_s)
    (stop,) = [effect for effect in there.router.outbox if isinstance(effect, StopWorker)]
    assert (stop.process, stop.force) == (grant.worker, True)
    assert [lease.number for lease in there.table.leases()] == [grant.lease], "until its death is reported"


def test_nobody_has_the_worker_of_another_killed() -> None:
    cluster = LeaseCluster(ONE)
    cluster.request(DRIVER)
    cluster.run()
    ((_, grant),) = cluster.take()
    router = cluster.nodes[node_id(1)].router
    with pytest.raises(ValueError, match="wants the worker of"):
        router.kill(driver(1, 2), KillLeased(grant.lease), cluster.now_s)
    cluster.give_back(grant.lease)
    cluster.run()
    router.kill(DRIVER, KillLeased(grant.lease), cluster.now_s)
    assert not router.outbox, "it was returned meanwhile"


def test_room_that_was_returned_is_used_before_the_next_report() -> None:
    cluster = LeaseCluster(NOTHING, ONE)
    first = cluster.request(DRIVER)
    second = cluster.request(DRIVER)
    cluster.run()
    ((_, grant),) = cluster.take()
    assert grant.request == first
    cluster.give_back(grant.lease)
    cluster.run()
    ((_, grant),) = cluster.take()
    assert grant.request == second


def test_what_a_report_has_counted_is_not_counted_again_when_it_is_granted() -> None:
    cluster = LeaseCluster(ONE, TWO)
    cluster.request(DRIVER, count=2)
    cluster.deliver(node_id(1), node_id(2))
    cluster.tell_all()
    cluster.run()
    assert cluster.nodes_of_grants() == [1, 2]
    cluster.request(DRIVER)
    cluster.run()
    assert cluster.nodes_of_grants() == [1, 2, 2], "node 2 has nothing new to report, and has room"


def test_large_arguments_draw_a_task_to_their_node() -> None:
    cluster = LeaseCluster(TWO, TWO)
    cluster.request(DRIVER, arguments={node_id(2): 5_000_000})
    cluster.request(DRIVER, arguments={node_id(2): 5_000})
    cluster.run()
    assert [(grant.request, node_of(grant.worker)[-1]) for _, grant in cluster.take()] == [(2, 1), (1, 2)]


def test_a_refusal_sends_the_request_elsewhere_and_never_back_before_there_is_news() -> None:
    cluster = LeaseCluster(NOTHING, ONE, ONE)
    second = driver(2)
    cluster.request(second)
    cluster.request(driver(3))
    cluster.run()
    number = cluster.request(DRIVER)
    assert len(requests_sent(cluster)) == 1, "the view of node 1 says that both have room"
    cluster.run()
    assert sorted(requests_sent(cluster)) == [(2, 1), (3, 1)]
    for _ in range(5):
        cluster.tick(0.01)
        cluster.run()
    assert len(requests_sent(cluster)) == 2
    cluster.give_back(next(lease for lease, (holder, _) in cluster.held.items() if holder == second))
    cluster.tell_all()
    cluster.run()
    assert cluster.wanted[DRIVER, number] == 0
    assert len(requests_sent(cluster)) == 3


def test_a_node_that_is_silent_is_asked_again_after_a_while() -> None:
    cluster = LeaseCluster(NOTHING, ONE)
    cluster.request(driver(2))
    cluster.run()
    number = cluster.request(DRIVER)
    cluster.run()
    cluster.give_back(min(cluster.held))
    cluster.tick(RETRY_S)
    cluster.run()
    assert cluster.wanted[DRIVER, number] == 0, "the view never changed: the room came and went between two reports"


def test_what_waits_here_moves_to_a_node_that_gets_room() -> None:
    cluster = LeaseCluster(ONE, ONE)
    cluster.request(DRIVER)
    cluster.request(driver(2))
    cluster.run()
    cluster.tell_all()
    number = cluster.request(DRIVER)
    cluster.run()
    assert cluster.nodes[node_id(1)].table.queued(DRIVER, number) == 1
    node_gets_room(cluster, 2)
    cluster.run()
    assert cluster.wanted[DRIVER, number] == 0
    assert cluster.nodes_of_grants() == [1, 2]
    assert not list(cluster.nodes[node_id(1)].router._placer.requests())


def test_a_request_that_only_busy_nodes_can_run_takes_its_turn_there() -> None:
    cluster = LeaseCluster(NOTHING, ONE)
    local = driver(2)
    cluster.request(local, count=100)
    cluster.run()
    cluster.tell_all()
    number = cluster.request(DRIVER)
    cluster.run()
    assert not requests_sent(cluster)
    cluster.tick(0.2)
    cluster.run()
    assert requests_sent(cluster) == [(2, 1)]
    cluster.tick(0.01)
    cluster.run()
    assert cluster.reclaimed, "the one who holds the worker is asked for it"
    cluster.give_back(min(cluster.held))
    cluster.run()
    assert cluster.wanted[DRIVER, number] == 0, "its turn comes before the 99 others of the one who was served last"


def test_who_takes_turns_at_a_busy_node_is_called_back_when_another_has_room() -> None:
    cluster = two_busy_nodes()
    number = cluster.request(DRIVER)
    cluster.tick(0.2)
    cluster.run()
    ((asked, _),) = requests_sent(cluster)
    node_gets_room(cluster, 3 if asked == 2 else 2)
    cluster.run()
    assert cluster.wanted[DRIVER, number] == 0
    assert any(isinstance(effect.message, CancelRequest) for effect in cluster.sent)


def test_who_takes_turns_is_called_back_once() -> None:
    cluster = two_busy_nodes()
    cluster.request(DRIVER)
    cluster.tick(0.2)
    ((asked, _),) = requests_sent(cluster)
    node_gets_room(cluster, 3 if asked == 2 else 2)
    cluster.tell_all()
    assert len([effect for effect in cluster.sent if isinstance(effect.message, CancelRequest)]) == 1


def test_turns_at_a_busy_node_end_after_a_while_and_another_one_is_tried() -> None:
    cluster = two_busy_nodes()
    cluster.request(DRIVER)
    cluster.tick(0.2)
    cluster.run()
    cluster.tick(PATIENCE_S - 0.1)
    cluster.run()
    assert len(requests_sent(cluster)) == 1
    cluster.tick(0.2)
    cluster.run()
    cluster.tick(0.1)
    cluster.run()
    assert sorted(requests_sent(cluster)) == [(2, 1), (3, 1)]


def test_a_node_where_a_request_takes_its_turn_is_not_asked_again_by_a_stale_report() -> None:
    cluster = LeaseCluster(NOTHING, TWO)
    cluster.tell(node_id(2))
    cluster.request(driver(2), TWO)
    cluster.run()
    stale = cluster.news[node_id(1)].popleft()
    cluster.tell_all()
    cluster.request(DRIVER, count=2)
    cluster.request(DRIVER)
    cluster.tick(0.2)
    cluster.run()
    cluster.news[node_id(1)].append(stale)
    cluster.hear(node_id(1))
    cluster.run()
    assert sorted(requests_sent(cluster)) == [(2, 1), (2, 2)]


def test_a_request_that_waits_here_for_actors_to_end_takes_its_turn_elsewhere() -> None:
    cluster = LeaseCluster(ONE, ONE)
    home = cluster.nodes[node_id(1)]
    home.table.request_actor(b"actor-00" * 2, cluster.job_of(DRIVER), ONE, ONE, now_s=cluster.now_s)
    cluster.carry_out(home.node)
    cluster.request(driver(2), count=10)
    cluster.run()
    cluster.tell_all()
    number = cluster.request(DRIVER)
    cluster.tick(0.2)
    cluster.run()
    assert home.table.queued(DRIVER, number) == 0
    cluster.give_back(min(cluster.held))
    cluster.run()
    assert cluster.wanted[DRIVER, number] == 0


def test_spread_takes_the_nodes_in_turn() -> None:
    cluster = LeaseCluster(TWO, TWO, TWO)
    for _ in range(3):
        cluster.request(DRIVER, strategy="SPREAD")
        cluster.run()
    assert cluster.nodes_of_grants() == [1, 2, 3]


def test_hard_affinity_waits_for_its_node_and_for_no_other() -> None:
    cluster = LeaseCluster(ONE, ONE)
    cluster.request(driver(2))
    cluster.run()
    cluster.tell_all()
    number = cluster.request(DRIVER, strategy=on_node(2))
    cluster.tick(0.2)
    cluster.run()
    assert cluster.nodes[node_id(1)].table.queued(DRIVER, number) == 0
    cluster.give_back(min(cluster.held))
    cluster.run()
    assert cluster.nodes_of_grants() == [2]


@pytest.mark.parametrize("soft", [False, True])
def test_affinity_to_a_node_that_dies_fails_or_goes_elsewhere(soft: bool) -> None:
    cluster = LeaseCluster(ONE, ONE)
    cluster.request(driver(2))
    cluster.run()
    cluster.tell_all()
    number = cluster.request(DRIVER, strategy=on_node(2, soft))
    cluster.node_dies(node_id(2))
    cluster.hear(node_id(1))
    cluster.run()
    if soft:
        assert cluster.wanted[DRIVER, number] == 0
    else:
        ((_, failed),) = cluster.failed
        assert "asks for node 00000002 and no other" in failed.reason
        assert "node 00000002 (host-2:7000) is gone: silent for 5 s" in failed.reason


def test_affinity_to_a_node_that_was_never_there_fails_when_news_of_it_is_late() -> None:
    cluster = LeaseCluster(ONE)
    cluster.request(DRIVER, strategy=on_node(9))
    cluster.tick(0.5)
    assert not cluster.failed
    cluster.tick(0.6)
    ((_, failed),) = cluster.failed
    assert "there is no such node in the cluster" in failed.reason
    assert not cluster.nodes[node_id(1)].router.has_periodic_work


def test_labels_keep_a_request_from_this_node() -> None:
    cluster = LeaseCluster(ONE, ONE, labels={2: {"region": "us"}})
    us = Strategy(labels=(LabelCondition("region", IN, ("us",)),)).encode()
    cluster.request(DRIVER, count=2, strategy=us)
    cluster.run()
    assert cluster.nodes_of_grants() == [2]
    (waiting,) = cluster.nodes[node_id(1)].router.waiting(cluster.now_s)
    assert (waiting.count, waiting.resources) == (1, {"CPU": 1.0})
    assert "no room now" in waiting.reason


def test_what_no_node_has_is_said_once_and_granted_when_a_node_joins() -> None:
    cluster = LeaseCluster(ONE, TWO)
    number = cluster.request(DRIVER, GPU)
    for _ in range(30):
        cluster.tick(0.1)
    (delayed,) = [one for one in cluster.other if isinstance(one, LeaseDelayed)]
    assert delayed.reason == "no node has any 'GPU'; it waits until a node that has it joins"
    (waiting,) = cluster.nodes[node_id(1)].router.waiting(cluster.now_s)
    assert "no node has any 'GPU'" in waiting.reason
    assert cluster.nodes[node_id(1)].router.demand() == [(dict(GPU.units), 1)]
    cluster.add_node(GPU)
    cluster.tell_all()
    cluster.run()
    assert cluster.wanted[DRIVER, number] == 0


def test_the_death_of_a_node_breaks_its_leases_and_asks_others_for_what_it_had_not_answered() -> None:
    cluster = LeaseCluster(NOTHING, ONE, ONE)
    cluster.request(DRIVER)
    cluster.run()
    ((_, grant),) = cluster.take()
    dead = node_of(grant.worker)
    cluster.node_dies(dead)
    number = cluster.request(DRIVER)
    cluster.hear(node_id(1))
    cluster.run()
    ((_, broken),) = cluster.broken
    assert (broken.lease, broken.worker, broken.running) == (grant.lease, grant.worker, RUNNING_UNKNOWN)
    assert broken.cause.endswith("died: silent for 5 s")
    assert cluster.wanted[DRIVER, number] == 0


def test_the_death_of_a_requesters_node_frees_what_it_held_here() -> None:
    cluster = LeaseCluster(NOTHING, TWO)
    cluster.request(DRIVER, count=5)
    cluster.run()
    cluster.node_dies(node_id(1))
    cluster.hear(node_id(2))
    while cluster.ended:
        cluster.worker_ended(cluster.ended.popleft())
    assert cluster.nodes[node_id(2)].is_idle


def test_the_end_of_a_process_frees_what_it_held_elsewhere_also_what_was_on_its_way() -> None:
    cluster = LeaseCluster(NOTHING, TWO)
    cluster.request(DRIVER, count=2)
    cluster.deliver(node_id(1), node_id(2))
    cluster.start_worker(node_id(2))
    cluster.process_gone(DRIVER)
    cluster.run()
    while cluster.ended:
        cluster.worker_ended(cluster.ended.popleft())
    assert not cluster.held
    assert cluster.nodes[node_id(2)].is_idle


def test_a_cancelled_request_is_taken_back_everywhere() -> None:
    cluster = LeaseCluster(ONE, ONE)
    number = cluster.request(DRIVER, count=4)
    cluster.cancel(DRIVER, number)
    cluster.run()
    assert not cluster.held
    assert all(node.is_idle for node in cluster.nodes.values())


def test_workers_of_other_nodes_are_asked_back_for_those_who_starve_there() -> None:
    cluster = LeaseCluster(NOTHING, ONE)
    cluster.request(DRIVER)
    cluster.run()
    cluster.now_s += 1
    cluster.request(driver(2))
    cluster.run()
    ((_, grant),) = cluster.take()
    assert cluster.reclaimed == {grant.lease}
    assert any(isinstance(effect.message, ReclaimLease) for effect in cluster.sent)


def test_a_worker_that_dies_elsewhere_is_told_with_what_it_ran() -> None:
    cluster = LeaseCluster(NOTHING, ONE)
    cluster.request(DRIVER)
    cluster.run()
    ((_, grant),) = cluster.take()
    cluster.worker_died(grant.worker, running=b"task-id.....")
    cluster.run()
    ((_, broken),) = cluster.broken
    assert broken.running == b"task-id....."


def test_a_node_that_starts_no_workers_is_left_out_and_the_last_one_says_why() -> None:
    cluster = LeaseCluster(NOTHING, ONE, ONE)
    cluster.request(DRIVER)
    for _ in range(2):
        for link in [link for link, messages in cluster.links.items() if messages]:
            cluster.deliver(*link)
        (node,) = [node for node in cluster.nodes.values() if node.starting]
        while node.starting:
            cluster.worker_fails(node.node)
        for link in [link for link, messages in cluster.links.items() if messages]:
            cluster.deliver(*link)
    assert sorted(requests_sent(cluster)) == [(2, 1), (3, 1)]
    ((_, failed),) = cluster.failed
    assert failed.reason == "no worker could be started: exit code 1"


def test_a_request_whose_own_node_starts_no_workers_goes_elsewhere_or_fails() -> None:
    for totals in ([ONE], [ONE, ONE]):
        cluster = LeaseCluster(*totals)
        cluster.request(DRIVER)
        while cluster.nodes[node_id(1)].starting:
            cluster.worker_fails(node_id(1))
        cluster.run()
        assert [failed.reason for _, failed in cluster.failed] == (
            ["no worker could be started: exit code 1"] if len(totals) == 1 else []
        )
        assert cluster.nodes_of_grants() == ([] if len(totals) == 1 else [2])


def test_a_request_in_a_placement_group_that_is_gone_fails_wherever_it_waits() -> None:
    group = b"group-id" * 2
    cluster = LeaseCluster(NOTHING, ONE)
    bundles = cluster.nodes[node_id(2)].table.bundles
    assert bundles.reserve(group, 1, {0: ONE})
    assert bundles.commit(group, 1)
    cluster.tell_all()
    cluster.request(DRIVER, in_group(ONE, group))
    cluster.deliver(node_id(1), node_id(2))
    cluster.nodes[node_id(2)].router.group_removed(group, "it was removed", cluster.now_s)
    cluster.carry_out(node_id(2))
    cluster.run()
    ((_, failed),) = cluster.failed
    assert failed.is_group_removed


def test_a_worker_with_workers_of_other_nodes_is_a_submitter() -> None:
    cluster = LeaseCluster(ONE, TWO)
    cluster.request(DRIVER)
    cluster.run()
    ((_, grant),) = cluster.take()
    cluster.request(grant.worker, TWO)
    cluster.run()
    is_submitter = cluster.nodes[node_id(1)].table.is_submitter
    assert is_submitter(grant.worker)
    assert not is_submitter(driver(1, 9))


def test_what_a_process_asked_other_nodes_for_outlives_its_job_but_not_the_process() -> None:
    cluster = LeaseCluster(NOTHING, ONE)
    cluster.request(DRIVER, count=3)
    router = cluster.nodes[node_id(1)].router
    router.job_ended(cluster.job_of(DRIVER), cluster.now_s)
    assert router.demand()  # a detached actor goes on
    router.process_gone(DRIVER, cluster.now_s)
    cluster.carry_out(node_id(1))
    assert any(isinstance(effect.message, ProcessGone) for effect in cluster.sent)
    assert not router.demand()


def test_an_actor_that_is_cancelled_waits_no_more() -> None:
    cluster = LeaseCluster(ONE)
    node = cluster.nodes[node_id(1)]
    us = Strategy(labels=(LabelCondition("region", IN, ("us",)),)).encode()
    node.router.actors.request(b"actor-00" * 2, cluster.job_of(DRIVER), NOTHING, ONE, us, now_s=cluster.now_s)
    assert len(node.router.waiting(cluster.now_s)) == 1
    node.router.actors.cancel(b"actor-00" * 2, cluster.now_s)
    assert not node.router.waiting(cluster.now_s)
    assert not node.router.has_periodic_work


def test_an_actor_whose_strategy_this_node_does_not_meet_waits_or_cannot_be_placed() -> None:
    cluster = LeaseCluster(ONE)
    node = cluster.nodes[node_id(1)]
    job = cluster.job_of(DRIVER)
    us = Strategy(labels=(LabelCondition("region", IN, ("us",)),)).encode()
    for number, strategy in enumerate([us, on_node(9), on_node(1)]):
        node.router.actors.request(bytes([number]) * 16, job, NOTHING, ONE, strategy, now_s=cluster.now_s)
    cluster.carry_out(node.node)
    cluster.run()
    cluster.tick(1.1)
    delayed, placed, unplaceable = sorted(cluster.other, key=lambda one: str(type(one)))
    assert isinstance(placed, ActorPlaced)
    assert placed.actor == b"\2" * 16
    assert isinstance(delayed, ActorDelayed)
    assert "no node has a label region in (us)" in delayed.reason
    assert isinstance(unplaceable, ActorUnplaceable)
    assert "there is no such node" in unplaceable.reason


@pytest.mark.parametrize("lease", [5 << 32 | 1, -1, 1 << 64, 1 << 32 | 7])
def test_the_return_of_a_lease_that_was_never_granted_is_refused(lease: int) -> None:
    cluster = LeaseCluster(TWO, TWO)
    cluster.request(DRIVER)
    cluster.run()
    with pytest.raises(ValueError, match="never"):
        cluster.nodes[node_id(1)].router.returned(DRIVER, [lease], cluster.now_s)


def test_a_wrong_request_changes_nothing() -> None:
    cluster = LeaseCluster(TWO, TWO)
    router = cluster.nodes[node_id(1)].router
    number = cluster.request(DRIVER, count=9)
    before = repr(router)
    for message in (RequestLease(number, {}), RequestLease(99, {}, count=0), RequestLease(99, {}, "{}x")):
        with pytest.raises(ValueError, match=r"twice|0 leases|no scheduling strategy"):
            router.request(DRIVER, DRIVER, message, now_s=cluster.now_s)
    assert repr(router) == before


def test_late_words_of_a_dead_node_change_nothing() -> None:
    cluster = LeaseCluster(NOTHING, ONE, ONE)
    number = cluster.request(DRIVER)
    router = cluster.nodes[node_id(1)].router
    ((asked, _),) = requests_sent(cluster)
    dead = node_id(asked)
    cluster.node_dies(dead)
    cluster.hear(node_id(1))
    before = repr(router)
    worker = driver(asked, 7)
    router.for_process(dead, DRIVER, LeaseGranted(number, asked << 32 | 1, worker, "host:1", 0), cluster.now_s)
    router.rejected(dead, LeaseRejected(DRIVER, number, 1), cluster.now_s)
    router.from_process(worker, DRIVER, RequestLease(1, dict(ONE.units)), cluster.now_s)
    assert repr(router) == before
    assert not router.outbox


class Routing(RuleBasedStateMachine):
    """Random days of a cluster; `LeaseCluster` judges every step, and the end."""

    @initialize(
        cpus=st.lists(st.integers(0, 2), min_size=2, max_size=4),
        gpu=st.booleans(),
    )
    def begin(self, cpus: list[int], gpu: bool) -> None:
        totals = [Resources.of(num_cpus=count) for count in cpus]
        if gpu:
            totals[-1] = totals[-1] + Resources.of(num_gpus=1)
        self.cluster = LeaseCluster(*totals, labels={1: {"half": "a"}, 2: {"half": "b"}})
        self.second_is_there = True

    def pick(self, data: st.DataObject, things: list) -> object:  # type: ignore[type-arg]
        return things[data.draw(st.integers(0, len(things) - 1))]

    def submitters(self) -> list[bytes]:
        cluster = self.cluster
        found = [driver(int.from_bytes(node, "big")) for node in cluster.nodes]
        found += [driver(1, 2)] if self.second_is_there and node_id(1) in cluster.nodes else []
        return found + self.workers()

    def workers(self) -> list[bytes]:
        """Leased ones that live; their holders may not have heard yet that others do not."""
        cluster = self.cluster
        workers = [grant.worker for _, grant in cluster.held.values()]
        return [one for one in workers if node_of(one) in cluster.nodes and one not in cluster.gone]

    @rule(
        data=st.data(),
        cpus=st.sampled_from([0, 0.5, 1, 1, 2]),
        gpus=st.sampled_from([0, 0, 0, 1]),
        count=st.integers(1, 5),
        strategy=st.sampled_from(
            [
                "",
                "",
                "",
                "SPREAD",
                on_node(2),
                on_node(2, soft=True),
                Strategy(labels=(LabelCondition("half", IN, ("a",)),)).encode(),
                Strategy(preferred=(LabelCondition("half", IN, ("b",)),)).encode(),
            ]
        ),
        arguments=st.dictionaries(st.integers(1, 4).map(node_id), st.sampled_from([10, 2_000_000]), max_size=2),
    )
    def request(
        self,
        data: st.DataObject,
        cpus: float,
        gpus: int,
        count: int,
        strategy: str,
        arguments: dict[bytes, int],
    ) -> None:
        process = self.pick(data, self.submitters())
        need = Resources.of(num_cpus=cpus, num_gpus=gpus)
        self.cluster.request(process, need, count, strategy, arguments=arguments)  # type: ignore[arg-type]

    @precondition(lambda self: +self.cluster.wanted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.cluster.cancel(*self.pick(data, sorted(+self.cluster.wanted)))  # type: ignore[misc]

    @precondition(lambda self: any(self.cluster.links.values()))
    @rule(data=st.data(), count=st.integers(1, 4))
    def deliver(self, data: st.DataObject, count: int) -> None:
        for _ in range(count):
            links = sorted(link for link, messages in self.cluster.links.items() if messages)
            if links:
                self.cluster.deliver(*self.pick(data, links))  # type: ignore[misc]

    @precondition(lambda self: any(node.starting for node in self.cluster.nodes.values()))
    @rule(data=st.data(), fails=st.sampled_from([False, False, False, True]))
    def start_worker(self, data: st.DataObject, fails: bool) -> None:
        node = self.pick(data, [node.node for node in self.cluster.nodes.values() if node.starting])
        (self.cluster.worker_fails if fails else self.cluster.start_worker)(node)  # type: ignore[arg-type]

    @precondition(lambda self: self.cluster.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        self.cluster.give_back(self.pick(data, sorted(self.cluster.held)))  # type: ignore[arg-type]

    @precondition(lambda self: self.cluster.reclaimed)
    @rule()
    def give_back_what_is_reclaimed(self) -> None:
        self.cluster.give_back(min(self.cluster.reclaimed))

    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        self.cluster.tell(self.pick(data, sorted(self.cluster.nodes)))  # type: ignore[arg-type]

    @precondition(lambda self: any(self.cluster.news[node] for node in self.cluster.nodes))
    @rule(data=st.data())
    def hear(self, data: st.DataObject) -> None:
        cluster = self.cluster
        cluster.hear(self.pick(data, [node for node in cluster.nodes if cluster.news[node]]))  # type: ignore[arg-type]

    @precondition(lambda self: self.cluster.held)
    @rule(data=st.data())
    def kill_worker(self, data: st.DataObject) -> None:
        workers = self.workers()
        if workers:
            self.cluster.worker_died(self.pick(data, workers))  # type: ignore[arg-type]

    @precondition(lambda self: self.second_is_there and node_id(1) in self.cluster.nodes)
    @rule()
    def kill_driver(self) -> None:
        self.second_is_there = False
        self.cluster.process_gone(driver(1, 2))

    @precondition(lambda self: len(self.cluster.nodes) > 1)
    @rule(data=st.data())
    def kill_node(self, data: st.DataObject) -> None:
        self.cluster.node_dies(self.pick(data, sorted(self.cluster.nodes)))  # type: ignore[arg-type]

    @precondition(lambda self: self.cluster.ended)
    @rule()
    def orphan_ends(self) -> None:
        self.cluster.worker_ended(self.cluster.ended.popleft())

    @rule(passed_s=st.sampled_from([0.01, 0.2, 1.0, 12.0]))
    def tick(self, passed_s: float) -> None:
        self.cluster.tick(passed_s)

    @invariant()
    def routers_agree_with_their_tables(self) -> None:
        if hasattr(self, "cluster"):
            for node in self.cluster.nodes.values():
                node.router.validate()

    def teardown(self) -> None:
        """Every request that some node could grant is granted, and in the end nothing is in use."""
        if not hasattr(self, "cluster"):
            return
        cluster = self.cluster
        cluster.settle_all()
        for number in [number for number in cluster.wanted if cluster.wanted[number]]:
            cluster.cancel(*number)
        cluster.run()
        while cluster.ended:
            cluster.worker_ended(cluster.ended.popleft())
        for node in cluster.nodes.values():
            assert node.is_idle, f"{node.router!r} has something in use"
            assert not list(node.router._placer.requests())
            assert not list(node.router.remote_leases())


Routing.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestRouting = Routing.TestCase
