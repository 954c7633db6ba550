"""The head is told what a node has when that changed, at most every 50 ms, and again when it may believe otherwise."""

from __future__ import annotations

import pytest

from remora.core.load_reports import LOAD_INTERVAL_S, STORE_STEPS, LoadReports
from remora.messages.head import NodeLoad

LIMIT = 1600 * STORE_STEPS


def load(free: int, store_free_bytes: int = LIMIT) -> NodeLoad:
    return NodeLoad({"CPU": 40_000}, {"CPU": free}, store_free_bytes=store_free_bytes)


def update(reports: LoadReports, free: int, store_free_bytes: int = LIMIT) -> None:
    reports.update({"CPU": 40_000}, {"CPU": free}, store_free_bytes=store_free_bytes)


@pytest.fixture
def reports() -> LoadReports:
    """One whose node has just told that nothing is taken."""
    reports = LoadReports(LIMIT)
    assert reports.due_s() is None
    assert reports.take(0.0) is None
    update(reports, 40_000)
    assert reports.take(0.0) == load(40_000)
    return reports


def test_what_has_not_changed_is_not_told_again(reports: LoadReports) -> None:
    update(reports, 40_000)
    assert reports.due_s() is None
    assert reports.take(100.0) is None


def test_a_change_is_told_when_its_turn_has_come_and_as_it_is_then(reports: LoadReports) -> None:
    update(reports, 30_000)
    assert reports.due_s() == LOAD_INTERVAL_S
    assert reports.take(LOAD_INTERVAL_S / 2) is None
    update(reports, 20_000)
    assert reports.take(LOAD_INTERVAL_S) == load(20_000)
    assert reports.due_s() is None


def test_a_change_that_was_taken_back_is_told_as_it_is_now(reports: LoadReports) -> None:
    update(reports, 30_000)
    update(reports, 40_000)
    assert reports.take(1.0) == load(40_000)


def test_a_hastened_report_does_not_wait(reports: LoadReports) -> None:
    reports.hasten()
    update(reports, 30_000)
    assert reports.take(0.001) == load(30_000)


def test_what_the_head_may_have_changed_is_told_again(reports: LoadReports) -> None:
    reports.repeat()
    assert reports.take(1.0) == load(40_000)
    empty = LoadReports(LIMIT)
    empty.repeat()
    assert empty.take(1.0) is None, "there is nothing to tell yet"


def test_the_free_part_of_the_store_alone_is_told_in_steps_and_else_with_the_rest(reports: LoadReports) -> None:
    step = LIMIT // STORE_STEPS
    update(reports, 40_000, LIMIT - step + 1)
    assert reports.due_s() is None
    update(reports, 30_000, LIMIT - step + 1)
    assert reports.take(1.0) == load(30_000, LIMIT - step + 1)
    update(reports, 30_000, LIMIT - 2 * step + 1)
    assert reports.take(2.0) == load(30_000, LIMIT - 2 * step + 1)


def test_what_is_to_be_told_does_not_change_with_what_the_caller_goes_on_changing(reports: LoadReports) -> None:
    available = {"CPU": 30_000}
    reports.update({"CPU": 40_000}, available, store_free_bytes=LIMIT)
    available["CPU"] = 0
    assert reports.take(1.0) == load(30_000)
