"""A head's node that is stopped, or killed together with its head, and is started again with the same ``--state``."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from machines import Driver, Machine, add_machines, wait_until

from remora.testing.network_lab import NetworkLab

OPTIONS = ("--state", "/tmp/state", "--port", "7003", "--num-cpus", "1", "--resources", '{"here": 1}')
RESTART_TIMEOUT_S = 40.0


@pytest.fixture
def machines(lab: NetworkLab) -> Iterator[tuple[Machine, Machine, str]]:
    """The head's machine, another one, each with a node, and the join string. The head has acknowledged something.

    These are a key; a detached actor on the other node, which counts to 2 and may not restart; and two that may: one
    on the head's node, one on either.
    """
    head, other = add_machines(lab, 2)
    join = head.start_head(*OPTIONS)
    other.join(join, "--num-cpus", "1", "--resources", '{"there": 1}')
    with head.driver() as driver:
        driver("from remora.experimental import internal_kv as kv")
        driver("kv._internal_kv_put('key', b'value')")
        make(driver, "steady", "resources={'there': 0.1}")
        make(driver, "nearby", "resources={'here': 0.1}, max_restarts=-1")
        make(driver, "anywhere", "max_restarts=-1")
    yield head, other, join
    for machine in (other, head):
        machine.finish("stop")
        wait_until(lambda machine=machine: not machine.processes(), "the end of what the test started")


def make(driver: Driver, name: str, options: str) -> None:
    """A detached actor that was told twice."""
    options = f"name='{name}', namespace='shop', lifetime='detached', num_cpus=0, {options}"
    driver(f"{name} = Counter.options({options}).remote()")
    assert driver(f"remora.get([{name}.tell.remote(1), {name}.tell.remote(2)])") == [1, 2]


def told(driver: Driver, name: str) -> int:
    """How often the actor was told since it was constructed."""
    return len(
        driver(f"remora.get(remora.get_actor('{name}', 'shop').history.remote(), timeout=30)", RESTART_TIMEOUT_S)
    )


def test_killed_with_its_head_it_goes_on_with_the_nodes_and_actors_that_lived_on(
    machines: tuple[Machine, Machine, str],
) -> None:
    head, other, join = machines
    node = other.pid_of("remora:daemon")
    for pid in [head.pid_of(title) for title in ("remora:daemon", "remora:head")]:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not head.processes(), "the end of all that belonged to the killed daemon")
    assert head.start_head(*OPTIONS) == join
    with head.driver() as driver:
        assert driver("from remora.experimental import internal_kv as kv\nkv._internal_kv_get('key')") == repr(b"value")
        assert told(driver, "steady") == 2
        assert told(driver, "nearby") == 0
        assert told(driver, "anywhere") in (0, 2)
        assert driver("remora.get(double.options(resources={'there': 0.1}).remote(4), timeout=20)") == 8
        alive = driver("sorted(n['Alive'] for n in remora.nodes())")
    assert alive == [False, True, True]
    assert other.pid_of("remora:daemon") == node


def test_stopped_it_ends_the_cluster_and_started_again_nodes_may_join_and_what_may_restart_does(
    machines: tuple[Machine, Machine, str],
) -> None:
    head, other, join = machines
    head.remora("stop")
    wait_until(lambda: not other.processes(), "the end of the other node, whose cluster is over")
    assert head.start_head(*OPTIONS) == join
    other.join(join, "--num-cpus", "1", "--resources", '{"there": 1}')
    with head.driver() as driver:
        assert driver("from remora.experimental import internal_kv as kv\nkv._internal_kv_get('key')") == repr(b"value")
        assert told(driver, "nearby") == 0
        assert told(driver, "anywhere") == 0
        names = driver("sorted(one['name'] for one in remora.util.list_named_actors(all_namespaces=True))")
        assert names == ["anywhere", "nearby"]
        assert driver("remora.get(double.options(resources={'there': 0.1}).remote(4), timeout=20)") == 8
