from __future__ import annotations

import pytest

from remora.cli.bench.needs import NEEDS, Need, find_need, is_met
from remora.cli.bench.results import RowResult
from remora.cli.bench.selection import select


def result(ours: float, theirs: float | None = None, limit: float | None = None) -> RowResult:
    return RowResult(
        "row",
        "calls/s",
        ours=[ours],
        theirs=[] if theirs is None else [theirs],
        limits=[] if limit is None else [limit],
    )


@pytest.mark.parametrize(("ours", "met"), [(60.0, True), (59.9, False)])
def test_a_ratio_has_to_be_reached(ours: float, met: bool) -> None:
    assert is_met(Need(("row",), ratio=60), result(ours, 1.0)) is met


def test_either_of_two_bounds_is_enough_where_the_need_says_so() -> None:
    need = Need(("row",), ratio=6, limit_share=0.8, either=True)
    assert is_met(need, result(9.0, 9.0, 10.0)) is True
    assert is_met(need, result(7.0, 1.0, 10.0)) is True
    assert is_met(need, result(7.0, 7.0, 10.0)) is False


def test_all_bounds_count_where_the_need_does_not_say_either() -> None:
    need = Need(("row",), ratio=1, limit_share=0.6)
    assert is_met(need, result(7.0, 7.0, 10.0)) is True
    assert is_met(need, result(5.0, 1.0, 10.0)) is False
    assert is_met(need, result(7.0, 8.0, 10.0)) is False


def test_an_absolute_bound_is_an_upper_one() -> None:
    assert is_met(Need(("row",), at_most=5), result(5.0)) is True
    assert is_met(Need(("row",), at_most=5), result(5.1)) is False


def test_equal_bounds_of_both_kinds_do_not_get_mixed_up() -> None:
    need = Need(("row",), ratio=1.0, at_most=1.0)
    assert is_met(need, result(0.5, 0.4)) is True
    assert is_met(need, result(0.5, 0.6)) is False
    assert is_met(need, result(2.0, 1.0)) is False


def test_nothing_is_said_of_a_row_that_was_not_measured_against_anything() -> None:
    assert is_met(Need(("row",), ratio=60), result(1.0)) is None


def test_needs_against_pools_do_not_hold_against_ray() -> None:
    assert find_need("pool: one call at a time", "futures") is not None
    assert find_need("pool: one call at a time", "ray") is None
    assert find_need("single client get calls", "futures") is None


def test_absolute_needs_hold_without_a_peer() -> None:
    need = find_need("idle: CPU", "")
    assert need is not None
    assert need.at_most == 1


def test_every_row_that_a_need_names_exists_and_no_row_has_two_needs() -> None:
    existing = {*select("").names(), *select("", ["pool"]).names()}
    named = [name for need in NEEDS for name in need.rows]
    assert set(named) <= existing
    assert len(named) == len(set(named))


def test_a_need_reads_like_the_table_it_comes_from() -> None:
    assert str(Need(("row",), ratio=6, limit_share=0.8, either=True)) == "6 x or 0.8 of limit"
    assert str(Need(("row",), ratio=15, at_most=0.35)) == "15 x, <= 0.35"
