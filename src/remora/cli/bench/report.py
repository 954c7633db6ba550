"""The run on the screen: each row as it is measured, and a table at the end."""

from __future__ import annotations

from statistics import median

from rich.console import Console
from rich.table import Table
from rich.text import Text

from remora.cli.bench.cells import Cells, cells_of, figure, verdict
from remora.cli.bench.results import RowResult, Run

_STYLES = {True: "green", False: "bold red", None: ""}


def print_report(run: Run, console: Console) -> None:
    """Prints the tables of a run, and what was missed."""
    console.print(_rows_table(run))
    if run.limits:
        console.print(_limits_table(run))
    for line in closing_lines(run):
        console.print(line)
    for result in run.rows:
        if result.error:
            console.print(f"[bold red]{result.name}[/]: no result")
            console.print(Text(result.error.strip(), style="dim"))


def print_progress(result: RowResult, peer: str, console: Console) -> None:
    """Prints one line for a row that has just been measured."""
    line = cells_of(result, peer)
    if result.error:
        console.print(f"[bold red]failed[/]  {line.name}: {result.error.strip().splitlines()[-1]}", highlight=False)
        return
    parts = [f"{line.name}: {line.ours}"]
    if line.theirs:
        parts.append(f"{peer} {line.theirs}, [bold]{line.ratio}[/]")
    if line.met is not None:
        parts.append(f"[{_STYLES[line.met]}]{verdict(line.met)}[/] (need {line.need})")
    console.print("; ".join(parts) + f"; spread {line.spread}", highlight=False)


def closing_lines(run: Run) -> list[str]:
    """What the whole run says, in a few sentences."""
    lines = [cells_of(result, run.peer) for result in run.rows if not result.error]
    required = [line for line in lines if line.met is not None]
    missed = [line for line in required if not line.met]
    text = [f"{len(required) - len(missed)} of {len(required)} needs met."] if required else []
    text += [f"Missed: {line.name}: {_got(line)}, needed {line.need}." for line in missed]
    noisy = [result.name for result in run.rows if result.noisy]
    if noisy:
        text.append(f"Noisy (spread above 20 % after all attempts): {', '.join(noisy)}.")
    idle_cpu = [share for result in run.rows for share in result.other_side_cpu]
    if idle_cpu:
        text.append(
            f"CPU of the idle sides while another was measured: median {median(idle_cpu):.1%} of a core, "
            f"at most {max(idle_cpu):.1%}."
        )
    return text


def _got(line: Cells) -> str:
    return ", ".join(part for part in (line.ours, line.ratio, line.limit) if part)


def _rows_table(run: Run) -> Table:
    table = Table(title=f"Remora against {run.peer}" if run.peer else "Remora", title_justify="left")
    table.add_column("row")
    table.add_column("remora", justify="right")
    if run.peer:
        table.add_column(run.peer, justify="right")
        table.add_column("ratio", justify="right")
    for heading in ("need", "", "share of limit", "spread"):
        table.add_column(heading)
    for result in run.rows:
        if result.error:
            continue
        line = cells_of(result, run.peer)
        peer_cells = [line.theirs, line.ratio] if run.peer else []
        met = Text(verdict(line.met), style=_STYLES[line.met])
        table.add_row(line.name, line.ours, *peer_cells, line.need, met, line.limit, line.spread)
    return table


def _limits_table(run: Run) -> Table:
    table = Table("limit of this machine", title_justify="left")
    table.add_column("rate", justify="right")
    table.add_column("spread")
    for result in run.limits:
        table.add_row(result.name, f"{figure(result.rate)} {result.unit}", f"{result.spread:.0%}")
    return table
