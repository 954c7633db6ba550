"""Values of Python itself: to bytes and back, with the refs in them."""

from __future__ import annotations

import collections
import dataclasses
import subprocess
import sys
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remora.base.errors import DeserializationError
from remora.base.ids import ObjectId, make_object_id, make_process_id
from remora.base.object_ref import ObjectRef
from remora.serialization import (
    Serialized,
    deserialize,
    register_reducer,
    serialize,
    serialize_function,
    unregister_reducer,
)


def make_ref(call: int) -> ObjectRef[Any]:
    return ObjectRef(make_object_id(make_process_id(1, 1), call))


def roundtrip(value: Any) -> Any:
    serialized = serialize(value)
    refs = {ref.id: ref for ref in serialized.refs}
    return deserialize(serialized.to_bytes(), refs)


hashable = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
nested = st.recursive(
    hashable | st.builds(bytearray, st.binary()),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(hashable, inner)
        | st.sets(hashable)
        | st.frozensets(hashable)
        | st.lists(inner).map(tuple)
    ),
    max_leaves=20,
)


@given(nested)
@settings(max_examples=150, deadline=None)
def test_nested_builtins_come_back_equal_and_of_the_same_types(value: Any) -> None:
    assert described(roundtrip(value)) == described(value)


def described(value: Any) -> Any:
    """The value with the types of all its parts, comparable whatever the order of sets."""
    if isinstance(value, list | tuple):
        return type(value), [described(part) for part in value]
    if isinstance(value, dict):
        return [(described(key), described(part)) for key, part in value.items()]
    if isinstance(value, set | frozenset):
        return type(value), sorted(repr(part) for part in value)
    return type(value), repr(value)


@given(nested)
@settings(max_examples=50, deadline=None)
def test_the_size_and_all_forms_of_a_value_agree(value: Any) -> None:
    assert_forms_agree(serialize(value))


def assert_forms_agree(serialized: Serialized) -> None:
    data = serialized.to_bytes()
    assert len(data) == serialized.size_bytes
    target = bytearray(serialized.size_bytes)
    for offset, buffer in serialized.parts():
        target[offset : offset + len(buffer)] = buffer
    assert len(target) == serialized.size_bytes
    assert bytes(target) == data
    ends = 0
    for offset, buffer in serialized.parts():
        assert offset >= ends
        ends = offset + len(buffer)
    assert ends == serialized.size_bytes


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 300_000])
def test_bytes_of_any_size_come_back_as_bytes(size: int) -> None:
    value = bytes(range(256)) * (size // 256 + 1)
    value = value[:size]
    serialized = serialize(value)
    assert_forms_agree(serialized)
    for data in (serialized.to_bytes(), memoryview(serialized.to_bytes())):
        got = deserialize(data)
        assert type(got) is bytes
        assert got == value


def test_large_bytes_are_not_copied_before_they_are_written() -> None:
    value = bytes(1_000_000)
    assert any(buffer is value for _, buffer in serialize(value).parts())
    assert any(buffer is value for _, buffer in serialize({"a": [value]}).parts())
    assert roundtrip({"a": [value]}) == {"a": [value]}


def test_a_large_bytearray_in_a_value_is_copied_so_that_later_changes_do_not_show() -> None:
    value = bytearray(1_000_000)
    serialized = serialize([value])
    value[500_000] = 1
    assert deserialize(serialized.to_bytes())[0] == bytes(1_000_000)


def test_a_value_without_buffers_is_a_plain_pickle() -> None:
    import pickle

    for value in (1, "a", None, True, 1.5, b"abc", [1, 2], {"a": (1, 2)}):
        assert pickle.loads(serialize(value).to_bytes()) == value


def test_a_list_that_holds_itself_comes_back_so() -> None:
    value: list[Any] = [1]
    value.append(value)
    got = roundtrip(value)
    assert got[0] == 1
    assert got[1] is got


def test_refs_are_listed_once_in_the_order_in_which_they_are_met() -> None:
    a, b, c = make_ref(1), make_ref(2), make_ref(3)
    value = {"x": [b, a, b], "y": (c, {"z": a})}
    serialized = serialize(value)
    assert serialized.refs == [b, a, c]
    got = roundtrip(value)
    assert got["x"][0] is b
    assert got["y"] == (c, {"z": a})


@given(st.lists(st.integers(0, 30), max_size=60))
@settings(max_examples=50, deadline=None)
def test_every_ref_is_listed_exactly_once(calls: list[int]) -> None:
    refs = {call: make_ref(call) for call in range(31)}
    serialized = serialize([[refs[call]] for call in calls])
    assert serialized.refs == [refs[call] for call in dict.fromkeys(calls)]


def test_refs_are_resolved_by_a_function_or_by_a_dict() -> None:
    ref = make_ref(7)
    data = serialize([ref]).to_bytes()
    asked: list[bytes] = []

    def resolve(object_id: bytes) -> ObjectRef[Any]:
        asked.append(object_id)
        return ref

    assert deserialize(data, resolve) == [ref]
    assert asked == [ref.id]
    assert deserialize(data, {ref.id: ref}) == [ref]


def test_a_ref_in_a_pickle_that_is_loaded_outside_of_the_runtime_says_what_to_do() -> None:
    data = serialize([make_ref(7)]).to_bytes()
    with pytest.raises(DeserializationError, match=r"1\.1\.7\.0 .*outside"):
        deserialize(data)


def test_refs_captured_by_a_function_and_in_attributes_are_listed() -> None:
    captured, attribute = make_ref(1), make_ref(2)

    def function() -> Any:
        return captured

    assert serialize_function(function).refs == [captured]
    assert serialize(Holder(attribute)).refs == [attribute]


@dataclasses.dataclass
class Holder:
    item: Any


class SerializesItsOwnState:
    """Its pickle contains a value that it serialized itself, while it was being serialized."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __reduce__(self) -> Any:
        return rebuild_from_serialized, (serialize(self.inner).to_bytes(),)


def rebuild_from_serialized(data: bytes) -> SerializesItsOwnState:
    return SerializesItsOwnState(deserialize(data))


def test_serializing_inside_of_reduce_disturbs_nothing() -> None:
    ref = make_ref(3)
    value = [ref, SerializesItsOwnState([1, SerializesItsOwnState("x")]), ref, "end"]
    serialized = serialize(value)
    assert serialized.refs == [ref]
    got = deserialize(serialized.to_bytes(), {ref.id: ref})
    assert got[0] is ref
    assert got[2] is ref
    assert got[1].inner[0] == 1
    assert got[1].inner[1].inner == "x"
    assert got[3] == "end"


class DeserializesWithOtherRefs:
    def __init__(self, ref: ObjectRef[Any]) -> None:
        self.ref = ref
        self.seen: Any = None

    def __reduce__(self) -> Any:
        return load_inside, (serialize([self.ref]).to_bytes(),)


inner_ref = make_ref(99)


def load_inside(data: bytes) -> Any:
    return deserialize(data, lambda object_id: inner_ref)


def test_deserializing_inside_of_a_deserialization_has_its_own_refs() -> None:
    outer = make_ref(5)
    data = serialize([outer, DeserializesWithOtherRefs(make_ref(6)), Holder(outer)]).to_bytes()
    got = deserialize(data, lambda object_id: outer)
    assert got[0] is outer
    assert got[1] == [inner_ref]
    assert got[2].item is outer


class Explodes:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("no")


def test_a_failure_half_way_leaves_nothing_behind() -> None:
    for _ in range(20):
        with pytest.raises(TypeError):
            serialize([make_ref(1), bytearray(100_000), {"a": Explodes()}])
        serialized = serialize([1, "a", {"b": 2}])
        assert serialized.refs == []
        assert deserialize(serialized.to_bytes()) == [1, "a", {"b": 2}]


def test_values_are_not_kept_alive_after_they_were_serialized() -> None:
    import gc
    import weakref

    value = Holder([1])
    serialize(value)
    serialize([make_ref(1), value])
    gone = weakref.ref(value)
    del value
    gc.collect()
    assert gone() is None


def test_many_threads_serialize_at_once() -> None:
    wrong: list[Any] = []

    def work(number: int) -> None:
        ref = make_ref(number)
        for step in range(200):
            value = [ref, {"number": number, "step": step}, Holder(step)]
            serialized = serialize(value)
            if serialized.refs != [ref] or deserialize(serialized.to_bytes(), {ref.id: ref}) != value:
                wrong.append((number, step))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


Point = collections.namedtuple("Point", "x y")


def test_named_tuples_keep_their_class() -> None:
    assert type(roundtrip(Point(1, 2))) is Point


def test_a_registered_reducer_is_used_for_its_class_only() -> None:
    class Base:
        pass

    class Sub(Base):
        pass

    register_reducer(Base, lambda value: (str, ("base",)))
    try:
        assert roundtrip([Base()]) == ["base"]
        assert roundtrip([Sub()]) != ["base"]
        register_reducer(Base, lambda value: (str, ("any",)), subclasses=True)
        assert roundtrip([Sub()]) == ["any"]
    finally:
        unregister_reducer(Base)
    assert type(roundtrip([Base()])[0]).__name__ == "Base"


MAIN_PROGRAM = """
import sys
from remora.serialization import serialize, serialize_function
class Greeter:
    def __init__(self, name): self.name = name
    def greet(self): return f"hello {self.name} {FACTOR}"
FACTOR = 3
offset = 10
def add(x): return x + offset + FACTOR
sys.stdout.write(serialize(Greeter("ann")).to_bytes().hex() + " " + serialize_function(add).to_bytes().hex())
"""


def test_classes_and_functions_of_main_work_in_another_process() -> None:
    output = subprocess.run([sys.executable, "-c", MAIN_PROGRAM], capture_output=True, text=True, check=True).stdout
    greeter, add = (deserialize(bytes.fromhex(part)) for part in output.split())
    assert greeter.greet() == "hello ann 3"
    assert add(1) == 14


def test_functions_share_their_globals_inside_one_value_and_not_with_later_ones() -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec("count = 0\ndef up():\n    global count\n    count += 1\ndef now():\n    return count", namespace)
    up, now = roundtrip([namespace["up"], namespace["now"]])
    up()
    assert now() == 1
    assert roundtrip([namespace["now"]])[0]() == 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"R",
        b"garbage that is longer than a header",
        b"R\x09" + bytes(14),
        b"R\x01\x63" + bytes(13),
        b"R\x01\x01\x00\x05\x00\x00\x00" + bytes(8),
        b"R\x01\x02\x00\x00\x00\x00\x00" + (1 << 40).to_bytes(8, "little"),
        b"R\x01\x02\x00\x00\x00\x00\x00" + (5).to_bytes(8, "little"),
        b"R\x01\x04\x00\x02\x00\x00\x00" + (5).to_bytes(8, "little"),
        b"R\x01\x04\x00\xff\xff\xff\xff" + (5).to_bytes(8, "little"),
        b"\x80\x05\x95",
        b"\x80",
    ],
)
def test_damaged_bytes_raise_one_clear_error(data: bytes) -> None:
    with pytest.raises(DeserializationError):
        deserialize(data)
    with pytest.raises(DeserializationError):
        deserialize(memoryview(data))


@given(st.binary(max_size=80), st.integers(0, 200))
@settings(max_examples=200, deadline=None)
def test_values_cut_short_raise_or_give_the_value(noise: bytes, length: int) -> None:
    data = serialize({"a": noise, "b": [bytearray(3)]}).to_bytes()
    if length < len(data):
        with pytest.raises(DeserializationError):
            deserialize(data[:length])


def test_an_error_at_loading_names_the_object_the_class_and_the_missing_module(tmp_path: Any) -> None:
    (tmp_path / "only_there.py").write_text("class Config:\n    pass\n")
    sys.path.insert(0, str(tmp_path))
    try:
        import only_there  # type: ignore[import-not-found]

        data = serialize({"c": only_there.Config()}).to_bytes()
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("only_there", None)
    object_id = make_object_id(make_process_id(1, 2), 3)
    with pytest.raises(DeserializationError) as caught:
        deserialize(data, object_id=object_id)
    text = str(caught.value)
    assert "object 1.2.3.0" in text
    assert "only_there.Config" in text
    assert "must be importable" in text
    assert caught.value.object_id == object_id
    assert caught.value.type_name == "only_there.Config"
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


class FailsToLoad:
    def __setstate__(self, state: Any) -> None:
        raise KeyError("half-way")

    def __getstate__(self) -> Any:
        return {"a": 1}


def test_an_error_of_the_class_own_code_at_loading_says_so() -> None:
    with pytest.raises(DeserializationError, match=r"FailsToLoad.*KeyError.*half-way.*own code"):
        deserialize(serialize([1, FailsToLoad()]).to_bytes())


def test_importing_the_serializer_imports_no_array_library() -> None:
    program = (
        "import sys, remora.serialization\n"
        "remora.serialization.serialize([1])\n"
        "print([m for m in ('numpy', 'pandas', 'pyarrow', 'torch') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_object_ids_are_those_of_the_refs() -> None:
    ref = ObjectRef[int](ObjectId(b"x" * 16))
    assert b"x" * 16 in serialize([ref]).to_bytes()
