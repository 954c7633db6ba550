"""Which node: what the strategy allows, what fits, what is near, what is least full."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from hypothesis import given
from hypothesis import strategies as st

from remora.base.resources import Resources
from remora.base.scheduling import DEFAULT_STRATEGY, DOES_NOT_EXIST, EXISTS, IN, LabelCondition, Strategy
from remora.core.cluster_view import ClusterView
from remora.core.node_choice import LOCALITY_BYTES, Never, Wait, choose, may_run

NOTHING = Resources()
ONE = Resources.of(num_cpus=1)
SPREAD = Strategy(spread=True)


def node_id(number: int) -> bytes:
    return number.to_bytes(4, "big")


HERE, SECOND, THIRD = map(node_id, (1, 2, 3))


def cluster(*nodes: tuple[float, float], labels: Mapping[int, dict[str, str]] | None = None) -> ClusterView:
    """Nodes by CPUs in all and free, from number 1."""
    view = ClusterView()
    for number, (total, free) in enumerate(nodes, 1):
        view.report(
            node_id(number),
            total=Resources.of(num_cpus=total).units,
            available=Resources.of(num_cpus=free).units,
            labels=(labels or {}).get(number, {}),
            now_s=1.0,
        )
    return view


def where(
    view: ClusterView,
    need: Resources = ONE,
    strategy: Strategy = DEFAULT_STRATEGY,
    placement: Resources = NOTHING,
    arguments: Mapping[int, int] | None = None,
    after: int = 0,
    excluded: Collection[int] = (),
) -> int | Wait | Never:
    answer = choose(
        need,
        placement,
        strategy,
        view,
        HERE,
        arguments={node_id(number): size for number, size in (arguments or {}).items()},
        after=node_id(after),
        excluded=[node_id(number) for number in excluded],
    )
    return int.from_bytes(answer, "big") if isinstance(answer, bytes) else answer


def affinity(number: int, soft: bool = False) -> Strategy:
    return Strategy(node=node_id(number).hex(), soft=soft)


def test_this_node_comes_first_if_it_has_room() -> None:
    assert where(cluster((4, 1), (4, 4))) == 1
    assert where(cluster((4, 0.5), (4, 4))) == 2


def test_the_least_full_of_the_others_is_taken_then_the_one_where_least_waits() -> None:
    view = cluster((1, 0), (4, 1), (4, 2), (8, 4))
    assert where(view, Resources.of(num_cpus=0.1)) == 4
    for number, queue_length in ((2, 0), (3, 5), (4, 1)):
        units = Resources.of(num_cpus=4).units
        view.report(node_id(number), total=units, available=units, queue_length=queue_length, now_s=2.0)
    assert where(view) == 2
    view.report(SECOND, total=units, available=units, queue_length=9, now_s=3.0)
    assert where(view) == 4


def test_equal_nodes_are_taken_in_turn() -> None:
    view = cluster((0, 0), (4, 4), (4, 4), (4, 4))
    assert [where(view, after=after) for after in (0, 2, 3, 4)] == [2, 3, 4, 2]


def test_a_node_with_many_more_bytes_of_the_arguments_comes_before_this_one() -> None:
    view = cluster((4, 2), (4, 4), (4, 1))
    assert where(view, arguments={2: LOCALITY_BYTES - 1}) == 1
    assert where(view, arguments={2: LOCALITY_BYTES}) == 2
    assert where(view, arguments={1: LOCALITY_BYTES, 2: 2 * LOCALITY_BYTES - 1}) == 1
    assert where(view, arguments={2: LOCALITY_BYTES, 3: 5 * LOCALITY_BYTES}) == 3, "although it is fuller"
    assert where(view, Resources.of(num_cpus=2), arguments={3: 5 * LOCALITY_BYTES}) == 1, "if it has room"


def test_spread_takes_nodes_with_room_in_turn_whatever_is_near() -> None:
    view = cluster((4, 4), (4, 0), (4, 4))
    turns = [where(view, strategy=SPREAD, after=after, arguments={1: 10**9}) for after in (0, 1, 2, 3)]
    assert turns == [1, 3, 3, 1]


def test_hard_affinity_waits_for_its_node() -> None:
    view = cluster((4, 4), (4, 0))
    assert where(view, strategy=affinity(1)) == 1
    waits = where(view, strategy=affinity(2))
    assert isinstance(waits, Wait)
    assert waits.reason == "it needs CPU 1, and node 00000002 has no room now"
    assert waits.nodes == (SECOND,)


def test_hard_affinity_to_a_node_that_is_gone_is_final() -> None:
    view = cluster((4, 4), (4, 4))
    view.died(SECOND, "silent for 5 s")
    gone, unknown = where(view, strategy=affinity(2)), where(view, strategy=affinity(9))
    assert gone == Never(
        "its scheduling_strategy asks for node 00000002 and no other (soft=False), and node 00000002 is gone: silent "
        "for 5 s",
        is_final=True,
    )
    assert isinstance(unknown, Never)
    assert (unknown.is_final, unknown.is_certain) == (True, False)
    assert "there is no such node in the cluster" in unknown.reason


def test_hard_affinity_to_a_node_that_is_too_small_says_so() -> None:
    too_small = where(cluster((4, 4), (1, 1)), Resources.of(num_cpus=2), affinity(2))
    assert isinstance(too_small, Never)
    assert too_small.reason.endswith("and node 00000002 has only CPU 1 of CPU 2")
    assert too_small.is_final, "as in Ray: a node does not grow"


def test_soft_affinity_waits_for_its_node_and_goes_elsewhere_when_that_cannot_run_it() -> None:
    view = cluster((4, 4), (2, 0))
    assert isinstance(where(view, strategy=affinity(2, soft=True)), Wait)
    assert where(view, Resources.of(num_cpus=3), affinity(2, soft=True)) == 1
    view.died(SECOND, "")
    assert where(view, strategy=affinity(2, soft=True)) == 1


def test_hard_labels_exclude_and_soft_ones_prefer() -> None:
    view = cluster((4, 4), (4, 4), (4, 0), labels={2: {"disk": "ssd"}, 3: {"disk": "ssd", "region": "us"}})
    ssd, us = LabelCondition("disk", IN, ("ssd",)), LabelCondition("region", EXISTS)
    assert where(view, strategy=Strategy(labels=(ssd,))) == 2
    assert where(view, strategy=Strategy(labels=(LabelCondition("disk", DOES_NOT_EXIST),))) == 1
    assert where(view, strategy=Strategy(preferred=(ssd,))) == 2
    assert isinstance(where(view, strategy=Strategy(labels=(ssd, us))), Wait)
    assert where(view, strategy=Strategy(preferred=(us,))) == 1, "no node with it has room"
    assert where(view, strategy=Strategy(labels=(ssd,), preferred=(us,))) == 2


def test_labels_that_no_node_has_are_waited_for() -> None:
    view = cluster((4, 4), labels={1: {"region": "eu"}})
    never = where(view, strategy=Strategy(labels=(LabelCondition("region", IN, ("us",)),)))
    assert never == Never(
        "no node has a label region in (us); there are 'eu'; it waits until a node that has them joins"
    )


def test_what_no_node_has_is_named() -> None:
    assert where(cluster((4, 4), (2, 2)), Resources.of(num_cpus=8)) == Never(
        "no node has CPU 8, the most is 4; it waits until a node that has it joins"
    )
    assert where(ClusterView()) == Never("there is no node in the cluster")


def test_an_actor_that_holds_nothing_goes_where_a_cpu_is_free_and_waits_for_none() -> None:
    assert where(cluster((1, 0), (1, 1)), NOTHING, placement=ONE) == 2
    assert where(cluster((1, 0), (1, 0)), NOTHING, placement=ONE) == 1
    assert where(cluster((0, 0), (1, 0)), NOTHING, placement=ONE) == 2, "its node must have a CPU in all"
    assert isinstance(where(cluster((0, 0)), NOTHING, placement=ONE), Never)


def test_excluded_nodes_are_waited_for_and_not_chosen() -> None:
    view = cluster((1, 0), (1, 1))
    waits = where(view, excluded=[2])
    assert isinstance(waits, Wait)
    assert waits.nodes == (HERE, SECOND)


def test_what_was_asked_of_a_node_is_not_asked_again() -> None:
    view = cluster((0, 0), (2, 2), (2, 1))
    view.ask(SECOND, ONE, 2)
    assert where(view) == 3


cpus = st.integers(0, 3)


@given(
    st.lists(st.tuples(cpus, cpus).map(lambda pair: (max(pair), min(pair))), min_size=1, max_size=5),
    cpus,
    st.sampled_from([DEFAULT_STRATEGY, SPREAD, affinity(2), affinity(2, soft=True)]),
    st.dictionaries(st.integers(1, 5), st.integers(0, 3 * LOCALITY_BYTES)),
    st.integers(0, 5),
)
def test_a_chosen_node_has_room_and_nobody_waits_while_an_allowed_one_has(
    nodes: list[tuple[int, int]], amount: int, strategy: Strategy, arguments: dict[int, int], after: int
) -> None:
    view = cluster(*nodes)
    need = Resources.of(num_cpus=amount)
    answer = where(view, need, strategy, arguments=arguments, after=after)
    allowed = [number for number in range(1, len(nodes) + 1) if may_run(need, strategy, view, node_id(number))]
    with_room = [number for number in allowed if nodes[number - 1][1] >= amount]
    if isinstance(answer, int):
        assert answer in with_room
    elif isinstance(answer, Wait):
        assert allowed
        assert not with_room
    else:
        assert not allowed
