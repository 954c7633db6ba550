"""The node's worker processes: when to start one, how many to keep idle, when to stop one.

A worker belongs to one job and one environment for life, its *key*. The pool does not know tasks: the lease table
says how many workers of a key it could use now, which is never more than the node's resources allow to run.

Blocked workers are why there may be many more workers than CPUs: each frees its CPU for a task that another
worker must run. ``max_workers`` ends a recursion that would otherwise end the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

import msgspec

from remora.base.ids import short

IDLE_S = 2.0
"""How long a worker beyond the CPUs is kept: a fork costs milliseconds, an idle worker megabytes."""
MAX_WORKERS = 512
"""Workers for tasks; those of actors are counted by nobody, because each was asked for by name."""
MAX_START_FAILURES = 3
REMEMBERED_JOBS = 1000
"""Ended jobs, for whose sake no worker idles."""

Key = tuple[bytes, str]
"""Job and environment."""


class StartWorker(msgspec.Struct, frozen=True):
    """Start a process; tell ``ready`` or ``start_failed`` with its *number*."""

    number: int
    job: bytes
    environment: str


class StopWorker(msgspec.Struct, frozen=True):
    """End the process; *process* is empty when it has not said hello. With *force* at once, else when it has
    no reply to be acknowledged. Its death is reported like any other."""

    number: int
    process: bytes
    force: bool = False


class WorkerPhase(Enum):
    """The life of a worker in the pool."""

    STARTING = "starting"
    IDLE = "idle"
    LEASED = "leased"
    DEDICATED = "dedicated"
    STOPPING = "stopping"


class PooledWorker:
    """A worker process."""

    __slots__ = ("address", "idle_since_s", "key", "number", "phase", "process", "slot")

    def __init__(self, number: int, key: Key) -> None:
        self.number = number
        self.key = key
        self.phase = WorkerPhase.STARTING
        self.process = b""
        self.address = ""
        self.slot = 0
        self.idle_since_s = 0.0

    def __repr__(self) -> str:
        return f"<worker {self.number} {short(self.process) or 'unnamed'} {self.phase.value}>"


class WorkerPool:
    """All workers of a node.

    *cpus* is how many tasks can run at once. As many workers are kept warm for the job that started last, and as
    many idle ones survive. *max_starting* bounds the forks in flight. What must be done is given to *emit*: the
    pool is a part of the lease table and has no outbox of its own.
    """

    def __init__(
        self,
        cpus: int,
        emit: Callable[[StartWorker | StopWorker], None],
        warm: int | None = None,
        max_workers: int = MAX_WORKERS,
        max_starting: int | None = None,
    ) -> None:
        self._emit = emit
        self._keep = max(1, cpus)
        self._warm = self._keep if warm is None else warm
        self._max_workers = max_workers
        self._max_starting = max(2, cpus) if max_starting is None else max_starting
        self._workers: dict[int, PooledWorker] = {}
        self._by_process: dict[bytes, PooledWorker] = {}
        self._idle: dict[Key, list[PooledWorker]] = {}
        self._starting: dict[Key, int] = {}
        self._wanted: dict[Key, int] = {}
        self._failures: dict[Key, int] = {}
        """Starts that failed one after the other; of a job that has ended only while workers are wanted for it."""
        self._jobs: list[bytes] = []
        self._ended_jobs: dict[bytes, None] = {}
        self._in_phase = dict.fromkeys(WorkerPhase, 0)
        self._last_number = 0

    def job_started(self, job: bytes) -> None:
        """Warm workers are for this job from now on, until it ends or another one starts. One that has ended has."""
        if job not in self._ended_jobs:
            self._jobs.append(job)
            self._start_workers()

    def job_ended(self, job: bytes) -> None:
        """Stop the job's workers at once, but not those of actors: they end as actors end."""
        self._jobs = [other for other in self._jobs if other != job]
        self._ended_jobs[job] = None
        if len(self._ended_jobs) > REMEMBERED_JOBS:
            del self._ended_jobs[next(iter(self._ended_jobs))]
        for counts in (self._wanted, self._failures):
            for key in [key for key in counts if key[0] == job]:
                del counts[key]
        for worker in self._workers.values():
            if worker.key[0] == job and worker.phase not in (WorkerPhase.DEDICATED, WorkerPhase.STOPPING):
                self._stop(worker, force=True)
        self._start_workers()

    def want(self, key: Key, count: int) -> None:
        """So many more workers of the key would get something to run as soon as they are ready."""
        self._wanted.pop(key, None)
        if count:
            self._wanted[key] = count
        elif key in self._failures and key[0] in self._ended_jobs:
            del self._failures[key]
        self._start_workers()

    def ready(self, number: int, process: bytes, address: str, slot: int, now_s: float) -> PooledWorker | None:
        """The worker has said hello; it is idle now. None: it is not needed any more, and was told to stop.

        ``want`` must follow, with what is still wanted of its key.

        Raises:
            ValueError: the worker is not starting.
        """
        worker = self._workers.get(number)
        if worker is None or worker.process or worker.phase not in (WorkerPhase.STARTING, WorkerPhase.STOPPING):
            raise ValueError(f"worker {number} said hello, but it is not starting: {worker!r}")
        worker.process, worker.address, worker.slot = process, address, slot
        self._by_process[process] = worker
        if worker.phase is WorkerPhase.STOPPING:
            self._emit(StopWorker(number, process, force=True))
            return None
        self._failures.pop(worker.key, None)
        self._to_idle(worker, now_s)
        return worker

    def start_failed(self, number: int) -> tuple[Key, bool]:
        """The worker ended before it said hello. Returns its key and whether to give up on workers of that key.

        Raises:
            ValueError: the worker is not starting.
        """
        worker = self._workers.get(number)
        if worker is None or worker.process:
            raise ValueError(f"worker {number} cannot fail to start: {worker!r}")
        self._forget(worker)
        key = worker.key
        failures = self._failures.pop(key, 0) + 1
        gives_up = failures >= MAX_START_FAILURES
        if gives_up:
            self._wanted.pop(key, None)
        if key in self._wanted or key[0] not in self._ended_jobs:
            self._failures[key] = failures
        self._start_workers()
        return key, gives_up

    def take(self, key: Key) -> PooledWorker | None:
        """The worker of the key that was idle last, leased now, or None."""
        stack = self._idle.get(key)
        if not stack:
            return None
        worker = stack[-1]
        self._move(worker, WorkerPhase.LEASED)
        return worker

    def give_back(self, worker: PooledWorker, now_s: float) -> None:
        """The lease has ended; the worker is idle, unless it was told to stop.

        Raises:
            ValueError: the worker is not leased.
        """
        if worker.phase is WorkerPhase.STOPPING:
            return
        if worker.phase is not WorkerPhase.LEASED:
            raise ValueError(f"{worker!r} cannot be given back")
        self._to_idle(worker, now_s)

    def dedicate(self, worker: PooledWorker) -> None:
        """The worker is an actor for the rest of its life.

        ``want`` must follow, with what is still wanted of its key: so far the pool counts what this worker was for.

        Raises:
            ValueError: the worker is not leased.
        """
        if worker.phase is not WorkerPhase.LEASED:
            raise ValueError(f"{worker!r} cannot become an actor")
        self._move(worker, WorkerPhase.DEDICATED)

    def died(self, process: bytes) -> PooledWorker | None:
        """The process has ended; None when it was no worker."""
        worker = self._by_process.get(process)
        if worker is not None:
            self._forget(worker)
            self._start_workers()
        return worker

    def find(self, process: bytes) -> PooledWorker | None:
        """The worker with this process id."""
        return self._by_process.get(process)

    def tick(self, now_s: float, may_stop: Callable[[PooledWorker], bool]) -> None:
        """Stop what has been idle for long and is more than the CPUs need. *may_stop* spares submitters."""
        excess = self._in_phase[WorkerPhase.IDLE] - self._keep
        if excess <= 0:
            return
        idle = [worker for stack in self._idle.values() for worker in stack]
        stale = [worker for worker in idle if now_s - worker.idle_since_s >= IDLE_S and may_stop(worker)]
        stale.sort(key=lambda worker: worker.idle_since_s)
        for worker in stale[:excess]:
            self._stop(worker)

    @property
    def has_surplus(self) -> bool:
        """Whether more workers are idle than are kept, so that ``tick`` will stop some."""
        return self._in_phase[WorkerPhase.IDLE] > self._keep

    def is_full(self) -> bool:
        """Whether no worker can be started, because ``max_workers`` are there and none of them is idle."""
        return self._task_workers() >= self._max_workers and not self._in_phase[WorkerPhase.IDLE]

    def count(self, phase: WorkerPhase) -> int:
        """How many workers are in the phase."""
        return self._in_phase[phase]

    def _start_workers(self) -> None:
        for key, count in list(self._wanted.items()):
            while self._starting.get(key, 0) < count and self._may_start():
                self._start(key)
        if self._jobs and not self._wanted:
            key = (self._jobs[-1], "")
            while (
                self._task_workers() < self._warm
                and self._failures.get(key, 0) < MAX_START_FAILURES  # only a request tries again
                and self._may_start()
            ):
                self._start(key)

    def _may_start(self) -> bool:
        if self._in_phase[WorkerPhase.STARTING] >= self._max_starting:
            return False
        if self._task_workers() < self._max_workers:
            return True
        idle = [worker for stack in self._idle.values() for worker in stack]
        if not idle:
            return False
        self._stop(min(idle, key=lambda worker: worker.idle_since_s))
        return True

    def _start(self, key: Key) -> None:
        self._last_number += 1
        worker = self._workers[self._last_number] = PooledWorker(self._last_number, key)
        self._in_phase[WorkerPhase.STARTING] += 1
        self._starting[key] = self._starting.get(key, 0) + 1
        self._emit(StartWorker(worker.number, *key))
        if key in self._wanted:  # the others' turn
            self._wanted[key] = self._wanted.pop(key)

    def _stop(self, worker: PooledWorker, force: bool = False) -> None:
        self._move(worker, WorkerPhase.STOPPING)
        self._emit(StopWorker(worker.number, worker.process, force))

    def _to_idle(self, worker: PooledWorker, now_s: float) -> None:
        if worker.key[0] in self._ended_jobs and worker.key not in self._wanted:
            self._stop(worker, force=True)  # it was started for an actor of the job that does not need it any more
            return
        worker.idle_since_s = now_s
        self._move(worker, WorkerPhase.IDLE)
        stack = self._idle.get(worker.key)
        if stack is None:
            self._idle[worker.key] = [worker]
        else:
            stack.append(worker)

    def _move(self, worker: PooledWorker, phase: WorkerPhase) -> None:
        self._leave_phase(worker)
        worker.phase = phase
        self._in_phase[phase] += 1

    def _leave_phase(self, worker: PooledWorker) -> None:
        key = worker.key
        self._in_phase[worker.phase] -= 1
        if worker.phase is WorkerPhase.STARTING:
            self._starting[key] -= 1
            if not self._starting[key]:
                del self._starting[key]
        elif worker.phase is WorkerPhase.IDLE:
            stack = self._idle[key]
            if stack[-1] is worker:
                stack.pop()
            else:
                stack.remove(worker)
            if not stack:
                del self._idle[key]

    def _forget(self, worker: PooledWorker) -> None:
        self._leave_phase(worker)
        del self._workers[worker.number]
        self._by_process.pop(worker.process, None)

    def _task_workers(self) -> int:
        phases = self._in_phase
        return phases[WorkerPhase.STARTING] + phases[WorkerPhase.IDLE] + phases[WorkerPhase.LEASED]

    def validate(self) -> None:
        """
        Raises:
            AssertionError: the counts do not agree with the workers.
        """
        phases = dict.fromkeys(WorkerPhase, 0)
        starting: dict[Key, int] = {}
        for worker in self._workers.values():
            phases[worker.phase] += 1
            if worker.phase is WorkerPhase.STARTING:
                starting[worker.key] = starting.get(worker.key, 0) + 1
        assert phases == self._in_phase, f"{self!r}: phases do not add up"
        assert starting == self._starting, f"{self!r}: starting"
        idle = [worker for stack in self._idle.values() for worker in stack]
        assert len(idle) == len(set(idle)) == phases[WorkerPhase.IDLE], f"{self!r}: idle workers"
        assert all(worker.phase is WorkerPhase.IDLE for worker in idle), f"{self!r}: idle and busy"
        assert all(self._idle.values()), f"{self!r} keeps the keys of workers that are gone"
        forgotten = [key for key in self._failures if key[0] in self._ended_jobs and key not in self._wanted]
        assert not forgotten, f"{self!r} keeps the failures of jobs that have ended"
        assert self._task_workers() <= self._max_workers, f"{self!r}: too many"
        assert phases[WorkerPhase.STARTING] <= self._max_starting, f"{self!r}: too many at once"

    def __repr__(self) -> str:
        phases = ", ".join(f"{phase.value} {count}" for phase, count in self._in_phase.items() if count)
        return f"<WorkerPool {phases or 'empty'}>"
