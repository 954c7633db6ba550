"""What a submitter knows of one sort of task: how deep it may queue at a worker, who works on it, what waits.

**Depth by duration.** A worker is kept busy by sending it a task before the last one is answered, and a task that
was sent early cannot run anywhere else (before it is handed back). So no more is in flight to a worker than
``WORK_IN_FLIGHT_S`` of work: that is about one time slice of the kernel, which a submitter that shares its cores
with its workers loses now and then, and is many times a round trip on one machine. The round trip of a network comes
on top. Tasks of ``SLOW_S`` or more are not queued behind each other at all. A refill is made when half of the depth is
used up, so that one frame carries many tasks.

``MAX_DEPTH`` on paper: at 15 us a task, the fastest seen end to end, 4 ms are 256 tasks; 64 would be 1 ms, less
than a time slice. 256 tasks of 100 bytes are also just under the 32 KB at which a frame leaves by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar

from remora.base.ids import short

MAX_DEPTH = 256
WORK_IN_FLIGHT_S = 0.004
SLOW_S = 0.001


class TaskRecord(Protocol):
    """What this machine needs of the client's record of a call."""

    call: int
    retries_left: int
    """-1: without end."""
    shape: TaskShape


R = TypeVar("R", bound=TaskRecord)


class TaskShape:
    """One function with its options: the queue of what needs the same leases, and the function's own depth."""

    __slots__ = ("depth", "grow_below_s", "low_water", "queue", "shrink_above_s")

    def __init__(self, queue: TaskQueue[Any]) -> None:
        self.queue = queue
        self.set_depth(1)

    def set_depth(self, depth: int) -> None:
        """At most *depth* tasks in flight to a worker from now on."""
        self.depth = depth
        self.low_water = depth // 2
        self.grow_below_s = min(SLOW_S, WORK_IN_FLIGHT_S / (2 * depth)) if depth < MAX_DEPTH else -1.0
        self.shrink_above_s = min(SLOW_S, 2 * WORK_IN_FLIGHT_S / depth) if depth > 1 else float("inf")

    def adapt(self, duration_s: float) -> None:
        """Double the depth for a quick task, cut it at once for a slow one."""
        if duration_s < self.grow_below_s:
            self.set_depth(min(MAX_DEPTH, 2 * self.depth))
        elif duration_s > self.shrink_above_s:
            self.set_depth(1 if duration_s >= SLOW_S else max(1, int(WORK_IN_FLIGHT_S / duration_s)))
            self.queue.request_above = 0

    def __repr__(self) -> str:
        return f"<TaskShape depth={self.depth} of {self.queue!r}>"


class LeasedWorker(Generic[R]):
    """A worker that runs this submitter's tasks until its lease is returned."""

    __slots__ = (
        "address",
        "busy_since_s",
        "closing",
        "connection",
        "gpu_ids",
        "idle_since_s",
        "in_flight",
        "is_lost",
        "is_mixed",
        "is_open",
        "lease",
        "process",
        "queue",
        "shape",
        "slot",
    )

    def __init__(
        self, queue: TaskQueue[R], lease: int, process: bytes, address: str, slot: int, gpu_ids: tuple[int, ...]
    ) -> None:
        self.queue = queue
        self.lease = lease
        self.process = process
        self.address = address
        self.slot = slot
        self.gpu_ids = gpu_ids
        self.connection: Any = None
        """For the client's own use."""
        self.in_flight: dict[int, R] = {}
        """Call number to record, in the order sent."""
        self.shape: TaskShape | None = None
        """The shallowest shape in flight."""
        self.is_mixed = False
        self.is_open = False
        self.closing = False
        self.is_lost = False
        self.idle_since_s = 0.0
        self.busy_since_s = 0.0

    def share_s(self, now_s: float, replies: int, latency_s: float = 0.0) -> float:
        """The seconds that each of *replies* tasks took that came in one frame at *now_s*, for ``completed``.

        The client sets ``busy_since_s`` when it sends to this worker with nothing in flight. *latency_s* is what a
        round trip to the worker takes on the network: it is no work. So as much more is in flight as the worker does in
        that time, which is what keeps it busy.
        """
        duration_s = max(0.0, now_s - self.busy_since_s - latency_s) / replies
        self.busy_since_s = now_s
        return duration_s

    def admits(self, shape: TaskShape) -> bool:
        """Whether one more task of the shape may be queued here without waiting for long."""
        in_flight = self.in_flight
        if not in_flight:
            return True
        if shape is not self.shape or self.is_mixed:
            return len(in_flight) < min(shape.depth, self._shallowest().depth)
        return len(in_flight) < shape.depth

    def send(self, record: R) -> None:
        """The record is in flight to the worker now."""
        shape = record.shape
        if not self.in_flight:
            self.shape = shape
            self.is_mixed = False
            self.idle_since_s = 0.0
        elif shape is not self.shape:
            self.is_mixed = True
            self.shape = min(self._shallowest(), shape, key=_depth)
        self.in_flight[record.call] = record

    def close(self) -> None:
        """Nothing more is sent to the worker, for good."""
        self.closing = True
        self.queue.close(self)

    def is_full(self) -> bool:
        """Whether the tasks in flight, by their own shapes, allow no more."""
        return bool(self.in_flight) and len(self.in_flight) >= self._shallowest().depth

    def _shallowest(self) -> TaskShape:
        if self.is_mixed or self.shape is None:
            self.shape = min((record.shape for record in self.in_flight.values()), key=_depth)
            self.is_mixed = any(record.shape is not self.shape for record in self.in_flight.values())
        return self.shape

    def __repr__(self) -> str:
        state = "closing" if self.closing else "open" if self.is_open else "full"
        return f"<LeasedWorker {short(self.process)} lease={self.lease} {state} in_flight={len(self.in_flight)}>"


class TaskQueue(Generic[R]):
    """The tasks that can share workers: those of one job with equal resources, strategy, environment and place."""

    __slots__ = (
        "cancelled",
        "environment",
        "is_dropped",
        "key",
        "near",
        "number",
        "open",
        "request_above",
        "requested",
        "requests",
        "resources",
        "strategy",
        "unused_since_s",
        "waiting",
        "workers",
    )

    def __init__(self, resources: Mapping[str, int], strategy: str, environment: str, near: bytes = b"") -> None:
        self.key = queue_key(resources, strategy, environment, near)
        self.number = 0
        """Given by the submission that keeps it."""
        self.is_dropped = True
        """No submission keeps it, because nothing of it waits or runs; its shapes bring it back."""
        self.unused_since_s = 0.0
        self.near = near
        """The node where the large arguments of these tasks are; empty when they have none."""
        self.resources = dict(resources)
        self.strategy = strategy
        self.environment = environment
        self.waiting: deque[R] = deque()
        """What no worker has room for; cancelled records stay in it until they come to the front."""
        self.cancelled: set[int] = set()
        self.workers: dict[int, LeasedWorker[R]] = {}
        """Lease to worker."""
        self.open: deque[LeasedWorker[R]] = deque()
        """Workers that may have room. Only of use while nothing waits."""
        self.requests: dict[int, int] = {}
        """Unanswered request to how many leases of it are still to come."""
        self.requested = 0
        self.request_above = 0
        """More leases are asked for when more than this many records wait."""

    @property
    def is_used(self) -> bool:
        """Whether anything waits, is asked for, or is held."""
        return bool(self.waiting or self.workers or self.requests)

    def backlog(self) -> int:
        """How many records wait for a worker."""
        return len(self.waiting) - len(self.cancelled)

    def close(self, worker: LeasedWorker[R]) -> None:
        """Send the worker nothing more for now."""
        if worker.is_open:
            worker.is_open = False
            self.open.remove(worker)

    def reopen(self, worker: LeasedWorker[R]) -> None:
        """The worker has room again, or has none and is found out when it is its turn."""
        if not worker.is_open:
            worker.is_open = True
            self.open.append(worker)

    def forget(self) -> None:
        """Be as new."""
        for worker in self.workers.values():
            worker.is_open = False
        for kept in (self.waiting, self.cancelled, self.workers, self.open, self.requests):
            kept.clear()
        self.requested = self.request_above = 0

    def drop_cancelled_front(self) -> None:
        """Whether anything waits must be seen from the deque alone, so its front is never a cancelled record."""
        while self.cancelled and self.waiting and self.waiting[0].call in self.cancelled:
            self.cancelled.discard(self.waiting.popleft().call)

    def validate(self) -> None:
        """
        Raises:
            AssertionError: a record is in two places, or one waits that nothing will ever move.
        """
        places = [record.call for record in self.waiting]
        places += [call for worker in self.workers.values() for call in worker.in_flight]
        assert len(places) == len(set(places)), f"{self!r}: a record is in two places"
        assert not self.is_dropped, f"{self!r} was dropped"
        assert self.cancelled <= {record.call for record in self.waiting}, f"{self!r}: cancelled records left over"
        assert self.requested == sum(self.requests.values()), f"{self!r}: requests do not add up"
        assert len(set(self.open)) == len(self.open), f"{self!r}: a worker is open twice"
        for worker in self.workers.values():
            assert worker.is_open == (worker in self.open), f"{worker!r}: open in one place only"
            assert not (worker.is_open and worker.closing), f"{worker!r}: open and closing"
            if self.waiting:
                assert worker.in_flight or worker.closing, f"{worker!r} idles while {self!r}"
            if worker.closing:
                assert worker.in_flight or worker.is_lost, f"{worker!r} was not given back"
        if self.waiting:
            assert self.waiting[0].call not in self.cancelled, f"{self!r}: its front is cancelled"
            assert self.workers or self.requested, f"{self!r}: waits for nothing"

    def __repr__(self) -> str:
        return (
            f"<TaskQueue {self.number} waiting={self.backlog()} workers={len(self.workers)} requested={self.requested}>"
        )


def queue_key(resources: Mapping[str, int], strategy: str, environment: str, near: bytes) -> tuple[Any, ...]:
    """What the tasks of a queue have in common."""
    return frozenset(resources.items()), strategy, environment, near


def _depth(shape: TaskShape) -> int:
    return shape.depth
