"""Machines for the nodes of a cluster: network namespaces with an address each; skipped where there can be none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from remora.testing.namespaces import skip_reason
from remora.testing.network_lab import NetworkLab


@pytest.fixture(scope="session")
def network_namespaces() -> None:
    """Asked for by every lab: the test is skipped, with the reason, when there can be none here."""
    if reason := skip_reason():
        pytest.skip(reason)


@pytest.fixture
def lab(network_namespaces: None) -> Iterator[NetworkLab]:
    """A network of its own for each test, without hosts yet: one costs about 20 ms to add, and nothing to trust."""
    with NetworkLab() as lab:
        yield lab


@pytest.fixture(scope="module")
def module_lab(network_namespaces: None) -> Iterator[NetworkLab]:
    """A network for all tests of a module, for nodes that are dear to start. Each test heals what it has cut."""
    with NetworkLab() as lab:
        yield lab
