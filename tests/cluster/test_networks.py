"""Cuts, one-way cuts and resets between nodes on machines of their own: what goes on, and who is declared dead."""

from __future__ import annotations

from time import monotonic, sleep

import pytest
from machines import Driver, Machine, slow, start_cluster, wait_until

from remora.testing.network_lab import NetworkLab

SHORT_CUT_S = 3.0
SILENCE_S = 4.5
SLACK_S = 2.0
"""For a busy machine with two processors."""
CALLS = """
refs = []
def call(count):
    global refs
    refs += [counter.tell.remote(len(refs) + i) for i in range(count)]
"""


@pytest.fixture
def two(lab: NetworkLab) -> list[Machine]:
    return start_cluster(lab, 2)


@pytest.fixture
def three(lab: NetworkLab) -> list[Machine]:
    return start_cluster(lab, 3)


def alive(driver: Driver) -> set[str]:
    return set(driver("alive()"))


def wait_for_death(driver: Driver, machine: Machine, timeout_s: float = 15.0) -> None:
    wait_until(lambda: machine.address not in alive(driver), f"the death of {machine}", timeout_s)


def wait_for_end(machine: Machine, timeout_s: float = 15.0) -> None:
    """Nothing of its node is left: no process, and no file."""
    wait_until(lambda: not machine.processes(), f"the end of what runs on {machine}", timeout_s)
    assert not machine.session_folders()


def start_counter(driver: Driver, machine: int) -> None:
    driver(f"counter = Counter.options(**on({machine})).remote(); remora.get(counter.tell.remote(-1))")
    driver(CALLS)


def assert_told_once_in_order(driver: Driver, count: int) -> None:
    driver("remora.get(refs)", 60)
    assert driver("remora.get(counter.history.remote())") == list(range(-1, count))


# ---------------------------------------------------------------------- short cuts: nothing happens


def test_a_short_cut_between_nodes_that_do_nothing_is_not_noticed(lab: NetworkLab, two: list[Machine]) -> None:
    with two[0].driver() as driver:
        lab.cut(two[0].host, two[1].host)
        sleep(SHORT_CUT_S)  # this is the fact: a cut of so long
        lab.heal()
        assert driver("remora.get(double.options(**on(2)).remote(4))") == 8
        assert len(alive(driver)) == 2


def test_calls_tasks_and_large_objects_wait_out_a_short_cut(lab: NetworkLab, two: list[Machine]) -> None:
    with two[0].driver() as driver:
        start_counter(driver, 2)
        driver("call(1000); tasks = [double.options(**on(2)).remote(i) for i in range(500)]")
        driver("made = [make.options(**on(2)).remote(3_000_000, i) for i in range(5)]")
        lab.cut(two[0].host, two[1].host)
        driver("call(1000); tasks += [double.options(**on(2)).remote(i) for i in range(500, 1000)]")
        driver("given = [checksum.options(**on(2)).remote(remora.put(pattern(3_000_000, i))) for i in range(5)]")
        sleep(SHORT_CUT_S)
        lab.heal()
        assert_told_once_in_order(driver, 2000)
        assert driver("remora.get(tasks) == [2 * i for i in range(1000)]")
        assert driver("[sum_of(one) for one in remora.get(made)] == [sum_of(pattern(3_000_000, i)) for i in range(5)]")
        assert driver("remora.get(given) == [sum_of(pattern(3_000_000, i)) for i in range(5)]")
        assert len(alive(driver)) == 2


@slow
@pytest.mark.parametrize("way", ["to the head", "from the head"])
def test_a_short_cut_of_one_way_is_waited_out(lab: NetworkLab, two: list[Machine], way: str) -> None:
    head, other = two
    with head.driver() as driver, other.driver() as stranger:
        start_counter(driver, 2)
        start_counter(stranger, 1)
        ends = (other, head) if way == "to the head" else (head, other)
        lab.cut_one_way(ends[0].host, ends[1].host)
        driver("call(1000)")
        stranger("call(1000)")
        sleep(SHORT_CUT_S)
        lab.heal()
        for one in (driver, stranger):
            assert_told_once_in_order(one, 1000)
            assert len(alive(one)) == 2


# ---------------------------------------------------------------------- long cuts: one is dead


def test_a_node_that_is_silent_is_declared_dead_in_time_and_stops_when_it_comes_back(
    lab: NetworkLab, two: list[Machine]
) -> None:
    head, other = two
    with head.driver() as driver:
        driver("made = make.options(**on(2)).remote(3_000_000); remora.wait([made], fetch_local=False)")
        start_counter(driver, 2)
        driver("sleeping = remora.remote(lambda: __import__('time').sleep(1000)).options(**on(2), max_retries=0)")
        driver("sleeper = sleeping.remote(); call(10); remora.get(refs)")
        lab.cut(head.host, other.host)
        start_s = monotonic()
        driver("call(10)")
        wait_for_death(driver, other)
        assert SILENCE_S - 1 < monotonic() - start_s < SILENCE_S + SLACK_S
        for code, kind in (
            ("made", "ObjectLostError"),
            ("sleeper", "WorkerCrashedError"),
            ("refs[-1]", "ActorDiedError"),
            ("counter.tell.remote(0)", "ActorDiedError"),
        ):
            error = driver.error(f"remora.get({code})", 5)
            assert error.kind == kind
            assert "silent for 4.5 s" in error.text
        assert other.processes()
        lab.heal()
        wait_for_end(other)
        assert driver("remora.get(double.remote(1))") == 2


@slow
@pytest.mark.parametrize("way", ["to the head", "from the head"])
def test_a_long_cut_of_one_way_ends_the_node_as_one_of_both_does(lab: NetworkLab, two: list[Machine], way: str) -> None:
    head, other = two
    with head.driver() as driver:
        start_counter(driver, 2)
        start_s = monotonic()
        ends = (other, head) if way == "to the head" else (head, other)
        lab.cut_one_way(ends[0].host, ends[1].host)
        wait_for_death(driver, other)
        # What the head cannot say, the node does not hear; it tries again, which the head hears for a while.
        assert monotonic() - start_s < 2 * SILENCE_S + SLACK_S
        lab.heal()
        wait_for_end(other)
        assert driver.error("remora.get(counter.tell.remote(1))").kind == "ActorDiedError"


@slow
def test_when_the_node_of_the_head_is_cut_off_the_others_are_dead_to_it_and_stop_afterwards(
    lab: NetworkLab, three: list[Machine]
) -> None:
    head, one, other = three
    with head.driver() as driver, one.driver() as worker:
        start_counter(worker, 3)
        lab.isolate(head.host)
        worker("call(1000)")
        assert_told_once_in_order(worker, 1000)  # they carry on with each other
        wait_until(lambda: alive(driver) == {head.address}, "the deaths")
        lab.heal()
        wait_for_end(one)
        wait_for_end(other)
        assert worker.error("remora.get(counter.tell.remote(1))")
        assert driver("remora.get(double.remote(1))") == 2


def test_others_carry_on_while_the_node_of_the_head_is_cut_off_for_a_short_time(
    lab: NetworkLab, three: list[Machine]
) -> None:
    head = three[0]
    with three[1].driver() as worker:
        start_counter(worker, 3)
        lab.isolate(head.host)
        worker("call(1000)")
        assert_told_once_in_order(worker, 1000)
        sleep(SHORT_CUT_S)
        lab.heal()
        assert worker("remora.get(double.options(**on(1)).remote(4))") == 8
        assert len(alive(worker)) == 3
        assert worker("c = Counter.options(**on(1)).remote(); remora.get(c.place.remote())[0]") == head.address


@slow
def test_of_two_nodes_that_cannot_reach_each_other_the_head_ends_one(lab: NetworkLab, three: list[Machine]) -> None:
    head, one, other = three
    with one.driver() as worker:
        start_counter(worker, 3)
        worker("made = [make.options(**on(3)).remote(3_000_000, i) for i in range(2)]; remora.get(made[0])")
        assert worker("remora.wait(made, num_returns=2, fetch_local=False)")
        lab.cut(one.host, other.host)
        error = worker.error("remora.get(made[1])", 60)
        assert error.kind == "ObjectLostError"
        assert f"{other.address}:" in error.text
        assert "could not reach each other for 10 s" in error.text
        assert worker.error("remora.get(counter.tell.remote(1))").kind == "ActorDiedError"
        wait_for_end(other)  # the younger one
        assert alive(worker) == {head.address, one.address}


# ---------------------------------------------------------------------- resets


def test_resets_lose_no_call_and_double_none(lab: NetworkLab, two: list[Machine]) -> None:
    with two[0].driver() as driver:
        start_counter(driver, 2)
        driver("call(100); remora.get(refs)")
        broken = 0
        for _ in range(10):
            driver("call(500); tasks = [double.options(**on(2)).remote(i) for i in range(200)]")
            broken += lab.reset_connections(two[0].host, two[1].host)
            assert driver("remora.get(tasks) == [2 * i for i in range(200)]")
        assert broken >= 20
        assert_told_once_in_order(driver, 5100)
        assert len(alive(driver)) == 2


def test_a_transfer_goes_on_after_resets(lab: NetworkLab, two: list[Machine]) -> None:
    lab.limit_rate(two[1].host, 200_000_000)
    with two[0].driver() as driver:
        driver("made = make.options(**on(2)).remote(30_000_000); remora.wait([made], fetch_local=False)")
        driver.begin("sum_of(remora.get(made)) == sum_of(pattern(30_000_000))")
        for _ in range(3):
            sleep(0.3)  # it takes 1.3 s at this rate
            lab.reset_connections(two[0].host, two[1].host)
        assert driver.end()
        assert len(alive(driver)) == 2
