"""Values that are small alone and too much together: for one message, and for one frame."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import remora

COUNT = 150
SIZE_BYTES = 90_000
"""Below the limit above which a value lies in the store; all of them are above what one message takes."""


@pytest.fixture(scope="module")
def refs() -> Iterator[list[remora.ObjectRef[bytes]]]:
    with remora.init(num_cpus=2):
        yield [remora.put(bytes([number]) * SIZE_BYTES) for number in range(COUNT)]


def first_bytes(values: tuple[bytes, ...]) -> list[int]:
    assert all(len(value) == SIZE_BYTES for value in values)
    return [value[0] for value in values]


@remora.remote
def look(*values: bytes) -> list[int]:
    return first_bytes(values)


@remora.remote
class Keeper:
    def __init__(self, *values: bytes) -> None:
        self.values = values

    def look(self, *values: bytes) -> list[int]:
        return first_bytes(values or self.values)


def test_a_task_gets_all_of_them_in_their_order(refs: list[remora.ObjectRef[bytes]]) -> None:
    assert remora.get(look.remote(*refs)) == list(range(COUNT))


def test_an_actor_gets_them_in_its_constructor_and_in_a_method(refs: list[remora.ObjectRef[bytes]]) -> None:
    keeper = Keeper.remote(*refs)
    assert remora.get(keeper.look.remote()) == list(range(COUNT))
    assert remora.get(keeper.look.remote(*reversed(refs))) == list(reversed(range(COUNT)))


def test_a_failed_one_among_them_is_the_error_of_the_call(refs: list[remora.ObjectRef[bytes]]) -> None:
    @remora.remote
    def fail() -> bytes:
        raise LookupError("no such value")

    with pytest.raises(LookupError, match="no such value"):
        remora.get(look.remote(*refs, fail.remote()))


def test_results_that_are_too_much_for_one_message_come_all(refs: list[remora.ObjectRef[bytes]]) -> None:
    @remora.remote(num_returns=COUNT)
    def make() -> list[bytes]:
        return [bytes([number]) * SIZE_BYTES for number in range(COUNT)]

    assert first_bytes(tuple(remora.get(make.remote()))) == list(range(COUNT))


@pytest.mark.usefixtures("refs")
def test_values_that_nobody_else_holds_live_until_their_call_has_them() -> None:
    """The caller drops its refs at once: the call alone keeps the values that did not travel with it."""
    with_call = look.remote(*[remora.put(bytes([number]) * SIZE_BYTES) for number in range(COUNT)])
    assert remora.get(with_call) == list(range(COUNT))
