from __future__ import annotations

import pytest

from remora.cli.bench.rows.catalogue import LIMIT_ROWS, ROWS
from remora.cli.bench.selection import matches, select


def test_row_names_are_unique() -> None:
    names = select("", ["*"]).names()
    assert len(names) == len(set(names))


def test_every_limit_that_a_row_names_exists() -> None:
    limits = {row.name for row in LIMIT_ROWS}
    assert {row.limit for row in ROWS if row.limit} <= limits


@pytest.mark.parametrize(
    ("pattern", "matched"), [("GET", True), ("single*calls", True), ("put", False), ("*put*", False)]
)
def test_patterns_are_parts_or_shell_patterns_in_any_case(pattern: str, matched: bool) -> None:
    assert matches("single client get calls", [pattern]) is matched


def test_a_pool_runs_pool_rows_and_start_up_only() -> None:
    chosen = select("joblib")
    assert {row.kind for row in chosen.rates} == {"pool"}
    assert [group.title for group in chosen.fresh] == ["start-up"]


def test_pool_rows_run_on_ray_only_when_asked_for() -> None:
    assert all(row.kind == "ray" for row in select("ray").rates)
    assert {row.kind for row in select("ray", ["pool"]).rates} == {"pool"}


def test_part_of_a_fresh_group_can_be_chosen() -> None:
    [group] = select("ray", ["init"]).fresh
    assert [row.name for row in group.rows] == ["init"]


def test_a_pattern_without_a_match_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="no-such-row"):
        select("", ["no-such-row"])
