from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from remora.base.ids import make_object_id, make_process_id, node_of
from remora.core.counting.entries import ObjectRow
from remora.core.counting.leaks import leaked_in_cluster, leaked_objects

DRIVER, WORKER, OTHER_WORKER = (make_process_id(1, number) for number in (1, 2, 3))
A, B, C, D = (make_object_id(DRIVER, call) for call in (1, 2, 3, 4))


def row(object_id: bytes, *holders: bytes) -> ObjectRow:
    return ObjectRow(object_id, "inline", 1, holders, (), 0)


def test_containers_that_hold_each_other_are_leaked() -> None:
    assert leaked_objects([row(A, B), row(B, A), row(C, DRIVER)], {}) == {A, B}


def test_what_hangs_on_a_cycle_is_leaked_with_it() -> None:
    assert leaked_objects([row(A, B), row(B, A), row(C, A)], {}) == {A, B, C}


def test_a_cycle_that_a_process_holds_is_not_leaked() -> None:
    assert leaked_objects([row(A, B), row(B, A, DRIVER), row(C, A)], {}) == set()


def test_a_chain_from_a_process_is_not_leaked() -> None:
    assert leaked_objects([row(A, DRIVER), row(B, A), row(C, B), row(D, C)], {}) == set()


def test_actors_that_hold_each_others_handles_are_leaked_with_what_they_keep() -> None:
    rows = [row(A, OTHER_WORKER), row(B, WORKER), row(C, WORKER)]
    assert leaked_objects(rows, {WORKER: A, OTHER_WORKER: B}) == {A, B, C}


def test_an_actor_with_a_handle_elsewhere_makes_what_it_keeps_reachable() -> None:
    rows = [row(A, DRIVER), row(B, WORKER), row(C, OTHER_WORKER)]
    assert leaked_objects(rows, {WORKER: A, OTHER_WORKER: B}) == set()


def test_a_detached_actor_lives_by_itself() -> None:
    assert leaked_objects([row(B, WORKER)], {}) == set()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30), st.sets(st.integers(0, 9)))
def test_leaked_is_what_no_walk_from_a_process_reaches(edges: list[tuple[int, int]], held: set[int]) -> None:
    ids = [make_object_id(DRIVER, number) for number in range(10)]
    rows = [
        row(ids[one], *(ids[outer] for outer, inner in edges if inner == one), *([DRIVER] if one in held else []))
        for one in range(10)
    ]
    reached = set(held)
    while more := {inner for outer, inner in edges if outer in reached} - reached:
        reached |= more
    assert leaked_objects(rows, {}) == {ids[one] for one in range(10) if one not in reached}


def test_a_suspect_that_an_object_holds_which_nobody_suspects_is_not_leaked() -> None:
    assert leaked_in_cluster({A: [B], B: [A], C: [D]}) == {A, B}


def test_what_a_reachable_suspect_holds_is_not_leaked() -> None:
    assert leaked_in_cluster({A: [B], B: [A, D], C: [A]}) == set()


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30),
    st.sets(st.integers(0, 9)),
    st.lists(st.integers(0, 2), min_size=10, max_size=10),
)
def test_homes_that_each_know_a_part_find_together_what_one_that_knows_all_would(
    edges: list[tuple[int, int]], held: set[int], homes: list[int]
) -> None:
    ids = [make_object_id(make_process_id(homes[number] + 1, 1), number) for number in range(10)]
    rows = [
        row(ids[one], *(ids[outer] for outer, inner in edges if inner == one), *([DRIVER] if one in held else []))
        for one in range(10)
    ]
    suspects = set()
    for home in range(3):
        suspects |= leaked_objects(
            [one for one in rows if node_of(one.id) == node_of(make_process_id(home + 1, 1))], {}
        )
    together = leaked_in_cluster({one.id: one.holders for one in rows if one.id in suspects})
    assert together == leaked_objects(rows, {})
