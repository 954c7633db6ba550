"""The cells of a result's line, shared by the table on the screen and the one in Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from remora.cli.bench.needs import find_need, is_met
from remora.cli.bench.results import RowResult


@dataclass(frozen=True)
class Cells:
    """One line of the table, as text; `met` is None where nothing is required."""

    name: str
    ours: str
    theirs: str
    ratio: str
    need: str
    limit: str
    spread: str
    met: bool | None


def cells_of(result: RowResult, peer: str) -> Cells:
    """The line of one result in a run against `peer` ("" without one)."""
    need = find_need(result.name, peer)
    met = is_met(need, result) if need else None
    return Cells(
        name=result.name,
        ours=f"{figure(result.rate)} {result.unit}".strip(),
        theirs=figure(result.peer_rate),
        ratio=f"{figure(result.ratio)} x" if result.ratio is not None else "",
        need=str(need) if need else "",
        limit=f"{result.limit_share:.2g} of {result.limit_name}" if result.limit_share is not None else "",
        spread=_spread(result),
        met=met,
    )


def figure(value: float | None) -> str:
    """A number with three digits that count, and commas from thousands on.

    Example:
        >>> figure(1234.5), figure(0.012345), figure(None)
        ('1,234', '0.0123', '')
    """
    if value is None:
        return ""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def verdict(met: bool | None) -> str:
    """The word for `Cells.met`."""
    return {True: "met", False: "MISSED", None: ""}[met]


def _spread(result: RowResult) -> str:
    text = f"{result.spread:.0%}"
    if result.attempts > 1:
        text += f", {result.attempts} attempts"
    return text + (", noisy" if result.noisy else "")
