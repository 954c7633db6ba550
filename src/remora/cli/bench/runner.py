"""A whole run: fresh figures, rates in pairs, and the limits by themselves."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime

from remora.cli.bench.environments import Environment
from remora.cli.bench.fresh import measure_group
from remora.cli.bench.machine import describe_machine, describe_versions
from remora.cli.bench.pairs import Effort, Sides, measure_row
from remora.cli.bench.results import RowResult, Run
from remora.cli.bench.selection import Selection


def run_benchmark(
    selection: Selection,
    ours: Environment,
    theirs: Environment | None,
    effort: Effort,
    *,
    say: Callable[[str], None],
    show: Callable[[RowResult], None],
) -> Run:
    """Measures the selected rows.

    Args:
        selection: What to measure.
        ours: Where Remora is.
        theirs: Where the peer is, or None to measure Remora alone.
        effort: Pairs and seconds.
        say: Called with what is being done now.
        show: Called with each result as soon as it is there.
    """
    peers = {"ours": ours} if theirs is None else {"ours": ours, "theirs": theirs}
    run = Run(
        peer=theirs.module if theirs else "",
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=describe_machine(),
        versions=describe_versions(peers),
        settings={"pairs": effort.pairs, "seconds": effort.seconds},
    )
    limits = {"limits": Environment("limits", sys.executable)}
    _measure_limits(run, selection, Sides({"ours": limits["limits"]}), effort, say)
    _measure_fresh(run, selection, peers, effort, say, show)
    _measure_rates(run, selection, Sides(peers | limits), effort, say, show)
    return run


def _measure_fresh(
    run: Run,
    selection: Selection,
    peers: dict[str, Environment],
    effort: Effort,
    say: Callable[[str], None],
    show: Callable[[RowResult], None],
) -> None:
    for group in selection.fresh:
        for result in measure_group(group, peers, effort.pairs, say):
            run.rows.append(result)
            show(result)


def _measure_rates(
    run: Run,
    selection: Selection,
    sides: Sides,
    effort: Effort,
    say: Callable[[str], None],
    show: Callable[[RowResult], None],
) -> None:
    polite = False
    try:
        for row in selection.rates:
            result = measure_row(row, sides, effort, say)
            run.rows.append(result)
            show(result)
        polite = True
    finally:
        sides.close(polite=polite)


def _measure_limits(run: Run, selection: Selection, machine: Sides, effort: Effort, say: Callable[[str], None]) -> None:
    """The limits alone, before either side runs."""
    try:
        run.limits += [measure_row(row, machine, effort, say) for row in selection.limits]
    finally:
        machine.close()
