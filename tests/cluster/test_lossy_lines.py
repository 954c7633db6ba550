"""Two nodes with a bad line between them: packets late, lost, doubled and out of order. Only the time differs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from machines import Driver, Machine, start_cluster

from remora.testing.network_lab import NetworkLab
from remora.testing.network_relay import Relay

SEED = 3
BAD = {"delay_s": 0.003, "jitter_s": 0.003, "loss": 0.02, "reorder": 0.02, "duplicate": 0.02}
LARGE = 2_000_000
PACKET_BYTES = 1500
TIMEOUT_S = 60.0


@pytest.fixture(scope="module")
def machines(module_lab: NetworkLab) -> list[Machine]:
    return start_cluster(module_lab, 2)


@pytest.fixture(scope="module")
def relay(module_lab: NetworkLab, machines: list[Machine]) -> Iterator[Relay]:
    """The line gets bad before anything but the joining was said."""
    relay = module_lab.relay_between(machines[0].host, machines[1].host, seed=SEED, **BAD)
    yield relay
    relay.close()


@pytest.fixture(scope="module", params=["from the node of the head", "from the other node"])
def driver(request: pytest.FixtureRequest, machines: list[Machine], relay: Relay) -> Iterator[Driver]:
    """A driver on one node, for which ``far`` is the other."""
    here = 0 if request.param == "from the node of the head" else 1
    with machines[here].driver() as driver:
        driver(f"far = on({2 - here})")
        yield driver
        assert len(driver("alive()")) == 2  # a bad line is no dead node
    for machine in machines:
        counts = relay.counts_from(machine.host)
        assert min(counts.lost, counts.held_back, counts.duplicated) > 0, f"the line was good: {relay}"


def test_tasks_in_bulk_and_one_by_one(driver: Driver) -> None:
    driver("many = [double.options(**far).remote(i) for i in range(1000)]")
    assert driver("remora.get(many) == [2 * i for i in range(1000)]", TIMEOUT_S)
    assert driver("[remora.get(double.options(**far).remote(i)) for i in range(20)]", TIMEOUT_S) == [
        2 * i for i in range(20)
    ]


def test_calls_of_an_actor_run_once_and_in_order(driver: Driver) -> None:
    driver("counter = Counter.options(**far).remote(); calls = [counter.tell.remote(i) for i in range(1000)]")
    assert driver("remora.get(calls) == list(range(1, 1001))", TIMEOUT_S)
    assert driver("remora.get(counter.history.remote()) == list(range(1000))", TIMEOUT_S)


def test_refs_inside_of_values_are_read_and_kept_on_the_other_side(driver: Driver) -> None:
    driver("keeper = Counter.options(**far).remote()")
    driver("keeper.keep.remote([remora.put(pattern(200_000, i)) for i in range(3)])")  # the driver keeps none of them
    driver("sums = [keeper.read.remote(i) for i in range(3)]")
    assert driver("remora.get(sums) == [sum_of(pattern(200_000, i)) for i in range(3)]", TIMEOUT_S)
    driver("nest = remora.remote(lambda: {'inside': [remora.put(pattern(200_000, 7)), remora.put('small')]})")
    driver("nested = remora.get(nest.options(**far).remote())['inside']", TIMEOUT_S)
    assert driver("large, small = remora.get(nested); small", TIMEOUT_S) == "small"
    assert driver("sum_of(large) == sum_of(pattern(200_000, 7))")


def test_a_large_object_there_and_back(driver: Driver, machines: list[Machine], relay: Relay) -> None:
    before = [relay.counts_from(machine.host).arrived for machine in machines]
    driver(f"there = checksum.options(**far).remote(remora.put(pattern({LARGE}, 1)))")
    driver(f"back = make.options(**far).remote({LARGE}, 2)")
    assert driver(f"remora.get(there) == sum_of(pattern({LARGE}, 1))", TIMEOUT_S)
    assert driver(f"sum_of(remora.get(back)) == sum_of(pattern({LARGE}, 2))", TIMEOUT_S)
    for machine, count in zip(machines, before, strict=True):
        assert relay.counts_from(machine.host).arrived - count > LARGE / PACKET_BYTES  # it went over this line
