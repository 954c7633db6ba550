"""Calls of actors' methods, and what their replies do: the hot path of `handle.method.remote()`.

The order and the retries of calls are :class:`~remora.core.actor_calls.ActorCalls`'; this module does what it says and
fills the refs. A call under way keeps the ref of its actor's creation alive, so an actor ends after its last call.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any

from remora.base.errors import (
    ActorDiedError,
    ActorUnavailableError,
    LocalRayletDiedError,
    RemoraError,
    TaskCancelledError,
)
from remora.base.ids import ActorId, ObjectId, node_of
from remora.base.object_ref import FAILED, INLINE, PENDING, ObjectRef
from remora.base.options import MethodOptions
from remora.base.runtime import Actor, Method, Refs
from remora.core.actor_calls import ActorCalls
from remora.messages.actors import DEAD
from remora.messages.objects import Value
from remora.messages.tasks import CancelTask, Close, Done, Reply, Task
from remora.processes.client.arguments import put_on_wire
from remora.processes.client.functions import FunctionRecord
from remora.processes.client.inline_budget import COUNTED_FROM_BYTES
from remora.processes.client.peers import FULL_BATCH, Peer
from remora.processes.client.pending import PendingCall
from remora.processes.client.tasks import make_returns
from remora.processes.client.values import FilledReturns, tell_waiters
from remora.serialization import serialize_system_error

if TYPE_CHECKING:
    from remora.processes.client.client import Client

_pack_pair = Struct(">II").pack

UNKNOWN_RETRIES = -2
"""Of a call that waits for an actor whose options are not known here yet."""


class MethodPlan:
    """What all calls of one method with the same options have in common; kept in the options' ``record``."""

    __slots__ = ("name", "num_returns", "number", "owner", "record", "retries", "retry_exceptions")

    def __init__(self, owner: MethodClient, record: FunctionRecord, options: MethodOptions) -> None:
        self.owner = owner
        self.record = record
        self.number = record.number
        self.name = options.name
        self.num_returns = options.num_returns
        self.retries = options.max_task_retries
        self.retry_exceptions = options.retry_exceptions


class ActorRecord:
    """One actor that this process calls. ``actor.state`` points here; nothing here keeps the actor alive."""

    __slots__ = ("calls", "class_name", "id", "is_configured", "max_task_retries", "owner", "peer")

    def __init__(self, owner: MethodClient, actor: ActorId, class_name: str) -> None:
        self.owner = owner
        self.id = actor
        self.class_name = class_name
        self.max_task_retries = UNKNOWN_RETRIES
        self.calls: ActorCalls[PendingCall] = ActorCalls(actor, ordered=True)
        self.peer: Peer | None = None
        self.is_configured = False

    def configure(self, is_ordered: bool, max_task_retries: int, max_pending_calls: int) -> None:
        """The actor's options: its creator knows them, others hear them before the first call leaves."""
        if self.is_configured:
            return
        self.is_configured = True
        self.calls.configure(is_ordered, max_pending_calls)
        self.max_task_retries = max_task_retries
        for pending in self.calls.waiting():
            if pending.retries_left == UNKNOWN_RETRIES:
                pending.retries_left = max_task_retries


class MethodClient:
    """The calls of methods that this process has submitted."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = client.lock
        self._lock_is_mine = client.lock_is_mine
        self._refs = client.refs
        self._inline_budget = client.values.inline_budget
        self._peers = client.peers
        self._prefix = client.process
        self._next_call = client.next_call
        self._methods: dict[str, FunctionRecord] = {}

    # ------------------------------------------------------------------ calling methods

    def submit_method(
        self, actor: Actor, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any], options: MethodOptions
    ) -> Refs:
        """See :meth:`remora.base.runtime.Runtime.submit_method`."""
        record: ActorRecord | None = actor.state
        if record is None or record.owner is not self:
            record = self._client.actors.find_record(actor)
        plan: MethodPlan | None = options.record
        if plan is None or plan.owner is not self:
            plan = self._plan(method, options)
        call = next(self._next_call)
        retries = plan.retries
        pending = PendingCall(
            call,
            Task(call, plan.number),
            plan.record,
            record,
            None,
            record.max_task_retries if retries is None else retries,
            creation=actor.creation,
        )
        returns: Refs
        if plan.num_returns == 1:
            returns = ObjectRef(ObjectId(self._prefix + _pack_pair(call, 0)), PENDING, None, (), None, pending)
        else:
            pending.message.num_returns = plan.num_returns
            returns = make_returns(self._prefix, call, plan.num_returns, pending)
        pending.returns = returns
        if plan.retry_exceptions:
            pending.retry_exceptions = plan.retry_exceptions
        if plan.name:
            pending.message.name = plan.name
        if (args or kwargs) and not self._client.arguments.attach(pending, args, kwargs, ()):
            self._submit_unready(record, pending)
        else:
            self._dispatch(record, pending)
        return returns

    def _dispatch(self, record: ActorRecord, pending: PendingCall) -> None:
        if self._lock_is_mine():
            # A destructor that the garbage collector ran in the middle of a step of some machine.
            self._client.later(self._dispatch, record, pending)
            return
        with self._lock:
            if not record.calls.submit(pending):
                if record.calls.outbox:
                    self.fail_lost(record)
                return
            peer = record.peer
            assert peer is not None, "an open actor is connected"
            is_lone = len(record.calls.in_flight) == 1
            outgoing = put_on_wire(self._refs, peer, pending)
        if is_lone:
            peer.connection.flush()
        elif len(outgoing) >= FULL_BATCH:
            peer.connection.flush()
            self._client.leadership.serve_now()
        elif not peer.is_dirty:
            self._peers.mark_dirty(peer)
            self._client.nudge()

    def _dispatch_again(self, record: ActorRecord, pending: PendingCall) -> None:
        """The call has raised and is to be repeated; what it carried has been let go."""
        with self._lock:
            if not pending.is_cancelled:
                self.push(record, record.calls.submit_again(pending))
                self.fail_lost(record)
        self._client.nudge()

    def _submit_unready(self, record: ActorRecord, pending: PendingCall) -> None:
        with self._lock:
            record.calls.submit_unready(pending)
            self.fail_lost(record)
        self._client.arguments.when_resolved(pending, self._arguments_ready)

    def _arguments_ready(self, pending: PendingCall) -> None:
        record: ActorRecord = pending.shape
        with self._lock:
            self.push(record, record.calls.arguments_ready(pending.call))
        self._client.nudge()

    def forget_call(self, pending: PendingCall) -> None:
        """The call ended before it was sent: an argument of it is an error."""
        if type(pending.shape) is ActorRecord:
            record: ActorRecord = pending.shape
            with self._lock:
                self.push(record, record.calls.cancel(pending)[1])

    def push(self, record: ActorRecord, calls: Sequence[PendingCall]) -> None:
        """Send the calls to the actor, in order. Wants the lock."""
        if calls:
            peer = record.peer
            assert peer is not None, "calls are only sent to an actor that is alive"
            for pending in calls:
                put_on_wire(self._refs, peer, pending)
            self._peers.mark_dirty(peer)

    def _plan(self, method: Method, options: MethodOptions) -> MethodPlan:
        function = self._methods.get(method.name)
        if function is None:
            function = self._methods[method.name] = self._client.functions.define_method(method.name)
        plan = options.record = MethodPlan(self, function, options)
        return plan

    # ------------------------------------------------------------------ what the actor answers

    def on_replies(self, peer: Peer, replies: list[Any]) -> None:
        """Fill refs, send what is next."""
        record: ActorRecord = peer.calls
        in_flight = record.calls.in_flight
        completed = record.calls.completed
        wanted_here = self._client.values.wanted.when_made
        waited_for: list[ObjectRef[Any]] = []
        with self._lock:
            for message in replies:
                if type(message) is Done:
                    call = message.call
                    pending = in_flight[call]
                    ref = pending.returns
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
                    if pending.references:
                        self._refs.reply_arrived(peer.process, call, (), True, ())
                    more = completed(call)
                    if more:
                        self.push(record, more)
                elif type(message) is Reply:
                    waited_for += self._on_reply(record, peer, message)
                elif type(message) is Close:
                    self._refs.close_received(peer.process, message.call)
                else:
                    raise ValueError(f"{peer!r} sent {message!r}, which an actor does not say")
        for ref in waited_for:
            tell_waiters(ref)

    def _on_reply(self, record: ActorRecord, peer: Peer, reply: Reply) -> list[ObjectRef[Any]]:
        call = reply.call
        pending = record.calls.in_flight[call]
        returns: list[Value] = reply.returns
        retried = False
        failed = bool(returns) and returns[0].state == FAILED
        may_retry = failed and not pending.is_cancelled and self._client.arguments.may_retry(pending, returns[0])
        if may_retry and pending.references:
            # The same call may come to the same worker again only when what it kept of the first is registered.
            retried = True
            more = record.calls.completed(call)
            pending.retries_left -= pending.retries_left > 0
            self._refs.when_let_go(peer.process, call, lambda: self._dispatch_again(record, pending))
        elif failed:
            retried, more = record.calls.raised(call, may_retry)
        else:
            more = record.calls.completed(call)
        filled = FilledReturns() if retried else self._client.values.fill_returns(pending, returns, peer.process)
        if pending.references or filled.contents or filled.remote_copies or not reply.closed:
            self._refs.reply_arrived(
                peer.process, call, filled.contents, reply.closed, filled.appeared, filled.remote_copies
            )
        self._refs.carry_out()
        self.push(record, more)
        return filled.waited_for

    def on_peer_lost(self, peer: Peer, error: Exception | None) -> None:
        """The connection was read to its end; the daemon says what became of the actor, or is asked after a while."""
        record: ActorRecord = peer.calls
        with self._lock:
            self._refs.peer_died(peer.process)
            if record.peer is peer:
                record.peer = None
                if record.calls.state.state == DEAD:
                    return  # it stays dead: the session ended before its worker did
                record.calls.connection_lost(self._not_started(record))
                self._client.actors.lost(record)

    def _not_started(self, record: ActorRecord) -> set[int]:
        """Calls in flight that the worker cannot have begun: those of an ordered actor behind the last one begun."""
        state = record.calls.state
        if node_of(state.worker) != self._client.node:
            return set()  # the page of running calls is that of another node
        running = self._client.slots.running_call(state.slot, self._prefix)
        in_flight = list(record.calls.in_flight)
        if running in in_flight and record.calls.is_ordered:
            return set(in_flight[in_flight.index(running) + 1 :])
        return set()

    def cancel(self, pending: PendingCall, recursive: bool) -> None:
        """See :meth:`remora.base.runtime.Runtime.cancel`."""
        record: ActorRecord = pending.shape
        with self._lock:
            pending.is_cancelled = True
            pending.retries_left = 0
            is_in_flight, more = record.calls.cancel(pending)
            self.push(record, more)
            if is_in_flight and record.peer is not None:
                record.peer.outgoing.append(CancelTask(pending.call, False, recursive))
                self._peers.mark_dirty(record.peer)
        if not is_in_flight:
            error = self._error_of(record, pending, False, "")
            self._client.values.fail(pending.return_refs(), serialize_system_error(error))
        self._client.flush()

    # ------------------------------------------------------------------ calls that have no result

    def fail_lost(self, record: ActorRecord) -> None:
        """Give an error to what the machine says has no result. Wants the lock."""
        failed = record.calls.outbox[:]
        record.calls.outbox.clear()
        for effect in failed:
            pending: PendingCall = effect.record
            data = effect.state.error.data if effect.state.error is not None else b""
            if not data:
                data = serialize_system_error(self._error_of(record, pending, effect.died, effect.state.cause))
            # Its refs may have callbacks of the user's, and the lock is held here.
            self._client.later(self._client.values.fail, pending.return_refs(), data)

    def _error_of(self, record: ActorRecord, pending: PendingCall, died: bool, cause: str) -> RemoraError:
        name = pending.message.name or f"{record.class_name}.{pending.function.name}"
        if pending.is_cancelled:
            return TaskCancelledError(f"call {name} was cancelled")
        if self._client.ended:
            return LocalRayletDiedError(f"{name} failed because {cause}")
        error_class = ActorDiedError if died else ActorUnavailableError
        if not died and not cause:
            what = "was out of reach: the connection to its worker broke while the call was under way"
        else:
            what = f"is dead: {cause}" if died else f"lost its worker while the call was under way: {cause}"
        return error_class(
            f"{name} failed: the actor {what}",
            actor_id=record.id,
            class_name=record.class_name,
        )
