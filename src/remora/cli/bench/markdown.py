"""The run as Markdown, for the documentation."""

from __future__ import annotations

from collections.abc import Iterable

from remora.cli.bench.cells import cells_of, figure, verdict
from remora.cli.bench.report import closing_lines
from remora.cli.bench.results import Run


def to_markdown(run: Run) -> str:
    """Date, machine, versions, the table of rows, the table of limits and what was missed."""
    peer = run.peer
    headings = ["row", "remora", *([peer, "ratio"] if peer else []), "need", "", "share of limit", "spread"]
    rows = []
    for result in run.rows:
        line = cells_of(result, peer)
        if result.error:
            rows.append([line.name, "no result: " + result.error.strip().splitlines()[-1]])
            continue
        peer_cells = [line.theirs, line.ratio] if peer else []
        name = f"{line.name} ({result.note})" if result.note else line.name
        rows.append([name, line.ours, *peer_cells, line.need, verdict(line.met), line.limit, line.spread])
    parts = [
        f"## Remora against {peer}" if peer else "## Remora alone",
        "\n".join(f"- {line}" for line in _circumstances(run)),
        _table(headings, rows),
    ]
    if run.limits:
        limits = [[limit.name, f"{figure(limit.rate)} {limit.unit}", f"{limit.spread:.0%}"] for limit in run.limits]
        parts.append(_table(["limit of this machine", "rate", "spread"], limits))
    parts.append("\n".join(f"- {line}" for line in closing_lines(run)))
    return "\n\n".join(part for part in parts if part) + "\n"


def _circumstances(run: Run) -> list[str]:
    long_pairs = run.settings.get("long_pairs")
    fewer = f", {long_pairs:g} where one takes minutes" if long_pairs else ""
    return [
        f"date: {run.date}",
        "machine: " + ", ".join(f"{name} {value}" for name, value in run.machine.items()),
        "versions: " + ", ".join(f"{name} {value}" for name, value in run.versions.items()),
        f"{run.settings['pairs']:g} alternating pairs of {run.settings['seconds']:g} s{fewer}; rates are medians, "
        "ratios the median of the pairwise ratios, spread is largest less smallest as a share of the median (the "
        "larger of both sides)",
    ]


def _table(headings: list[str], rows: Iterable[list[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
