"""Rates, measured on running sides in alternating pairs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from remora.cli.bench.environments import Environment
from remora.cli.bench.results import RowResult
from remora.cli.bench.rows.row import Row
from remora.cli.bench.sides import SideDiedError, SideError, SideProcess

#: A noisy row is measured at most this often.
MOST_ATTEMPTS = 3
#: Before each measurement the other sides have to be quiet: they may still work off what they did before (ending
#: actors, freeing objects). Quiet is less than this share of a core over one look; waiting for it is bounded.
QUIET_SHARE = 0.11
QUIET_LOOK_S = 0.1
QUIET_DEADLINE_S = 5.0


@dataclass(frozen=True)
class Effort:
    """How long and how often.

    Attributes:
        pairs: Measurements on each side.
        seconds: Length of each.
    """

    pairs: int = 5
    seconds: float = 1.0


class Sides:
    """The running sides of a benchmark: Remora, the peer if there is one, and the machine's limits."""

    def __init__(self, environments: dict[str, Environment]) -> None:
        self._environments = environments
        self._running: dict[str, SideProcess] = {}

    @property
    def names(self) -> list[str]:
        """The sides in the order in which they take turns."""
        return list(self._environments)

    def get(self, name: str) -> SideProcess:
        """The side, started and initialized when it does not run."""
        side = self._running.get(name)
        if side is None:
            side = self._running[name] = SideProcess(self._environments[name])
            side.ask("load")
            side.ask("start")
        return side

    def forget(self, name: str) -> None:
        """Ends a side that is broken; the next `get` starts it anew."""
        side = self._running.pop(name, None)
        if side is not None:
            side.close(polite=False)

    def cpu_seconds_except(self, name: str) -> float:
        """CPU time so far of all running sides but this one."""
        return sum(side.cpu_seconds() for other, side in self._running.items() if other != name)

    def close(self, *, polite: bool = True) -> None:
        """Ends all sides."""
        while self._running:
            _, side = self._running.popitem()
            side.close(polite=polite)


def measure_row(row: Row, sides: Sides, effort: Effort, say: Callable[[str], None]) -> RowResult:
    """Measures one row on all sides that can run it; again when it comes out noisy.

    A side that fails at the row makes the result's `error`; the other rows go on.
    """
    best: RowResult | None = None
    for attempt in range(1, MOST_ATTEMPTS + 1):
        say(row.name if attempt == 1 else f"{row.name} (attempt {attempt})")
        result = _measure_once(row, sides, effort)
        if best is None or result.error or result.spread < best.spread:
            best = result
        best.attempts = attempt
        if best.error or not best.noisy:
            break
    assert best is not None
    return best


def _measure_once(row: Row, sides: Sides, effort: Effort) -> RowResult:
    result = RowResult(row.name, f"{row.unit}/s", limit_name=row.limit)
    values = {"ours": result.ours, "theirs": result.theirs, "limits": result.limits}
    row_of_side = {name: row.limit if name == "limits" else row.name for name in sides.names}
    active = [name for name in sides.names if row_of_side[name]]
    try:
        for name in active:
            _on(sides, name, "prepare", row=row_of_side[name], seconds=effort.seconds / 2)
        for _ in range(effort.pairs):
            for name in active:
                rate, other_cpu = _measure_rate(sides, name, effort.seconds)
                values[name].append(rate)
                result.other_side_cpu.append(other_cpu)
        for name in active:
            _on(sides, name, "drop")
    except SideError as error:
        result.error = str(error)
        _drop_after_error(sides, active)
    return result


def _measure_rate(sides: Sides, name: str, seconds: float) -> tuple[float, float]:
    """The side's rate, and the CPU used meanwhile by the others as a share of one core."""
    other_before_s = _wait_until_quiet(sides, name)
    answer = _on(sides, name, "measure", seconds=seconds)
    other_s = sides.cpu_seconds_except(name) - other_before_s
    return answer["operations"] / answer["seconds"], max(0.0, other_s) / answer["seconds"]


def _wait_until_quiet(sides: Sides, name: str) -> float:
    """Waits until the sides other than `name` rest; returns their CPU seconds so far."""
    deadline_s = time.monotonic() + QUIET_DEADLINE_S
    before_s = sides.cpu_seconds_except(name)
    while True:
        time.sleep(QUIET_LOOK_S)
        now_s = sides.cpu_seconds_except(name)
        if now_s - before_s <= QUIET_SHARE * QUIET_LOOK_S or time.monotonic() > deadline_s:
            return now_s
        before_s = now_s


def _on(sides: Sides, name: str, action: str, **arguments: object) -> dict[str, float]:
    try:
        return sides.get(name).ask(action, **arguments)
    except SideDiedError as error:
        sides.forget(name)
        raise SideError(f"{name}: {error}") from None
    except SideError as error:
        raise SideError(f"{name}: {error}") from None


def _drop_after_error(sides: Sides, active: Iterable[str]) -> None:
    """Leaves no half-prepared row behind; a side that cannot even drop it is ended."""
    for name in active:
        try:
            sides.get(name).ask("drop")
        except SideError:
            sides.forget(name)
