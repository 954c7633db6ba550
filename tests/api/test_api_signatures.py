"""Twins of signatures refuse what the function would refuse, and nothing else."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remora.api.signatures import ANYTHING, parameters_of, twin_of, wrong_call

FUNCTIONS: list[Any] = [
    lambda: 0,
    lambda a: 0,
    lambda a, b=1: 0,
    lambda a, /, b=1, *, c: 0,
    lambda a, b=1, /: 0,
    lambda *a, c=1, **k: 0,
    lambda a, *, c=2: 0,
    lambda **k: 0,
]


@given(
    st.sampled_from(FUNCTIONS),
    st.lists(st.none(), max_size=4),
    st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.none()),
)
def test_the_twin_refuses_exactly_what_the_function_refuses(
    function: Any, args: list[None], kwargs: dict[str, None]
) -> None:
    twin = twin_of(parameters_of(function))
    try:
        function(*args, **kwargs)
    except TypeError:
        with pytest.raises(TypeError):
            twin(*args, **kwargs)
        assert isinstance(wrong_call(twin, "f", tuple(args), kwargs), TypeError)
    else:
        assert twin(*args, **kwargs) is None


def test_equal_signatures_share_one_twin() -> None:
    assert twin_of(parameters_of(lambda a, b=3: a)) is twin_of(parameters_of(lambda a, b=4: b))


def test_a_wrapper_is_taken_by_its_own_parameters() -> None:
    def with_connection(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function("connection", *args, **kwargs)

        return wrapper

    @with_connection
    def query(connection: str, text: str) -> str:
        return text

    assert parameters_of(query) == "*args, **kwargs"


def test_self_is_left_out_of_a_method() -> None:
    class Thing:
        def method(self, a: int, b: int = 2) -> None: ...

        def loose(*args: Any) -> None: ...

    assert parameters_of(Thing.method, skip_first=True) == "a, b=None"
    assert parameters_of(Thing.loose, skip_first=True) == "*args"


@pytest.mark.parametrize("function", [max, int, dict.update, type])
def test_a_callable_that_tells_nothing_takes_anything(function: Any) -> None:
    assert parameters_of(function) == ANYTHING


def test_the_error_names_function_argument_and_parameters() -> None:
    twin = twin_of("a, b=None, *, c")
    error = wrong_call(twin, "Counter.add", (1,), {})
    assert str(error) == "Counter.add.remote(): missing a required argument: 'c'. Its parameters are (a, b=..., *, c)"
