"""Exact amounts, and errors that name the argument."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remora.base.bundle_names import bundle_units, in_group
from remora.base.resources import Resources, why_never

amounts = st.dictionaries(st.sampled_from(["CPU", "GPU", "memory", "ssd"]), st.integers(0, 10**9), max_size=4)


@given(amounts, amounts)
def test_taking_back_what_was_added_gives_exactly_the_same(a: dict[str, int], b: dict[str, int]) -> None:
    assert Resources(a) + Resources(b) - Resources(b) == Resources(a)


@given(amounts, amounts)
def test_subtraction_never_goes_below_zero(a: dict[str, int], b: dict[str, int]) -> None:
    if Resources(b).fits_into(a):
        assert all(amount > 0 for amount in (Resources(a) - Resources(b)).units.values())
    else:
        with pytest.raises(ValueError, match="never negative"):
            Resources(a) - Resources(b)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_tenths_that_sum_to_one_fit_into_one(parts: list[int]) -> None:
    total = Resources()
    for part in parts:
        total = total + Resources.of(num_cpus=part / 10)
    assert total == Resources.of(num_cpus=sum(parts) / 10)


def test_zero_amounts_are_no_amounts() -> None:
    assert Resources.of(num_cpus=0) == Resources()
    assert hash(Resources.of(num_cpus=0, num_gpus=1)) == hash(Resources.of(num_gpus=1))
    assert not Resources.of(num_cpus=0)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"num_cpus": -1}, ValueError, "num_cpus=-1: it must not be negative"),
        ({"num_cpus": float("nan")}, ValueError, "num_cpus=nan"),
        ({"num_gpus": float("inf")}, ValueError, "num_gpus=inf"),
        ({"num_cpus": True}, TypeError, "num_cpus must be a number, not True"),
        ({"num_cpus": "2"}, TypeError, "num_cpus must be a number, not '2'"),
        ({"num_cpus": 0.00001}, ValueError, "smallest amount is 0.0001"),
        ({"num_gpus": 1.5}, ValueError, "whole GPUs"),
        ({"resources": {"CPU": 1}}, ValueError, "use the argument num_cpus="),
        ({"resources": {"gpu": 1}}, ValueError, "use the argument num_gpus="),
        ({"resources": {"ssd": -1}}, ValueError, r"resources\['ssd'\]=-1"),
        ({"resources": {3: 1}}, TypeError, "names are strings"),
        ({"resources": {"": 1}}, ValueError, "must not be empty"),
    ],
)
def test_an_impossible_amount_is_refused_by_name(
    options: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Resources.of(**options)  # type: ignore[arg-type]


def test_what_no_node_has_is_said_with_the_nearest_name() -> None:
    nodes = [{"CPU": 20_000, "accelerator": 10_000}, {"CPU": 40_000, "GPU": 10_000}]
    assert why_never(Resources.of(num_cpus=8), nodes) == "no node has CPU 8, the most is 4"
    assert why_never(Resources.of(resources={"acelerator": 1}), nodes) == (
        "no node has any 'acelerator' (is 'accelerator' meant?)"
    )
    assert "together" in why_never(Resources.of(num_gpus=1, resources={"accelerator": 1}), nodes)
    with pytest.raises(ValueError, match="a node has"):
        why_never(Resources.of(num_cpus=4), nodes)


def test_people_read_amounts_without_noise() -> None:
    assert str(Resources.of(num_cpus=0.1 + 0.2, memory=1_500_000_000)) == "CPU 0.3, memory 1.5 GB"
    assert repr(Resources.of(num_cpus=2)) == "Resources(CPU=2)"
    assert str(Resources()) == "nothing"


def test_what_a_group_needs_is_told_in_the_words_of_the_user() -> None:
    group = bytes(range(16))
    need = in_group(Resources.of(num_cpus=2), group, 1, captures=True)
    assert str(need) == f"CPU 2 of placement group {group.hex()}"
    node = Resources.of(num_cpus=4).units
    assert why_never(need, [node]) == f"no node has a bundle of its placement group {group.hex()} yet"
    small = {**node, **bundle_units({"CPU": 10_000}, group, 1)}
    assert "the most is 1" in why_never(need, [small])
