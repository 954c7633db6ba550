"""Resources add up after any history; GPUs are given by index."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from remora.base.bundle_names import in_group, name_in_group
from remora.base.resources import Resources
from remora.core.resources_ledger import Allocation, ResourcesLedger


def take(ledger: ResourcesLedger, need: Resources) -> Allocation:
    allocation = ledger.allocate(need)
    assert allocation
    return allocation


def test_what_is_taken_is_not_there_until_it_is_given_back() -> None:
    ledger = ResourcesLedger(Resources.of(num_cpus=1, resources={"ssd": 1}))
    parts = [take(ledger, Resources.of(num_cpus=tenth / 10)) for tenth in (1, 2, 7)]
    assert ledger.allocate(Resources.of(num_cpus=0.0001)) is None
    ledger.release(parts[1])
    assert ledger.available() == {"CPU": 0.2, "ssd": 1.0}
    with pytest.raises(ValueError, match="released before"):
        ledger.release(parts[1])


def test_a_blocked_worker_lends_its_cpus_and_has_them_back_at_once() -> None:
    ledger = ResourcesLedger(Resources.of(num_cpus=1, num_gpus=1))
    first = take(ledger, Resources.of(num_cpus=1, num_gpus=1))
    ledger.lend_cpus(first)
    second = take(ledger, Resources.of(num_cpus=1))
    assert ledger.allocate(Resources.of(num_gpus=1)) is None, "only CPUs are lent"
    ledger.retake_cpus(first)
    assert ledger.free()["CPU"] == -10_000
    assert ledger.available()["CPU"] == 0
    ledger.release(second)
    assert ledger.allocate(Resources.of(num_cpus=1)) is None
    ledger.release(first)
    assert take(ledger, Resources.of(num_cpus=1, num_gpus=1))


def test_what_is_released_while_blocked_gives_its_cpus_back_once() -> None:
    ledger = ResourcesLedger(Resources.of(num_cpus=2))
    first = take(ledger, Resources.of(num_cpus=2))
    ledger.lend_cpus(first)
    ledger.lend_cpus(first)
    ledger.release(first)
    assert ledger.available() == {"CPU": 2.0}
    with pytest.raises(ValueError, match="released before"):
        ledger.retake_cpus(first)


def test_gpus_are_given_by_index_and_parts_share_one() -> None:
    ledger = ResourcesLedger(Resources.of(num_gpus=3))
    half = take(ledger, Resources.of(num_gpus=0.5))
    two = take(ledger, Resources.of(num_gpus=2))
    other_half = take(ledger, Resources.of(num_gpus=0.5))
    assert half.gpu_ids == other_half.gpu_ids == (0,)
    assert two.gpu_ids == (1, 2)
    ledger.release(half)
    assert ledger.allocate(Resources.of(num_gpus=1)) is None, "half a GPU is in use"
    ledger.release(other_half)
    assert take(ledger, Resources.of(num_gpus=1)).gpu_ids == (0,)


def test_a_part_of_a_gpu_leaves_whole_ones_whole() -> None:
    ledger = ResourcesLedger(Resources.of(num_gpus=3))
    first = take(ledger, Resources.of(num_gpus=1))
    assert take(ledger, Resources.of(num_gpus=0.5)).gpu_ids == (1,)
    ledger.release(first)
    assert take(ledger, Resources.of(num_gpus=0.5)).gpu_ids == (1,)
    assert take(ledger, Resources.of(num_gpus=2)).gpu_ids == (0, 2)


def test_gpus_that_are_free_in_pieces_are_lacking() -> None:
    ledger = ResourcesLedger(Resources.of(num_gpus=2))
    kept = [take(ledger, Resources.of(num_gpus=0.6)), take(ledger, Resources.of(num_gpus=0.6))]
    assert [allocation.gpu_ids for allocation in kept] == [(0,), (1,)]
    assert ledger.allocate(Resources.of(num_gpus=0.8)) is None, "0.4 of each is no 0.8"
    assert set(ledger.lacking(Resources.of(num_gpus=0.8))) == {"GPU"}


def test_a_node_may_get_more_but_never_less() -> None:
    ledger = ResourcesLedger(Resources.of(num_cpus=1))
    take(ledger, Resources.of(num_cpus=1))
    ledger.grow(Resources.of(num_cpus=2, num_gpus=1))
    assert ledger.available() == {"CPU": 1.0, "GPU": 1.0}
    assert take(ledger, Resources.of(num_gpus=1)).gpu_ids == (0,)
    with pytest.raises(ValueError, match="never negative"):
        ledger.grow(Resources.of(num_cpus=1))
    ledger.validate()


GROUP = bytes(range(16))


def test_a_bundle_is_of_the_node_what_it_took_under_names_of_its_own() -> None:
    ledger = ResourcesLedger(Resources.of(num_cpus=4))
    bundle = ledger.reserve_bundle(GROUP, 0, Resources.of(num_cpus=3))
    assert bundle is not None
    assert ledger.allocate(in_group(Resources.of(num_cpus=1), GROUP)) is None, "it is not committed"
    ledger.commit_bundle(bundle)
    first = take(ledger, in_group(Resources.of(num_cpus=2), GROUP, 0))
    assert ledger.allocate(in_group(Resources.of(num_cpus=2), GROUP)) is None, "one bundle cannot be used twice"
    ledger.lend_cpus(first)
    second = take(ledger, in_group(Resources.of(num_cpus=3), GROUP))
    ledger.retake_cpus(first)
    assert ledger.free()[name_in_group("CPU", GROUP)] == -20_000
    ledger.grow(ledger.total)
    ledger.validate()
    ledger.dissolve_bundle(bundle)
    ledger.validate()
    assert ledger.total == Resources.of(num_cpus=4)
    for allocation in (first, second, bundle.allocation):
        ledger.release(allocation)
        ledger.validate()
    assert ledger.available() == {"CPU": 4.0}
    with pytest.raises(ValueError, match="released before"):
        ledger.commit_bundle(bundle)


def test_gpus_of_bundles_are_theirs_whoever_asks_for_any_bundle() -> None:
    ledger = ResourcesLedger(Resources.of(num_gpus=3))
    bundles = [ledger.reserve_bundle(GROUP, index, Resources.of(num_gpus=1)) for index in (0, 1)]
    for bundle in bundles:
        assert bundle is not None
        ledger.commit_bundle(bundle)
    one = Resources.of(num_gpus=1)
    anywhere = take(ledger, in_group(one, GROUP))
    assert anywhere.gpu_ids == (0,)
    assert not ledger.fits(in_group(one, GROUP, 0)), "its GPU is in use by a task of any bundle"
    assert set(ledger.lacking(in_group(one, GROUP, 0))) == {name_in_group("GPU", GROUP, 0)}
    assert take(ledger, in_group(one, GROUP, 1)).gpu_ids == (1,)
    assert take(ledger, one).gpu_ids == (2,)
    ledger.release(anywhere)
    assert take(ledger, in_group(Resources.of(num_gpus=0.5), GROUP, 0)).gpu_ids == (0,)
    ledger.validate()


class Taking(RuleBasedStateMachine):
    @initialize(cpus=st.integers(0, 4), gpus=st.integers(0, 3))
    def begin(self, cpus: int, gpus: int) -> None:
        self.ledger = ResourcesLedger(Resources.of(num_cpus=cpus, num_gpus=gpus, resources={"ssd": 2}))
        self.held: list[Allocation] = []

    @rule(
        cpus=st.sampled_from([0, 0.1, 0.5, 1, 2]),
        gpus=st.sampled_from([0, 0, 0.3, 0.5, 1, 2]),
        ssd=st.sampled_from([0, 0, 1]),
    )
    def allocate(self, cpus: float, gpus: float, ssd: float) -> None:
        need = Resources.of(num_cpus=cpus, num_gpus=gpus, resources={"ssd": ssd})
        fits, lacking = self.ledger.fits(need), self.ledger.lacking(need)
        allocation = self.ledger.allocate(need)
        assert fits == (allocation is not None) == (not lacking)
        if allocation:
            assert len(allocation.gpu_ids) == -(-gpus // 1)
            self.held.append(allocation)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), act=st.sampled_from(["release", "lend_cpus", "retake_cpus"]))
    def act(self, data: st.DataObject, act: str) -> None:
        allocation = data.draw(st.sampled_from(self.held))
        getattr(self.ledger, act)(allocation)
        if act == "release":
            self.held.remove(allocation)

    @invariant()
    def it_adds_up(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.validate()
            assert self.held or self.ledger.available() == self.ledger.total.to_floats()


Taking.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestTaking = Taking.TestCase
