"""The rows of Ray's own microbenchmark, by their names there.

What one operation is, and the shape of the work, is what ``ray microbenchmark`` counts under the same name. Batches
of the slowest rows are shorter than there, so that one call takes about a second: the rate per operation is the same.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from .row import Body, Peer, RowList

MICROBENCHMARK = RowList("ray")
row = MICROBENCHMARK.row

BATCH = 1000
CLIENTS = 4
#: Half the cores, as in Ray's own benchmark: the callers need the other half.
SERVERS = max(1, (os.cpu_count() or 1) // 2)
#: A store that takes fresh memory for each put gets faster once it has been through all of its memory.
COPY_WARM_UP_S = 10.0


def _small_task(ray: Peer) -> Any:
    def small_value() -> bytes:
        return b"ok"

    return ray.remote(small_value)


def _actor_class(ray: Peer) -> Any:
    small_value = _small_task(ray)

    class Actor:
        def small_value(self) -> bytes:
            return b"ok"

        def small_value_arg(self, value: object) -> bytes:
            return b"ok"

        def small_value_batch(self, count: int) -> None:
            ray.get([small_value.remote() for _ in range(count)])

    return ray.remote(num_cpus=0)(Actor)


def _async_actor_class(ray: Peer) -> Any:
    class AsyncActor:
        async def small_value(self) -> bytes:
            return b"ok"

        async def small_value_arg(self, value: object) -> bytes:
            return b"ok"

    return ray.remote(num_cpus=0)(AsyncActor)


def _client_class(ray: Peer) -> Any:
    class Client:
        def __init__(self, servers: list[Any]) -> None:
            self.servers = servers

        def small_value_batch(self, count: int) -> None:
            ray.get([server.small_value.remote() for server in self.servers for _ in range(count)])

        def small_value_batch_arg(self, count: int) -> None:
            argument = ray.put(0)
            ray.get([server.small_value_arg.remote(argument) for server in self.servers for _ in range(count)])

    return ray.remote(num_cpus=0)(Client)


def _ready(ray: Peer, actors: list[Any]) -> list[Any]:
    """Waits until the actors answer, so that no start-up is measured."""
    ray.get([actor.small_value.remote() for actor in actors])
    return actors


# ---- objects -------------------------------------------------------------------------------------------------


@row("single client get calls", unit="gets")
def get_calls(ray: Peer) -> Body:
    ref = ray.put(0)
    return Body(lambda: ray.get(ref))


@row("single client put calls", unit="puts")
def put_calls(ray: Peer) -> Body:
    return Body(lambda: ray.put(0))


@row("multi client put calls", unit="puts")
def multi_client_put_calls(ray: Peer) -> Body:
    def put_small() -> None:
        for _ in range(100):
            ray.put(0)

    task = ray.remote(put_small)
    return Body(lambda: ray.get([task.remote() for _ in range(10)]), 1000)


@row("single client put gigabytes", unit="GB", limit="memcpy to mapped pages", warm_up_s=COPY_WARM_UP_S)
def put_gigabytes(ray: Peer) -> Body:
    array = np.zeros(100 * 1024 * 1024, dtype=np.int64)
    return Body(lambda: ray.put(array), array.nbytes / 1e9)


@row("multi client put gigabytes", unit="GB", limit="memcpy in two processes at once", warm_up_s=COPY_WARM_UP_S)
def multi_client_put_gigabytes(ray: Peer) -> Body:
    array_bytes, puts, tasks = 80 * 1024 * 1024, 10, 4

    def put_arrays() -> None:
        for _ in range(puts):
            ray.put(np.zeros(array_bytes // 8, dtype=np.int64))

    task = ray.remote(put_arrays)
    return Body(lambda: ray.get([task.remote() for _ in range(tasks)]), tasks * puts * array_bytes / 1e9)


@row("single client get object containing 10k refs", unit="gets")
def get_object_containing_refs(ray: Peer) -> Body:
    def make_refs() -> list[Any]:
        return [ray.put(1) for _ in range(10_000)]

    ref = ray.remote(make_refs).remote()
    return Body(lambda: ray.get(ref))


@row("single client wait 1k refs", unit="rounds")
def wait_1k_refs(ray: Peer) -> Body:
    small_value = _small_task(ray)

    def wait_one_by_one() -> None:
        waiting = [small_value.remote() for _ in range(BATCH)]
        fetch_local = True
        while waiting:
            _, waiting = ray.wait(waiting, fetch_local=fetch_local)
            fetch_local = False

    return Body(wait_one_by_one)


# ---- tasks ---------------------------------------------------------------------------------------------------


@row("single client tasks sync", unit="tasks", limit="socket round trip")
def tasks_sync(ray: Peer) -> Body:
    small_value = _small_task(ray)
    return Body(lambda: ray.get(small_value.remote()))


@row("single client tasks async", unit="tasks")
def tasks_async(ray: Peer) -> Body:
    small_value = _small_task(ray)
    return Body(lambda: ray.get([small_value.remote() for _ in range(BATCH)]), BATCH)


@row("single client tasks and get batch", unit="batches")
def tasks_and_get_batch(ray: Peer) -> Body:
    small_value = _small_task(ray)
    return Body(lambda: ray.get([small_value.remote() for _ in range(BATCH)]))


@row("multi client tasks async", unit="tasks")
def multi_client_tasks(ray: Peer) -> Body:
    clients = _ready(ray, [_actor_class(ray).remote() for _ in range(CLIENTS)])

    def submit_from_all() -> None:
        ray.get([client.small_value_batch.remote(BATCH) for client in clients])

    return Body(submit_from_all, BATCH * CLIENTS)


# ---- actors --------------------------------------------------------------------------------------------------


def _one_actor_sync(ray: Peer, actor: Any) -> Body:
    _ready(ray, [actor])
    return Body(lambda: ray.get(actor.small_value.remote()))


def _one_actor_async(ray: Peer, actor: Any) -> Body:
    _ready(ray, [actor])
    return Body(lambda: ray.get([actor.small_value.remote() for _ in range(BATCH)]), BATCH)


def _one_client_to_servers(ray: Peer, server_class: Any) -> Body:
    servers = _ready(ray, [server_class.remote() for _ in range(SERVERS)])
    client = _client_class(ray).remote(servers)
    calls = 5 * BATCH
    return Body(lambda: ray.get(client.small_value_batch.remote(calls)), calls * len(servers))


def _tasks_to_servers(ray: Peer, server_class: Any) -> Body:
    servers = _ready(ray, [server_class.remote() for _ in range(SERVERS)])

    def work(actors: list[Any]) -> None:
        ray.get([actors[index % len(actors)].small_value.remote() for index in range(BATCH)])

    task = ray.remote(work)
    return Body(lambda: ray.get([task.remote(servers) for _ in range(CLIENTS)]), CLIENTS * BATCH)


@row("1:1 actor calls sync", limit="socket round trip")
def actor_sync(ray: Peer) -> Body:
    return _one_actor_sync(ray, _actor_class(ray).remote())


@row("1:1 actor calls async")
def actor_async(ray: Peer) -> Body:
    return _one_actor_async(ray, _actor_class(ray).remote())


@row("1:1 actor calls concurrent")
def actor_concurrent(ray: Peer) -> Body:
    return _one_actor_async(ray, _actor_class(ray).options(max_concurrency=16).remote())


@row("1:n actor calls async")
def one_to_n(ray: Peer) -> Body:
    return _one_client_to_servers(ray, _actor_class(ray))


@row("n:n actor calls async")
def n_to_n(ray: Peer) -> Body:
    return _tasks_to_servers(ray, _actor_class(ray))


@row("n:n actor calls with arg async")
def n_to_n_with_argument(ray: Peer) -> Body:
    servers = _ready(ray, [_actor_class(ray).remote() for _ in range(SERVERS)])
    client_class = _client_class(ray)
    clients = [client_class.remote([server]) for server in servers]
    return Body(lambda: ray.get([c.small_value_batch_arg.remote(BATCH) for c in clients]), BATCH * len(clients))


@row("1:1 async-actor calls sync", limit="socket round trip")
def async_actor_sync(ray: Peer) -> Body:
    return _one_actor_sync(ray, _async_actor_class(ray).remote())


@row("1:1 async-actor calls async")
def async_actor_async(ray: Peer) -> Body:
    return _one_actor_async(ray, _async_actor_class(ray).remote())


@row("1:1 async-actor calls with args async")
def async_actor_with_arguments(ray: Peer) -> Body:
    [actor] = _ready(ray, [_async_actor_class(ray).remote()])
    return Body(lambda: ray.get([actor.small_value_arg.remote(index) for index in range(BATCH)]), BATCH)


@row("1:n async-actor calls async")
def one_to_n_async_actors(ray: Peer) -> Body:
    return _one_client_to_servers(ray, _async_actor_class(ray))


@row("n:n async-actor calls async")
def n_to_n_async_actors(ray: Peer) -> Body:
    return _tasks_to_servers(ray, _async_actor_class(ray))
