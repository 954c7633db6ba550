"""Stories of whole clusters, told in order against their expected outcome, and in any order from seeds.

After a wanted change: ``python -m remora.testing.simulation --write-stories tests/simulation/cluster/stories``. Then
read.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from remora.testing.cluster_network import Violation
from remora.testing.cluster_stories import ClusterStory, tell

PATHS = sorted((Path(__file__).parent / "stories").glob("*.txt"))
ORDERS = 12


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_story_told_in_order_ends_as_expected(path: Path) -> None:
    assert tell(ClusterStory.read(path)) == path.with_suffix(".expected").read_text()


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_story_ends_well_in_any_order(path: Path) -> None:
    story = ClusterStory.read(path)
    for seed in range(ORDERS):
        tell(story, seed)


def test_a_line_that_can_never_be_done_is_named() -> None:
    story = ClusterStory.parse("wrong", "nodes N1: D\nD put o\nD task t special=1 -> r\nt return\n")
    with pytest.raises(Violation, match="can never be done: t return"):
        tell(story)
