"""Errors of tasks: instances of TaskError and of the user's class, for every class that users can think of."""

from __future__ import annotations

import abc
import asyncio
import copy
import gc
import pickle
import subprocess
import sys
import threading
import traceback
import types
import weakref
from typing import Any

import cloudpickle
import pytest

from remora.base import errors
from remora.base.errors import ActorDiedError, GetTimeoutError, RemoraError, TaskError, UnserializableException
from remora.serialization import deserialize, deserialize_error, serialize_error


def raised(exception: BaseException) -> BaseException:
    """The exception as a task's executor catches it, with a traceback."""
    try:
        raise exception
    except BaseException as caught:  # noqa: BLE001 - whatever was given
        return caught


def through_task(exception: BaseException, function_name: str = "work") -> Any:
    data = serialize_error(raised(exception), function_name=function_name, pid=123, node_address="n1")
    return deserialize_error(data)


class Plain(Exception):
    pass


class OddInit(Exception):
    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"failed with {code}")
        self.code = code
        self.detail = detail


class NoArgsToSuper(Exception):
    def __init__(self, a: int, b: int) -> None:
        self.total = a + b


class DemandingNew(Exception):
    def __new__(cls, required: int) -> DemandingNew:
        made = super().__new__(cls, required)
        made.required = required  # type: ignore[attr-defined]
        return made


class Slotted(Exception):
    __slots__ = ("extra",)

    def __init__(self, extra: int) -> None:
        super().__init__("slotted")
        self.extra = extra


class Frozen(Exception):
    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("frozen")


class BadStr(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class BadEverything(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("no attributes")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparing")

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")


class EndlessGetattr(Exception):
    def __getattr__(self, name: str) -> Any:
        return getattr(self.missing, name)


class RefusesSubclasses(Exception):
    def __init_subclass__(cls) -> None:
        raise TypeError("final")


class FinalMeta(type):
    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> FinalMeta:
        if any(isinstance(base, FinalMeta) for base in bases):
            raise TypeError("final")
        return super().__new__(mcs, name, bases, namespace)


class FinalByMeta(Exception, metaclass=FinalMeta):
    pass


class Abstract(Exception, metaclass=abc.ABCMeta):
    @abc.abstractmethod
    def must(self) -> None: ...


class Concrete(Abstract):
    def must(self) -> None: ...


class Properties(Exception):
    @property
    def pid(self) -> str:
        return "mine"

    @property
    def cause(self) -> str:
        return "mine too"


class OwnReduce(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(a, b)
        self.sum = a + b

    def __reduce__(self) -> Any:
        return OwnReduce, (self.args[0], self.args[1])


class ReduceRaises(Exception):
    def __reduce__(self) -> Any:
        raise OSError("cannot reduce")


class LoadRaises(Exception):
    def __reduce__(self) -> Any:
        return explode, ()


def explode() -> None:
    raise LookupError("cannot load")


class LoadsAsSomethingElse(Exception):
    def __reduce__(self) -> Any:
        return int, (5,)


class WithDefault(Exception):
    code = 0


with_default = WithDefault("d")
with_default.code = 7

SUBCLASSED = [
    Plain("a", 1),
    OddInit(3, detail="x"),
    NoArgsToSuper(1, 2),
    DemandingNew(5),
    Slotted(4),
    Frozen("f"),
    BadStr("b"),
    BadEverything("e"),
    EndlessGetattr("g"),
    Concrete("c"),
    Properties("p"),
    OwnReduce(1, 2),
    with_default,
    ValueError("v"),
    KeyError("k"),
    FileNotFoundError(2, "No such file", "/x/y"),
    UnicodeDecodeError("utf-8", b"abc", 1, 2, "bad"),
    SyntaxError("bad", ("f.py", 3, 4, "x = ", 3, 5)),
    ImportError("no", name="n", path="p"),
    ModuleNotFoundError("no", name="n"),
    AttributeError("no", name="n", obj=object()),
    subprocess.CalledProcessError(3, ["ls"], b"out", b"err"),
    AssertionError(),
    MemoryError("m"),
    RecursionError("r"),
    ZeroDivisionError("z"),
    GetTimeoutError(timeout_s=3),
    ActorDiedError(class_name="C", pid=3),
    pickle.PicklingError("p"),
]
PLAIN = [
    RefusesSubclasses("final"),
    FinalByMeta("final"),
    ExceptionGroup("group", [ValueError(1), OddInit(2, detail="d")]),
    StopIteration(3),
    StopAsyncIteration(),
    asyncio.CancelledError("c"),
    KeyboardInterrupt(),
    SystemExit(3),
    GeneratorExit(),
    BaseException("base"),
    RemoraError("own"),
    Exception("exactly"),
]
LOST = [ReduceRaises("r"), LoadRaises("l"), LoadsAsSomethingElse("s")]


EXCEPTIONS = {type(exception).__name__: exception for exception in [*SUBCLASSED, *PLAIN, *LOST]}


def names(exceptions: list[Any]) -> list[str]:
    """Test parameters are names: pytest itself breaks on some of these exceptions."""
    return [type(exception).__name__ for exception in exceptions]


@pytest.mark.parametrize("name", names(SUBCLASSED))
def test_the_error_is_both_a_task_error_and_the_users_class(name: str) -> None:
    exception = EXCEPTIONS[name]
    error = through_task(exception)
    assert isinstance(error, TaskError)
    with pytest.raises(type(exception)):
        raise error
    assert type(error.cause) is type(exception)
    assert BaseException.__getattribute__(error, "args") == BaseException.__getattribute__(exception, "args")


@pytest.mark.parametrize("name", names(PLAIN))
def test_where_the_class_cannot_be_subclassed_the_exception_is_the_cause(name: str) -> None:
    exception = EXCEPTIONS[name]
    error = through_task(exception)
    assert type(error) is TaskError
    assert type(error.cause) is type(exception)
    assert repr(error.cause) == repr(exception)


@pytest.mark.parametrize("name", names(LOST))
def test_what_cannot_travel_arrives_as_name_text_and_traceback(name: str) -> None:
    exception = EXCEPTIONS[name]
    error = through_task(exception)
    assert type(error) is TaskError
    assert isinstance(error.cause, UnserializableException)
    assert type(exception).__name__ in error.cause.type_name
    assert error.cause.text == str(exception)
    assert "in raised" in str(error)
    assert "only its text is here" in str(error)


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_error_never_breaks_what_handles_it(name: str) -> None:
    exception = EXCEPTIONS[name]
    error = through_task(exception)
    assert "work" in str(error)
    assert "pid 123, node n1" in str(error)
    assert "Traceback (most recent call last)" in str(error)
    assert "in raised" in str(error)
    assert repr(error)
    assert f"{error}"
    assert error
    assert error == error
    assert hash(error)
    for again in (
        copy.copy(error),
        copy.deepcopy(error),
        pickle.loads(pickle.dumps(error)),
        pickle.loads(pickle.dumps(error, 2)),
        cloudpickle.loads(cloudpickle.dumps(error)),
    ):
        assert type(again) is type(error)
        assert str(again) == str(error)
    error.add_note("a note")
    try:
        raise error
    except TaskError as caught:
        text = "".join(traceback.format_exception(caught))
    assert "a note" in text
    assert "a note" in copy.copy(error).__notes__


def test_attributes_and_fields_of_the_exception_are_on_the_error() -> None:
    assert through_task(OddInit(3, detail="x")).code == 3
    assert through_task(OddInit(3, detail="x")).cause.detail == "x"
    assert str(through_task(OddInit(3, detail="x")).cause) == "failed with 3"
    assert through_task(NoArgsToSuper(1, 2)).total == 3
    assert through_task(Slotted(4)).extra == 4
    assert through_task(with_default).code == 7
    assert through_task(OwnReduce(1, 2)).sum == 3
    error = through_task(FileNotFoundError(2, "No such file", "/x/y"))
    assert (error.errno, error.strerror, error.filename) == (2, "No such file", "/x/y")
    assert through_task(SyntaxError("bad", ("f.py", 3, 4, "x = ", 3, 5))).lineno == 3
    assert through_task(KeyError("k")).args == ("k",)
    assert through_task(ImportError("no", name="n")).name == "n"
    assert through_task(Properties("p")).pid == "mine"
    assert isinstance(through_task(Properties("p")).cause, Properties)


def test_the_error_names_function_process_and_node() -> None:
    error = through_task(ValueError("v"))
    assert (error.function_name, error.pid, error.node_address, error.is_actor) == ("work", 123, "n1", False)
    assert type(error).__name__ == "TaskError(ValueError)"


def test_the_traceback_ends_with_the_exception_and_shows_the_line() -> None:
    def fail() -> None:
        raise ValueError("deep inside")

    try:
        fail()
    except ValueError as caught:
        error = deserialize_error(serialize_error(caught, function_name="f", pid=1))
    assert str(error).rstrip().endswith("ValueError: deep inside")
    assert 'raise ValueError("deep inside")' in str(error)


def test_every_call_gives_a_new_object_without_a_traceback() -> None:
    data = serialize_error(raised(ValueError("v")), function_name="f", pid=1)
    first = raised(deserialize_error(data))
    second = deserialize_error(data)
    assert first.__traceback__ is not None
    assert second is not first
    assert second.__traceback__ is None
    assert type(first) is type(second)


def test_an_error_is_a_value_that_deserialize_gives_too() -> None:
    assert isinstance(deserialize(serialize_error(ValueError("v"), function_name="f", pid=1)), ValueError)


def test_an_error_that_passes_through_another_task_keeps_type_and_cause_and_has_both_in_its_text() -> None:
    inner = through_task(OddInit(3, detail="x"), "inner")
    outer = through_task(inner, "outer")
    third = through_task(outer, "third")
    for error in (outer, third):
        assert isinstance(error, OddInit)
        assert isinstance(error, TaskError)
        assert type(error) is type(inner)
        assert type(error.cause) is OddInit
        assert error.code == 3
        assert "inner" in str(error)
        assert "outer" in str(error)
    assert third.function_name == "third"


def test_what_could_not_travel_still_has_its_name_after_another_task() -> None:
    outer = through_task(through_task(ReduceRaises("r"), "inner"), "outer")
    assert isinstance(outer.cause, UnserializableException)
    assert "ReduceRaises" in outer.cause.type_name
    assert outer.cause.text == "r"


def test_the_chain_of_causes_travels() -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as first:
            raise OddInit(2, detail="second") from first
    except OddInit as caught:
        error = through_task(caught)
    assert isinstance(error.cause.__cause__, KeyError)
    assert "direct cause" in str(error)


def test_the_context_travels_unless_it_was_suppressed() -> None:
    def fail(suppress: bool) -> BaseException:
        try:
            try:
                raise KeyError("first")
            except KeyError:
                if suppress:
                    raise ValueError("second") from None
                raise ValueError("second")  # noqa: B904
        except ValueError as caught:
            return caught

    assert isinstance(through_task(fail(False)).cause.__context__, KeyError)
    assert through_task(fail(True)).cause.__context__ is None


def test_a_cycle_of_causes_ends() -> None:
    first, second = ValueError("1"), ValueError("2")
    first.__cause__, second.__cause__ = second, first
    assert isinstance(through_task(first), ValueError)


def test_an_exception_that_holds_itself_travels() -> None:
    exception = Plain("p")
    exception.me = exception  # type: ignore[attr-defined]
    error = through_task(exception)
    assert error.cause.me is error.cause


def test_attributes_that_cannot_be_pickled_are_left_out_and_named() -> None:
    exception = OddInit(3, detail="x")
    exception.lock = threading.Lock()  # type: ignore[attr-defined]
    exception.args = ("a", threading.Lock())
    error = through_task(exception)
    assert isinstance(error, OddInit)
    assert error.code == 3
    assert not hasattr(error, "lock")
    assert error.args[0] == "a"
    assert "lock" in error.args[1]
    assert "args[1], lock" in str(error)


def test_an_exception_whose_module_is_missing_here_arrives_as_text() -> None:
    module = types.ModuleType("only_in_the_worker")
    exec("class Custom(Exception): pass", vars(module))
    sys.modules["only_in_the_worker"] = module
    try:
        data = serialize_error(raised(module.Custom("hello")), function_name="f", pid=1)
    finally:
        del sys.modules["only_in_the_worker"]
    error = deserialize_error(data)
    assert type(error) is TaskError
    assert isinstance(error.cause, UnserializableException)
    assert "only_in_the_worker.Custom" in str(error)
    assert "could not be rebuilt in this process" in str(error)
    assert error.cause.text == "hello"
    assert "only_in_the_worker.Custom" in str(through_task(error, "outer").cause)


def test_a_class_of_main_travels_by_value() -> None:
    program = """
import sys
from remora.serialization import serialize_error
class Mine(Exception):
    def __init__(self, a, b): self.a = a
try: raise Mine(1, 2)
except Mine as e: sys.stdout.write(serialize_error(e, function_name="f", pid=1).hex())
"""
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    error = deserialize_error(bytes.fromhex(output))
    assert type(error).__name__ == "TaskError(Mine)"
    assert error.a == 1  # type: ignore[attr-defined]


def test_one_class_is_made_per_user_class_and_the_oldest_are_dropped() -> None:
    assert type(through_task(Plain(1))) is type(through_task(Plain(2)))
    made = types.new_class("Temporary", (Exception,))
    made.__module__ = "__main__"
    gone = weakref.ref(made)
    through_task(made("x"))
    for number in range(300):
        through_task(types.new_class(f"E{number}", (Exception,), {}, lambda ns: ns.update(__module__="__main__"))("x"))
    del made
    gc.collect()
    assert gone() is None


def test_a_task_error_made_by_hand_works_like_one_of_ray() -> None:
    error = TaskError("f", "Traceback: ...", ValueError("v"))
    dual = error.as_instanceof_cause()
    assert isinstance(dual, ValueError)
    assert dual.as_instanceof_cause() is dual
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is TaskError
    assert isinstance(again.cause, ValueError)


def test_lone_surrogates_and_long_texts_travel() -> None:
    error = through_task(ValueError("\ud800 " + "x" * 1_000_000))
    assert "\\ud800" in str(error)
    assert len(str(error)) < 500_000
    assert error.args[0].startswith("\ud800")


@pytest.mark.parametrize("data", [b"", b"R\x01\x03", b"R\x01\x03" + bytes(13), b"\x80\x05N.", b"x" * 40])
def test_a_damaged_error_is_still_an_error(data: bytes) -> None:
    assert isinstance(deserialize_error(data), errors.DeserializationError)
