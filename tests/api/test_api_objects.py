"""put, get, wait, create and cancel."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

import remora
from remora.exceptions import GetTimeoutError

pytestmark = pytest.mark.usefixtures("runtime_mode")


@remora.remote
def echo(value: Any) -> Any:
    return value


@remora.remote
class Gate:
    """Opens when it is told to, so that tests have results that are not there yet."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def wait(self, value: Any = None) -> Any:
        await self.opened.wait()
        return value

    async def open(self) -> None:
        self.opened.set()


@pytest.mark.parametrize("value", [0, "text", b"bytes", None, {"a": [1, (2,)]}, True, 2.5], ids=repr)
def test_get_gives_what_was_put(value: Any) -> None:
    assert remora.get(remora.put(value)) == value


def test_get_takes_a_list_or_a_tuple_and_keeps_their_order() -> None:
    refs = [remora.put(number) for number in range(5)]
    assert remora.get(refs) == [0, 1, 2, 3, 4]
    assert remora.get(tuple(refs[::-1])) == [4, 3, 2, 1, 0]
    assert remora.get([refs[2], refs[2]]) == [2, 2]
    assert remora.get([]) == []


def test_an_array_arrives_with_its_dtype_and_shape() -> None:
    array = np.arange(12, dtype="float32").reshape(3, 4)
    found = remora.get(remora.put(array))
    assert found.dtype == array.dtype
    assert (found == array).all()


def test_get_with_copy_gives_an_array_of_the_callers_own() -> None:
    ref = remora.put(np.zeros(10))
    mine = remora.get(ref, copy=True)
    mine[0] = 1
    assert remora.get(ref)[0] == 0


def test_a_created_array_can_be_filled_and_put() -> None:
    array = remora.create((100, 10), "int32")
    assert (array.shape, array.dtype) == ((100, 10), np.int32)
    array[:] = 7
    assert remora.get(remora.put(array)).sum() == 7000
    assert remora.create(3).shape == (3,)


def test_get_with_timeout_zero_means_now() -> None:
    gate = Gate.remote()
    ref = gate.wait.remote("open")
    with pytest.raises(GetTimeoutError):
        remora.get(ref, timeout=0)
    with pytest.raises(TimeoutError):
        remora.get([remora.put(1), ref], timeout=0)
    remora.get(gate.open.remote())
    assert remora.get(ref) == "open"
    assert remora.get(ref, timeout=0) == "open"


@pytest.mark.parametrize("timeout", [1, 1.5, float("inf"), 1e300, np.float32(2), np.int64(3)], ids=repr)
def test_a_timeout_is_any_number(timeout: Any) -> None:
    ref = echo.remote(1)
    assert remora.get(ref, timeout=timeout) == 1
    assert remora.wait([ref], num_returns=np.int64(1), timeout=timeout) == ([ref], [])


def test_wait_gives_ready_and_others_in_the_order_given() -> None:
    gate = Gate.remote()
    late = [gate.wait.remote() for _ in range(2)]
    early = [echo.remote(number) for number in range(3)]
    remora.get(early)
    refs = [late[0], early[2], early[0], late[1], early[1]]
    ready, others = remora.wait(refs, num_returns=3)
    assert ready == [early[2], early[0], early[1]]
    assert others == late
    remora.get(gate.open.remote())
    assert remora.wait(refs, num_returns=5) == (refs, [])


def test_wait_returns_no_more_than_asked_for() -> None:
    refs = [remora.put(number) for number in range(4)]
    assert remora.wait(refs, num_returns=2) == (refs[:2], refs[2:])
    assert remora.wait(refs) == (refs[:1], refs[1:])
    assert remora.wait([]) == ([], [])


def test_wait_returns_fewer_at_the_timeout() -> None:
    gate = Gate.remote()
    late, early = gate.wait.remote(), remora.put(1)
    assert remora.wait([late, early], num_returns=2, timeout=0) == ([early], [late])
    assert remora.wait([late], timeout=0.01) == ([], [late])
    remora.get(gate.open.remote())
    remora.get(late)


def test_wait_counts_a_failed_task_as_ready() -> None:
    @remora.remote
    def fail() -> None:
        raise ValueError

    ref = fail.remote()
    assert remora.wait([ref]) == ([ref], [])


def test_a_ref_can_be_awaited() -> None:
    async def main() -> list[Any]:
        return [await echo.remote(1), *await asyncio.gather(echo.remote(2), remora.put(3))]

    assert asyncio.run(main()) == [1, 2, 3]


def test_an_unfinished_ref_can_be_awaited() -> None:
    async def main() -> Any:
        gate = Gate.remote()
        waiting = asyncio.ensure_future(_value(gate.wait.remote("woken")))
        await gate.open.remote()
        return await waiting

    async def _value(ref: Any) -> Any:
        return await ref

    assert asyncio.run(main()) == "woken"


def test_the_future_of_a_ref_has_its_value_or_error() -> None:
    @remora.remote
    def fail() -> None:
        raise KeyError("missing")

    assert echo.remote(5).future().result(timeout=10) == 5
    assert isinstance(fail.remote().future().exception(timeout=10), KeyError)


def test_a_ref_tells_its_id_and_hashes_by_it() -> None:
    ref = remora.put(1)
    assert ref.hex() == ref.binary().hex()
    assert len(ref.binary()) == 16
    assert {ref: "found"}[ref] == "found"
    assert ref != remora.put(1)


def test_cancel_ends_a_waiting_call_with_an_error_that_says_so() -> None:
    gate = Gate.remote()
    ref = gate.wait.remote()
    remora.cancel(ref)
    with pytest.raises(remora.exceptions.TaskCancelledError):
        remora.get(ref, timeout=10)
    remora.get(gate.open.remote())
    assert remora.get(gate.wait.remote("still serving")) == "still serving"


def test_cancel_of_a_finished_task_changes_nothing() -> None:
    ref = echo.remote(1)
    remora.get(ref)
    remora.cancel(ref)
    assert remora.get(ref) == 1
