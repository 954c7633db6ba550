"""Stories about counting, told in order against their expected outcome, and shuffled from seeds.

After a wanted change: ``python -m remora.testing.simulation --counting --write-stories tests/simulation/stories``.
Then read.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from remora.testing.counting_stories import Death, Story
from remora.testing.counting_telling import Telling

PATHS = sorted((Path(__file__).parent / "stories").glob("*.txt"))
SEEDS = {"": 15, "kill": 15, "cut": 6}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_story_told_in_order_ends_as_expected(path: Path) -> None:
    telling = Telling(Story.read(path))
    telling.tell_in_order()
    assert telling.text == path.with_suffix(".expected").read_text()


@pytest.mark.parametrize("fault", SEEDS)
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_story_ends_well_in_any_order_with_a_fault_at_any_step(path: Path, fault: str) -> None:
    story = Story.read(path)
    if fault == "cut" and story.kills_a_node:
        return  # links lose nothing while nodes live; what the heir is told must arrive
    for seed in range(SEEDS[fault]):
        Telling(story).tell_shuffled(seed, fault)


@pytest.mark.parametrize("settled", [False, True], ids=["at once", "when all has arrived"])
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_story_ends_well_whoever_dies_at_whatever_step(path: Path, settled: bool) -> None:
    story = Story.read(path)
    victims = [f"node {node}" for node in story.layout] + [name for names in story.layout.values() for name in names]
    for after_steps in range(len(story.steps)):
        for victim in victims:
            Telling(story).tell_in_order(Death(victim, after_steps, settled))
