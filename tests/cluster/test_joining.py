"""Joining a cluster from other machines: who gets in, who is refused and with which words, and who leaves."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator

import pytest
from machines import BIN, JOIN_FILE, Machine, add_machines, slow, wait_until

from remora.base.join_string import JoinString
from remora.testing.network_lab import NetworkLab

PROGRAM = """
import remora, socket

remora.init(address="auto")

@remora.remote(num_cpus=1)
def where(number):
    from time import sleep
    sleep(0.05)
    return remora.get_runtime_context().get_node_id()

print(len(set(remora.get([where.remote(number) for number in range(40)]))), "nodes")
"""


@pytest.fixture(scope="module")
def shared(module_lab: NetworkLab) -> list[Machine]:
    return add_machines(module_lab, 3)


@pytest.fixture
def machines(shared: list[Machine]) -> Iterator[list[Machine]]:
    """Three machines without nodes; what a test starts is ended after it."""
    yield shared
    for machine in reversed(shared):
        machine.host.namespace.ip("link set eth0 up")
        machine.finish("stop")
    for machine in shared:
        wait_until(lambda machine=machine: not machine.processes(), f"the end of what runs on {machine}", 20)
        assert not list(machine.tmp.glob("remora-*"))
        for path in machine.tmp.iterdir():
            path.unlink()


def refused(machine: Machine, join: str) -> str:
    """What `remora start --join` says to this join string, within a time in which a person still waits."""
    machine.keep_join(join)
    said = machine.fail("start", "--join", JOIN_FILE, timeout_s=20)
    assert not machine.session_folders()
    return said


def changed(join: str, **fields: object) -> str:
    """The join string with other credentials."""
    import msgspec

    parsed = JoinString.parse(join)
    return str(JoinString(parsed.host, parsed.port, msgspec.structs.replace(parsed.credentials, **fields)))


def test_three_lines_make_a_cluster_of_two_machines(machines: list[Machine]) -> None:
    one, other, _ = machines
    one.run("sh", "-c", f"{BIN}/remora start --head --num-cpus 2 --quiet > join")
    (other.tmp / "join").write_text((one.tmp / "join").read_text())
    other.run("sh", "-c", f"{BIN}/remora start --num-cpus 2 --join join")
    (one.tmp / "program.py").write_text(PROGRAM)
    assert one.run(sys.executable, "program.py") == "2 nodes\n"


def test_the_join_string_is_taken_from_the_environment_and_from_standard_input(machines: list[Machine]) -> None:
    one, two, three = machines
    join = one.start_head()
    two.remora("start", "--num-cpus", "1", env={"REMORA_JOIN": join})
    done = three.finish("start", "--join", "-", "--num-cpus", "1", text=f"  {join}\n")
    assert done.returncode == 0, done.stderr
    nodes = json.loads(one.remora("list", "nodes", "--json"))
    assert len(nodes) == 3


def test_what_a_node_has_is_what_it_was_started_with(machines: list[Machine]) -> None:
    one, two, _ = machines
    join = one.start_head("--num-cpus", "1.5", "--labels", "zone=a,disk=ssd")
    two.join(join, "--num-cpus", "3", "--num-gpus", "2", "--resources", '{"disk": 1.5}', "--labels", "zone=b")
    with two.driver() as driver:
        resources = driver("remora.cluster_resources()")
        assert [resources[name] for name in ("CPU", "GPU", "disk")] == [4.5, 2, 1.5]
        labels = driver("sorted((node['Labels'] for node in remora.nodes()), key=str)")
        assert [one["zone"] for one in labels] == ["a", "b"]
        select = "label_selector={'zone': 'a'}, num_cpus=0"
        assert driver(f"remora.get(node_address.options({select}).remote())") == one.address


def test_strings_that_do_not_fit_are_refused_with_what_to_do(machines: list[Machine]) -> None:
    one, two, three = machines
    join = one.start_head()
    other = three.start_head()
    credentials = JoinString.parse(join).credentials
    secret = "the secrets differ: use the join string that the head of this cluster printed last"
    assert secret in refused(two, changed(join, secret=bytes(32)))
    cluster = "belongs to another cluster: use the join string"
    assert cluster in refused(two, changed(join, fingerprint=bytes(32)))
    assert cluster in refused(two, changed(other, fingerprint=credentials.fingerprint, secret=credentials.secret))
    assert "its cluster encrypts" in refused(two, changed(join, encrypt=False))
    assert "the join string is empty" in refused(two, "")
    assert "does not start with remora://" in refused(two, "hello")
    assert "4 of 5 parts" in refused(two, join.rsplit("/", 1)[0])
    assert "secret in the join string has" in refused(two, join[:-8])
    assert "speaks protocol 999" in refused(two, join.replace("/1/tls/", "/999/tls/"))
    with one.driver() as driver:
        assert len(driver("remora.nodes()")) == 1


def test_an_older_cluster_at_the_same_place_is_refused(machines: list[Machine]) -> None:
    one, two, _ = machines
    join = one.start_head("--port", "7001")
    one.remora("stop")
    one.start_head("--port", "7001")
    assert "belongs to another cluster" in refused(two, join)


def test_a_head_that_does_not_run_is_named_with_what_to_check(machines: list[Machine]) -> None:
    one, two, _ = machines
    join = one.start_head("--port", "7001")
    one.remora("stop")
    said = refused(two, join)
    assert f"nobody listens at {one.address}:7001" in said
    assert "Check that the head runs" in said


@slow
def test_a_head_behind_a_dead_line_is_named_with_what_to_check(machines: list[Machine]) -> None:
    one, two, _ = machines
    join = one.start_head("--port", "7001")
    one.host.namespace.ip("link set eth0 down")
    said = refused(two, join)
    assert f"nothing comes back from {one.address}:7001" in said
    assert "its port can be reached" in said


MAIL_SERVER = """
import socket, sys
with socket.create_server((sys.argv[1], 7001)) as server:
    print("up", flush=True)
    while True:
        server.accept()[0].sendall(b"220 mail.example.org ESMTP ready\\r\\n")
"""


def test_a_program_that_is_no_remora_is_found_out(machines: list[Machine]) -> None:
    one, two, _ = machines
    join = one.start_head("--port", "7001")
    one.remora("stop")
    with one.start(sys.executable, "-c", MAIL_SERVER, one.address) as program:
        assert program.read_line() == "up"
        assert "did not answer as a node of Remora" in refused(two, join)


def test_a_node_that_is_stopped_leaves_at_once_and_the_head_takes_the_cluster_with_it(machines: list[Machine]) -> None:
    one, two, three = machines
    join = one.start_head()
    two.join(join)
    three.join(join)
    with one.driver() as driver:
        two.remora("stop")
        nodes = {node["NodeManagerAddress"]: node for node in driver("remora.nodes()")}
        assert [nodes[machine.address]["Alive"] for machine in (one, two, three)] == [True, False, True]
        assert all(nodes[machine.address]["NodeManagerPort"] > 0 for machine in (one, two, three))
        assert nodes[two.address]["DeathReasonMessage"] == "it left the cluster: `remora stop` was called"
        one.remora("stop")
    wait_until(lambda: not three.processes(), "the end of the node without a head", 10)
    assert not three.session_folders()


def test_a_node_outlives_its_head_and_its_zygote_and_ends_with_its_daemon(machines: list[Machine]) -> None:
    one, two, _ = machines
    join = one.start_head("--resources", '{"m1": 1}')
    two.join(join, "--resources", '{"m2": 1}', "--num-cpus", "1")
    with one.driver() as driver:
        assert driver("remora.get(double.options(**on(2)).remote(1))") == 2
        os.kill(one.pid_of("remora:head"), signal.SIGKILL)
        assert driver("remora.get(double.options(**on(2)).remote(1))") == 2
        assert driver("remora.get(Counter.options(**on(2)).remote().tell.remote(1))") == 1
        os.kill(two.pid_of("remora:zygote"), signal.SIGKILL)
        assert driver("remora.get(Counter.options(**on(2)).remote().tell.remote(1))") == 1
        os.kill(two.pid_of("remora:daemon"), signal.SIGKILL)
        wait_until(lambda: len(driver("alive()")) == 1, "the death of the killed node")
        wait_until(lambda: not two.processes(), "its end")
        two.join(join)  # removes the folder of the killed one
        assert len(two.session_folders()) == 1


def test_a_driver_on_a_machine_without_a_node_is_one_for_as_long_as_it_lives(machines: list[Machine]) -> None:
    one, two, _ = machines
    join = one.start_head("--resources", '{"m1": 1}', "--num-cpus", "1")
    with one.driver() as other:
        with two.driver(join) as driver:
            assert driver("remora.get(node_address.options(**on(1)).remote())") == one.address
            assert driver(
                "remora.get(checksum.options(**on(1)).remote(pattern(3_000_000))) == sum_of(pattern(3000000))"
            )
            assert len(other("alive()")) == 2
            driver("import remora; remora.shutdown()")
            wait_until(lambda: len(other("alive()")) == 1, "the end of the driver's node")
            driver(f"remora.init(address={join!r})")
            wait_until(lambda: len(other("alive()")) == 2, "the other node of the driver")
        wait_until(lambda: len(other("alive()")) == 1, "the end of the killed driver's node")
        wait_until(lambda: not two.processes(), "the end of its processes")
        two.start_head()  # sweeps the folder
        assert len(two.session_folders()) == 1


def test_named_actors_are_shared_by_drivers_of_one_namespace_and_detached_ones_outlive_them(
    machines: list[Machine],
) -> None:
    one, two, _ = machines
    join = one.start_head()
    two.join(join)
    init = "remora.init(address='auto', namespace='shop')"
    find = "{0!r} in remora.util.list_named_actors()"
    with one.driver() as first:
        first(f"remora.shutdown(); {init}")
        first("kept = Counter.options(name='lasting', lifetime='detached').remote()")
        first(
            "mortal = Counter.options(name='mortal').remote(); remora.get([kept.tell.remote(1), mortal.tell.remote(1)])"
        )
        with two.driver() as second:
            assert second.error("remora.get_actor('lasting')").kind == "ValueError"  # another namespace
            second(f"remora.shutdown(); {init}")
            assert second("remora.get(remora.get_actor('lasting').tell.remote(2))") == 2
            assert second("remora.get(remora.get_actor('mortal').tell.remote(2))") == 2
            first.program.kill()
            wait_until(lambda: not second(find.format("mortal")), "the end of the actor")
            assert second("remora.get(remora.get_actor('lasting').history.remote())") == [1, 2]
    with two.driver() as third:
        third(f"remora.shutdown(); {init}")
        assert third("remora.get(remora.get_actor('lasting').history.remote())") == [1, 2]
        third("remora.kill(remora.get_actor('lasting'))")
        wait_until(
            lambda: third.error("remora.get_actor('lasting')").kind == "ValueError", "the end of the killed actor"
        )
