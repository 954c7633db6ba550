"""Submitting tasks, and what their replies do: the hot path of `f.remote()`.

The policy (which worker, how deep, how often again) is :class:`~remora.core.submission.Submission`'s; this module
does what it says and fills the refs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from struct import Struct
from time import monotonic
from typing import TYPE_CHECKING, Any

from remora.base.errors import (
    LocalRayletDiedError,
    RemoraError,
    TaskCancelledError,
    TaskPlacementGroupRemoved,
    TaskUnschedulableError,
    WorkerCrashedError,
)
from remora.base.ids import ObjectId, ProcessId, node_of, short
from remora.base.object_ref import FAILED, FIRST_FINISHED, INLINE, PENDING, ObjectRef
from remora.base.options import TaskOptions
from remora.base.runtime import Function, Refs
from remora.core.node_choice import LOCALITY_BYTES
from remora.core.submission import Fail, Push, Submission
from remora.core.task_queue import LeasedWorker, TaskShape
from remora.messages.leases import (
    RUNNING_UNKNOWN,
    LeaseBroken,
    LeaseDelayed,
    LeaseGranted,
    ReclaimLease,
    RequestFailed,
    ReturnLease,
)
from remora.messages.objects import Value
from remora.messages.tasks import CancelTask, Close, Done, HandedBack, LeaseTerms, Reply, Task
from remora.processes.client.arguments import put_on_wire
from remora.processes.client.functions import FunctionRecord
from remora.processes.client.inline_budget import COUNTED_FROM_BYTES
from remora.processes.client.peers import FULL_BATCH, Peer, patience_after
from remora.processes.client.pending import PendingCall
from remora.processes.client.refs import ELSEWHERE
from remora.processes.client.values import FilledReturns, tell_waiters
from remora.serialization import serialize_system_error

if TYPE_CHECKING:
    from remora.processes.client.client import Client

Worker = LeasedWorker[PendingCall]
_pack_pair = Struct(">II").pack

EXPLANATION_TIMEOUT_S = 6.0
"""Longer than it takes to find a node dead by its silence."""


class CallPlan:
    """What all calls of one function with the same options have in common; kept in the options' ``record``.

    ``owner`` is the scope of the :class:`TaskClient` in which it was made.
    """

    __slots__ = (
        "function",
        "name",
        "num_returns",
        "number",
        "owner",
        "record",
        "refs",
        "retries",
        "retry_exceptions",
        "shape",
    )

    def __init__(
        self, owner: object, function: Function, record: FunctionRecord, shape: TaskShape, options: TaskOptions
    ) -> None:
        self.owner = owner
        self.function = function
        self.record = record
        self.number = record.number
        self.refs = record.refs
        self.name = options.name
        self.shape = shape
        self.num_returns = options.num_returns
        self.retries = options.max_retries
        self.retry_exceptions = options.retry_exceptions


class TaskClient:
    """The tasks that this process has submitted."""

    def __init__(self, client: Client, request_limit: int) -> None:
        self._client = client
        self._lock = client.lock
        self._lock_is_mine = client.lock_is_mine
        self._refs = client.refs
        self._inline_budget = client.values.inline_budget
        self._peers = client.peers
        self._prefix = client.process
        self._next_call = client.next_call
        self._submission: Submission[PendingCall] = Submission(request_limit)
        self._scope = object()
        """Another one as soon as calls of this process go to another placement group."""
        self._broken: dict[int, LeaseBroken] = {}
        """Leases whose workers are dead, until their connections were read to the end."""
        self._unexplained: dict[int, tuple[float, Worker, Exception | None]] = {}
        """Leases without a connection, until the daemon says why; and until when it is waited for."""

    # ------------------------------------------------------------------ submitting

    def submit(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any], options: TaskOptions) -> Refs:
        """See :meth:`remora.base.runtime.Runtime.submit`."""
        plan: CallPlan | None = options.record
        if plan is None or plan.owner is not self._scope or plan.function is not function:
            plan = self._plan(function, options)
        call = next(self._next_call)
        record = PendingCall(call, Task(call, plan.number), plan.record, plan.shape, None, plan.retries)
        returns: Refs
        if plan.num_returns == 1:
            returns = ObjectRef(ObjectId(self._prefix + _pack_pair(call, 0)), PENDING, None, (), None, record)
        else:
            record.message.num_returns = plan.num_returns
            returns = make_returns(self._prefix, call, plan.num_returns, record)
        record.returns = returns
        if plan.retry_exceptions:
            record.retry_exceptions = plan.retry_exceptions
        if plan.name:
            record.message.name = plan.name
        if (args or kwargs or plan.refs) and not self._client.arguments.attach(record, args, kwargs, plan.refs):
            self._client.arguments.when_resolved(record, self._dispatch)
            return returns
        self._dispatch(record)
        return returns

    def _dispatch(self, record: PendingCall) -> None:
        """Every argument is there: to a worker, or into the queue."""
        if self._lock_is_mine():
            # A destructor that the garbage collector ran in the middle of a step of some machine.
            self._client.later(self._dispatch, record)
            return
        with self._lock:
            if record.is_cancelled:
                return  # while it waited for its arguments
            if record.top_level and self._client.is_in_cluster:
                self._go_near(record)
            record.is_submitted = True
            worker = self._submission.submit(record)
            if worker is None:
                if self._client.ended:
                    self._submission.abandon(self._client.ended)
                if self._submission.outbox:
                    self._carry_out()
                    self._client.nudge()
                return
            peer: Peer = worker.connection
            is_lone = len(worker.in_flight) == 1
            if is_lone:
                worker.busy_since_s = monotonic()
            outgoing = put_on_wire(self._refs, peer, record)
        if is_lone:
            peer.connection.flush()
        elif len(outgoing) >= FULL_BATCH:
            peer.connection.flush()
            self._client.leadership.serve_now()
        elif not peer.is_dirty:
            self._peers.mark_dirty(peer)
            self._client.nudge()

    def _go_near(self, record: PendingCall) -> None:
        """Large arguments on another node: the task is better run there."""
        bytes_at: dict[bytes, int] = {}
        for argument in record.message.values:
            location = argument.value.location
            if location is not None and location.node != ELSEWHERE:
                bytes_at[location.node] = bytes_at.get(location.node, 0) + location.size_bytes
        here = bytes_at.get(self._client.node, 0)
        near = max(bytes_at, key=lambda node: bytes_at[node], default=self._client.node)
        if near == self._client.node or bytes_at[near] - here < LOCALITY_BYTES:
            return
        queue = record.shape.queue
        if queue.near != near:
            key = (record.shape, near)
            shapes = record.function.shapes
            shape = shapes.get(key)
            if shape is None:
                shape = self._submission.shape(queue.resources, queue.strategy, queue.environment, near)
                shapes.keep(key, shape)
            record.shape = shape

    def renew_plans(self) -> None:
        """Calls that were planned before may go elsewhere now."""
        self._scope = object()

    def _plan(self, function: Function, options: TaskOptions) -> CallPlan:
        functions = self._client.functions
        record: FunctionRecord | None = function.record
        if record is None or record.owner is not functions:
            record = function.record = functions.define(function.function, function.name)
        groups = self._client.groups
        needed = groups.place(options.resources, options.group, options.may_be_captured, f"task {function.name!r}")
        key = (needed, options.strategy)
        with self._lock:
            shape = record.shapes.get(key)
            if shape is None:
                shape = self._submission.shape(needed.units, options.strategy)
                record.shapes.keep(key, shape)
            for ref in record.refs:
                self._refs.publish(ref)
        plan = options.record = CallPlan(self._scope, function, record, shape, options)
        return plan

    # ------------------------------------------------------------------ what workers answer

    def on_replies(self, peer: Peer, messages: list[Any]) -> None:
        """Fill refs, send what is next."""
        worker: Worker = peer.calls
        in_flight = worker.in_flight
        completed = self._submission.completed
        wanted_here = self._client.values.wanted.when_made
        waited_for: list[ObjectRef[Any]] = []
        with self._lock:
            duration_s = worker.share_s(monotonic(), len(messages), peer.connection.latency_s)
            for message in messages:
                if type(message) is Done:
                    call = message.call
                    record = in_flight[call]
                    ref = record.returns
                    if type(ref) is ObjectRef and ref.state == PENDING:
                        ref.data = message.data
                        ref.state = INLINE
                        ref.task = None
                        if len(message.data) >= COUNTED_FROM_BYTES:
                            self._inline_budget.hold(ref, len(message.data))
                        if ref.waiters is not None:
                            waited_for.append(ref)
                        if ref.published:
                            self._refs.resolve(ref)
                        if wanted_here:
                            wanted_here.discard(ref.id)
                    if record.references:
                        self._refs.reply_arrived(peer.process, call, (), True, ())
                    more = completed(worker, call, duration_s)
                    if more:
                        self._push(worker, more)
                else:
                    self._on_other(peer, worker, message, duration_s, waited_for)
            if self._submission.outbox:
                self._carry_out()
        for ref in waited_for:
            tell_waiters(ref)

    def _on_other(
        self, peer: Peer, worker: Worker, message: Any, duration_s: float, waited_for: list[ObjectRef[Any]]
    ) -> None:
        kind = type(message)
        if kind is Reply:
            waited_for += self._on_reply(peer, worker, message, duration_s)
        elif kind is Close:
            self._refs.close_received(peer.process, message.call)
        elif kind is HandedBack:
            for call in message.calls:
                if worker.in_flight[call].references:
                    self._refs.handed_back(peer.process, call)
            self._submission.handed_back(worker, self._still_wanted(worker, message.calls))
        else:
            raise ValueError(f"{peer!r} sent {message!r}, which a worker does not say")

    def _still_wanted(self, worker: Worker, unstarted: Iterable[int]) -> list[int]:
        """The calls of these that were not cancelled meanwhile. The others end here: they would begin elsewhere."""
        wanted = []
        for call in unstarted:
            if worker.in_flight[call].is_cancelled:
                self._fail(Fail(worker.in_flight.pop(call), ""), TaskCancelledError)
            else:
                wanted.append(call)
        return wanted

    def _on_reply(self, peer: Peer, worker: Worker, reply: Reply, duration_s: float) -> list[ObjectRef[Any]]:
        call = reply.call
        record = worker.in_flight[call]
        returns: list[Value] = reply.returns
        retried = False
        failed = bool(returns) and returns[0].state == FAILED
        may_retry = failed and not record.is_cancelled and self._client.arguments.may_retry(record, returns[0])
        if may_retry and record.references:
            # The same call may come to the same worker again only when what it kept of the first is registered.
            retried = True
            more = self._submission.completed(worker, call, duration_s)
            record.retries_left -= record.retries_left > 0
            record.is_submitted = False
            self._refs.when_let_go(peer.process, call, lambda: self._dispatch(record))
        elif failed:
            retried, more = self._submission.raised(worker, call, duration_s, may_retry)
        else:
            more = self._submission.completed(worker, call, duration_s)
        filled = FilledReturns() if retried else self._client.values.fill_returns(record, returns, peer.process)
        if record.references or filled.contents or filled.remote_copies or not reply.closed:
            self._refs.reply_arrived(
                peer.process, call, filled.contents, reply.closed, filled.appeared, filled.remote_copies
            )
        self._refs.carry_out()
        if more:
            self._push(worker, more)
        return filled.waited_for

    # ------------------------------------------------------------------ leases, and workers that die

    def on_lease_message(self, message: Any) -> None:
        """The daemon says something about leases."""
        kind = type(message)
        with self._lock:
            if kind is LeaseGranted:
                granted = self._submission.granted(message)
                if granted is not None and self._connect(granted[0]):
                    self._push(*granted)
            elif kind is ReclaimLease:
                self._submission.reclaim(message.lease)
            elif kind is RequestFailed:
                self._submission.request_failed(message.request, message.reason)
                self._carry_out(TaskPlacementGroupRemoved if message.is_group_removed else TaskUnschedulableError)
            elif kind is LeaseDelayed:
                self._client.warn(message.reason)
            self._carry_out()
        if kind is LeaseBroken:
            self._on_lease_broken(message)

    def _on_lease_broken(self, message: LeaseBroken) -> None:
        worker = self._submission.worker(message.lease)
        if worker is None:
            return
        self._broken[message.lease] = message
        peer: Peer | None = worker.connection
        if peer is None or peer.connection.closed:
            self._end_worker(worker)
        else:
            # It is dead, so all that it ever wrote is there; its socket may be open in a child that it forked.
            peer.connection.read_to_end()
            if not peer.connection.closed:
                self._peers.disconnect(peer)
                self.on_peer_lost(peer, None)

    def on_peer_lost(self, peer: Peer, error: Exception | None) -> None:
        """The connection was read to its end: the worker is dead, and the daemon says, or has said, how it died.

        Between nodes a connection may break for good although the worker lives; then nobody says anything.
        """
        worker: Worker = peer.calls
        with self._lock:
            self._refs.peer_died(peer.process)
            if self._submission.worker(worker.lease) is not worker:
                return
            self._submission.close(worker)
        if worker.lease in self._broken:
            self._end_worker(worker)
        else:
            with self._lock:
                self._unexplained[worker.lease] = (monotonic() + EXPLANATION_TIMEOUT_S, worker, error)

    def _end_worker(self, worker: Worker) -> None:
        with self._lock:
            broken = self._broken.pop(worker.lease)
            self._unexplained.pop(worker.lease, None)
            running = self._running_call(worker, broken.running)
            self._still_wanted(worker, [call for call in worker.in_flight if call != running])
            self._submission.worker_died(worker, running, broken.cause)
            self._carry_out()

    def _running_call(self, worker: Worker, told: bytes) -> int | None:
        """The call that the dead worker began last, if it was one of these."""
        if node_of(worker.process) == self._client.node:
            return self._client.slots.running_call(worker.slot, self._prefix)
        if told == RUNNING_UNKNOWN:  # its node is dead: any of them may have run
            return next(reversed(worker.in_flight), None)
        return int.from_bytes(told[8:12], "big") if told[:8] == self._prefix else None

    def _connect(self, worker: Worker) -> bool:
        try:
            peer = worker.connection = self._peers.connect(ProcessId(worker.process), worker.address, self, worker)
        except OSError as error:
            # Either it died before we came, and LeaseBroken follows, or this process lacks something.
            self._submission.close(worker)
            patience_s = patience_after(error, EXPLANATION_TIMEOUT_S, self._client.warn)
            self._unexplained[worker.lease] = (monotonic() + patience_s, worker, error)
            return False
        peer.outgoing.append(LeaseTerms(worker.queue.resources, worker.gpu_ids))
        return True

    # ------------------------------------------------------------------ cancelling, ending

    def cancel(self, record: PendingCall, force: bool, recursive: bool) -> None:
        """See :meth:`remora.base.runtime.Runtime.cancel`."""
        with self._lock:
            returns = record.return_refs()
            if returns and all(ref.state >= FIRST_FINISHED for ref in returns):
                return  # it has ended meanwhile
            find = self._submission.worker_of if record.is_cancelled else self._submission.cancel
            record.is_cancelled = True
            record.retries_left = 0
            worker = find(record) if record.is_submitted else None
            peer: Peer | None = worker.connection if worker is not None else None
            if peer is not None:
                peer.outgoing.append(CancelTask(record.call, force, recursive))
                self._peers.mark_dirty(peer)
            if worker is not None and force:
                self._submission.forced(worker, record, monotonic())
        if worker is None:
            error = TaskCancelledError(f"task {record.name!r} was cancelled before it started")
            self._client.values.fail(record.return_refs(), serialize_system_error(error))
        self._client.flush()

    def cancel_since(self, first_call: int, force: bool) -> None:
        """Cancel every task that was submitted with this call number or a later one."""
        for record in self._submission.records():
            if record.call >= first_call:
                self.cancel(record, force, True)

    @property
    def is_idle(self) -> bool:
        """Whether :meth:`tick` would have nothing to do until something happens."""
        return self._submission.is_idle and not self._unexplained

    def has_unanswered_requests(self) -> bool:
        """Whether tasks of this process wait for a lease."""
        return self._submission.has_unanswered_requests()

    def tick(self, now_s: float) -> None:
        """Periodic: leases that have lingered go back. Wants the lock."""
        self._submission.tick(now_s)
        if self._unexplained:
            self._give_up_waiting(now_s)
        if self._submission.outbox:
            self._carry_out()

    def _give_up_waiting(self, now_s: float) -> None:
        """Workers that cannot be reached although nobody says that they died: what they had may have run."""
        for lease, (deadline_s, worker, error) in list(self._unexplained.items()):
            if now_s >= deadline_s:
                cause = f"the connection to its worker {short(worker.process)} broke"
                if error is not None:
                    cause += f": {error}"
                running = RUNNING_UNKNOWN if worker.connection is not None else b""
                self._broken[lease] = LeaseBroken(lease, worker.process, cause, running)
                self._end_worker(worker)
                self._client.send_to_daemon(ReturnLease([lease]))

    def abandon(self, cause: str) -> None:
        """The session is over: every task fails."""
        with self._lock:
            self._submission.abandon(cause)
            self._unexplained.clear()
            self._carry_out()

    # ------------------------------------------------------------------ doing what the machine says

    def _push(self, worker: Worker, records: Sequence[PendingCall]) -> None:
        peer: Peer = worker.connection
        if len(worker.in_flight) == len(records):
            worker.busy_since_s = monotonic()
        for record in records:
            put_on_wire(self._refs, peer, record)
        self._peers.mark_dirty(peer)

    def _carry_out(self, error_class: type[RemoraError] = WorkerCrashedError) -> None:
        while self._submission.outbox:
            outbox, self._submission.outbox = self._submission.outbox, []
            for effect in outbox:
                if type(effect) is Push:
                    self._push(effect.worker, effect.records)
                elif type(effect) is Fail:
                    self._fail(effect, error_class)
                else:
                    self._client.send_to_daemon(effect)

    def calls(self) -> tuple[list[PendingCall], list[PendingCall]]:
        """The tasks that wait here for a worker, and those that are at one. Wants the lock."""
        sent = [record for worker in self._submission.workers() for record in worker.in_flight.values()]
        return self._submission.records()[len(sent) :], sent

    def first_calls(self, limit: int) -> tuple[list[PendingCall], int, list[PendingCall]]:
        """The first *limit* tasks that wait here for a worker, how many wait, and those that are at a worker.

        Wants the lock; for inspection.
        """
        submission = self._submission
        sent = [record for worker in submission.workers() for record in worker.in_flight.values()]
        return list(islice(submission.waiting(), limit)), submission.backlog(), sent

    def _fail(self, effect: Fail, error_class: type[RemoraError]) -> None:
        record: PendingCall = effect.record
        name = record.name
        error: RemoraError = error_class(f"task {name!r} failed because {effect.cause}")
        if record.is_cancelled:
            error = TaskCancelledError(f"task {name!r} was cancelled")
        elif self._client.ended:
            error = LocalRayletDiedError(f"task {name!r} failed because {effect.cause}")
        # Its refs may have callbacks of the user's, and the lock is held here.
        self._client.later(self._client.values.fail, record.return_refs(), serialize_system_error(error))


def make_returns(prefix: bytes, call: int, num_returns: int, record: PendingCall) -> list[ObjectRef[Any]] | None:
    """The refs of a call that does not return exactly one object."""
    if not num_returns:
        return None
    return [
        ObjectRef(ObjectId(prefix + _pack_pair(call, item)), PENDING, None, (), None, record)
        for item in range(num_returns)
    ]
