"""Rows of Remora's own beside Ray's: values by size, wide calls, actors from birth to first answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from .microbenchmark import COPY_WARM_UP_S
from .row import Body, Peer, RowList

OBJECTS = RowList("ray")
row = OBJECTS.row

#: Sizes as shown in row names, in bytes.
SIZES_BYTES = {"1 KB": 1_000, "100 KB": 100_000, "1 MB": 1_000_000, "100 MB": 100_000_000, "1 GB": 1_000_000_000}
#: From this size on, a put is bounded by copying, and the row names that limit.
COPY_BOUND_BYTES = 1_000_000


def _array(size_bytes: int) -> NDArray[np.uint8]:
    """An array whose pages are all written, so that reading it reads memory."""
    return np.full(size_bytes, 7, dtype=np.uint8)


def _put(size_bytes: int, ray: Peer) -> Body:
    array = _array(size_bytes)
    return Body(lambda: ray.put(array), keep=array)


def _get(size_bytes: int, ray: Peer) -> Body:
    ref = ray.put(_array(size_bytes))
    return Body(lambda: ray.get(ref))


def _add_size_rows() -> None:
    sized: list[tuple[str, Callable[[int, Peer], Body]]] = [("put", _put), ("get", _get)]
    for verb, prepare in sized:
        for label, size_bytes in SIZES_BYTES.items():
            copy_bound = verb == "put" and size_bytes >= COPY_BOUND_BYTES
            limit = f"memcpy of {label} to mapped pages" if copy_bound else ""
            warm_up_s = COPY_WARM_UP_S if copy_bound else 0.0
            row(f"{verb} {label}", unit=f"{verb}s", limit=limit, warm_up_s=warm_up_s)(partial(prepare, size_bytes))


_add_size_rows()


@row("put and get 160 KB", unit="pairs", limit="pickle 160 KB")
def put_and_get(ray: Peer) -> Body:
    array = _array(160_000)
    return Body(lambda: ray.get(ray.put(array)))


@row("actor call with a 160 KB array")
def actor_call_with_array(ray: Peer) -> Body:
    array = _array(160_000)

    class Receiver:
        def take(self, value: object) -> None:
            return None

    receiver = ray.remote(num_cpus=0)(Receiver).remote()
    ray.get(receiver.take.remote(0))
    return Body(lambda: ray.get(receiver.take.remote(array)), keep=receiver)


@row("actor call returning a 160 KB array")
def actor_call_returning_array(ray: Peer) -> Body:
    class Giver:
        def __init__(self) -> None:
            self.array = np.full(160_000, 7, dtype=np.uint8)

        def give(self) -> object:
            return self.array

    giver = ray.remote(num_cpus=0)(Giver).remote()
    ray.get(giver.give.remote())
    return Body(lambda: ray.get(giver.give.remote()), keep=giver)


@row("task with 10,000 arguments", unit="tasks")
def many_arguments(ray: Peer) -> Body:
    refs = [ray.put(index) for index in range(10_000)]

    def count(*values: object) -> int:
        return len(values)

    task = ray.remote(count)
    return Body(lambda: ray.get(task.remote(*refs)))


@row("task with 3,000 returns", unit="tasks")
def many_returns(ray: Peer) -> Body:
    def numbers() -> list[int]:
        return list(range(3_000))

    task = ray.remote(num_returns=3_000)(numbers)
    return Body(lambda: ray.get(task.remote()))


@row("10,000 objects in one get", unit="gets")
def many_objects_in_one_get(ray: Peer) -> Body:
    refs = [ray.put(index) for index in range(10_000)]
    return Body(lambda: ray.get(refs))


@row("actors created and called", unit="actors", limit="fork")
def actors_created(ray: Peer) -> Body:
    batch = 4

    class Newborn:
        def answer(self) -> bytes:
            return b"ok"

    newborn_class = ray.remote(num_cpus=0)(Newborn)

    def create_and_call() -> None:
        actors = [newborn_class.remote() for _ in range(batch)]
        ray.get([actor.answer.remote() for actor in actors])

    return Body(create_and_call, batch)
