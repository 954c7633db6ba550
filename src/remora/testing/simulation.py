"""``python -m remora.testing.simulation``: random programs on simulated clusters, judged by the truth.

Everything follows from the seed: ``--seeds N`` runs N seeds and names those that fail, ``--replay SEED`` tells one of
them: of a failed one what touched the object, task or actor concerned (``--all``: everything), with as few actions as
are enough for it (``--shrink``). ``--write-stories DIRECTORY`` tells every story in it in order and writes the outcome
beside it, for a reader to judge. With ``--counting`` only the machines of reference counting run, and faults are
denser; without it whole clusters.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from remora.testing import cluster_simulation, cluster_stories
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
    parser.add_argument("--replay", type=int, metavar="SEED", help="tell what happens in one seed")
    parser.add_argument("--all", action="store_true", help="with --replay: everything, of a failed seed, too")
    parser.add_argument("--shrink", action="store_true", help="with --replay: leave out what the failure does not need")
    parser.add_argument("--write-stories", type=Path, metavar="DIRECTORY", help="write the outcome of each story")
    parser.add_argument("--counting", action="store_true", help="only reference counting, not whole clusters")
    options = parser.parse_args(arguments)
    if options.write_stories is not None:
        write = write_stories if options.counting else cluster_stories.write_outcomes
        write(options.write_stories)
        return 0
    if options.replay is not None:
        seed = options.replay
        tell = cluster_simulation.tell
        print(replay(seed) if options.counting else tell(seed, everything=options.all, smaller=options.shrink))
        return 0
    broken = 0
    lines = run_seeds(options.first, options.seeds) if options.counting else None
    for line in cluster_simulation.failures(options.first, options.seeds) if lines is None else lines:
        print(line, flush=True)
        broken += 1
    print(f"{options.seeds} seeds, {broken} violations")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
