"""What one node has told the head of members that it cannot reach, and must tell again to a head that was started anew.

A report is counted and confirmed, so the link to the head does not repeat it; and the head keeps it in memory only,
since the report is worth nothing without the time since which it stands. A head that was killed has forgotten it, and
nothing else tells of it: the link between the two nodes is broken for good.
"""

from __future__ import annotations

from collections.abc import Iterable

from remora.base.ids import short
from remora.messages.head import PeerReachability


class UnreachablePeers:
    """The reports that stand.

    Example:
        >>> peers = UnreachablePeers()
        >>> peers.said(PeerReachability(peer, False, "it refuses this node"))
        >>> peers.to_say_again([peer])
        [PeerReachability(node=..., is_reachable=False, reason='it refuses this node')]
    """

    def __init__(self) -> None:
        self._reports: dict[bytes, PeerReachability] = {}

    def said(self, report: PeerReachability) -> None:
        """The head is being told this."""
        if report.is_reachable:
            self._reports.pop(report.node, None)
        else:
            self._reports[report.node] = report

    def departed(self, node: bytes) -> None:
        """The node is no member any more: nobody need reach it."""
        self._reports.pop(node, None)

    def to_say_again(self, members: Iterable[bytes]) -> list[PeerReachability]:
        """What to say to the head after the link to it was made anew; these are the *members* that it knows.

        A head that was not started anew hears a report twice, which changes nothing.
        """
        alive = set(members)
        self._reports = {node: report for node, report in self._reports.items() if node in alive}
        return list(self._reports.values())

    def __repr__(self) -> str:
        return f"<UnreachablePeers {', '.join(map(short, self._reports))}>"
