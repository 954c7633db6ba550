"""What cannot be pickled is named by its place inside the value."""

from __future__ import annotations

import dataclasses
import functools
import threading
from typing import Any

import pytest

from remora.base.errors import SerializationError
from remora.serialization import serialize, serialize_arguments, serialize_function


class Connection:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.address = "here"


class Settings:
    def __init__(self) -> None:
        self.db = {"main": Connection()}


class WithSlots:
    __slots__ = ("good", "handle")

    def __init__(self, handle: Any) -> None:
        self.good = 1
        self.handle = handle


@dataclasses.dataclass
class Job:
    name: str
    stream: Any


class RaisesInGetstate:
    def __getstate__(self) -> Any:
        raise OSError("the device is gone")


class Container(list[Any]):
    pass


def path_of(value: Any, name: str = "the value") -> str:
    with pytest.raises(SerializationError) as caught:
        serialize(value, name=name)
    assert isinstance(caught.value, TypeError)
    return caught.value.path


LOCK = threading.Lock()


def uses_global() -> Any:
    return LOCK


uses_global.__module__ = "__main__"


def test_an_argument_is_named_with_the_path_inside_it() -> None:
    with pytest.raises(SerializationError) as caught:
        serialize_arguments((1, 2), {"config": {"db": Settings()}}, function_name="load")
    text = str(caught.value)
    assert "argument 'config' of load -> ['db'].db['main']._lock: cannot pickle '_thread.lock' object" in text
    assert "__getstate__" in text
    assert isinstance(caught.value.__cause__, TypeError)


def test_positional_arguments_have_their_parameter_name_or_their_number() -> None:
    with pytest.raises(SerializationError, match=r"argument 'b' -> \[1\]: cannot pickle"):
        serialize_arguments((1, [0, LOCK]), {}, parameter_names=("a", "b"))
    with pytest.raises(SerializationError, match="argument 1: cannot pickle"):
        serialize_arguments((1, LOCK), {})


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (LOCK, "the value"),
        ([1, LOCK], "the value -> [1]"),
        ((1, {"a": (LOCK,)}), "the value -> [1]['a'][0]"),
        ({("k", 1): LOCK}, "the value -> [('k', 1)]"),
        ({LOCK}, "the value -> {<unlocked"),
        (Job("x", (i for i in range(3))), "the value -> stream"),
        ([WithSlots(LOCK)], "the value -> [0].handle"),
        (functools.partial(print, LOCK), "the value -> args[0]"),
        (functools.partial(print, end=LOCK), "the value -> keywords['end']"),
        (Container([1, LOCK]), "the value -> [1]"),
        (Connection().__init__, "the value -> __self__._lock"),  # type: ignore[misc]
        ([[RaisesInGetstate()]], "the value -> [0][0]"),
    ],
)
def test_the_path_leads_to_the_part_at_fault(value: Any, path: str) -> None:
    assert path_of(value).startswith(path)


def test_what_the_class_raised_is_in_the_message() -> None:
    with pytest.raises(SerializationError, match="OSError: the device is gone"):
        serialize([RaisesInGetstate()])


def test_captured_variables_of_functions_are_named() -> None:
    lock = threading.Lock()
    settings = {"inner": lock}

    def function(x: int = 0) -> Any:
        return settings, x

    with pytest.raises(SerializationError) as caught:
        serialize_function(function)
    name = function.__qualname__
    assert caught.value.path == f"function {name!r} -> captured variable 'settings' of function {name!r}['inner']"
    assert "captured variable 'settings'" in path_of([function])


def test_global_variables_and_defaults_of_functions_are_named() -> None:
    assert "global variable 'LOCK' used by function 'uses_global'" in path_of(uses_global)

    def with_default(lock: Any = threading.Lock()) -> None: ...  # noqa: B008

    assert "default" in path_of(with_default)


def test_attributes_of_local_classes_are_named() -> None:
    class Local:
        shared = threading.Lock()

    assert path_of(Local).endswith(".shared") or path_of(Local).endswith("shared")


def test_cycles_end_and_the_path_is_right() -> None:
    first: dict[str, Any] = {}
    second = [first]
    first["back"] = second
    first["bad"] = LOCK
    first["again"] = first
    assert path_of(first) == "the value -> ['bad']"
    assert path_of(second) == "the value -> [0]['bad']"


def test_one_bad_item_among_many_is_found() -> None:
    value: list[Any] = list(range(100_000))
    value[77_777] = LOCK
    assert path_of(value) == "the value -> [77777]"


def test_a_value_nested_too_deep_says_so() -> None:
    value: Any = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(SerializationError, match="nested too deep"):
        serialize(value)


def test_a_class_that_fails_only_sometimes_still_gives_an_error() -> None:
    class Moody:
        tries = 0

        def __reduce__(self) -> Any:
            Moody.tries += 1
            if Moody.tries == 1:
                raise RuntimeError("not now")
            return int, (1,)

    with pytest.raises(SerializationError, match="not now"):
        serialize([Moody()])


def test_keyboard_interrupts_pass_through() -> None:
    class Interrupted:
        def __reduce__(self) -> Any:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serialize([Interrupted()])
