"""What is shown of one node of a cluster, whoever is asked: the head, or a node that was told of it."""

from __future__ import annotations

from remora.base.resources import STORE, UNITS_PER_ONE
from remora.messages.head import MemberView
from remora.messages.inspection import NodeReport


def node_report(view: MemberView, cause: str = "") -> NodeReport:
    """The member; *cause* says why it is none any more. The free part of its store is as it was last told."""
    total, available = _to_floats(view.total), _to_floats(view.available)
    total[STORE], available[STORE] = float(view.store_limit_bytes), float(view.store_free_bytes)
    return NodeReport(
        view.node,
        not cause,
        view.hostname,
        view.address,
        total,
        {} if cause else available,
        view.labels,
        cause,
        view.is_head_node,
    )


def _to_floats(units: dict[str, int]) -> dict[str, float]:
    """Not by way of ``Resources``: what is available may be negative, since a task that has waited goes on at once."""
    return {name: amount / UNITS_PER_ONE for name, amount in units.items()}
