"""Clusters that encrypt and clusters that do not, each with two nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from network_ends import Node

from remora.base.credentials import ClusterCredentials
from remora.system.certificates import create_credentials


@pytest.fixture(params=[True, False], ids=["tls", "clear"])
def credentials(request: pytest.FixtureRequest, tmp_path: Path) -> ClusterCredentials:
    return create_credentials(str(tmp_path / "secrets"), request.param)


@pytest.fixture
def clear_credentials(tmp_path: Path) -> ClusterCredentials:
    return create_credentials(str(tmp_path / "clear"), False)


@pytest.fixture
def make_node() -> Iterator[Callable[..., Node]]:
    nodes: list[Node] = []

    def make(*args: object) -> Node:
        nodes.append(Node(*args))  # type: ignore[arg-type]
        return nodes[-1]

    yield make
    for node in nodes:
        node.close()


@pytest.fixture
def nodes(credentials: ClusterCredentials, make_node: Callable[..., Node]) -> tuple[Node, Node]:
    return make_node(credentials), make_node(credentials)
