from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from remora.cli.bench.cells import cells_of, figure
from remora.cli.bench.markdown import to_markdown
from remora.cli.bench.report import print_progress, print_report
from remora.cli.bench.results import RowResult, Run


def a_run(*rows: RowResult, peer: str = "ray") -> Run:
    return Run(
        peer=peer,
        date="2026-01-02T03:04:05+00:00",
        machine={"processor": "Test CPU", "cores": "2"},
        versions={"python": "3.11.7", "ray": "2.60.0"},
        settings={"pairs": 1, "seconds": 0.1},
        rows=list(rows),
        limits=[RowResult("fork", "forks/s", ours=[1180.0])],
    )


FAST = RowResult("single client get calls", "gets/s", ours=[700_000.0], theirs=[10_000.0], other_side_cpu=[0.01])
SLOW = RowResult("single client put calls", "puts/s", ours=[50_000.0], theirs=[10_000.0])
BROKEN = RowResult("single client tasks sync", "tasks/s", error="Traceback\nValueError: the reason")


def printed(run: Run) -> str:
    out = io.StringIO()
    print_report(run, Console(file=out, width=200))
    return out.getvalue()


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (1234.5, "1,234"), (12.345, "12.3"), (0.0123456, "0.0123"), (0, "0")]
)
def test_figures_have_three_digits_that_count(value: float | None, text: str) -> None:
    assert figure(value) == text


def test_a_line_holds_what_is_needed_against_what_was_got() -> None:
    line = cells_of(SLOW, "ray")
    assert (line.ratio, line.need, line.met) == ("5 x", "60 x", False)


def test_the_report_names_what_was_missed_and_what_failed() -> None:
    text = printed(a_run(FAST, SLOW, BROKEN))
    assert "1 of 2 needs met." in text
    assert "Missed: single client put calls" in text
    assert "ValueError: the reason" in text
    assert "70 x" in text


def test_a_noisy_row_is_shown_and_marked() -> None:
    noisy = RowResult("put 1 KB", "puts/s", ours=[10.0, 20.0, 30.0], theirs=[1.0, 1.0, 1.0], attempts=3)
    assert "100%, 3 attempts, noisy" in printed(a_run(noisy))


def test_the_markdown_has_date_machine_versions_and_every_row() -> None:
    text = to_markdown(a_run(FAST, SLOW, BROKEN))
    for part in (
        "2026-01-02",
        "Test CPU",
        "ray 2.60.0",
        "| single client get calls | 700,000 gets/s | 10,000 | 70 x |",
    ):
        assert part in text
    assert "no result: ValueError: the reason" in text
    assert "| fork | 1,180 forks/s |" in text


def test_without_a_peer_there_is_no_column_for_one() -> None:
    alone = a_run(RowResult("single client get calls", "gets/s", ours=[5.0]), peer="")
    assert "ratio" not in printed(alone)
    assert "| row | remora | need |" in to_markdown(alone)


def test_the_json_keeps_every_measured_value() -> None:
    data = json.loads(json.dumps(a_run(FAST).to_json()))
    assert data["rows"][0]["ours"] == [700_000.0]
    assert data["limits"][0]["name"] == "fork"


def test_progress_of_a_failed_row_is_its_last_line() -> None:
    out = io.StringIO()
    print_progress(BROKEN, "ray", Console(file=out, width=200))
    assert out.getvalue() == "failed  single client tasks sync: ValueError: the reason\n"
