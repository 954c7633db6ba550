"""Where tasks and actors are to run: what users write, the text that is sent, and how wrong wishes are refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remora.api.options import actor_options, init_options, task_options
from remora.base.scheduling import (
    DOES_NOT_EXIST,
    EXISTS,
    IN,
    NOT_IN,
    GroupChoice,
    LabelCondition,
    Strategy,
    decode_strategy,
    sorted_conditions,
    why_no_labels,
)
from remora.util.scheduling_strategies import (
    DoesNotExist,
    Exists,
    In,
    NodeAffinitySchedulingStrategy,
    NodeLabelSchedulingStrategy,
    NotIn,
    PlacementGroupSchedulingStrategy,
)

NODE = "00000002"


class Group:
    id = b"group-id"
    bundle_count = 2


def decoded(options: dict[str, Any]) -> Strategy:
    task, actor = task_options(options).strategy, actor_options(options).strategy
    assert task == actor
    return decode_strategy(task)


def test_affinity_is_the_hex_id_of_a_node() -> None:
    strategy = decoded({"scheduling_strategy": NodeAffinitySchedulingStrategy(NODE, soft=False)})
    assert strategy == Strategy(node=NODE)
    assert decoded({"scheduling_strategy": NodeAffinitySchedulingStrategy(NODE, True)}).soft
    assert task_options({"scheduling_strategy": NodeAffinitySchedulingStrategy(NODE, False)}).strategy == (
        '{"node":"00000002"}'
    )


def test_labels_become_conditions_in_one_order() -> None:
    one = NodeLabelSchedulingStrategy({"b": In("y", "x", "x"), "a": Exists()}, soft={"c": NotIn("z")})
    other = NodeLabelSchedulingStrategy({"a": Exists(), "b": In("x", "y")}, soft={"c": NotIn("z")})
    texts = {task_options({"scheduling_strategy": strategy}).strategy for strategy in (one, other)}
    assert len(texts) == 1
    assert decode_strategy(texts.pop()) == Strategy(
        labels=(LabelCondition("a", EXISTS), LabelCondition("b", IN, ("x", "y"))),
        preferred=(LabelCondition("c", NOT_IN, ("z",)),),
    )


@pytest.mark.parametrize(
    ("selector", "condition"),
    [
        ("us", LabelCondition("region", IN, ("us",))),
        ("!us", LabelCondition("region", NOT_IN, ("us",))),
        ("in(us,eu)", LabelCondition("region", IN, ("eu", "us"))),
        ("!in(us, eu)", LabelCondition("region", NOT_IN, ("eu", "us"))),
        ("", LabelCondition("region", IN, ("",))),
    ],
)
def test_a_label_selector_is_a_value_or_several_wanted_or_not(selector: str, condition: LabelCondition) -> None:
    assert decoded({"label_selector": {"region": selector}}) == Strategy(labels=(condition,))


def test_a_label_selector_joins_any_strategy() -> None:
    both = {"label_selector": {"ray.io/zone": "a"}, "scheduling_strategy": "SPREAD"}
    assert decoded(both) == Strategy(spread=True, labels=(LabelCondition("ray.io/zone", IN, ("a",)),))
    assert decoded({"label_selector": {}}) == Strategy()


def test_a_placement_group_is_kept_beside_the_strategy() -> None:
    strategy = PlacementGroupSchedulingStrategy(Group(), 1, True)
    for made in (task_options({"scheduling_strategy": strategy}), actor_options({"scheduling_strategy": strategy})):
        assert (made.strategy, made.group) == ("", GroupChoice(b"group-id", 1, True))
    old = {"placement_group": Group(), "placement_group_bundle_index": 1, "placement_group_capture_child_tasks": True}
    assert task_options(old).group == GroupChoice(b"group-id", 1, True)


@pytest.mark.parametrize(
    ("options", "may_be"),
    [
        ({}, True),
        ({"label_selector": {"a": "b"}}, True),
        ({"scheduling_strategy": "DEFAULT"}, False),
        ({"placement_group": "default"}, True),
        ({"placement_group_capture_child_tasks": False}, False),
        ({"scheduling_strategy": PlacementGroupSchedulingStrategy(None)}, False),
    ],
)
def test_who_names_no_strategy_may_be_captured_by_the_group_of_the_caller(
    options: dict[str, Any], may_be: bool
) -> None:
    assert task_options(options).may_be_captured is may_be
    assert task_options(options).group is None


WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: task_options({"scheduling_strategy": "spread"}), ValueError, "Did you mean 'SPREAD'?"),
    (
        lambda: task_options({"scheduling_strategy": "NodeAffinityStrategy"}),
        ValueError,
        "Did you mean 'NodeAffinitySchedulingStrategy'?",
    ),
    (lambda: actor_options({"scheduling_strategy": 3}), TypeError, "an object of one of the classes"),
    (lambda: task_options({"scheduling_strategy": NodeAffinitySchedulingStrategy}), TypeError, "an object of one"),
    (lambda: NodeAffinitySchedulingStrategy("node-2", False), ValueError, "hex id of a node"),
    (lambda: NodeAffinitySchedulingStrategy("00000000", False), ValueError, "hex id of a node"),
    (lambda: NodeAffinitySchedulingStrategy(2, False), TypeError, "node_id must be a hex string"),  # type: ignore[arg-type]
    (lambda: NodeAffinitySchedulingStrategy(NODE, "no"), TypeError, "soft must be True or False"),  # type: ignore[arg-type]
    (lambda: In(), ValueError, "at least one value"),
    (lambda: NotIn(3), ValueError, "must be a string, not 3"),  # type: ignore[arg-type]
    (lambda: NodeLabelSchedulingStrategy({}), ValueError, "cannot both be empty"),
    (lambda: NodeLabelSchedulingStrategy(["a"]), ValueError, "hard must be a dict"),  # type: ignore[arg-type]
    (lambda: NodeLabelSchedulingStrategy({"a": "us"}), ValueError, r"hard['a'] must be In(...)"),  # type: ignore[dict-item]
    (lambda: NodeLabelSchedulingStrategy({"-a": Exists()}), ValueError, "the label '-a' has no valid name"),
    (lambda: task_options({"label_selector": {"a": "inn(x)"}}), ValueError, "Did you mean 'in(x)'?"),
    (lambda: task_options({"label_selector": {"a": "in()"}}), ValueError, "a value is missing"),
    (lambda: task_options({"label_selector": {"a": "in(x"}}), ValueError, "it must be a value, '!value'"),
    (lambda: task_options({"label_selector": {"a": "x_"}}), ValueError, "'x_' is no value of a label"),
    (lambda: task_options({"label_selector": {"a/b/c": "x"}}), ValueError, "must be a domain name"),
    (lambda: task_options({"label_selector": {"a": 3}}), TypeError, "must be a string, not 3"),
    (lambda: task_options({"label_selector": "a"}), TypeError, "must be a dict"),
    (lambda: task_options({"label_selectr": {}}), ValueError, "Did you mean 'label_selector'?"),
    (lambda: PlacementGroupSchedulingStrategy(Group(), 2), ValueError, "the group has 2 bundles"),
    (lambda: PlacementGroupSchedulingStrategy(Group(), -2), ValueError, "-1 or counts from 0"),
    (lambda: PlacementGroupSchedulingStrategy("group"), TypeError, "must be a placement group or None"),
    (
        lambda: task_options({"placement_group": Group(), "scheduling_strategy": "SPREAD"}),
        ValueError,
        "exclude each other",
    ),
    (lambda: task_options({"placement_group_bundle_index": 1}), ValueError, "no placement_group is given"),
    (lambda: init_options({"labels": {"a b": "x"}}), ValueError, "the label 'a b' has no valid name"),
    (lambda: decode_strategy('{"nodes":1}'), ValueError, "is no scheduling strategy"),
]


@pytest.mark.parametrize(("wrong", "error", "text"), WRONG, ids=lambda value: repr(value)[:40])
def test_a_wrong_wish_is_refused_with_the_way_out(wrong: Callable[[], Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error) as raised:
        wrong()
    assert text in str(raised.value)


def test_strategies_travel_with_the_functions_that_name_them() -> None:
    strategies = [
        NodeAffinitySchedulingStrategy(NODE, soft=True),
        NodeLabelSchedulingStrategy({"a": In("x")}, soft={"b": DoesNotExist()}),
    ]
    for strategy in strategies:
        copy = pickle.loads(pickle.dumps(strategy))
        assert copy.to_strategy() == strategy.to_strategy()


names = st.sampled_from(["a", "b"])
conditions = st.builds(
    LabelCondition, names, st.sampled_from([IN, NOT_IN]), st.lists(names, min_size=1).map(tuple)
) | st.builds(LabelCondition, names, st.sampled_from([EXISTS, DOES_NOT_EXIST]))


@given(conditions, st.dictionaries(names, names))
def test_a_condition_holds_or_its_opposite(condition: LabelCondition, labels: dict[str, str]) -> None:
    opposite = {IN: NOT_IN, NOT_IN: IN, EXISTS: DOES_NOT_EXIST, DOES_NOT_EXIST: EXISTS}[condition.operator]
    assert condition.matches(labels) != LabelCondition(condition.key, opposite, condition.values).matches(labels)
    if condition.operator == IN:
        assert condition.matches(labels) == (labels.get(condition.key) in condition.values)


@given(
    st.builds(
        Strategy,
        spread=st.booleans(),
        node=st.sampled_from(["", NODE]),
        soft=st.booleans(),
        labels=st.lists(conditions).map(sorted_conditions),
        preferred=st.lists(conditions).map(sorted_conditions),
    )
)
def test_a_strategy_is_read_as_it_was_written(strategy: Strategy) -> None:
    assert decode_strategy(strategy.encode()) == strategy


def test_labels_that_no_node_has_are_named_with_what_there_is() -> None:
    nodes = [{"region": "eu", "disk": "ssd"}, {"region": "us"}]
    assert why_no_labels([LabelCondition("region", IN, ("asia",))], nodes) == (
        "no node has a label region in (asia); there are 'eu', 'us'"
    )
    assert "is 'region' meant?" in why_no_labels([LabelCondition("regoin", EXISTS)], nodes)
    both = [LabelCondition("region", IN, ("us",)), LabelCondition("disk", EXISTS)]
    assert why_no_labels(both, nodes) == "no single node meets all of its conditions on labels"
