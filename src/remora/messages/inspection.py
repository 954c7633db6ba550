"""Looking at a running session: nodes, resources, tasks, objects and who holds them."""

from __future__ import annotations

import msgspec


class GetNodes(msgspec.Struct, array_like=True, tag=100, frozen=True):
    """Process to daemon: which nodes are there? Answered by ``Nodes``."""

    request: int


class NodeReport(msgspec.Struct, array_like=True, frozen=True):
    """One node; amounts of resources in ones."""

    node: bytes
    is_alive: bool
    hostname: str
    address: str
    resources: dict[str, float]
    available: dict[str, float]
    labels: dict[str, str] = {}


class Nodes(msgspec.Struct, array_like=True, tag=101, frozen=True):
    """The answer to ``GetNodes``."""

    request: int
    nodes: list[NodeReport]


MESSAGES = (GetNodes, Nodes)
