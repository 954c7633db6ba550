from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import remora
from remora.base import runtime
from remora.base.ids import ObjectId
from remora.base.object_ref import INLINE, STORED, ObjectRef
from remora.processes.client.inline_budget import InlineBudget


def ref_with(data: bytes) -> ObjectRef[bytes]:
    return ObjectRef(ObjectId(bytes(16)), INLINE, data)


def test_what_a_ref_holds_is_given_back_when_it_dies() -> None:
    budget = InlineBudget(100)
    first, second = ref_with(b""), ref_with(b"")
    assert budget.try_hold(first, 60)
    assert budget.try_hold(second, 30)
    assert not budget.try_hold(ref_with(b""), 11)
    del first
    assert budget.held_bytes == 30
    third = ref_with(b"")
    assert not budget.try_hold(third, 71)
    assert budget.try_hold(third, 70)


def test_a_value_that_is_here_already_is_counted_above_the_limit() -> None:
    budget = InlineBudget(100)
    result = ref_with(b"")
    budget.hold(result, 150)
    assert budget.held_bytes == 150
    del result
    assert budget.held_bytes == 0


@pytest.fixture
def budget() -> Iterator[InlineBudget]:
    remora.init(num_cpus=1)
    budget = runtime.current._client.values.inline_budget  # type: ignore[union-attr]
    budget.limit_bytes = 500_000
    yield budget
    remora.shutdown()


def test_values_beyond_the_budget_of_a_process_lie_in_the_store(budget: InlineBudget) -> None:
    arrays = [np.full(50_000, number, "u1") for number in range(20)]
    refs = [remora.put(array) for array in arrays]
    states = [ref.state for ref in refs]
    assert states == [INLINE] * 9 + [STORED] * 11
    assert all((got == array).all() for got, array in zip(remora.get(refs), arrays, strict=True))
    assert remora.put(b"x" * 1000).state != STORED
    del refs
    assert remora.put(arrays[0]).state == INLINE


def test_bytes_and_text_count_too(budget: InlineBudget) -> None:
    refs = [remora.put(b"x" * 99_000) for _ in range(5)]
    text = remora.put("y" * 50_000)
    assert text.state == STORED
    assert remora.get(text) == "y" * 50_000
    del refs
    assert remora.put("y" * 50_000).state != STORED


def test_results_count_as_well(budget: InlineBudget) -> None:
    @remora.remote
    def result() -> np.ndarray:  # type: ignore[type-arg]
        return np.zeros(90_000, "u1")

    refs = [result.remote() for _ in range(5)]
    remora.wait(refs, num_returns=5)
    ref = remora.put(np.zeros(90_000, "u1"))
    assert ref.state == STORED
    assert len(remora.get(ref)) == 90_000
