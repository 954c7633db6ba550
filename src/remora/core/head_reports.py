"""What the head tells those who look: its nodes and actors."""

from __future__ import annotations

from remora.base.resources import Resources
from remora.core.actor_placement import ActorPlacer
from remora.core.actor_registry import ActorRegistry
from remora.core.membership import Membership
from remora.messages.actors import ACTOR_STATE_NAMES
from remora.messages.head import ActorReport, MemberView
from remora.messages.inspection import NodeReport


def node_reports(membership: Membership) -> list[NodeReport]:
    """The members, then those that are gone."""
    alive = [_node_report(view, True) for view in membership.views()]
    return alive + [_node_report(record.view, False) for record in membership.departed()]


def _node_report(view: MemberView, is_alive: bool) -> NodeReport:
    available = Resources(view.available if is_alive else {}).to_floats()
    total = Resources(view.total).to_floats()
    return NodeReport(view.node, is_alive, view.hostname, view.address, total, available, view.labels)


def actor_reports(registry: ActorRegistry, placer: ActorPlacer) -> list[ActorReport]:
    """The actors that live, or whose handles do."""
    return [
        ActorReport(
            actor.id,
            actor.job,
            actor.spec.class_name,
            actor.key[1],
            actor.key[0],
            ACTOR_STATE_NAMES[actor.state.state],
            actor.state.worker,
            actor.restarts,
            actor.detached,
            placer.why_waiting(actor.id) or actor.state.cause,
        )
        for actor in registry.actors()
    ]
