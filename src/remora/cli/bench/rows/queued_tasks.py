"""A great number of queued tasks: what each costs in time and memory, and the longest pause while queueing."""

from __future__ import annotations

import time
from typing import Any


def measure_queued_tasks(ray: Any, count: int) -> dict[str, float]:
    """Queues `count` tasks behind an actor that holds every CPU, then kills it and gets all results.

    Args:
        ray: An initialized module with Ray Core's API.
        count: How many tasks.

    Returns:
        "queue_s" and "run_s": seconds to queue all, and from the kill to the last result; "longest_pause_s": the
        longest single ``.remote()``; "queued_bytes": growth of this process while all were queued.
    """

    class Holder:
        def ready(self) -> None:
            return None

    def small_value() -> bytes:
        return b"ok"

    task = ray.remote(small_value)
    ray.get([task.remote() for _ in range(100)])
    holder = ray.remote(Holder).options(num_cpus=ray.cluster_resources()["CPU"]).remote()
    ray.get(holder.ready.remote())

    before_bytes = _resident_bytes()
    refs, queue_s, longest_pause_s = _submit(task, count)
    queued_bytes = _resident_bytes() - before_bytes

    start = time.perf_counter()
    ray.kill(holder)
    for first in range(0, count, 10_000):
        ray.get(refs[first : first + 10_000])
    return {
        "queue_s": queue_s,
        "run_s": time.perf_counter() - start,
        "longest_pause_s": longest_pause_s,
        "queued_bytes": queued_bytes,
    }


def _submit(task: Any, count: int) -> tuple[list[Any], float, float]:
    clock, refs, longest_s = time.perf_counter, [], 0.0
    start = before = clock()
    for _ in range(count):
        refs.append(task.remote())
        now = clock()
        if now - before > longest_s:
            longest_s = now - before
        before = now
    return refs, before - start, longest_s


def _resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096
