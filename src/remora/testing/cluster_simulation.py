"""Whole clusters from seeds: run many, tell the story of one that failed, and make it smaller."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from remora.testing.cluster_network import Violation
from remora.testing.cluster_programs import Simulation
from remora.testing.cluster_world import Machines


def run_seed(
    seed: int, skipped: frozenset[int] = frozenset(), machines: Callable[[], Machines] = Machines
) -> tuple[Simulation, Violation | None]:
    """One run, and what broke."""
    simulation = Simulation(seed, skipped, machines())
    try:
        simulation.run()
    except Violation as violation:
        return simulation, violation
    return simulation, None


def failures(first: int, count: int, machines: Callable[[], Machines] = Machines, step: int = 1) -> Iterator[str]:
    """What broke, a line for each of so many seeds, every *step*-th from the first."""
    for seed in range(first, first + count * step, step):
        _, violation = run_seed(seed, machines=machines)
        if violation is not None:
            yield f"seed {seed}: {violation}"


def shrink(seed: int, machines: Callable[[], Machines] = Machines) -> frozenset[int]:
    """Actions of the seed's programs that can be left out, and it still fails."""
    simulation, violation = run_seed(seed, machines=machines)
    if violation is None:
        return frozenset()
    skipped: frozenset[int] = frozenset()
    size = max(1, simulation.done // 2)
    while size:
        for start in range(0, simulation.done, size):
            more = skipped | frozenset(range(start, start + size))
            if more != skipped and run_seed(seed, more, machines)[1] is not None:
                skipped = more
        size //= 2
    return skipped


def tell(seed: int, *, everything: bool = False, smaller: bool = False) -> str:
    """The story of a seed: of a failed one what touched the object, task or actor concerned, else all of it."""
    skipped = shrink(seed) if smaller else frozenset()
    simulation, violation = run_seed(seed, skipped)
    world = simulation.world
    if violation is None:
        return "\n".join([f"seed {seed}", *world.story(), "nothing is left and nobody waits"])
    concern = b"" if everything else violation.concern
    head = f"seed {seed}: {violation}"
    if skipped:
        head += f"\n{simulation.done - len(skipped)} of {simulation.done} actions are enough for it"
    if concern:
        head += f"\nwhat touched {world.name(concern)}:"
    return "\n".join([head, *world.story(concern)])
