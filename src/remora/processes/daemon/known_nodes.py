"""The nodes of a cluster, as the head has told of them: those that are members, and those that were."""

from __future__ import annotations

from remora.base.ids import NodeId
from remora.core.node_reports import node_report
from remora.messages import head as h
from remora.messages import inspection

REMEMBERED_DEPARTED = 1000
"""Of older ones only the end is known: a cluster that runs for months may see many nodes."""


class KnownNodes:
    """What one node knows of all."""

    def __init__(self) -> None:
        self._members: dict[bytes, h.MemberView] = {}
        self._departed_members: dict[bytes, h.MemberView] = {}
        self.departures: list[h.Departure] = []
        """Each told once, in their order."""

    def __repr__(self) -> str:
        return f"<KnownNodes {len(self._members)} members, {len(self.departures)} gone>"

    @property
    def members(self) -> list[h.MemberView]:
        """Those that are alive, this node among them."""
        return list(self._members.values())

    def told(self, members: list[h.MemberView]) -> None:
        """These have joined, or what they have changed."""
        self._members.update((member.node, member) for member in members)

    def departed(self, departure: h.Departure) -> None:
        """The node is a member no more."""
        member = self._members.pop(departure.node, None)
        if member is not None:
            self._departed_members[departure.node] = member
            if len(self._departed_members) > REMEMBERED_DEPARTED:
                del self._departed_members[next(iter(self._departed_members))]
        self.departures.append(departure)

    def address_of(self, node: NodeId) -> str | None:
        """The ``host:port`` of a member."""
        member = self._members.get(node)
        return member.address if member is not None else None

    def reports(self) -> list[inspection.NodeReport]:
        """What this node knows of all nodes, also of those that are members no more."""
        alive = [node_report(member) for member in self._members.values()]
        return alive + [self._report_departed(departure) for departure in self.departures]

    def _report_departed(self, departure: h.Departure) -> inspection.NodeReport:
        member = self._departed_members.get(departure.node)  # None: it left before this node joined, or long ago
        if member is None:
            return inspection.NodeReport(departure.node, False, "", "", {}, {}, {}, departure.cause)
        return node_report(member, departure.cause)

    def how_it_ended(self, departure: h.Departure) -> str:
        """For messages: which node it was, where, and why it is gone."""
        member = self._departed_members.get(departure.node)
        return f"{member.hostname} at {member.address}, {departure.cause}" if member is not None else departure.cause
