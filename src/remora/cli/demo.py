"""The command ``remora demo``: the most alike modules of Python's standard library.

Parallel tasks parse every module, the matrix of all modules goes into the store once, tasks compare slices of it
where it lies, and an actor gathers what they find.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from remora.cli.similarity import (
    Module,
    Pair,
    Vectors,
    best_between_packages,
    library_root,
    module_paths,
    most_alike,
    parse_modules,
    tf_idf,
)
from remora.cli.store_view import Place, copies_after_put, place_of

FILES_PER_TASK = 12
ROWS_PER_TASK = 32


@dataclass
class Outcome:
    """What a run of the job found and used.

    Attributes:
        names: Modules compared.
        pairs: The most alike.
        files: Source files read.
        parsed: Files that were valid Python.
        tokens: Tokens in them.
        tasks: Tasks that ran; 0 in one process.
        matrix_bytes: Size of the matrix.
        places: Where each comparing task found the matrix.
        seconds: Seconds of each step, and of the whole job as "all".
    """

    names: list[str] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    files: int = 0
    parsed: int = 0
    tokens: int = 0
    tasks: int = 0
    matrix_bytes: int = 0
    places: list[Place] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


def find_in_parallel(ray: Any, paths: list[Path], count: int, progress: Progress) -> Outcome:
    """Does the job with tasks, the object store and an actor.

    Args:
        ray: Remora, initialized, or a module with the same API.
        paths: The source files.
        count: How many pairs to find.
        progress: Gets a bar for each step.
    """
    outcome, start = Outcome(), time.perf_counter()
    root = library_root()

    with _step(outcome, "parse"):
        parse = ray.remote(parse_modules)
        batches = [parse.remote(paths[at : at + FILES_PER_TASK], root) for at in range(0, len(paths), FILES_PER_TASK)]
        _show_progress(ray, progress, "parse", batches)
        modules: list[Module] = [module for batch in ray.get(batches) for module in batch]

    with _step(outcome, "matrix"):
        names, vectors = tf_idf(modules)
        matrix = ray.put(vectors)

    with _step(outcome, "compare"):
        gatherer = ray.remote(Gatherer).remote(names)
        compare = ray.remote(_compare_slice)
        rows = range(0, len(names), ROWS_PER_TASK)
        found = [compare.remote(matrix, first, min(first + ROWS_PER_TASK, len(names))) for first in rows]
        gathered = [gatherer.add.remote(result) for result in found]
        _show_progress(ray, progress, "compare", gathered)
        outcome.places = ray.get(gathered)
        outcome.pairs = ray.get(gatherer.best.remote(count))

    outcome.tasks = len(batches) + len(found)
    outcome.seconds["all"] = time.perf_counter() - start
    return _describe(outcome, len(paths), modules, names, vectors)


def find_in_one_process(paths: list[Path], count: int) -> Outcome:
    """Does the same job by calling the same functions one after the other."""
    outcome, start = Outcome(), time.perf_counter()
    with _step(outcome, "parse"):
        modules = parse_modules(paths, library_root())
    with _step(outcome, "matrix"):
        names, vectors = tf_idf(modules)
    with _step(outcome, "compare"):
        gatherer = Gatherer(names)
        for first in range(0, len(names), ROWS_PER_TASK):
            gatherer.add(_compare_slice(vectors, first, min(first + ROWS_PER_TASK, len(names))))
        outcome.pairs = gatherer.best(count)
    outcome.seconds["all"] = time.perf_counter() - start
    return _describe(outcome, len(paths), modules, names, vectors)


class Gatherer:
    """The actor that keeps the best pairs of all slices."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._pairs: list[Pair] = []

    def add(self, found: tuple[list[Pair], Place]) -> Place:
        """Takes one slice's pairs; gives back where its task read the matrix."""
        pairs, place = found
        self._pairs += pairs
        return place

    def best(self, count: int) -> list[Pair]:
        """The most alike modules so far, one pair for each two packages."""
        return best_between_packages(self._pairs, self._names, count)


def _compare_slice(vectors: Vectors, first: int, last: int) -> tuple[list[Pair], Place]:
    return most_alike(vectors, first, last), place_of(vectors)


@contextmanager
def _step(outcome: Outcome, name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    outcome.seconds[name] = time.perf_counter() - start


def _show_progress(ray: Any, progress: Progress, title: str, refs: list[Any]) -> None:
    """Moves a bar until all refs are ready."""
    bar = progress.add_task(title, total=len(refs))
    waiting = refs
    while waiting:
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=0.05)
        progress.update(bar, completed=len(refs) - len(waiting))


def _describe(outcome: Outcome, files: int, modules: list[Module], names: list[str], vectors: Vectors) -> Outcome:
    outcome.files, outcome.parsed, outcome.names = files, len(modules), names
    outcome.tokens = sum(module.tokens for module in modules)
    outcome.matrix_bytes = vectors.nbytes
    return outcome


def _pairs_table(outcome: Outcome) -> Table:
    table = Table("alike", "module", "and", title="The most alike modules, one pair for each two packages")
    for pair in outcome.pairs:
        table.add_row(f"{pair.likeness:.3f}", outcome.names[pair.first], outcome.names[pair.second])
    return table


def _summary_table(parallel: Outcome, alone: Outcome, init_s: float) -> Table:
    tasks_reading = len(parallel.places)
    table = Table("what ran", "", title="What ran", show_header=False)
    table.add_row("source files", f"{parallel.files:,} ({parallel.files - parallel.parsed} are no valid Python)")
    table.add_row("tokens", f"{parallel.tokens:,}")
    table.add_row("matrix", f"{len(parallel.names):,} modules, {parallel.matrix_bytes:,} bytes, put once")
    table.add_row("tasks", f"{parallel.tasks:,}")
    table.add_row("actor calls", f"{tasks_reading + 1:,}")
    table.add_row("bytes shared", f"{tasks_reading * parallel.matrix_bytes:,} (by {tasks_reading} tasks)")
    table.add_row("copies of the matrix after the put", str(copies_after_put(parallel.places)))
    table.add_row("init", f"{init_s:.3f} s")
    table.add_row(f"seconds with {os.cpu_count()} cores", _seconds(parallel))
    table.add_row("seconds in one process", _seconds(alone))
    table.add_row("times faster", f"{alone.seconds['all'] / parallel.seconds['all']:.2f}")
    return table


def _seconds(outcome: Outcome) -> str:
    steps = ", ".join(f"{name} {value:.2f}" for name, value in outcome.seconds.items() if name != "all")
    return f"{outcome.seconds['all']:.2f} ({steps})"


def _same_likeness(ours: list[Pair], theirs: list[Pair]) -> bool:
    """Whether two results agree; equally alike pairs may change places, as sums of other lengths round otherwise."""
    return len(ours) == len(theirs) and all(abs(a.likeness - b.likeness) < 1e-3 for a, b in zip(ours, theirs))


def run_demo(ray: Any, paths: list[Path], count: int, console: Console) -> None:
    """Runs the job in parallel and in one process, and prints what was found and what ran.

    Raises:
        click.ClickException: The two found different pairs.
    """
    start = time.perf_counter()
    ray.init()
    init_s = time.perf_counter() - start
    try:
        columns = (TextColumn("{task.description:8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            parallel = find_in_parallel(ray, paths, count, progress)
    finally:
        ray.shutdown()
    console.print(_pairs_table(parallel))
    with console.status("the same job in one process"):
        alone = find_in_one_process(paths, count)
    console.print(_summary_table(parallel, alone, init_s))
    if not _same_likeness(parallel.pairs, alone.pairs):
        raise click.ClickException("the job in one process found other pairs: this is a bug in Remora or in the demo")


@click.command()
@click.option("--pairs", default=15, show_default=True, type=click.IntRange(1), help="How many pairs to show.")
def demo(pairs: int) -> None:
    """Find the most alike modules of Python's standard library.

    Reads and parses every module in parallel tasks, puts one matrix into the object store, compares slices of it in
    tasks that read it where it lies, and gathers the result in an actor.
    """
    run_demo(importlib.import_module("remora"), module_paths(), pairs, Console())
