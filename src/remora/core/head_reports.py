"""What the head tells those who look: its nodes and actors."""

from __future__ import annotations

from remora.core.actor_placement import ActorPlacer
from remora.core.actor_registry import ActorRegistry
from remora.core.membership import Membership
from remora.core.node_reports import node_report
from remora.messages.actors import ACTOR_STATE_NAMES
from remora.messages.inspection import ActorReport, NodeReport


def node_reports(membership: Membership) -> list[NodeReport]:
    """The members, then those that are gone."""
    alive = [node_report(view) for view in membership.views()]
    gone = [
        node_report(record.view, record.departure.cause)
        for record in membership.departed()
        if record.departure is not None
    ]
    return alive + gone


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
