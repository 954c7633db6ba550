from __future__ import annotations

import pytest

from remora.cli.bench.results import RowResult
from remora.cli.bench.samples import median_ratio, pairwise_ratios, spread


def test_spread_is_largest_less_smallest_as_a_share_of_the_median() -> None:
    assert spread([90.0, 100.0, 110.0]) == pytest.approx(0.2)


def test_spread_of_one_value_and_of_zeros_is_zero() -> None:
    assert spread([5.0]) == 0.0
    assert spread([0.0, 0.0]) == 0.0


def test_a_lower_value_is_better_for_durations() -> None:
    assert pairwise_ratios([0.5], [2.0], lower_is_better=True) == [4.0]
    assert pairwise_ratios([0.5], [2.0], lower_is_better=False) == [0.25]


def test_the_ratio_is_the_median_of_pairs_and_not_the_ratio_of_medians() -> None:
    ours, theirs = [10.0, 100.0, 60.0], [1.0, 50.0, 2.0]
    assert median_ratio(ours, theirs) == 10.0


def test_a_pair_without_a_base_gives_no_ratio() -> None:
    assert median_ratio([1.0], [0.0]) is None
    assert median_ratio([1.0], []) is None


def test_a_row_is_noisy_when_either_side_is() -> None:
    calm, wild = [100.0, 101.0, 102.0], [50.0, 100.0, 150.0]
    assert not RowResult("row", "calls/s", ours=calm, theirs=calm).noisy
    assert RowResult("row", "calls/s", ours=calm, theirs=wild).noisy


def test_the_summary_carries_raw_values_beside_what_is_computed() -> None:
    summary = RowResult("row", "calls/s", ours=[20.0, 22.0], theirs=[10.0, 11.0], limits=[40.0, 44.0]).summary()
    assert summary["ours"] == [20.0, 22.0]
    assert summary["ratio"] == 2.0
    assert summary["limit_share"] == 0.5
