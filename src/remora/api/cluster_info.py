"""What there is: ``nodes``, ``cluster_resources`` and ``available_resources``."""

from __future__ import annotations

from typing import Any

from remora.base import runtime
from remora.base.network_address import split_address
from remora.base.runtime import NodeInformation, Runtime


def nodes() -> list[dict[str, Any]]:
    """Every node of the cluster, dead ones too, as dicts with Ray's keys.

    ``NodeID``, ``Alive``, ``NodeManagerHostname``, ``NodeManagerAddress`` (the host alone), ``NodeManagerPort`` (0 in a
    session of one node, which has none), ``Resources`` and ``Labels`` say something here. Other ports are 0 and socket
    names empty: nothing listens where Ray's processes would.

    Raises:
        RuntimeError: there is no session.

    Example:
        >>> [node["NodeID"] for node in remora.nodes() if node["Alive"]]
    """
    return [_as_ray(node) for node in _session("nodes").nodes()]


def cluster_resources() -> dict[str, float]:
    """All resources of the living nodes together.

    Raises:
        RuntimeError: there is no session.

    Example:
        >>> remora.cluster_resources()["CPU"]
        8.0
    """
    return _session("cluster_resources").cluster_resources()


def available_resources() -> dict[str, float]:
    """What of :func:`cluster_resources` no task or actor holds at the moment; names with nothing left are missing.

    Raises:
        RuntimeError: there is no session.

    Example:
        >>> remora.available_resources().get("CPU", 0.0)
        7.0
    """
    return {name: amount for name, amount in _session("available_resources").available_resources().items() if amount}


def get_node_ip_address() -> str:
    """The address at which other nodes reach this one; ``127.0.0.1`` for a session alone.

    Raises:
        RuntimeError: there is no session.

    Example:
        >>> remora.util.get_node_ip_address()
        '10.0.0.7'
    """
    return str(_session("util.get_node_ip_address").address_info()["node_ip_address"])


def _session(function: str) -> Runtime:
    if runtime.current is None:
        raise RuntimeError(f"remora.{function}() was called before remora.init(): there is no cluster to ask")
    return runtime.current


def _as_ray(node: NodeInformation) -> dict[str, Any]:
    # A session of one node has no port, and its address is the name of the machine.
    host, port = split_address(node.address) if ":" in node.address else (node.address, 0)
    return {
        "NodeID": node.node_id,
        "Alive": node.is_alive,
        "alive": node.is_alive,
        "NodeName": node.hostname,
        "NodeManagerAddress": host,
        "NodeManagerHostname": node.hostname,
        "NodeManagerPort": port,
        "ObjectManagerPort": 0,
        "MetricsExportPort": 0,
        "RuntimeEnvAgentPort": 0,
        "ObjectStoreSocketName": "",
        "RayletSocketName": "",
        "DeathReason": 0 if node.is_alive else 1,
        "DeathReasonMessage": node.death_reason,
        "Resources": dict(node.resources) if node.is_alive else {},
        "Labels": dict(node.labels),
    }
