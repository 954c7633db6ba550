"""Misuse is refused at the call, with an error that names the fix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import remora

pytestmark = pytest.mark.usefixtures("runtime_mode")


@remora.remote
def add(a: int, b: int = 1) -> int:
    return a + b


@remora.remote
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.value = start

    def increment(self, by: int = 1) -> int:
        self.value += by
        return self.value

    @staticmethod
    def kind(detail: str) -> str:
        return detail

    @classmethod
    def named(cls, detail: str) -> str:
        return detail


MISUSE: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "put of a ref": (lambda: remora.put(remora.put(1)), TypeError, "this is a ref already"),
    "get of a number": (lambda: remora.get(1), TypeError, "it takes a ref, or a list of refs"),
    "get of a dict": (lambda: remora.get({}), TypeError, "make a list of what is in the dict"),
    "get of a generator": (lambda: remora.get(iter([])), TypeError, "make a list"),
    "get of nested lists": (lambda: remora.get([[remora.put(1)]]), TypeError, "cannot be nested"),
    "get of a list with a number": (
        lambda: remora.get([remora.put(1), 2]),
        TypeError,
        "item 1 is an object of type int",
    ),
    "get of a handle": (lambda: remora.get(Counter.remote()), TypeError, "get(handle.method.remote())"),
    "get of a method": (lambda: remora.get(Counter.remote().increment), TypeError, "get(handle.increment.remote())"),
    "get with a negative timeout": (lambda: remora.get(remora.put(1), timeout=-1), ValueError, "timeout=-1"),
    "get with a text as timeout": (lambda: remora.get(remora.put(1), timeout="1"), TypeError, "number of seconds"),
    "wait for one ref": (lambda: remora.wait(remora.put(1)), TypeError, "wait([ref])"),
    "wait for a number": (lambda: remora.wait([1]), TypeError, "item 0 is an object of type int"),
    "wait for nested lists": (lambda: remora.wait([[remora.put(1)]]), TypeError, "cannot be nested"),
    "wait for duplicates": (lambda: remora.wait([remora.put(1)] * 2), ValueError, "dict.fromkeys"),
    "wait for more than there are": (lambda: remora.wait([remora.put(1)], num_returns=2), ValueError, "only 1 refs"),
    "wait for none": (lambda: remora.wait([remora.put(1)], num_returns=0), ValueError, "at least 1"),
    "wait with a negative timeout": (lambda: remora.wait([remora.put(1)], timeout=-0.1), ValueError, "timeout=-0.1"),
    "create of a negative shape": (lambda: remora.create((2, -1)), ValueError, "negative"),
    "create of objects": (lambda: remora.create(2, object), ValueError, "Python objects"),
    "cancel of a handle": (lambda: remora.cancel(Counter.remote()), TypeError, "kill(handle)"),
    "cancel of a number": (lambda: remora.cancel(1), TypeError, "what .remote() returned"),
    "copies without number": (lambda: remora.put(1, copies=10**30), ValueError, "from 1 to"),
    "a name that is no text": (lambda: remora.get_actor("\udcff"), ValueError, "cannot be written as UTF-8"),
    "kill of a ref": (lambda: remora.kill(remora.put(1)), TypeError, "use cancel(ref)"),
    "kill of a number": (lambda: remora.kill(1), TypeError, "takes an actor handle"),
    "call of a function": (lambda: add(1), TypeError, "add.remote(...)"),
    "call of a function with options": (lambda: add.options(num_cpus=1)(1), TypeError, "add.remote(...)"),
    "call of a class": (lambda: Counter(), TypeError, "Counter.remote(...)"),
    "call of a method": (lambda: Counter.remote().increment(), TypeError, "handle.increment.remote(...)"),
    "call of a handle": (lambda: Counter.remote()(), TypeError, "handle.method.remote(...)"),
    "iteration over a ref": (lambda: list(add.remote(1)), TypeError, "remora.get(ref)"),
    "too few arguments": (lambda: add.remote(), TypeError, "add.remote(): missing a required argument: 'a'"),
    "too many arguments": (lambda: add.remote(1, 2, 3), TypeError, "add.remote(): too many positional"),
    "an unknown argument": (lambda: add.remote(1, c=2), TypeError, "'c'"),
    "wrong arguments with options": (lambda: add.options(num_cpus=1).remote(), TypeError, "add.remote(): missing"),
    "wrong constructor arguments": (lambda: Counter.remote(1, 2), TypeError, "Counter.remote(): too many"),
    "wrong method arguments": (
        lambda: Counter.remote().increment.remote(1, 2),
        TypeError,
        "Counter.increment.remote()",
    ),
    "wrong static arguments": (lambda: Counter.remote().kind.remote(), TypeError, "'detail'"),
    "wrong class arguments": (lambda: Counter.remote().named.remote(), TypeError, "'detail'"),
    "unknown method": (lambda: Counter.remote().incremnt, AttributeError, "Did you mean 'increment'?"),
    "attribute of the instance": (lambda: Counter.remote().value, AttributeError, "can only be read by its methods"),
    "unknown name": (lambda: remora.get_actor("nobody"), ValueError, "'nobody'"),
    "empty name": (lambda: remora.get_actor(""), ValueError, "name must not be empty"),
    "exit outside of an actor": (lambda: remora.actor.exit_actor(), TypeError, "exit_actor()"),
    "second init": (lambda: remora.init(), RuntimeError, "ignore_reinit_error=True"),
}


@pytest.mark.parametrize("name", MISUSE)
def test_misuse_is_refused_with_the_fix(name: str) -> None:
    misuse, error, text = MISUSE[name]
    with pytest.raises(error) as raised:
        misuse()
    assert text in str(raised.value)


def test_only_functions_and_classes_can_be_remote() -> None:
    with pytest.raises(TypeError, match="takes a function or a class"):
        remora.remote(3)
    with pytest.raises(TypeError, match="neither a target nor options"):
        remora.remote()
    with pytest.raises(ValueError, match="remote already"):
        remora.remote(add)
    with pytest.raises(ValueError, match=r"asyncio.run\(later\(...\)\)"):

        @remora.remote
        async def later() -> None: ...

    with pytest.raises(ValueError, match="return a list"):

        @remora.remote
        def stream() -> Any:
            yield 1


def test_an_actor_class_cannot_be_inherited_from() -> None:
    with pytest.raises(TypeError, match=r"inherit from the plain class \(Counter.cls\)"):

        class Special(Counter):  # type: ignore[misc]
            pass


def test_method_takes_only_options() -> None:
    with pytest.raises(TypeError, match="without options leave it out"):

        class Thing:
            @remora.method
            def get(self) -> None: ...


def test_a_generator_method_is_refused_when_it_is_used() -> None:
    @remora.remote
    class Stream:
        def items(self) -> Any:
            yield 1

        @remora.method(num_returns=2)
        def pair(self) -> Any:
            yield 1
            yield 2

        def size(self) -> int:
            return 1

    stream = Stream.remote()
    with pytest.raises(ValueError, match="return a list"):
        stream.items  # noqa: B018
    assert remora.get(stream.pair.remote()) == [1, 2]
    assert remora.get(stream.size.remote()) == 1


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"runtime_env": {"env_vars": {"A": "1"}}}, "environments .*not part of Remora yet"),
        ({"address": "auto"}, "address='auto' and local_mode=True exclude each other"),
    ],
)
def test_init_refuses_what_would_otherwise_be_ignored_in_silence(option, sentence):
    with pytest.raises(ValueError, match=sentence):
        remora.init(local_mode=True, **option)


def test_a_task_refuses_an_environment_and_accepts_an_empty_one():
    function = remora.remote(abs)
    assert function.options(runtime_env={}) is not None
    with pytest.raises(ValueError, match="environments of tasks"):
        function.options(runtime_env={"pip": ["somepackage"]})
