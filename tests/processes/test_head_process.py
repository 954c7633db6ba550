"""The head as a process: nodes join over real sockets, it is killed and loses nothing, nodes die and all hear of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic

import msgspec
import pytest
from head_rig import STORE_BYTES, HeadRig

from remora.base.credentials import ClusterCredentials
from remora.base.ids import make_object_id
from remora.messages import actors as a
from remora.messages import key_value as k
from remora.messages.inspection import GetNodes, Jobs, ListJobs, Nodes
from remora.processes.daemon.head_link import HeadLink, JoinError
from remora.processes.head.keeper import HeadStartError
from remora.system.certificates import create_credentials
from remora.system.process_control import open_pidfd, wait_ended


@pytest.fixture
def credentials(tmp_path: Path) -> ClusterCredentials:
    return create_credentials(str(tmp_path / "secrets"), encrypt=False)


@pytest.fixture
def rig(tmp_path: Path, credentials: ClusterCredentials) -> Iterator[HeadRig]:
    rig = HeadRig(str(tmp_path), credentials)
    rig.keeper.start()
    yield rig
    rig.close()


def test_nodes_join_within_a_second_and_know_each_other(rig: HeadRig) -> None:
    one = rig.join()
    started_s = monotonic()
    two = rig.join()
    assert monotonic() - started_s < 1
    assert set(two.members) == {one.node, two.node}
    rig.until(lambda: two.node in one.members, "the first node does not hear of the second")
    assert int.from_bytes(two.node, "big") == int.from_bytes(one.node, "big") + 1


def test_a_cluster_that_encrypts_gives_its_certificate_to_those_who_join(tmp_path: Path) -> None:
    credentials = create_credentials(str(tmp_path / "secrets"))
    rig = HeadRig(str(tmp_path), credentials)
    rig.keeper.start()
    try:
        node = rig.join()
        joined = node.joined
        assert joined is not None
        assert joined.certificate == Path(credentials.certificate_path).read_bytes()
        assert joined.key == Path(credentials.key_path).read_bytes()
        node.start_job()
        node.wait_state(node.create(), a.ALIVE)
    finally:
        rig.close()


def test_an_actor_of_one_node_is_found_by_its_name_from_another(rig: HeadRig) -> None:
    one, two = rig.join(), rig.join()
    one.start_job()
    actor = one.create("it")
    alive = one.wait_state(actor, a.ALIVE)
    found = two.ask(a.GetActor(1, "it", "space"), a.ActorFound)
    assert found.actor == actor
    two.say(a.SubscribeActor(actor))
    assert two.wait_state(actor, a.ALIVE).worker == alive.worker


@pytest.mark.parametrize("is_told_twice", [False, True])
def test_what_waits_for_a_node_that_joins_is_said_to_it_when_its_loop_turns(rig: HeadRig, is_told_twice: bool) -> None:
    one = rig.join(cpus=0)
    one.start_job()
    actor = one.create("it", resources={"CPU": 10_000})
    rig.until(lambda: one.find(a.ActorFound, 1), "the head has not heard of the actor")
    two = rig.join()
    if is_told_twice:
        rig.kill_head()
    for _ in range(5):
        rig.reactor.poll(0.02)
    assert not two.placings, "its daemon is not made yet"
    one.wait_state(actor, a.ALIVE)
    assert len(two.placings) == 1


def test_a_killed_head_loses_nothing_that_was_acknowledged(rig: HeadRig) -> None:
    one, two = rig.join(), rig.join()
    job = one.start_job()
    actor = one.create("it", detached=True)
    alive = one.wait_state(actor, a.ALIVE)
    put = k.KeyValueRequest(50, k.KEY_PUT, b"space", b"key", b"value", overwrite=False)
    assert one.ask(put, k.KeyValueAnswer).count == 1
    rig.restart_head()
    assert two.ask(a.GetActor(2, "it", "space"), a.ActorFound).actor == actor
    two.say(a.SubscribeActor(actor))
    assert two.wait_state(actor, a.ALIVE) == alive
    assert two.ask(k.KeyValueRequest(3, k.KEY_GET, b"space", b"key"), k.KeyValueAnswer).value == b"value"
    assert [each.job for each in two.ask(ListJobs(4), Jobs).jobs] == [job]
    third = rig.join()
    assert int.from_bytes(third.node, "big") == int.from_bytes(two.node, "big") + 1


def test_what_is_said_while_the_head_is_killed_again_and_again_is_done_once(rig: HeadRig) -> None:
    """Each put says whether its key was new: one that was done twice, or lost, would give itself away."""
    node = rig.join()
    for round_ in range(3):
        requests = range(1000 * round_ + 1, 1000 * round_ + 200)
        for request in requests:
            put = k.KeyValueRequest(request, k.KEY_PUT, b"n", b"%d" % request, b"v", overwrite=False)
            node.say(put)
            if request % 50 == 0:
                node.link.flush()
                rig.turn(0)
        rig.kill_head()
        rig.until(lambda: all(node.find(k.KeyValueAnswer, each) for each in requests), "an answer is missing")  # noqa: B023
        assert all(node.find(k.KeyValueAnswer, request).count == 1 for request in requests)
    answers = [each.request for each in node.messages if isinstance(each, k.KeyValueAnswer)]
    assert answers == sorted(set(answers)), "an answer came twice, or out of order"


def test_a_head_that_was_killed_hears_anew_of_nodes_that_cannot_reach_each_other(rig: HeadRig) -> None:
    one, two, three = rig.join(), rig.join(), rig.join()
    two.link.peer_reachability(three.node, False, "its link broke")
    rig.until(lambda: two.link._link.kept_count == 0, "the report is not confirmed")
    rig.restart_head()
    rig.until(lambda: one.departed, "the new head does not know that one of them must go")  # in 10 s
    assert one.departed[0].node == three.node
    assert "could not reach each other" in one.departed[0].cause


def test_an_actor_that_is_being_made_when_the_head_is_killed_comes_to_life_once(rig: HeadRig) -> None:
    one, two = rig.join(), rig.join()
    one.start_job()
    actors = [one.create() for _ in range(20)]
    one.link.flush()
    rig.kill_head()
    for actor in actors:
        one.wait_state(actor, a.ALIVE)
    assert sorted(each.actor for node in (one, two) for each in node.placings) == sorted(actors)


def test_a_node_that_is_killed_is_known_dead_within_a_second_with_its_heir(rig: HeadRig) -> None:
    one, two, three = rig.join(), rig.join(), rig.join()
    two.link.close()
    closed_s = monotonic()
    rig.until(lambda: one.departed and three.departed, "nobody hears of the death")
    assert monotonic() - closed_s < 2  # 0.8 s on a machine that does nothing else
    assert one.departed == three.departed
    assert (one.departed[0].node, one.departed[0].heir) == (two.node, one.node)


def test_a_broken_heartbeat_connection_that_comes_back_is_no_death(rig: HeadRig) -> None:
    one, two = rig.join(), rig.join()
    heartbeats = two.link._heartbeats
    assert heartbeats is not None
    first = rig.until(lambda: heartbeats._socket, "no heartbeats")
    first.shutdown(socket.SHUT_RDWR)
    rig.until(lambda: heartbeats._socket not in (None, first), "the heartbeats do not come back")
    until_s = monotonic() + 1.5
    rig.until(lambda: monotonic() > until_s, "time stands still")
    assert one.departed == []
    assert not two.expelled


def test_a_silent_node_is_known_dead_within_five_seconds_and_is_told_so(
    rig: HeadRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = rig.join()
    monkeypatch.setattr("remora.processes.daemon.heartbeats.INTERVAL_S", 6.0)
    two = rig.join()
    joined_s = monotonic()
    rig.until(lambda: one.departed, "nobody hears of the death")
    assert 4 < monotonic() - joined_s < 6  # 4.6 s on a machine that does nothing else
    assert "silent" in one.departed[0].cause
    assert "silent" in rig.until(lambda: two.expelled, "the dead node is not told")


def test_a_node_that_leaves_is_gone_in_order(rig: HeadRig) -> None:
    one, two = rig.join(), rig.join()
    assert two.link.leave("remora stop")
    rig.until(lambda: one.departed, "nobody hears of it")
    assert one.departed[0].is_orderly
    assert not two.expelled


def test_the_cluster_ends_when_the_heads_node_leaves(rig: HeadRig) -> None:
    one, two = rig.join(), rig.join()
    assert one.link.leave("remora stop")
    assert "head's node has left" in rig.until(lambda: two.expelled, "it goes on without a head")
    assert [departure.node for departure in two.departed] == [one.node]


def test_a_node_of_a_head_that_is_away_for_good_stops_itself(rig: HeadRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("remora.processes.daemon.head_link.AWAY_LIMIT_S", 1.0)
    node = rig.join()
    rig.is_cut = True
    rig.keeper.close()
    assert "could not be reached" in rig.until(lambda: node.expelled, "it goes on for ever")


def test_a_load_is_told_to_all_nodes_and_decides_where_actors_go(rig: HeadRig) -> None:
    one, two = rig.join(cpus=1), rig.join(cpus=1)
    one.link.tell_load({"CPU": 10_000}, {"CPU": 0}, 3)
    rig.until(lambda: two.members[one.node].available == {"CPU": 0}, "the load is not told")
    assert two.members[one.node].queue_length == 3
    one.start_job()
    spec = a.ActorSpec("Counter", b"", b"", resources={"CPU": 10_000})
    actor = make_object_id(one.driver, 7)  # type: ignore[arg-type]
    one.say(a.CreateActor(actor, spec))
    assert one.wait_state(actor, a.ALIVE).worker.startswith(two.node)


def test_a_hastened_load_does_not_wait_for_its_turn(rig: HeadRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("remora.core.load_reports.LOAD_INTERVAL_S", 1000.0)
    one, two = rig.join(cpus=1), rig.join(cpus=1)
    one.link.tell_load({"CPU": 10_000}, {"CPU": 0})
    one.link.hasten_load()
    rig.until(lambda: two.members[one.node].available == {"CPU": 0}, "the load is not told")
    one.link.hasten_load()
    one.link.tell_load({"CPU": 10_000}, {"CPU": 10_000})
    rig.until(lambda: two.members[one.node].available == {"CPU": 10_000}, "the load waits")


def test_all_nodes_are_listed_with_those_that_are_gone(rig: HeadRig) -> None:
    one, two = rig.join(), rig.join()
    two.link.leave("done")
    rig.until(lambda: one.departed, "nobody hears of it")
    nodes = one.ask(GetNodes(1), Nodes).nodes
    resources = {"CPU": 4.0, "object_store_memory": float(STORE_BYTES)}
    assert [(each.node, each.is_alive, each.resources, each.cause) for each in nodes] == [
        (one.node, True, resources, ""),
        (two.node, False, resources, "it left the cluster: done"),
    ]
    assert [each.available for each in nodes] == [resources, {}]


def test_the_head_ends_with_its_daemon(tmp_path: Path, credentials: ClusterCredentials) -> None:
    program = (
        "import sys, os, msgspec\n"
        "from remora.base.credentials import ClusterCredentials\n"
        "from remora.processes.head.configuration import HeadConfiguration\n"
        "from remora.processes.head.keeper import HeadKeeper\n"
        "from remora.system.reactor import Reactor\n"
        "credentials = msgspec.msgpack.decode(bytes.fromhex(sys.argv[2]), type=ClusterCredentials)\n"
        "keeper = HeadKeeper(HeadConfiguration(session_directory=sys.argv[1], credentials=credentials), Reactor())\n"
        "keeper.start()\n"
        "print(keeper.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    encoded = msgspec.msgpack.encode(credentials).hex()
    command = [sys.executable, "-c", program, str(tmp_path), encoded]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        head = open_pidfd(int(daemon.stdout.readline()))
        daemon.kill()
    assert wait_ended(head, 5)
    os.close(head)


def test_the_pids_of_all_heads_are_told_to_who_looks_after_the_children_of_the_daemon(rig: HeadRig) -> None:
    pids: list[int] = []
    rig.keeper.tell_pids(pids.append)
    first = rig.keeper.pid
    rig.restart_head()
    assert pids == [first, rig.keeper.pid]


def test_a_head_whose_state_is_damaged_says_so_and_what_to_do(tmp_path: Path, credentials: ClusterCredentials) -> None:
    (tmp_path / "head.sqlite").write_bytes(b"this is no database, whatever its name says" * 100)
    rig = HeadRig(str(tmp_path), credentials)
    try:
        with pytest.raises(HeadStartError, match=r"not a database.*move it away"):
            rig.keeper.start()
    finally:
        rig.close()


def test_joining_a_port_where_no_head_is_ends_with_a_sentence(tmp_path: Path, credentials: ClusterCredentials) -> None:
    rig = HeadRig(str(tmp_path), credentials)
    try:
        link = HeadLink(rig.reactor, rig.address, credentials, None)  # type: ignore[arg-type]
        with pytest.raises(JoinError, match=r"did not answer: .* does not run there.*Check that"):
            link.join("127.0.0.1:1", {}, timeout_s=0.5)
    finally:
        rig.close()


def test_a_wrong_secret_is_refused_at_once(rig: HeadRig, tmp_path: Path) -> None:
    own = rig.credentials
    wrong = ClusterCredentials(bytes(32), own.fingerprint, own.encrypt)
    link = HeadLink(rig.reactor, rig.address, wrong, None)  # type: ignore[arg-type]
    with pytest.raises(JoinError, match="secret"):
        link.join("127.0.0.1:1", {})
