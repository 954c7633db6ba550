"""Queue: an actor behind the interface of queue.Queue."""

from __future__ import annotations

import asyncio
import queue as standard
from collections.abc import Iterator
from typing import Any

import pytest

import remora
from remora.exceptions import ActorDiedError
from remora.util.queue import Empty, Full, Queue


@pytest.fixture
def queue(runtime_mode: str) -> Iterator[Queue]:
    made = Queue(maxsize=3)
    yield made
    made.shutdown(force=True)


def test_items_come_out_in_the_order_in_which_they_went_in(queue: Queue) -> None:
    for item in ("a", None, []):
        queue.put(item)
    assert [queue.get(), queue.get(), queue.get()] == ["a", None, []]


def test_the_queue_tells_its_size(queue: Queue) -> None:
    assert (queue.empty(), queue.full(), queue.qsize()) == (True, False, 0)
    queue.put_nowait_batch(range(3))
    assert (queue.empty(), queue.full(), len(queue), queue.size()) == (False, True, 3, 3)


def test_an_empty_queue_raises_empty(queue: Queue) -> None:
    for take in (queue.get_nowait, lambda: queue.get(block=False), lambda: queue.get(timeout=0.01)):
        with pytest.raises(Empty):
            take()
    assert issubclass(Empty, standard.Empty)


def test_a_full_queue_raises_full(queue: Queue) -> None:
    queue.put_nowait_batch([1, 2, 3])
    for put in (queue.put_nowait, lambda item: queue.put(item, timeout=0.01)):
        with pytest.raises(Full):
            put(4)
    assert issubclass(Full, standard.Full)


def test_a_batch_goes_in_or_comes_out_whole_or_not_at_all(queue: Queue) -> None:
    with pytest.raises(Full, match="no room for 4 more of at most 3"):
        queue.put_nowait_batch([1, 2, 3, 4])
    assert queue.empty()
    queue.put_nowait_batch([1, 2])
    with pytest.raises(Empty, match="fewer than 3"):
        queue.get_nowait_batch(3)
    assert queue.get_nowait_batch(2) == [1, 2]
    assert queue.get_nowait_batch(0) == []
    with pytest.raises(ValueError, match="negative"):
        queue.get_nowait_batch(-1)


def test_a_negative_timeout_is_refused(queue: Queue) -> None:
    with pytest.raises(ValueError, match="negative"):
        queue.get(timeout=-1)
    with pytest.raises(ValueError, match="negative"):
        queue.put(1, timeout=-1)


def test_a_waiting_get_is_woken_by_a_put(queue: Queue) -> None:
    waiting = queue.actor.get.remote(None)
    queue.put("late")
    assert remora.get(waiting, timeout=10) == ("late",)


def test_a_get_that_gave_up_takes_nothing(queue: Queue) -> None:
    for _ in range(5):
        with pytest.raises(Empty):
            queue.get(timeout=0.001)
    queue.put("kept")
    assert queue.get_nowait() == "kept"


def test_the_queue_works_with_asyncio(queue: Queue) -> None:
    async def main() -> Any:
        waiting = asyncio.ensure_future(queue.get_async())
        await queue.put_async("woken")
        with pytest.raises(Empty):
            await queue.get_async(block=False)
        return await waiting

    assert asyncio.run(main()) == "woken"


def test_a_queue_can_be_passed_to_tasks(queue: Queue) -> None:
    @remora.remote
    def produce(target: Queue, item: int) -> None:
        target.put(item)

    remora.get([produce.remote(queue, item) for item in range(3)])
    assert sorted(queue.get_nowait_batch(3)) == [0, 1, 2]


def test_a_shut_down_queue_is_dead(runtime_mode: str) -> None:
    queue = Queue(actor_options={"num_cpus": 0})
    queue.put(1)
    queue.shutdown()
    with pytest.raises(ActorDiedError):
        queue.get()
