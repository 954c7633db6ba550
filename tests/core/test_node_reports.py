"""What is shown of a member of a cluster."""

from __future__ import annotations

from remora.core.node_reports import node_report
from remora.messages.head import MemberView

VIEW = MemberView(
    b"\0\0\0\7",
    "10.0.0.7:7000",
    "seven",
    {"CPU": 20_000},
    {"CPU": -10_000},
    {"zone": "a"},
    store_limit_bytes=1000,
    store_free_bytes=400,
)


def test_more_may_be_in_use_than_there_is_and_the_store_is_among_the_resources() -> None:
    report = node_report(VIEW)
    assert report.is_alive
    assert report.resources == {"CPU": 2.0, "object_store_memory": 1000.0}
    assert report.available == {"CPU": -1.0, "object_store_memory": 400.0}


def test_of_one_that_is_gone_nothing_is_available_and_the_cause_is_told() -> None:
    report = node_report(VIEW, "killed")
    assert not report.is_alive
    assert (report.available, report.cause) == ({}, "killed")
    assert report.resources["CPU"] == 2.0
