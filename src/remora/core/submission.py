"""The submitter's side of tasks: which record goes to which leased worker, and how many leases to ask for.

Pure, and called by the client under its lock. The two methods on the path of every task, ``submit`` and
``completed``, answer by their return value; what happens seldom is left in ``outbox``: the messages of
:mod:`remora.messages.leases` for the daemon, ``Push`` and ``Fail``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic

import msgspec

from remora.core.lease_requests import QUEUE_NUMBERS, LeaseRequests
from remora.core.task_queue import LeasedWorker, R, TaskQueue, TaskRecord, TaskShape, queue_key
from remora.messages.leases import CancelRequest, KillLeased, LeaseGranted, RequestLease, ReturnLease

LINGER_S = 0.2
"""How long a worker with nothing to do is kept: a lease costs a round trip, a held CPU may cost others more."""

FORCE_GRACE_S = 0.3
"""How long a worker may take to end itself for a record that was cancelled by force."""

NOTHING: tuple[Any, ...] = ()


class Push(msgspec.Struct, frozen=True):
    """Send these records to the worker, in order."""

    worker: LeasedWorker[Any]
    records: Sequence[Any]


class Fail(msgspec.Struct, frozen=True):
    """The record has no retries left, or can never run; *cause* ends the sentence "the task failed because"."""

    record: Any
    cause: str


Effect = RequestLease | CancelRequest | ReturnLease | KillLeased | Push | Fail


class Submission(Generic[R]):
    """Every task that this process has submitted and that has not ended.

    *request_limit* is how many leases of one queue may be asked for and not granted: twice the CPUs of the
    cluster serves well. How many are *held* has no limit but the daemon's, because blocked workers hold no CPU.

    Example:
        >>> tasks = Submission()
        >>> shape = tasks.shape({"CPU": 10_000})
        >>> tasks.submit(record) is None        # no worker yet: tasks.outbox asks the daemon for one
        True
    """

    def __init__(self, request_limit: int = 4) -> None:
        self.outbox: list[Effect] = []
        """In order. The client takes what is in it, and leaves an empty list."""
        self._requests = LeaseRequests(request_limit)
        self._queues: dict[int, TaskQueue[R]] = {}
        """By number. One that is unused for a while is dropped: there may be as many as the program makes groups."""
        self._last_queue = -1
        self._queue_of: dict[tuple[Any, ...], TaskQueue[R]] = {}
        self._workers: dict[int, LeasedWorker[R]] = {}
        self._forced: dict[int, tuple[float, int]] = {}
        """Workers that were told to end themselves, by lease: until when they may, and for which call."""

    def shape(
        self, resources: Mapping[str, int], strategy: str = "", environment: str = "", near: bytes = b""
    ) -> TaskShape:
        """A new shape, for one remote function with its options; keep it as long as the function.

        *near* is the node where the large arguments of these tasks are; they get leases of their own.
        """
        queue = self._queue_of.get(queue_key(resources, strategy, environment, near))
        return TaskShape(queue or self._keep(TaskQueue(resources, strategy, environment, near)))

    def submit(self, record: R) -> LeasedWorker[R] | None:
        """The worker to send the record to, now in flight there, or None: it waits, and ``outbox`` may ask for more."""
        shape = record.shape
        queue: TaskQueue[R] = shape.queue
        waiting = queue.waiting
        if not waiting and queue.open:
            open_workers = queue.open
            worker = open_workers[-1]
            in_flight = worker.in_flight
            if in_flight:  # spread a burst over the workers, but let single calls stay with one warm worker
                open_workers.rotate(1)
                worker = open_workers[-1]
                in_flight = worker.in_flight
            if in_flight:
                has_room = shape is worker.shape and len(in_flight) < shape.depth
            else:
                worker.shape = shape
                worker.is_mixed = False
                worker.idle_since_s = 0.0
                has_room = True
            if has_room:
                in_flight[record.call] = record
                if len(in_flight) >= shape.depth:
                    open_workers.pop()
                    worker.is_open = False
                return worker
            found = self._find_room(queue, record)
            if found is not None:
                return found
        waiting.append(record)
        if len(waiting) > queue.request_above:
            if queue.is_dropped:
                waiting.pop()
                shape.queue = self._keep(queue)
                return self.submit(record)
            self._want_more(queue)
        return None

    def completed(self, worker: LeasedWorker[R], call: int, duration_s: float) -> Sequence[R]:
        """The call's reply has come. Returns the records to send to this worker next, often none.

        *duration_s* is what the task took of the worker's time (``LeasedWorker.share_s``).

        Raises:
            KeyError: the call is not in flight to the worker.
        """
        in_flight = worker.in_flight
        shape = in_flight.pop(call).shape
        if duration_s < shape.grow_below_s or duration_s > shape.shrink_above_s:
            shape.adapt(duration_s)
        if len(in_flight) > shape.low_water:
            return NOTHING
        return self._refill(worker)

    def raised(
        self, worker: LeasedWorker[R], call: int, duration_s: float, may_retry: bool
    ) -> tuple[bool, Sequence[R]]:
        """Like ``completed`` for a reply that is an exception of the user's.

        *may_retry* says whether ``retry_exceptions`` covers it. The first part of the answer says whether the task
        runs again; if not, the error is its result.
        """
        record = worker.in_flight[call]
        retried = may_retry and _charge(record)
        records = self.completed(worker, call, duration_s)
        if retried:
            worker.queue.waiting.append(record)
            self._spread(worker.queue)
        return retried, records

    def worker_of(self, record: R) -> LeasedWorker[R] | None:
        """The worker that was sent the record, which was submitted; None: it is queued here, or has ended."""
        queue: TaskQueue[R] = record.shape.queue
        return next((worker for worker in queue.workers.values() if record.call in worker.in_flight), None)

    def cancel(self, record: R) -> LeasedWorker[R] | None:
        """The worker that has the record, to be told; None: it was queued here and will not be sent.

        The record must have been submitted and not have ended, nor been cancelled here.
        """
        worker = self.worker_of(record)
        if worker is None:
            queue: TaskQueue[R] = record.shape.queue
            queue.cancelled.add(record.call)
            queue.drop_cancelled_front()
        return worker

    def forced(self, worker: LeasedWorker[R], record: R, now_s: float) -> None:
        """The worker was told to end itself with the record. If it has not when its time is over its daemon ends it:
        code of C that lets no other thread run keeps a worker from obeying."""
        self._forced[worker.lease] = now_s + FORCE_GRACE_S, record.call

    def granted(self, grant: LeaseGranted) -> tuple[LeasedWorker[R], Sequence[R]] | None:
        """A worker came: send it these records, in order, when it is connected.

        None: nobody wants it any more, its request was cancelled long ago; ``outbox`` returns it.

        Raises:
            ValueError: the request is not one of this process, or the lease is held already.
        """
        if not self._requests.was_made(grant.request):
            raise ValueError(f"the daemon granted request {grant.request}, which was never made")
        if grant.lease in self._workers:
            raise ValueError(f"the daemon granted lease {grant.lease} twice")
        queue = self._queues.get(self._requests.queue_number(grant.request))
        if queue is None:
            self.outbox.append(ReturnLease([grant.lease]))
            return None
        self._requests.answered(queue, grant.request, 1)
        worker: LeasedWorker[R] = LeasedWorker(
            queue, grant.lease, grant.worker, grant.address, grant.slot, grant.gpu_ids
        )
        self._workers[grant.lease] = queue.workers[grant.lease] = worker
        return worker, self._refill(worker)

    def request_failed(self, request: int, cause: str) -> None:
        """No worker can be had: what waits fails, unless workers are there already."""
        queue = self._queues.get(self._requests.queue_number(request))
        if queue is None:
            return  # it was cancelled, and nothing has waited since
        self._requests.answered(queue, request, queue.requests.get(request, 0))
        if queue.workers:
            return
        for record in queue.waiting:
            if record.call not in queue.cancelled:
                self.outbox.append(Fail(record, cause))
        queue.waiting.clear()
        queue.cancelled.clear()
        self.outbox += self._requests.cancel(queue)

    def reclaim(self, lease: int) -> None:
        """The daemon wants the worker back: nothing more is sent to it, and the lease returned when it is empty."""
        worker = self._workers.get(lease)
        if worker is not None:  # else our return and the daemon's wish met on the way
            self.stop_using(worker)

    def stop_using(self, worker: LeasedWorker[R]) -> None:
        """Send nothing more to the worker, and return its lease when nothing is in flight to it."""
        if worker.closing:
            return
        worker.close()
        if not worker.in_flight:
            self._give_back(worker)
        if worker.queue.waiting:
            self._want_more(worker.queue)

    def close(self, worker: LeasedWorker[R]) -> None:
        """The connection to the worker is lost, and nothing more can be sent; ``worker_died`` follows."""
        worker.is_lost = True
        worker.close()

    def handed_back(self, worker: LeasedWorker[R], calls: Sequence[int]) -> None:
        """The worker has not started these and will not: they go to the front of the queue, at no charge.

        Raises:
            KeyError: one of the calls is not in flight to the worker.
        """
        records = [worker.in_flight[call] for call in calls]
        for call in calls:
            del worker.in_flight[call]
        for running in worker.in_flight.values():
            running.shape.set_depth(1)
        queue = worker.queue
        queue.close(worker)
        queue.waiting.extendleft(reversed(records))
        if not worker.in_flight and not worker.closing:
            queue.reopen(worker)
        self._spread(queue)
        if worker.closing and not worker.is_lost and not worker.in_flight:
            self._give_back(worker)

    def worker_died(self, worker: LeasedWorker[R], running_call: int | None, cause: str) -> None:
        """The worker is gone. What it began is charged a retry: *running_call*, read from its slot, and calls sent
        before that one, whose replies were lost with it. The others move on at no charge.

        Raises:
            ValueError: the worker holds no lease of this process any more.
        """
        if self._workers.get(worker.lease) is not worker:
            raise ValueError(f"{worker!r} is not leased by this process")
        worker.close()
        del self._workers[worker.lease], worker.queue.workers[worker.lease]
        moved = []
        has_begun = running_call in worker.in_flight
        for call, record in worker.in_flight.items():
            if has_begun and not _charge(record):
                self.outbox.append(Fail(record, cause))
            else:
                moved.append(record)
            if call == running_call:
                has_begun = False
        worker.in_flight = {}
        worker.queue.waiting.extendleft(reversed(moved))
        self._spread(worker.queue)

    def abandon(self, cause: str) -> None:
        """The session is over: every record fails, every lease and request is forgotten.

        Shapes stay of use: what is submitted afterwards fails at the next call of this.
        """
        for queue in list(self._queues.values()):
            lost = [record for worker in queue.workers.values() for record in worker.in_flight.values()]
            lost += [record for record in queue.waiting if record.call not in queue.cancelled]
            self.outbox.extend(Fail(record, cause) for record in lost)
            queue.forget()
            self._drop(queue)
        self._workers.clear()
        self._forced.clear()

    def tick(self, now_s: float) -> None:
        """Return leases that have lingered, and take back requests that nothing waits for. Every 50 ms or so."""
        for queue in list(self._queues.values()):
            if not queue.waiting:
                self._let_go(queue, now_s)
            if queue.is_used:
                queue.unused_since_s = 0.0
            elif not queue.unused_since_s:
                queue.unused_since_s = now_s
            elif now_s - queue.unused_since_s >= LINGER_S:  # a grant may have met the cancelling of its request
                self._drop(queue)
        if self._forced:
            self._kill_stubborn(now_s)

    def _kill_stubborn(self, now_s: float) -> None:
        for lease, (due_s, call) in list(self._forced.items()):
            worker = self._workers.get(lease)
            is_stubborn = worker is not None and not worker.is_lost and call in worker.in_flight
            if is_stubborn and now_s < due_s:
                continue
            del self._forced[lease]
            if is_stubborn:
                self.outbox.append(KillLeased(lease))

    def _let_go(self, queue: TaskQueue[R], now_s: float) -> None:
        if queue.requests:
            self.outbox += self._requests.cancel(queue)
        for worker in list(queue.workers.values()):
            if worker.in_flight or worker.closing:
                continue
            if not worker.idle_since_s:
                worker.idle_since_s = now_s
            elif now_s - worker.idle_since_s >= LINGER_S:
                self._give_back(worker)

    def records(self) -> list[R]:
        """Every record that has not ended, in flight or waiting."""
        found = [record for worker in self._workers.values() for record in worker.in_flight.values()]
        for queue in self._queues.values():
            found += [record for record in queue.waiting if record.call not in queue.cancelled]
        return found

    def waiting(self) -> Iterator[R]:
        """The records that no worker has room for. Nothing may be submitted or completed meanwhile."""
        for queue in self._queues.values():
            cancelled = queue.cancelled
            yield from (record for record in queue.waiting if record.call not in cancelled)

    def backlog(self) -> int:
        """How many records wait for a worker."""
        return sum(queue.backlog() for queue in self._queues.values())

    @property
    def is_idle(self) -> bool:
        """Whether ``tick`` has nothing to do: no lease is held and none asked for, nor were any a moment ago."""
        return not self._queues

    def has_unanswered_requests(self) -> bool:
        """Whether tasks wait for leases: a blocking call here is then told to the daemon at once."""
        return any(queue.requested for queue in self._queues.values())

    def workers(self) -> list[LeasedWorker[R]]:
        """All leased workers."""
        return list(self._workers.values())

    def worker(self, lease: int) -> LeasedWorker[R] | None:
        """The worker of a lease, unless it was returned."""
        return self._workers.get(lease)

    def _keep(self, queue: TaskQueue[R]) -> TaskQueue[R]:
        """A dropped queue is of use again, or else one like it, which is there already: the one that is returned."""
        kept = self._queue_of.setdefault(queue.key, queue)
        if kept is queue:
            while queue.is_dropped:
                self._last_queue = (self._last_queue + 1) % QUEUE_NUMBERS
                queue.is_dropped = self._last_queue in self._queues
            queue.number = self._last_queue
            queue.unused_since_s = 0.0
            self._queues[queue.number] = queue
        return kept

    def _drop(self, queue: TaskQueue[R]) -> None:
        del self._queues[queue.number], self._queue_of[queue.key]
        queue.is_dropped = True

    def _refill(self, worker: LeasedWorker[R]) -> Sequence[R]:
        queue = worker.queue
        in_flight = worker.in_flight
        if worker.closing:
            if not in_flight and not worker.is_lost:
                self._give_back(worker)
            return NOTHING
        waiting = queue.waiting
        if not waiting:
            queue.reopen(worker)
            return NOTHING
        share = -(-len(waiting) // len(queue.workers))  # at the end of a burst every worker gets some
        records: list[R] = []
        while share and waiting and worker.admits(waiting[0].shape):
            record = waiting.popleft()
            worker.send(record)
            records.append(record)
            share -= 1
            if queue.cancelled:
                queue.drop_cancelled_front()
        if waiting:
            queue.close(worker)
            if len(waiting) > queue.request_above:
                self._want_more(queue)
        else:
            queue.reopen(worker)
        return records

    def _spread(self, queue: TaskQueue[R]) -> None:
        """Records came back to the queue: give them to whoever has room, else ask for more leases."""
        queue.drop_cancelled_front()
        for worker in list(queue.open):
            if not queue.waiting:
                return
            records = self._refill(worker)
            if records:
                self.outbox.append(Push(worker, records))
        if queue.waiting:
            self._want_more(queue)

    def _find_room(self, queue: TaskQueue[R], record: R) -> LeasedWorker[R] | None:
        for worker in list(queue.open):
            if worker.admits(record.shape):
                worker.send(record)
                return worker
            if worker.is_full():
                queue.close(worker)
        return None

    def _want_more(self, queue: TaskQueue[R]) -> None:
        if not queue.workers:
            self._return_idle_workers()
        request = self._requests.want_more(queue)
        if request is not None:
            self.outbox.append(request)

    def _return_idle_workers(self) -> None:
        """A queue has no worker at all: ours that linger elsewhere may be what it waits for."""
        for worker in list(self._workers.values()):
            if not worker.in_flight and not worker.closing and not worker.queue.waiting:
                self._give_back(worker)

    def _give_back(self, worker: LeasedWorker[R]) -> None:
        worker.close()
        del self._workers[worker.lease], worker.queue.workers[worker.lease]
        self.outbox.append(ReturnLease([worker.lease]))

    def validate(self) -> None:
        """
        Raises:
            AssertionError: a record is in two places, or one waits that nothing will ever move.
        """
        for number, queue in self._queues.items():
            queue.validate()
            assert queue.number == number, f"{queue!r} is filed wrongly"
        assert {id(queue) for queue in self._queue_of.values()} == {id(queue) for queue in self._queues.values()}
        held = {lease: worker for queue in self._queues.values() for lease, worker in queue.workers.items()}
        assert held == self._workers, f"{self!r}: workers of queues and of leases differ"

    def __repr__(self) -> str:
        return f"<Submission {list(self._queues.values())}>"


def _charge(record: TaskRecord) -> bool:
    """Take a retry from the record; False when it has none."""
    if not record.retries_left:
        return False
    if record.retries_left > 0:
        record.retries_left -= 1
    return True
