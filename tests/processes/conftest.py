"""Nodes of stand-ins, and pidfds to see that nothing of them stays."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest
from node_stand_in import StandInNode


@pytest.fixture
def base() -> Iterator[str]:
    """A base directory for sessions, short as the real one. It is gone with its last session."""
    path = tempfile.mkdtemp(prefix="rm-", dir="/tmp")
    yield path
    left = os.listdir(path) if os.path.exists(path) else []
    shutil.rmtree(path, ignore_errors=True)
    assert left == []


@pytest.fixture
def node(base: str) -> Iterator[StandInNode]:
    node = StandInNode(base)
    yield node
    node.close()
