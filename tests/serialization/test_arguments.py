"""Arguments of calls: refs at top level become values, all other refs stay refs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remora.base.errors import DeserializationError
from remora.base.ids import make_object_id, make_process_id
from remora.base.object_ref import ObjectRef
from remora.serialization import deserialize_arguments, serialize_arguments


def make_ref(call: int) -> ObjectRef[Any]:
    return ObjectRef(make_object_id(make_process_id(1, 1), call))


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((1,), {}),
        ((1, "a", None, True, 2.5), {}),
        (tuple(range(20)), {}),
        ((), {"x": 1}),
        (([1, {"a": (2,)}], b"x" * 100_000), {"y": {"z": 1}}),
    ],
)
def test_arguments_without_refs_come_back(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    serialized, top_level = serialize_arguments(args, kwargs)
    assert top_level == []
    assert serialized.refs == []
    assert deserialize_arguments(serialized.to_bytes()) == (args, kwargs)


def test_no_arguments_give_a_new_dict_at_every_call() -> None:
    data = serialize_arguments((), {})[0].to_bytes()
    deserialize_arguments(data)[1]["added"] = 1
    assert deserialize_arguments(data) == ((), {})


def test_refs_at_top_level_become_values_and_nested_ones_stay_refs() -> None:
    a, b, nested = make_ref(1), make_ref(2), make_ref(3)
    serialized, top_level = serialize_arguments((a, 5, [nested]), {"x": b, "y": 6})
    assert top_level == [a, b]
    assert serialized.refs == [nested]
    args, kwargs = deserialize_arguments(serialized.to_bytes(), ["A", "B"], {nested.id: nested})
    assert args == ("A", 5, [nested])
    assert kwargs == {"x": "B", "y": 6}


def test_a_ref_that_is_both_at_top_level_and_nested_is_in_both_lists() -> None:
    ref = make_ref(1)
    serialized, top_level = serialize_arguments((ref, [ref], ref), {})
    assert top_level == [ref, ref]
    assert serialized.refs == [ref]
    args, _ = deserialize_arguments(serialized.to_bytes(), ["v", "v"], lambda object_id: ref)
    assert args == ("v", [ref], "v")


arguments = st.lists(st.integers() | st.none() | st.booleans() | st.just("ref") | st.just(["nested"]), max_size=6)


@given(arguments, st.dictionaries(st.sampled_from("abcdef"), st.integers() | st.just("ref")))
@settings(max_examples=100, deadline=None)
def test_values_take_the_places_of_their_refs(positional: list[Any], named: dict[str, Any]) -> None:
    refs = [make_ref(number) for number in range(20)]
    fresh = iter(refs)
    args = tuple(next(fresh) if value == "ref" else value for value in positional)
    kwargs = {name: next(fresh) if value == "ref" else value for name, value in named.items()}
    serialized, top_level = serialize_arguments(args, kwargs)
    values = [ref.id for ref in top_level]
    got_args, got_kwargs = deserialize_arguments(serialized.to_bytes(), values)
    assert got_args == tuple(value.id if isinstance(value, ObjectRef) else value for value in args)
    assert got_kwargs == {n: v.id if isinstance(v, ObjectRef) else v for n, v in kwargs.items()}
    assert list(got_kwargs) == list(kwargs)


def test_one_array_in_two_arguments_arrives_as_one() -> None:
    array = np.arange(5)
    serialized, _ = serialize_arguments((array, {"a": array}), {"again": array})
    args, kwargs = deserialize_arguments(serialized.to_bytes())
    assert args[0] is args[1]["a"]
    assert kwargs["again"] is args[0]
    assert not args[0].flags.writeable


def test_a_wrong_number_of_values_is_an_error_and_no_shift() -> None:
    serialized, _ = serialize_arguments((make_ref(1), 2), {})
    with pytest.raises(DeserializationError, match="1 refs at top level, but 2 values"):
        deserialize_arguments(serialized.to_bytes(), [1, 2])


def test_a_tuple_of_four_that_looks_like_our_own_form_is_an_argument() -> None:
    args = ((1,), {"a": 2}, [0], ["a"])
    assert deserialize_arguments(serialize_arguments(args, {})[0].to_bytes()) == (args, {})
