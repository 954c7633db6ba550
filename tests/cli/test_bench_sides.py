from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from remora.cli.bench import sides as sides_module
from remora.cli.bench.environments import Environment
from remora.cli.bench.pairs import Effort, Sides, measure_row
from remora.cli.bench.processes import footprint
from remora.cli.bench.rows.catalogue import find_row
from remora.cli.bench.rows.row import Body, Row
from remora.cli.bench.runner import run_benchmark
from remora.cli.bench.selection import select
from remora.cli.bench.sides import SideDiedError, SideError, SideProcess

LIMITS = Environment("limits", sys.executable)
FUTURES = Environment("futures", sys.executable)


@pytest.fixture
def side() -> Iterator[SideProcess]:
    with SideProcess(LIMITS) as process:
        yield process


def test_a_side_measures_a_row_for_about_the_time_asked(side: SideProcess) -> None:
    side.ask("prepare", row="pickle a small value", seconds=0.01)
    answer = side.ask("measure", seconds=0.05)
    assert answer["operations"] > 100
    assert 0.05 <= answer["seconds"] < 2.0


def test_an_error_in_a_row_comes_back_and_the_side_goes_on(side: SideProcess) -> None:
    with pytest.raises(SideError, match="measure before prepare"):
        side.ask("measure", seconds=0.01)
    with pytest.raises(SideError, match="no row named 'nonsense'"):
        side.ask("prepare", row="nonsense", seconds=0.01)
    assert side.ask("drop") == {}


def test_a_side_loads_neither_remora_nor_numpy_before_it_starts(side: SideProcess) -> None:
    """Otherwise import and init would look faster than they are."""
    side.ask("load")
    maps = Path(f"/proc/{side.driver_pid}/maps").read_text()
    assert "python" in maps
    assert "numpy" not in maps
    assert "msgspec" not in maps


def test_the_end_of_a_side_is_told_with_its_last_lines() -> None:
    with SideProcess(Environment("no_such_module_anywhere", sys.executable)) as process:
        with pytest.raises(SideError, match="No module named 'no_such_module_anywhere'"):
            process.ask("load")
        os.kill(process.driver_pid, 9)
        with pytest.raises(SideDiedError, match="ended"):
            process.ask("load")


def test_a_side_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sides_module, "ANSWER_TIMEOUT_S", 0.05)
    process = SideProcess(LIMITS)
    try:
        with pytest.raises(SideDiedError, match="gave no answer"):
            process.ask("prepare", row="pickle a small value", seconds=30)
    finally:
        process.close(polite=False)


def test_processes_of_a_side_are_found_and_end_with_it() -> None:
    with SideProcess(FUTURES) as process:
        for action in ("load", "start", "first_task"):
            process.ask(action)
        pids = process.pids()
        assert process.driver_pid in pids
        assert len(pids) >= 2
        assert footprint(pids).processes == len(pids)
        assert footprint(pids).memory_bytes > 1_000_000
        assert footprint(pids).listening_ports == 0
    assert not [pid for pid in pids if os.path.exists(f"/proc/{pid}")]


def test_a_row_is_measured_in_pairs_with_its_limit_beside_it() -> None:
    row = Row("pickle a small value", "limit", "pairs", lambda _: Body(lambda: None), "fork")
    running = Sides({"ours": LIMITS, "theirs": LIMITS, "limits": LIMITS})
    try:
        result = measure_row(row, running, Effort(pairs=2, seconds=0.01), lambda _: None)
    finally:
        running.close()
    assert result.error == ""
    assert [len(values) for values in (result.ours, result.theirs, result.limits)] == [2, 2, 2]
    assert len(result.other_side_cpu) == 6
    assert result.ratio is not None


def test_a_row_that_a_side_cannot_run_is_an_error_of_that_row_only() -> None:
    running = Sides({"ours": FUTURES})
    try:
        failed = measure_row(find_row("put 1 KB"), running, Effort(1, 0.01), lambda _: None)
        good = measure_row(find_row("pool: one call at a time"), running, Effort(1, 0.01), lambda _: None)
    finally:
        running.close()
    assert "cannot run rows of kind 'ray'" in failed.error
    assert good.error == ""
    assert good.ours[0] > 0


def test_a_whole_run_measures_what_was_selected() -> None:
    shown: list[str] = []
    run = run_benchmark(
        select("multiprocessing", ["init", "one call at a time", "fork"]),
        FUTURES,
        Environment("multiprocessing", sys.executable),
        Effort(pairs=1, seconds=0.01),
        say=lambda _: None,
        show=lambda result: shown.append(result.name),
    )
    assert shown == ["init", "pool: one call at a time"]
    assert [result.error for result in run.rows] == ["", ""]
    assert run.rows[0].lower_is_better
    assert [result.name for result in run.limits] == ["fork"]
