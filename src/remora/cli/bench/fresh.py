"""Figures that need fresh processes: start-up, what an idle session uses, and a great number of queued tasks."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from remora.cli.bench.environments import Environment
from remora.cli.bench.processes import cpu_seconds, footprint
from remora.cli.bench.results import RowResult
from remora.cli.bench.rows.peer_modules import POOL_MODULES
from remora.cli.bench.sides import SideError, SideProcess

#: Quiet after ``init()`` before an idle session is looked at, and how long its CPU use is watched.
IDLE_SETTLE_S = 3.0
IDLE_WATCH_S = 5.0
#: Queued tasks. Peers would need many minutes for a million; theirs are figures per task as well.
OUR_QUEUED_TASKS = 1_000_000
PEER_QUEUED_TASKS = 20_000

#: A noisy group is measured at most this often: its rows take minutes.
MOST_ATTEMPTS = 2

Values = dict[str, float]


@dataclass(frozen=True)
class FreshRow:
    """One figure of a `FreshGroup`.

    A small number close to nothing (`again_when_noisy` False) is always far apart in shares of its median.
    """

    name: str
    unit: str
    lower_is_better: bool = True
    note: str = ""
    again_when_noisy: bool = True


@dataclass(frozen=True)
class FreshGroup:
    """Figures that one fresh process gives together.

    Attributes:
        title: For the progress line.
        rows: The figures.
        for_pools: Whether process pools have these figures too.
        measure: Starts what it needs, ends it again, and returns a value for each row's name. The argument after
            the environment says whether it is Remora's.
    """

    title: str
    rows: tuple[FreshRow, ...]
    for_pools: bool
    measure: Callable[[Environment, bool], Values]


def measure_start_up(environment: Environment, _: bool) -> Values:
    """Seconds to import, to initialize, to the first task's result, and to shut down."""
    values = {"import": _import_seconds(environment)}
    with SideProcess(environment) as side:
        side.ask("load")
        values["init"] = side.ask("start")["seconds"]
        values["first task"] = side.ask("first_task")["seconds"]
        values["shutdown"] = side.ask("stop")["seconds"]
    return values


def _import_seconds(environment: Environment) -> float:
    """The import alone, in an interpreter that has loaded nothing else."""
    module = POOL_MODULES.get(environment.module, environment.module)
    program = f"import time; s = time.perf_counter(); import {module}; print(time.perf_counter() - s)"
    done = subprocess.run([environment.python, "-c", program], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SideError(f"import {module} failed in {environment.python}:\n{done.stderr[-500:]}")
    return float(done.stdout.split()[-1])


def measure_idle(environment: Environment, _: bool) -> Values:
    """What the processes beside the driver use after ``init()`` when nothing is asked of them."""
    with SideProcess(environment) as side:
        side.ask("load")
        side.ask("start")
        time.sleep(IDLE_SETTLE_S)
        pids = side.pids()
        before_s = cpu_seconds(pids)
        time.sleep(IDLE_WATCH_S)
        used_s = cpu_seconds(pids) - before_s
        beside = footprint([pid for pid in side.pids() if pid != side.driver_pid])
        ports = footprint(side.pids()).listening_ports
    return {
        "idle: processes beside the driver": beside.processes,
        "idle: memory without the driver": beside.memory_bytes / 1e6,
        "idle: listening TCP ports": ports,
        "idle: CPU": 100 * used_s / IDLE_WATCH_S,
    }


def measure_queued_tasks(environment: Environment, is_ours: bool) -> Values:
    """Queues a great number of tasks behind an actor that holds every CPU, then runs them."""
    count = OUR_QUEUED_TASKS if is_ours else PEER_QUEUED_TASKS
    with SideProcess(environment) as side:
        side.ask("load")
        side.ask("start")
        answer = side.ask("queued_tasks", count=count)
    return {
        "queued tasks: time per task": answer["queue_s"] / count * 1e6,
        "queued tasks: memory per task": answer["queued_bytes"] / count,
        "queued tasks: longest pause": answer["longest_pause_s"],
        "queued tasks: run and got": count / answer["run_s"],
    }


_QUEUED_NOTE = f"{OUR_QUEUED_TASKS:,} tasks; the peer {PEER_QUEUED_TASKS:,}"

FRESH_GROUPS: tuple[FreshGroup, ...] = (
    FreshGroup(
        "start-up",
        (FreshRow("import", "s"), FreshRow("init", "s"), FreshRow("first task", "s"), FreshRow("shutdown", "s")),
        True,
        measure_start_up,
    ),
    FreshGroup(
        "idle session",
        (
            FreshRow("idle: processes beside the driver", ""),
            FreshRow("idle: memory without the driver", "MB"),
            FreshRow("idle: listening TCP ports", ""),
            FreshRow("idle: CPU", "% of a core", again_when_noisy=False),
        ),
        False,
        measure_idle,
    ),
    FreshGroup(
        "queued tasks",
        (
            FreshRow("queued tasks: time per task", "us", note=_QUEUED_NOTE),
            FreshRow("queued tasks: memory per task", "bytes", note=_QUEUED_NOTE),
            FreshRow("queued tasks: longest pause", "s", note=_QUEUED_NOTE, again_when_noisy=False),
            FreshRow("queued tasks: run and got", "tasks/s", lower_is_better=False, note=_QUEUED_NOTE),
        ),
        False,
        measure_queued_tasks,
    ),
)


def measure_group(
    group: FreshGroup, environments: dict[str, Environment], pairs: int, say: Callable[[str], None]
) -> list[RowResult]:
    """Measures a group on Remora ("ours") and the peer ("theirs") in alternating pairs of fresh processes.

    When a figure comes out noisy the whole group is measured again; each figure keeps its calmest attempt.
    """
    best: dict[str, RowResult] = {}
    for attempt in range(1, MOST_ATTEMPTS + 1):
        for name, result in _measure_group_once(group, environments, pairs, say).items():
            if name not in best or result.spread < best[name].spread:
                best[name] = result
            best[name].attempts = attempt
        if not any(best[row.name].noisy and row.again_when_noisy for row in group.rows):
            break
    return list(best.values())


def _measure_group_once(
    group: FreshGroup, environments: dict[str, Environment], pairs: int, say: Callable[[str], None]
) -> dict[str, RowResult]:
    results = {row.name: RowResult(row.name, row.unit, row.lower_is_better, note=row.note) for row in group.rows}
    for pair in range(pairs):
        for side, environment in environments.items():
            say(f"{group.title}: {environment.module}, {pair + 1} of {pairs}")
            try:
                values = group.measure(environment, side == "ours")
            except SideError as error:
                for result in results.values():
                    result.error = f"{side}: {error}"
                return results
            for name, result in results.items():
                (result.ours if side == "ours" else result.theirs).append(values[name])
    return results
