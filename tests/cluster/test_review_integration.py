"""Values, waits and jobs over two nodes in the states between the usual ones."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, wait
from time import monotonic, sleep
from typing import Any

import numpy as np
import pytest

import remora
from remora.base import runtime
from remora.testing.cluster import Cluster

HERE = {"here": 0.001}
THERE = {"there": 0.001}
STORE_BYTES = 64 << 20
PART_BYTES = 20 << 20


@pytest.fixture(scope="module")
def small_and_large() -> Iterator[Cluster]:
    with Cluster(
        head_node_args={"num_cpus": 2, "resources": {"here": 1}, "object_store_memory": STORE_BYTES}
    ) as cluster:
        cluster.add_node(num_cpus=2, resources={"there": 1}, object_store_memory=512 << 20)
        cluster.wait_for_nodes()
        yield cluster


@pytest.fixture
def session(small_and_large: Cluster) -> Iterator[Cluster]:
    remora.init(address=small_and_large.address)
    try:
        yield small_and_large
    finally:
        remora.shutdown()


def client() -> Any:
    return runtime.current._client  # type: ignore[union-attr]


@remora.remote(resources=THERE)
def fill_array(number: int, size: int = PART_BYTES) -> np.ndarray:
    return np.full(size, number, dtype=np.uint8)


@remora.remote(resources=THERE)
def fill_bytes(number: int, size: int = PART_BYTES) -> bytes:
    return bytes([number]) * size


@remora.remote
class Keeper:
    def __init__(self, array: np.ndarray | None = None) -> None:
        self.array = array

    def keep(self, array: np.ndarray) -> None:
        self.array = array

    def values(self) -> list[int]:
        return [int(value) for value in np.unique(self.array)]


def fill_store_here() -> None:
    """Put what only fits when the copies that nobody uses have left the store."""
    another = fill_array.remote(100)
    remora.get(another)
    remora.get([remora.put(np.full(PART_BYTES, number, dtype=np.uint8)) for number in (101, 102)])


def test_an_array_that_an_actor_keeps_outlives_the_copy_that_the_driver_has_let_go(session: Cluster) -> None:
    ref = fill_array.remote(7)
    assert remora.get(ref)[0] == 7
    keeper = Keeper.options(resources=HERE).remote()
    remora.get(keeper.keep.remote(ref), timeout=20)
    fill_store_here()
    assert remora.get(keeper.values.remote()) == [7]


def test_an_array_in_the_constructor_of_an_actor_outlives_the_copy_of_the_driver(session: Cluster) -> None:
    ref = fill_array.remote(8)
    assert remora.get(ref)[0] == 8
    keeper = Keeper.options(resources=HERE).remote(ref)
    assert remora.get(keeper.values.remote(), timeout=20) == [8]
    fill_store_here()
    assert remora.get(keeper.values.remote()) == [8]


def test_more_than_the_store_holds_is_read_one_after_the_other(session: Cluster) -> None:
    refs = [fill_bytes.remote(number) for number in range(6)]
    values = remora.get(refs, timeout=60)
    assert [(value[0], value[-1], len(value)) for value in values] == [(n, n, PART_BYTES) for n in range(6)]


def test_wait_counts_what_was_here_and_had_to_leave(session: Cluster) -> None:
    refs = [fill_bytes.remote(number) for number in range(6)]
    ready, rest = remora.wait(refs, num_returns=6, timeout=60)
    assert (len(ready), rest) == (6, [])
    assert [remora.get(ref, timeout=60)[0] for ref in refs] == list(range(6))


def test_threads_that_read_more_than_the_store_holds_all_get_their_values(session: Cluster) -> None:
    refs = [fill_bytes.remote(number) for number in range(5)]
    read: dict[int, set[int]] = {}

    def read_all(thread: int) -> None:
        for number in range(5):
            index = (number + thread) % 5
            value = remora.get(refs[index], timeout=60)
            read.setdefault(thread, set()).add(value[0] if value[0] == value[-1] == index else -1)

    threads = [threading.Thread(target=read_all, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert read == {thread: set(range(5)) for thread in range(3)}


def test_futures_and_awaits_of_more_than_the_store_holds_all_end(session: Cluster) -> None:
    refs = [fill_bytes.remote(number) for number in range(6)]

    async def read_all() -> list[int]:
        async def read(ref: remora.ObjectRef) -> int:
            return (await ref)[0]

        return list(await asyncio.wait_for(asyncio.gather(*map(read, refs)), 60))

    assert asyncio.run(read_all()) == list(range(6))
    futures = [ref.future() for ref in [fill_bytes.remote(number) for number in range(6)]]
    assert [future.result(60)[0] for future in futures] == list(range(6))


def test_a_future_comes_true_although_nobody_else_has_its_ref(session: Cluster) -> None:
    futures = [fill_bytes.remote(number).future() for number in range(6)]
    while not all(future.done() for future in futures):
        gc.collect()  # what only a circle of objects holds is gone
        assert wait(futures, 60, return_when=FIRST_COMPLETED).done
        futures = [future for future in futures if not future.done()]


def test_nothing_is_remembered_of_values_that_came(session: Cluster) -> None:
    refs = [fill_bytes.remote(number, 10) for number in range(50)]
    remora.get(refs)
    remora.wait([fill_bytes.remote(1, 200_000)])
    remora.get(fill_bytes.remote(1, 200_000))
    assert client().values.wanted.is_idle


def test_a_detached_actor_has_tasks_run_after_its_job(small_and_large: Cluster) -> None:
    @remora.remote(resources=THERE)
    class Caller:
        def call(self) -> list[int]:
            @remora.remote
            def square(number: int) -> int:
                return number * number

            return remora.get(
                [square.options(resources=where).remote(3) for where in (HERE, THERE)],
                timeout=20,
            )

    for turn in range(2):
        remora.init(address=small_and_large.address, namespace="shared")
        try:
            if turn == 0:
                caller = Caller.options(name="caller", lifetime="detached").remote()
                assert remora.get(caller.call.remote(), timeout=30) == [9, 9]
            else:
                caller = remora.get_actor("caller")
                started_s = monotonic()
                assert remora.get(caller.call.remote(), timeout=30) == [9, 9]
                assert monotonic() - started_s < 10
                sleep(1.5)  # the other node stops the worker, which nobody else wants, and forgets the job
                assert remora.get(caller.call.remote(), timeout=30) == [9, 9]
                remora.kill(caller)
        finally:
            remora.shutdown()
