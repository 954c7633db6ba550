"""Remote functions: arguments, returns, options, errors, retries."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import dataclass
from typing import Any

import pytest

import remora
from remora.exceptions import RayTaskError, TaskError, WorkerCrashedError

pytestmark = pytest.mark.usefixtures("runtime_mode")


@remora.remote
def add(a: Any, b: Any = 1) -> Any:
    """Adds."""
    return a + b


@remora.remote
def type_name(value: Any) -> str:
    return type(value).__name__


@remora.remote
def fail(text: str = "boom") -> None:
    raise ValueError(text)


@dataclass
class Box:
    ref: Any


class Attempts:
    """Counts in an actor, because each attempt may run in another process."""

    def __init__(self) -> None:
        self.count = 0

    def next(self) -> int:
        self.count += 1
        return self.count


def test_a_task_returns_its_result() -> None:
    assert remora.get(add.remote(2, b=3)) == 5
    assert remora.get(remora.remote(max).remote(1, 2)) == 2


def test_top_level_refs_arrive_as_values() -> None:
    assert remora.get(add.remote(remora.put(2), b=add.remote(3))) == 6
    assert remora.get(type_name.remote(remora.put([]))) == "list"


def test_nested_refs_arrive_as_refs() -> None:
    @remora.remote
    def open_box(box: Any) -> Any:
        return remora.get(box.ref if isinstance(box, Box) else box[0])

    ref = remora.put("inside")
    assert remora.get(open_box.remote([ref])) == "inside"
    assert remora.get(open_box.remote({0: ref})) == "inside"
    assert remora.get(open_box.remote(Box(ref))) == "inside"


def test_a_task_waits_for_its_arguments() -> None:
    @remora.remote
    class Gate:
        def __init__(self) -> None:
            self.opened = asyncio.Event()

        async def wait(self) -> int:
            await self.opened.wait()
            return 10

        async def open(self) -> None:
            self.opened.set()

    gate = Gate.remote()
    result = add.remote(gate.wait.remote(), b=5)
    assert remora.wait([result], timeout=0.01) == ([], [result])
    remora.get(gate.open.remote())
    assert remora.get(result, timeout=10) == 15


def test_a_closure_may_capture_a_ref() -> None:
    ref = remora.put(40)

    @remora.remote
    def captured() -> int:
        return int(remora.get(ref)) + 2

    assert remora.get(captured.remote()) == 42


def test_a_result_may_contain_refs() -> None:
    @remora.remote
    def nested() -> list[Any]:
        return [remora.put("deep"), add.remote(1)]

    first, second = remora.get(nested.remote())
    assert (remora.get(first), remora.get(second)) == ("deep", 2)


def test_several_returns_are_several_refs() -> None:
    @remora.remote(num_returns=3)
    def three() -> tuple[int, int, int]:
        return 1, 2, 3

    refs = three.remote()
    assert isinstance(refs, list)
    assert remora.get(refs) == [1, 2, 3]


def test_no_returns_are_none() -> None:
    assert add.options(num_returns=0).remote(1) is None


def test_a_generator_fills_several_returns() -> None:
    @remora.remote(num_returns=2)
    def pair() -> Any:
        yield "a"
        yield "b"

    assert remora.get(pair.remote()) == ["a", "b"]


def test_the_wrong_number_of_values_is_an_error_of_every_return() -> None:
    for ref in add.options(num_returns=3).remote([1], [2]):
        with pytest.raises(ValueError, match="num_returns"):
            remora.get(ref)


def test_options_do_not_change_the_function_they_come_from() -> None:
    two = add.options(num_returns=2)
    assert remora.get(two.remote([1], [2])) == [1, 2]
    assert remora.get(add.remote([1], [2])) == [1, 2]
    assert isinstance(add.remote([1], [2]), remora.ObjectRef)


def test_tasks_may_call_tasks_and_themselves() -> None:
    @remora.remote
    def fib(n: int) -> int:
        return n if n < 2 else sum(remora.get([fib.remote(n - 1), fib.remote(n - 2)]))

    assert remora.get(fib.remote(6)) == 8


def test_an_error_is_the_users_class_and_a_task_error() -> None:
    with pytest.raises(ValueError, match="boom") as raised:
        remora.get(fail.remote())
    assert isinstance(raised.value, TaskError)
    assert RayTaskError is TaskError
    assert "fail" in str(raised.value)
    assert "raise ValueError(text)" in str(raised.value)


def test_an_error_is_raised_by_every_get_anew() -> None:
    ref = fail.remote()
    found = []
    for _ in range(2):
        with pytest.raises(ValueError) as raised:  # noqa: PT011
            remora.get(ref)
        found.append(raised.value)
    assert found[0] is not found[1]


def test_an_error_reaches_whatever_depends_on_it() -> None:
    with pytest.raises(ValueError, match="boom"):
        remora.get(add.remote(add.remote(fail.remote()), 1))


def test_of_several_errors_the_first_in_the_list_is_raised() -> None:
    with pytest.raises(ValueError, match="first"):
        remora.get([add.remote(1), fail.remote("first"), fail.remote("second")])


def test_sys_exit_in_a_task_is_an_error_and_not_the_end_of_the_program() -> None:
    @remora.remote(max_retries=0)
    def leave() -> None:
        raise SystemExit(3)

    with pytest.raises(WorkerCrashedError, match=r"sys\.exit"):
        remora.get(leave.remote())


def test_exceptions_are_retried_when_asked_for() -> None:
    attempts = remora.remote(Attempts).remote()

    @remora.remote(max_retries=2, retry_exceptions=[OSError])
    def flaky(error: type[Exception]) -> int:
        count = remora.get(attempts.next.remote())
        if count % 3:
            raise error(f"attempt {count}")
        return int(count)

    assert remora.get(flaky.remote(FileNotFoundError)) == 3
    with pytest.raises(ValueError, match="attempt 4"):
        remora.get(flaky.remote(ValueError))


def test_retries_end() -> None:
    attempts = remora.remote(Attempts).remote()

    @remora.remote(max_retries=1, retry_exceptions=True)
    def always() -> None:
        raise ValueError(f"attempt {remora.get(attempts.next.remote())}")

    with pytest.raises(ValueError, match="attempt 2"):
        remora.get(always.remote())


def test_a_remote_function_keeps_name_and_docstring() -> None:
    assert (add.__name__, add.__doc__) == ("add", "Adds.")
    assert repr(add) == "RemoteFunction(add)"
    assert add.function(1, 2) == 3


def test_a_remote_function_can_be_passed_and_pickled() -> None:
    @remora.remote
    def call(function: Any, *args: Any) -> Any:
        return remora.get(function.remote(*args))

    assert remora.get(call.remote(add, 1, 2)) == 3
    assert remora.get(call.remote(add.options(num_cpus=0), 1, 2)) == 3
    copied = remora.cloudpickle.loads(remora.cloudpickle.dumps(call))
    assert remora.get(copied.remote(add, 2, 2)) == 4


def test_a_recursive_remote_function_survives_pickling_as_one_object() -> None:
    @remora.remote
    def loop(n: int) -> Any:
        return loop if n == 0 else n

    copied = remora.cloudpickle.loads(remora.cloudpickle.dumps(loop))
    assert copied.function(0) is copied


def test_a_function_with_keyword_defaults_may_call_itself() -> None:
    @remora.remote(num_cpus=0)
    def count_down(number: int, *, step: int = 1, calls: int = 0) -> int:
        return calls if number <= 0 else remora.get(count_down.remote(number - step, calls=calls + 1))

    assert remora.get(count_down.remote(3)) == 3
    with pytest.raises(TypeError, match="missing a required argument: 'number'"):
        count_down.remote()


def test_the_option_name_is_the_name_of_the_call() -> None:
    @remora.remote
    def names() -> tuple[Any, Any]:
        context = remora.get_runtime_context()
        return context.get_task_name(), context.get_task_function_name()

    @remora.remote(name="always")
    def named() -> Any:
        raise ValueError("of this call")

    assert remora.get(names.remote()) == ("names", "names")
    assert remora.get(names.options(name="stage 7").remote()) == ("stage 7", "names")
    with pytest.raises(ValueError, match=r"^task always "):
        remora.get(named.remote())


def test_a_ref_survives_the_standard_pickle_within_the_session() -> None:
    ref = remora.put("value")
    assert remora.get(pickle.loads(pickle.dumps(ref))) == "value"
