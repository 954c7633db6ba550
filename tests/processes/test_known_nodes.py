"""What a node knows of all nodes, also of those that are members no more."""

from __future__ import annotations

import pytest

from remora.base.ids import NodeId
from remora.messages.head import Departure, MemberView
from remora.processes.daemon.known_nodes import KnownNodes


def test_of_nodes_that_departed_long_ago_only_the_end_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("remora.processes.daemon.known_nodes.REMEMBERED_DEPARTED", 2)
    known = KnownNodes()
    for number in range(3):
        node = NodeId(bytes([0, 0, 0, number + 1]))
        known.told([MemberView(node, "h:1", "host", {"CPU": 10_000}, {}, {})])
        departure = Departure(node, "it was killed")
        known.departed(departure)
        assert known.how_it_ended(departure) == "host at h:1, it was killed"
    assert [(one.hostname, one.cause) for one in known.reports()] == [
        ("", "it was killed"),
        ("host", "it was killed"),
        ("host", "it was killed"),
    ]
    assert len(known.departures) == 3
