"""What several nodes say becomes one report."""

from __future__ import annotations

from remora.base.ids import make_object_id, make_process_id, node_of
from remora.cli.joined_memory import join_memory
from remora.cli.joined_status import join_status
from remora.messages import inspection as m
from remora.messages.inspection import ActorReport
from remora.messages.placement_groups import CREATED, PlacementGroupReport, PlacementGroupRow

DRIVER = make_process_id(1, 1)
KEEPER = make_process_id(2, 1)
OTHER_KEEPER = make_process_id(3, 1)
HERE, THERE = node_of(DRIVER), node_of(KEEPER)
STORE = m.StoreUsage(100, 0, 0, 0, 100, 0)
CREATION, OTHER_CREATION = (make_object_id(DRIVER, call) for call in (1, 2))
LARGE, SMALL = (make_object_id(DRIVER, call) for call in (3, 4))
THEIRS = make_object_id(KEEPER, 1)


def actor(creation: bytes, worker: bytes, state: str = "alive") -> ActorReport:
    return ActorReport(creation, DRIVER, "Keeper", "known", "games", state, worker, 1, False, "it was killed")


def process(process_id: bytes, pid: int, actor: bytes = b"") -> m.ProcessStatus:
    return m.ProcessStatus(process_id, pid, "actor" if actor else "driver", True, actor=actor)


def status(node: bytes, *processes: m.ProcessStatus) -> m.NodeStatus:
    report = m.NodeReport(node, True, "host", "10.0.0.1:7000", {"CPU": 2.0}, {"CPU": 1.0})
    return m.NodeStatus(1, report, STORE, list(processes), [])


def process_memory(process_id: bytes, pid: int, name: str, actor: bytes = b"") -> m.ProcessMemory:
    return m.ProcessMemory(process_id, pid, name, True, 0, 0, 1, 0, 0, 0, actor)


def memory(
    node: bytes,
    objects: list[m.ObjectReport],
    processes: list[m.ProcessMemory],
    foreign: list[m.ForeignUse] | None = None,
) -> m.NodeMemory:
    report = m.NodeReport(node, True, "host", "10.0.0.1:7000", {}, {})
    contents = m.StoreContents(0, 0, 0, 0)
    return m.NodeMemory(1, report, STORE, contents, objects, processes, foreign or [], [], len(objects), 0)


def stored(object_id: bytes, size_bytes: int, *holders: m.Holder, is_leaked: bool = False) -> m.ObjectReport:
    return m.ObjectReport(object_id, "stored", size_bytes, 0, list(holders), [], 1, 8, is_leaked)


def held_by(process_id: bytes) -> m.Holder:
    return m.Holder(process_id, "process")


def contained_in(object_id: bytes) -> m.Holder:
    return m.Holder(object_id, "container")


def test_actors_of_the_head_get_node_and_pid_from_the_node_where_they_live() -> None:
    report = m.StatusReport(
        [status(HERE, process(DRIVER, 10)), status(THERE, process(KEEPER, 20, CREATION))], [actor(CREATION, KEEPER)]
    )
    joined = join_status(report)
    (row,) = joined.actors
    assert (row.node, row.pid, row.restarts, row.cause) == (THERE, 20, 1, "it was killed")
    assert [(one.process, one.name) for one in joined.processes] == [(DRIVER, ""), (KEEPER, "Keeper")]


def test_an_actor_whose_node_is_silent_is_shown_without_pid() -> None:
    (row,) = join_status(m.StatusReport([status(HERE)], [actor(CREATION, KEEPER)])).actors
    assert (row.node, row.pid, row.state) == (THERE, 0, "alive")


def test_a_worker_that_constructs_its_actor_is_known_by_the_actors_id() -> None:
    report = m.StatusReport([status(THERE, process(KEEPER, 20, CREATION))], [actor(CREATION, b"", "pending")])
    (row,) = join_status(report).actors
    assert (row.node, row.pid) == (THERE, 20)


def test_a_dead_actor_lives_nowhere() -> None:
    report = m.StatusReport([status(THERE, process(KEEPER, 20))], [actor(CREATION, KEEPER, "dead")])
    (row,) = join_status(report).actors
    assert (row.node, row.pid) == (b"", 0)


def test_workers_of_actors_have_a_name_without_the_head() -> None:
    joined = join_status(m.StatusReport([status(THERE, process(KEEPER, 20, CREATION))]))
    assert joined.processes[0].name == "actor"


def test_placement_groups_are_shown_in_ones() -> None:
    row = PlacementGroupRow(bytes(16), DRIVER, [{"CPU": 15_000}], "PACK", state=CREATED, nodes=[THERE])
    (group,) = join_status(m.StatusReport([], [], [PlacementGroupReport(row, "why")])).placement_groups
    assert (group.state, group.bundles, group.nodes, group.reason) == ("created", [{"CPU": 1.5}], [THERE], "why")


def test_a_holder_on_another_node_is_known_by_what_its_node_tells() -> None:
    use = m.ForeignUse(KEEPER, ["", "there.py:7 in keep"], [m.HeldRef(LARGE, 1)], [m.PinnedObject(LARGE, 2, 16)])
    report = m.MemoryReport(
        [
            memory(
                HERE, [stored(LARGE, 100, held_by(DRIVER), held_by(KEEPER))], [process_memory(DRIVER, 10, "driver")]
            ),
            memory(THERE, [], [process_memory(KEEPER, 20, "worker", CREATION)], [use]),
        ],
        [actor(CREATION, KEEPER)],
    )
    (one,) = join_memory(report, 10).objects
    assert one.holders[1] == m.Holder(KEEPER, "process", 20, "Keeper", "there.py:7 in keep")
    assert (one.views, one.viewed_bytes) == (3, 24)


def test_a_holder_on_a_silent_node_is_named_as_such() -> None:
    report = m.MemoryReport([memory(HERE, [stored(LARGE, 100, held_by(KEEPER))], [])])
    (one,) = join_memory(report, 10).objects
    assert (one.holders[0].name, one.holders[0].pid) == ("process of a silent node", 0)


def test_the_largest_objects_of_all_nodes_are_shown_and_all_are_counted() -> None:
    report = m.MemoryReport(
        [memory(HERE, [stored(SMALL, 1), stored(LARGE, 100)], []), memory(THERE, [stored(THEIRS, 50)], [])]
    )
    joined = join_memory(report, 2)
    assert [one.id for one in joined.objects] == [LARGE, THEIRS]
    assert joined.total_objects == 3


def test_a_cycle_over_two_nodes_is_leaked_and_always_shown() -> None:
    here = [stored(SMALL, 1, contained_in(THEIRS), is_leaked=True), stored(LARGE, 100, held_by(DRIVER))]
    there = [stored(THEIRS, 1, contained_in(SMALL), is_leaked=True)]
    joined = join_memory(m.MemoryReport([memory(HERE, here, []), memory(THERE, there, [])]), 1)
    assert {one.id for one in joined.objects if one.is_leaked} == {SMALL, THEIRS}
    assert len(joined.objects) == 3


def test_what_a_reachable_object_of_another_node_contains_is_not_leaked() -> None:
    here = [stored(SMALL, 1, contained_in(THEIRS), is_leaked=True)]
    there = [stored(THEIRS, 1, held_by(DRIVER))]
    joined = join_memory(m.MemoryReport([memory(HERE, here, []), memory(THERE, there, [])]), 10)
    assert not any(one.is_leaked for one in joined.objects)


def test_actors_on_two_nodes_that_hold_each_others_handles_are_leaked() -> None:
    here = [
        stored(CREATION, 1, held_by(OTHER_KEEPER), is_leaked=True),
        stored(OTHER_CREATION, 1, held_by(KEEPER), is_leaked=True),
    ]
    actors = [actor(CREATION, KEEPER), actor(OTHER_CREATION, OTHER_KEEPER)]
    joined = join_memory(m.MemoryReport([memory(HERE, here, [])], actors), 10)
    assert [(one.is_leaked, one.name) for one in joined.objects] == [(True, "actor Keeper")] * 2
