"""Actors: state, order, names, ends, handles."""

from __future__ import annotations

import asyncio
import gc
import threading
import uuid
from typing import Any

import pytest

import remora
from remora.actor import ActorHandle
from remora.exceptions import ActorDiedError, RayActorError

pytestmark = pytest.mark.usefixtures("runtime_mode")


@remora.remote
class Counter:
    """Counts."""

    def __init__(self, start: int = 0) -> None:
        self.value = start

    def increment(self, by: int = 1) -> int:
        self.value += by
        return self.value

    @remora.method(num_returns=2)
    def halves(self) -> tuple[int, int]:
        return self.value // 2, self.value - self.value // 2

    def fail(self) -> None:
        raise KeyError("missing")

    def leave(self) -> None:
        remora.actor.exit_actor()

    @staticmethod
    def double(value: int) -> int:
        return 2 * value

    @classmethod
    def name(cls) -> str:
        return cls.__name__


def new_name() -> str:
    return uuid.uuid4().hex


def test_an_actor_keeps_state_between_calls() -> None:
    counter = Counter.remote(start=3)
    assert remora.get([counter.increment.remote(), counter.increment.remote(10)]) == [4, 14]


def test_calls_run_in_the_order_in_which_they_were_made() -> None:
    counter = Counter.remote()
    assert remora.get([counter.increment.remote() for _ in range(50)]) == list(range(1, 51))


def test_a_call_whose_argument_is_unfinished_holds_back_later_ones() -> None:
    @remora.remote
    class Gate:
        def __init__(self) -> None:
            self.opened = asyncio.Event()

        async def wait(self) -> int:
            await self.opened.wait()
            return 100

        async def open(self) -> None:
            self.opened.set()

    gate, counter = Gate.remote(), Counter.remote()
    first = counter.increment.remote(gate.wait.remote())
    second = counter.increment.remote()
    assert remora.wait([first, second], num_returns=2, timeout=0.01) == ([], [first, second])
    remora.get(gate.open.remote())
    assert remora.get([first, second], timeout=10) == [100, 101]


def test_static_and_class_methods_can_be_called() -> None:
    counter = Counter.remote()
    assert remora.get([counter.double.remote(4), counter.name.remote()]) == [8, "Counter"]


def test_a_method_may_have_several_returns_or_none() -> None:
    counter = Counter.remote(7)
    assert remora.get(counter.halves.remote()) == [3, 4]
    assert remora.get(counter.halves.options(num_returns=1).remote()) == (3, 4)
    assert counter.increment.options(num_returns=0).remote() is None
    assert remora.get(counter.increment.remote()) == 9


def test_an_error_of_a_method_leaves_the_actor_alive() -> None:
    counter = Counter.remote()
    with pytest.raises(KeyError, match="missing") as raised:
        remora.get(counter.fail.remote())
    assert "Counter.fail" in str(raised.value)
    assert remora.get(counter.increment.remote()) == 1


def test_an_error_of_the_constructor_is_raised_by_the_calls_of_methods() -> None:
    @remora.remote
    class Broken:
        def __init__(self) -> None:
            raise ValueError("cannot be made")

        def use(self) -> None: ...

    broken = Broken.remote()
    for _ in range(2):
        with pytest.raises(ActorDiedError, match="cannot be made"):
            remora.get(broken.use.remote())
    assert RayActorError in ActorDiedError.__mro__


def test_constructor_arguments_follow_the_rule_of_tasks() -> None:
    @remora.remote
    class Holder:
        def __init__(self, value: Any, nested: list[Any]) -> None:
            self.found = (value, remora.get(nested[0]))

        def show(self) -> Any:
            return self.found

    assert remora.get(Holder.remote(remora.put(1), [remora.put(2)]).show.remote()) == (1, 2)


def test_a_killed_actor_fails_its_calls() -> None:
    counter = Counter.remote()
    remora.get(counter.increment.remote())
    remora.kill(counter)
    with pytest.raises(ActorDiedError) as raised:
        remora.get(counter.increment.remote())
    assert "Counter" in str(raised.value)


def test_an_actor_can_leave_by_itself() -> None:
    counter = Counter.remote()
    for call in (counter.leave, counter.increment):
        with pytest.raises(ActorDiedError):
            remora.get(call.remote())


def test_a_killed_actor_with_a_restart_left_starts_again() -> None:
    counter = Counter.options(max_restarts=1, max_task_retries=1).remote(5)
    assert remora.get(counter.increment.remote()) == 6
    remora.kill(counter, no_restart=False)
    assert remora.get(counter.increment.remote()) == 6
    remora.kill(counter, no_restart=False)
    with pytest.raises(ActorDiedError):
        remora.get(counter.increment.remote())


def test_an_actor_is_found_by_its_name() -> None:
    name = new_name()
    counter = Counter.options(name=name).remote()
    remora.get(counter.increment.remote())
    found = remora.get_actor(name)
    assert found == counter
    assert remora.get(found.increment.remote()) == 2
    assert name in remora.util.list_named_actors()


def test_a_name_is_taken_while_its_actor_lives() -> None:
    name = new_name()
    counter = Counter.options(name=name).remote()
    with pytest.raises(ValueError, match=name):
        Counter.options(name=name).remote()
    assert Counter.options(name=name, get_if_exists=True).remote() == counter
    remora.kill(counter)
    with pytest.raises(ValueError, match=name):
        remora.get_actor(name)
    assert remora.get(Counter.options(name=name).remote().increment.remote()) == 1


def test_namespaces_keep_names_apart() -> None:
    name = new_name()
    here = Counter.options(name=name).remote(1)
    there = Counter.options(name=name, namespace="elsewhere").remote(2)
    assert remora.get(remora.get_actor(name).increment.remote()) == 2
    assert remora.get(remora.get_actor(name, "elsewhere").increment.remote()) == 3
    assert {"name": name, "namespace": "elsewhere"} in remora.util.list_named_actors(all_namespaces=True)
    assert here != there


def test_an_actor_ends_with_its_last_handle() -> None:
    name = new_name()
    counter = Counter.options(name=name).remote()
    method = counter.increment
    remora.get(method.remote())
    del counter
    assert remora.get_actor(name) is not None
    del method
    gc.collect()
    ended = threading.Event()
    for _ in range(100):
        try:
            remora.get_actor(name)
        except ValueError:
            ended.set()
            break
        ended.wait(0.05)
    assert ended.is_set()


def test_a_detached_actor_outlives_its_handles() -> None:
    name = new_name()
    Counter.options(name=name, lifetime="detached").remote(1)
    gc.collect()
    found = remora.get_actor(name)
    assert remora.get(found.increment.remote()) == 2
    remora.kill(found)


def test_a_temporary_handle_lives_through_its_call() -> None:
    assert remora.get(Counter.remote(4).increment.remote()) == 5


def test_handles_can_be_passed_and_returned() -> None:
    @remora.remote
    def use(counter: Any, others: list[Any]) -> Any:
        remora.get([other.increment.remote() for other in [counter, *others]])
        return counter

    counter, other = Counter.remote(), Counter.remote(10)
    returned = remora.get(use.remote(counter, [other]))
    assert isinstance(returned, ActorHandle)
    assert returned == counter
    assert hash(returned) == hash(counter)
    assert remora.get([returned.increment.remote(), other.increment.remote()]) == [2, 12]


def test_a_method_can_be_passed() -> None:
    @remora.remote
    def call(method: Any) -> Any:
        return remora.get(method.remote(5))

    assert remora.get(call.remote(Counter.remote().increment)) == 5


def test_an_actor_can_be_made_inside_a_task() -> None:
    @remora.remote
    def make() -> Any:
        counter = Counter.remote(20)
        remora.get(counter.increment.remote())
        return counter

    assert remora.get(remora.get(make.remote()).increment.remote()) == 22


def test_every_actor_has_the_builtin_methods() -> None:
    counter = Counter.remote(8)
    assert remora.get(counter.__ray_ready__.remote()) is True
    assert remora.get(counter.__ray_call__.remote(lambda self, by: self.value + by, 2)) == 10
    counter.__ray_terminate__.remote()
    with pytest.raises(ActorDiedError):
        remora.get(counter.increment.remote())


def test_inherited_methods_can_be_called() -> None:
    class Base:
        def greet(self) -> str:
            return "hello"

    @remora.remote
    class Derived(Base):
        def __len__(self) -> int:
            return 3

    derived = Derived.remote()
    assert remora.get([derived.greet.remote(), derived.__len__.remote()]) == ["hello", 3]


def test_exceptions_of_methods_are_retried_when_asked_for() -> None:
    @remora.remote(max_task_retries=2)
    class Flaky:
        def __init__(self) -> None:
            self.attempts = 0

        @remora.method(retry_exceptions=[OSError])
        def use(self) -> int:
            self.attempts += 1
            if self.attempts < 3:
                raise FileNotFoundError
            return self.attempts

    assert remora.get(Flaky.remote().use.remote()) == 3


def test_the_methods_of_an_async_actor_wait_for_each_other() -> None:
    @remora.remote
    class Meeting:
        def __init__(self) -> None:
            self.everybody = asyncio.Event()
            self.present = 0

        async def join(self, expected: int) -> int:
            self.present += 1
            if self.present == expected:
                self.everybody.set()
            await self.everybody.wait()
            return self.present

        def count(self) -> int:
            return self.present

    meeting = Meeting.remote()
    assert remora.get([meeting.join.remote(20) for _ in range(20)], timeout=30) == [20] * 20
    assert remora.get(meeting.count.remote()) == 20


def test_an_async_actor_runs_no_more_calls_at_once_than_allowed() -> None:
    @remora.remote(max_concurrency=2)
    class Limited:
        def __init__(self) -> None:
            self.running = self.most = 0

        async def use(self) -> None:
            self.running += 1
            self.most = max(self.most, self.running)
            for _ in range(5):
                await asyncio.sleep(0)
            self.running -= 1

        async def highest(self) -> int:
            return self.most

    limited = Limited.remote()
    remora.get([limited.use.remote() for _ in range(10)])
    assert remora.get(limited.highest.remote()) == 2


def test_an_async_method_can_await_refs() -> None:
    @remora.remote
    class Sum:
        async def of(self, refs: list[Any]) -> int:
            return sum([await ref for ref in refs])

    assert remora.get(Sum.remote().of.remote([remora.put(1), Counter.remote(4).increment.remote()])) == 6


def test_a_threaded_actor_works() -> None:
    counter = Counter.options(max_concurrency=4).remote()
    remora.get([counter.increment.remote() for _ in range(10)])
    assert remora.get(counter.increment.remote()) == 11


def test_an_actor_class_keeps_name_and_docstring() -> None:
    assert (Counter.__name__, Counter.__doc__) == ("Counter", "Counts.")
    assert repr(Counter) == "ActorClass(Counter)"
    assert Counter.cls(3).increment() == 4


def test_an_actor_class_can_be_passed() -> None:
    @remora.remote
    def use(actor_class: Any) -> Any:
        return remora.get(actor_class.remote(1).increment.remote())

    assert remora.get(use.remote(Counter)) == 2
    assert remora.get(use.remote(Counter.options(num_cpus=0))) == 2


def test_a_class_whose_constructor_has_parameters_may_make_actors_of_its_own_class() -> None:
    @remora.remote(num_cpus=0)
    class Node:
        def __init__(self, depth: int, *, step: int = 1) -> None:
            self.depth = depth
            self.step = step

        def child(self) -> Any:
            return Node.options(num_cpus=0).remote(self.depth + self.step)

        def look(self, *, times: int = 1) -> int:
            return self.depth * times

    grandchild = remora.get(remora.get(Node.remote(5).child.remote()).child.remote())
    assert remora.get(grandchild.look.remote(times=2)) == 14


def test_the_option_name_is_the_name_of_a_method_call() -> None:
    @remora.remote
    class Speaker:
        def name(self) -> Any:
            return remora.get_runtime_context().get_task_name()

        def fail(self) -> None:
            raise ValueError("of this call")

    speaker = Speaker.remote()
    assert remora.get(speaker.name.options(name="greeting").remote()) == "greeting"
    assert remora.get(speaker.name.remote()).endswith("Speaker.name")
    with pytest.raises(ValueError, match=r"^actor method greeting "):
        remora.get(speaker.fail.options(name="greeting").remote())


def test_a_handle_lists_its_methods() -> None:
    assert {"increment", "halves", "double"} <= set(dir(Counter.remote()))
