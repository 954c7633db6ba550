"""Process pools of the standard library, joblib and Dask, and Ray Core's API used as a pool, behind one interface."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, Protocol

#: Processes in each pool.
PROCESSES = os.cpu_count() or 1

Function = Callable[[Any], Any]


def _chunks(items: list[object]) -> list[list[object]]:
    """Four chunks for each process."""
    size = -(-len(items) // (4 * PROCESSES))
    return [items[start : start + size] for start in range(0, len(items), size)]


class Pool(Protocol):
    """What the pool rows need. Each call blocks until its results are there."""

    def call_each(self, function: Function, items: Iterable[object]) -> list[Any]:
        """One call per item, all under way at once."""

    def map_chunked(self, function: Function, items: list[object]) -> list[Any]:
        """The pool's own way to map a cheap function over many items."""

    def close(self) -> None:
        """Ends the pool's processes."""


class RemotePool:
    """A module with Ray Core's API: every call is a task. The module was initialized by the caller."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._tasks: dict[Function, Any] = {}

    def call_each(self, function: Function, items: Iterable[object]) -> list[Any]:
        task = self._tasks.get(function)
        if task is None:
            task = self._tasks[function] = self._ray.remote(lambda item: function(item))
        results: list[Any] = self._ray.get([task.remote(item) for item in items])
        return results

    def map_chunked(self, function: Function, items: list[object]) -> list[Any]:
        task = self._ray.remote(lambda chunk: [function(item) for item in chunk])
        parts = self._ray.get([task.remote(chunk) for chunk in _chunks(items)])
        return [result for part in parts for result in part]

    def close(self) -> None:
        self._tasks.clear()


class FuturesPool:
    """``concurrent.futures.ProcessPoolExecutor``."""

    def __init__(self) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self._executor = ProcessPoolExecutor(PROCESSES)

    def call_each(self, function: Function, items: Iterable[object]) -> list[Any]:
        futures = [self._executor.submit(function, item) for item in items]
        return [future.result() for future in futures]

    def map_chunked(self, function: Function, items: list[object]) -> list[Any]:
        return list(self._executor.map(function, items, chunksize=-(-len(items) // (4 * PROCESSES))))

    def close(self) -> None:
        self._executor.shutdown()


class MultiprocessingPool:
    """``multiprocessing.Pool``."""

    def __init__(self) -> None:
        from multiprocessing import Pool

        self._pool = Pool(PROCESSES)

    def call_each(self, function: Function, items: Iterable[object]) -> list[Any]:
        results = [self._pool.apply_async(function, (item,)) for item in items]
        return [result.get() for result in results]

    def map_chunked(self, function: Function, items: list[object]) -> list[Any]:
        return self._pool.map(function, items)

    def close(self) -> None:
        self._pool.close()
        self._pool.join()


class JoblibPool:
    """``joblib.Parallel`` with its default processes; ``batch_size=1`` where one call per item is asked for."""

    def __init__(self) -> None:
        import joblib

        self._delayed = joblib.delayed
        self._single = joblib.Parallel(n_jobs=PROCESSES, batch_size=1, pre_dispatch="all")
        self._batched = joblib.Parallel(n_jobs=PROCESSES)

    def call_each(self, function: Function, items: Iterable[object]) -> list[Any]:
        results: list[Any] = self._single(self._delayed(function)(item) for item in items)
        return results

    def map_chunked(self, function: Function, items: list[object]) -> list[Any]:
        results: list[Any] = self._batched(self._delayed(function)(item) for item in items)
        return results

    def close(self) -> None:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(wait=True)


class DaskPool:
    """``distributed.LocalCluster``, one thread in each process, no dashboard; it has no chunked map of its own."""

    def __init__(self) -> None:
        from distributed import Client, LocalCluster

        self._cluster = LocalCluster(n_workers=PROCESSES, threads_per_worker=1, dashboard_address=None)
        self._client = Client(self._cluster)

    def call_each(self, function: Function, items: Iterable[object]) -> list[Any]:
        futures = [self._client.submit(function, item, pure=False) for item in items]
        results: list[Any] = self._client.gather(futures)
        return results

    def map_chunked(self, function: Function, items: list[object]) -> list[Any]:
        futures = [
            self._client.submit(lambda chunk: [function(item) for item in chunk], chunk, pure=False)
            for chunk in _chunks(items)
        ]
        return [result for part in self._client.gather(futures) for result in part]

    def close(self) -> None:
        self._client.close()
        self._cluster.close()


#: How a pool is made, by the name given to ``--against``.
POOL_MAKERS: dict[str, Callable[[], Pool]] = {
    "futures": FuturesPool,
    "multiprocessing": MultiprocessingPool,
    "joblib": JoblibPool,
    "dask": DaskPool,
}
