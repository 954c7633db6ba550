"""Random programs on whole simulated clusters: nothing is freed too early, everything ends, nothing stays."""

from __future__ import annotations

import pytest

from remora.testing.cluster_simulation import failures

SEEDS_PER_BLOCK = 100


@pytest.mark.parametrize("block", range(4))
def test_clusters_keep_their_promises_whoever_dies(block: int) -> None:
    assert list(failures(block * SEEDS_PER_BLOCK, SEEDS_PER_BLOCK)) == []
