"""A report about many objects is built in slices, between which the daemon does other things."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from remora.base.ids import NodeId, make_object_id, make_process_id
from remora.base.object_ref import INLINE
from remora.core.arena import ArenaAllocator
from remora.core.counting.directory import Directory
from remora.messages import inspection as m
from remora.messages.counting import Publish, Release
from remora.messages.objects import Value
from remora.processes.daemon import node_inspection
from remora.processes.daemon.node_inspection import STEPS_PER_LOOK, NodeInspection

NODE = NodeId((7).to_bytes(4, "big"))
DRIVER = make_process_id(7, 1)
IDS = [make_object_id(DRIVER, number) for number in range(1000)]
OTHER_HOME = make_object_id(make_process_id(8, 1), 1)


class Node:
    """A daemon with objects, of which nothing else is real."""

    def __init__(self) -> None:
        self.directory = Directory(NODE, lambda loss: b"")
        self.directory.process_connected(DRIVER)
        for object_id in IDS:
            self.directory.publish(DRIVER, Publish(object_id, Value(INLINE, b"four")))
        self.later: list[Callable[[], None]] = []
        self.delivered: list[m.NodeMemory] = []
        self.daemon: Any = SimpleNamespace(
            node=NODE,
            cluster=None,
            configuration=SimpleNamespace(labels={}, cluster=None),
            objects=SimpleNamespace(directory=self.directory, arena=ArenaAllocator(1 << 30)),
            workers=SimpleNamespace(
                workers=list,
                leases=SimpleNamespace(
                    leases=list, ledger=SimpleNamespace(total=SimpleNamespace(to_floats=dict), available=dict)
                ),
            ),
            processes=Processes(),
            store_limit_bytes=1 << 30,
            reactor=SimpleNamespace(call_after=lambda delay_s, callback: self.later.append(callback)),
        )
        self.inspection = NodeInspection(self.daemon)

    def describe(self, max_objects: int = 10) -> None:
        question = m.DescribeNode(5, with_objects=True, max_objects=max_objects)
        self.inspection.describe(question, lambda answer, now_s: self.delivered.append(cast(m.NodeMemory, answer)), 0.0)

    def turn(self) -> None:
        self.later.pop(0)()


class Processes(list[Any]):
    """No process is connected."""

    node_address = ""


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Node:
    moments = iter(range(1 << 30))
    # Each look at the clock is later than a slice is long: a slice is what is done between two looks.
    monkeypatch.setattr(node_inspection, "monotonic", lambda: float(next(moments)) * node_inspection.SLICE_S * 0.6)
    return Node()


def turns_to_the_end(node: Node) -> int:
    turns = 0
    while node.later:
        node.turn()
        turns += 1
    return turns


def test_other_things_are_done_while_a_report_is_built(node: Node) -> None:
    node.describe()
    assert node.delivered == []
    assert turns_to_the_end(node) > len(IDS) / STEPS_PER_LOOK / 2
    (report,) = node.delivered
    assert (report.number, report.total_objects, report.inline_bytes) == (5, 1000, 4000)
    assert len(report.objects) == 10


def test_objects_that_are_freed_between_two_slices_are_left_out(node: Node) -> None:
    node.describe()
    node.directory.release(DRIVER, Release(list(IDS[500:])))
    turns_to_the_end(node)
    (report,) = node.delivered
    assert report.total_objects == 500


def test_reports_are_built_one_after_the_other(node: Node) -> None:
    node.describe()
    node.describe(max_objects=3)
    assert len(node.later) == 1
    turns_to_the_end(node)
    assert [len(report.objects) for report in node.delivered] == [10, 3]


def describe_with_report(node: Node, refs: list[m.HeldRef], pins: list[m.PinnedObject]) -> m.NodeMemory:
    """The report when the driver has said that it holds these, from the lines ``a.py:1`` and ``b.py:2``."""
    node.daemon.processes.append(SimpleNamespace(process=DRIVER, pid=77, role="driver"))
    node.daemon.processes.get = lambda process: process == DRIVER
    node.daemon.processes.send = lambda process, message: None
    node.describe(max_objects=1000)
    node.inspection.on_report(DRIVER, m.ProcessReport(1, [], 0, [], ["", "a.py:1", "b.py:2"], refs, pins), 0.1)
    turns_to_the_end(node)
    (report,) = node.delivered
    return report


def test_what_processes_hold_of_other_homes_is_told_apart_with_its_lines(node: Node) -> None:
    pins = [m.PinnedObject(OTHER_HOME, 2, 800)]
    report = describe_with_report(node, [m.HeldRef(IDS[0], 1), m.HeldRef(OTHER_HOME, 2)], pins)
    (use,) = report.foreign
    assert (use.process, use.sites[use.refs[0].site], use.pins) == (DRIVER, "b.py:2", pins)
    assert report.processes[0].refs == 2
    (own,) = (one for one in report.objects if one.id == IDS[0])
    assert own.holders == [m.Holder(DRIVER, "process", 77, "driver", "a.py:1")]


def test_a_line_that_a_process_has_not_told_is_not_known(node: Node) -> None:
    report = describe_with_report(node, [m.HeldRef(IDS[0], 3), m.HeldRef(IDS[1], -9)], [])
    assert {holder.site for one in report.objects for holder in one.holders} == {""}
