"""``python -m remora.testing.simulation``: random programs on simulated clusters, judged by the truth.

Everything follows from the seed: ``--seeds N`` runs N seeds and names those that break the protocol, ``--replay SEED``
prints what happens in one, line by line, and ``--write-stories DIRECTORY`` tells every story in it in order and
writes the outcome beside it, for a reader to judge.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from remora.testing.counting_programs import Simulation
from remora.testing.counting_stories import Story
from remora.testing.counting_telling import Telling
from remora.testing.counting_world import Violation


def run_seeds(first: int, count: int) -> list[str]:
    """What broke, a line for each seed."""
    broken = []
    for seed in range(first, first + count):
        try:
            Simulation(seed).run()
        except Violation as violation:
            broken.append(f"seed {seed}: {violation}")
    return broken


def replay(seed: int) -> str:
    """The story of one seed, and how it ended."""
    simulation = Simulation(seed)
    end = "everything was freed and nobody waits"
    try:
        simulation.run()
    except Violation as violation:
        end = f"VIOLATION: {violation}"
    return "\n".join([f"seed {seed}, mix {simulation.mix}", *simulation.world.log, end])


def write_stories(directory: Path) -> None:
    """Write ``NAME.expected`` beside each ``NAME.txt``."""
    for path in sorted(directory.glob("*.txt")):
        telling = Telling(Story.read(path))
        telling.tell_in_order()
        path.with_suffix(".expected").write_text(telling.text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m remora.testing.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--replay", type=int, metavar="SEED", help="print what happens in one seed")
    parser.add_argument("--write-stories", type=Path, metavar="DIRECTORY", help="write the outcome of each story")
    options = parser.parse_args(arguments)
    if options.write_stories is not None:
        write_stories(options.write_stories)
        return 0
    if options.replay is not None:
        print(replay(options.replay))
        return 0
    broken = run_seeds(options.first, options.seeds)
    print("\n".join([*broken, f"{options.seeds} seeds, {len(broken)} violations"]))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
