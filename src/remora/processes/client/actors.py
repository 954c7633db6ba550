"""Actors as their callers see them: creation, the calls of each one in order, and what happens when one dies.

The order and the retries of calls are :class:`~remora.core.actor_calls.ActorCalls`'; the life of the actor is the
daemon's. A call that is under way keeps the ref of the actor's creation alive, so an actor ends after its last call.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from time import monotonic
from typing import TYPE_CHECKING, Any

from remora.base.errors import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorUnavailableError,
    LocalRayletDiedError,
    RemoraError,
    TaskCancelledError,
)
from remora.base.ids import ActorId, ObjectId, ProcessId, node_of
from remora.base.object_ref import FAILED, INLINE, PENDING, ObjectRef
from remora.base.options import ActorOptions, MethodOptions
from remora.base.runtime import Actor, ActorFound, Class, Method, Refs
from remora.core.actor_calls import ActorCalls
from remora.messages import actors as messages
from remora.messages.objects import Value
from remora.messages.tasks import CancelTask, Close, Done, Reply, Task
from remora.processes.client.arguments import put_on_wire, without_places
from remora.processes.client.functions import FunctionRecord
from remora.processes.client.inline_budget import COUNTED_FROM_BYTES
from remora.processes.client.peers import FULL_BATCH, Peer
from remora.processes.client.pending import PendingCall
from remora.processes.client.tasks import make_returns
from remora.processes.client.values import FilledReturns, tell_waiters
from remora.serialization import serialize, serialize_function, serialize_system_error

if TYPE_CHECKING:
    from remora.processes.client.client import Client

_pack_pair = Struct(">II").pack
_data_of_none = serialize(None).to_bytes()


EXPLANATION_TIMEOUT_S = 1.0
"""How long the daemon may take to say why an actor's connection has ended, until it is asked."""
UNKNOWN_RETRIES = -2
"""Of a call that waits for an actor whose options are not known here yet."""


class MethodPlan:
    """What all calls of one method with the same options have in common; kept in the options' ``record``."""

    __slots__ = ("num_returns", "number", "owner", "record", "retries", "retry_exceptions")

    def __init__(self, owner: ActorClient, record: FunctionRecord, options: MethodOptions) -> None:
        self.owner = owner
        self.record = record
        self.number = record.number
        self.num_returns = options.num_returns
        self.retries = options.max_task_retries
        self.retry_exceptions = options.retry_exceptions


class ActorRecord:
    """One actor that this process calls. ``actor.state`` points here; nothing here keeps the actor alive."""

    __slots__ = ("calls", "class_name", "id", "is_configured", "max_task_retries", "owner", "peer")

    def __init__(self, owner: ActorClient, actor: ActorId, class_name: str) -> None:
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


class ActorClient:
    """The actors that this process has created or got handles of."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = client.lock
        self._lock_is_mine = client.lock_is_mine
        self._refs = client.refs
        self._inline_budget = client.values.inline_budget
        self._peers = client.peers
        self._prefix = client.process
        self._next_call = client.next_call
        self._records: dict[bytes, ActorRecord] = {}
        self._methods: dict[str, FunctionRecord] = {}
        self._unused: dict[ActorId, None] = {}
        """Actors whose last handle here died, until they can be forgotten."""
        self._unexplained: dict[bytes, float] = {}
        """Actors whose connections have ended, and when the daemon is asked whether they live."""

    # ------------------------------------------------------------------ calling methods

    def submit_method(
        self, actor: Actor, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any], options: MethodOptions
    ) -> Refs:
        """See :meth:`remora.base.runtime.Runtime.submit_method`."""
        record: ActorRecord | None = actor.state
        if record is None or record.owner is not self:
            record = self._find_record(actor)
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
                    self._carry_out(record)
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
                self._push(record, record.calls.submit_again(pending))
                self._carry_out(record)
        self._client.nudge()

    def _submit_unready(self, record: ActorRecord, pending: PendingCall) -> None:
        with self._lock:
            record.calls.submit_unready(pending)
            self._carry_out(record)
        self._client.arguments.when_resolved(pending, self._arguments_ready)

    def _arguments_ready(self, pending: PendingCall) -> None:
        record: ActorRecord = pending.shape
        with self._lock:
            self._push(record, record.calls.arguments_ready(pending.call))
        self._client.nudge()

    def forget_call(self, pending: PendingCall) -> None:
        """The call ended before it was sent: an argument of it is an error."""
        if type(pending.shape) is ActorRecord:
            record: ActorRecord = pending.shape
            with self._lock:
                self._push(record, record.calls.cancel(pending)[1])

    def _push(self, record: ActorRecord, calls: Sequence[PendingCall]) -> None:
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
                        self._push(record, more)
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
        self._push(record, more)
        return filled.waited_for

    def on_peer_lost(self, peer: Peer, error: Exception | None) -> None:
        """The connection was read to its end; the daemon says what became of the actor, or is asked after a while."""
        record: ActorRecord = peer.calls
        with self._lock:
            self._refs.peer_died(peer.process)
            if record.peer is peer:
                record.peer = None
                if record.calls.state.state == messages.DEAD:
                    return  # it stays dead: the session ended before its worker did
                record.calls.connection_lost(self._not_started(record))
                self._unexplained[record.id] = monotonic() + EXPLANATION_TIMEOUT_S

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

    # ------------------------------------------------------------------ the daemon's word

    def on_message(self, message: Any) -> None:
        """The daemon says something about actors."""
        kind = type(message)
        if kind is messages.ActorState:
            self._on_state(message)
        elif kind is messages.ActorFound or kind is messages.ActorNames:
            self._client.answer(message.request, message)
        else:
            raise ValueError(f"the daemon sent {message!r}, which nothing here expects")

    def _on_state(self, state: messages.ActorState) -> None:
        record = self._records.get(state.actor)
        if record is None:
            return
        self._unexplained.pop(record.id, None)
        peer = record.peer
        if state.state != messages.ALIVE and peer is not None:
            # The worker is dead, so all that it ever wrote is there.
            peer.connection.read_to_end()
            if not peer.connection.closed:
                self._peers.disconnect(peer)
                self.on_peer_lost(peer, None)
        with self._lock:
            record.configure(state.is_ordered, state.max_task_retries, state.max_pending_calls)
            if state.state == messages.ALIVE and record.peer is None:
                try:
                    record.peer = self._peers.connect(ProcessId(state.worker), state.address, self, record)
                except OSError:
                    return  # it has died since; the daemon will say so
            self._push(record, record.calls.actor_state(state))
            self._carry_out(record)

    def _carry_out(self, record: ActorRecord) -> None:
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
        if pending.is_cancelled:
            return TaskCancelledError(f"call {record.class_name}.{pending.function.name} was cancelled")
        if self._client.ended:
            return LocalRayletDiedError(f"{record.class_name}.{pending.function.name} failed because {cause}")
        error_class = ActorDiedError if died else ActorUnavailableError
        if not died and not cause:
            what = "was out of reach: the connection to its worker broke while the call was under way"
        else:
            what = f"is dead: {cause}" if died else f"lost its worker while the call was under way: {cause}"
        return error_class(
            f"{record.class_name}.{pending.function.name} failed: the actor {what}",
            actor_id=record.id,
            class_name=record.class_name,
        )

    # ------------------------------------------------------------------ life

    def create(
        self, actor_class: Class, args: tuple[Any, ...], kwargs: dict[str, Any], options: ActorOptions
    ) -> ActorFound:
        """See :meth:`remora.base.runtime.Runtime.create_actor`."""
        if options.concurrency_groups:
            self._client.warn("concurrency_groups have no effect yet: all methods of the actor share max_concurrency")
        self._client.check_alive()
        needed, at_placement = (
            self._client.groups.place(amounts, options.group, options.may_be_captured, f"actor {actor_class.name!r}")
            for amounts in (options.resources, options.placement)
        )
        pickled, captured = self._pickle_class(actor_class)
        call = next(self._next_call)
        creation: ObjectRef[Any] = ObjectRef(ObjectId(self._prefix + _pack_pair(call, 0)), INLINE, _data_of_none)
        function = self._client.functions.define_method("__init__")
        pending = PendingCall(call, Task(call, function.number), function, None, None)
        if not self._client.arguments.attach(pending, args, kwargs, captured):
            # The worker awaits them: others who get the handle meanwhile must find the actor at the daemon.
            self._client.arguments.pass_pending(pending)
        creation.contents = pending.references

        def send(request: int = 0) -> None:
            message = pending.message
            spec = messages.ActorSpec(
                class_name=actor_class.name,
                pickled_class=pickled,
                arguments=message.arguments,
                handle=actor_class.description,
                refs=message.refs,
                values=without_places(message.values) if self._client.is_in_cluster else message.values,
                stored=message.stored,
                resources=dict(needed.units),
                placement=dict(at_placement.units),
                strategy=options.strategy,
                max_restarts=options.max_restarts,
                max_task_retries=options.max_task_retries,
                max_concurrency=options.max_concurrency or (1000 if actor_class.is_async else 1),
                max_pending_calls=options.max_pending_calls,
                is_async=actor_class.is_async,
            )
            namespace = self._client.namespace if options.namespace is None else options.namespace
            with self._lock:
                self._register(creation, actor_class, spec)
                self._refs.publish(creation)
                self._client.send_to_daemon(
                    messages.CreateActor(
                        creation.id, spec, options.name, namespace, options.detached, options.get_if_exists, request
                    )
                )
            self._client.flush_daemon()

        if not options.name:
            send()
            return creation, actor_class.description
        found = self._client.request(send)
        if found.created:
            return creation, actor_class.description
        if found.error:
            raise ActorAlreadyExistsError(found.error)
        return self._adopt(found)

    def _register(self, creation: ObjectRef[Any], actor_class: Class, spec: messages.ActorSpec) -> None:
        """The creator of an actor is told its state without asking, and knows its options."""
        actor = ActorId(creation.id)
        record = self._records.get(actor)
        if record is None:
            record = self._records[actor] = ActorRecord(self, actor, actor_class.name)
        record.configure(spec.max_concurrency == 1 and not spec.is_async, spec.max_task_retries, spec.max_pending_calls)

    def _pickle_class(self, actor_class: Class) -> tuple[bytes, tuple[ObjectRef[Any], ...]]:
        record = actor_class.record
        if record is None or record[0] is not self:
            serialized = serialize_function(actor_class.cls)
            record = actor_class.record = (self, serialized.to_bytes(), tuple(serialized.refs))
        return record[1], record[2]

    def _adopt(self, found: messages.ActorFound) -> ActorFound:
        """A ref of an actor that the daemon named."""
        with self._lock:
            (creation,) = self._refs.adopt([found.actor])
        return creation, found.handle

    def get(self, name: str, namespace: str | None) -> ActorFound:
        """See :meth:`remora.base.runtime.Runtime.get_actor`."""
        where = self._client.namespace if namespace is None else namespace
        found = self._client.request(
            lambda request: self._client.send_to_daemon(messages.GetActor(request, name, where))
        )
        if found.error:
            raise ValueError(found.error)
        return self._adopt(found)

    def list_named(self, all_namespaces: bool) -> list[tuple[str, str]]:
        """See :meth:`remora.base.runtime.Runtime.list_named_actors`."""
        where = "" if all_namespaces else self._client.namespace
        reply = self._client.request(lambda request: self._client.send_to_daemon(messages.ListActors(request, where)))
        return [(namespace, name) for namespace, name in reply.names]

    def kill(self, actor: Actor, no_restart: bool) -> None:
        """See :meth:`remora.base.runtime.Runtime.kill`."""
        record = self._find_record(actor)
        with self._lock:
            record.calls.kill_sent()
            self._client.send_to_daemon(messages.KillActor(actor.id, no_restart))
        self._client.flush_daemon()

    def cancel(self, pending: PendingCall, recursive: bool) -> None:
        """See :meth:`remora.base.runtime.Runtime.cancel`."""
        record: ActorRecord = pending.shape
        with self._lock:
            pending.is_cancelled = True
            pending.retries_left = 0
            is_in_flight, more = record.calls.cancel(pending)
            self._push(record, more)
            if is_in_flight and record.peer is not None:
                record.peer.outgoing.append(CancelTask(pending.call, False, recursive))
                self._peers.mark_dirty(record.peer)
        if not is_in_flight:
            error = self._error_of(record, pending, False, "")
            self._client.values.fail(pending.return_refs(), serialize_system_error(error))
        self._client.flush()

    def _find_record(self, actor: Actor) -> ActorRecord:
        """The record of the actor; the first time the daemon is asked to tell its state, now and later."""
        with self._lock:
            record = self._records.get(actor.id)
            if record is None:
                self._client.check_alive()
                record = self._records[actor.id] = ActorRecord(self, actor.id, actor.class_name)
                self._client.send_to_daemon(messages.SubscribeActor(actor.id))
            actor.state = record
        self._client.flush_daemon()
        return record

    def on_refs_died(self, ids: list[ObjectId]) -> None:
        """Those of them that were the last handles of actors are looked at by the next :meth:`tick`."""
        if self._records:
            self._unused.update((ActorId(one), None) for one in ids if one in self._records)

    @property
    def is_idle(self) -> bool:
        """Whether :meth:`tick` has nothing to do."""
        return not self._unused and not self._unexplained

    def tick(self, now_s: float) -> None:
        """Forget actors that nobody here can call, ask for those that cannot be reached. Wants the lock."""
        self._forget_unused()
        for actor in [actor for actor, due_s in self._unexplained.items() if now_s >= due_s]:
            # Its node may be alive and the line to it broken: if the actor lives it is connected anew.
            self._unexplained[actor] = now_s + EXPLANATION_TIMEOUT_S
            self._client.send_to_daemon(messages.SubscribeActor(actor))

    def _forget_unused(self) -> None:
        """Forget actors of which no handle lives here any more.

        Their connections are closed when everything that came over them is settled: a worker that loses a submitter
        takes it for dead.
        """
        for actor in list(self._unused):
            record = self._records.get(actor)
            if record is None or self._refs.find(actor) is not None:
                del self._unused[actor]
            elif not record.calls.pending() and self._close(record.peer):
                del self._unused[actor], self._records[actor]
                self._unexplained.pop(actor, None)
                self._client.send_to_daemon(messages.UnsubscribeActor(actor))

    def _close(self, peer: Peer | None) -> bool:
        """Close the connection, if there is one, unless somebody still has to say something."""
        if peer is not None:
            if self._refs.machine.has_open_calls(peer.process) or peer.outgoing or peer.connection.unsent_bytes:
                return False
            self._client.flush_daemon()  # it must have heard what came from there before it hears of the end
            self._peers.disconnect(peer)
        return True

    def calls(self) -> tuple[list[PendingCall], list[PendingCall]]:
        """The calls of methods that have not been sent, and those that have. Wants the lock."""
        records = self._records.values()
        waiting = [pending for record in records for pending in record.calls.waiting()]
        return waiting, [pending for record in records for pending in record.calls.in_flight.values()]

    def records(self) -> list[ActorRecord]:
        """The actors that this process calls. Wants the lock; for inspection."""
        return list(self._records.values())

    def abandon(self, cause: str) -> None:
        """The session is over: every call fails."""
        with self._lock:
            for record in self._records.values():
                state = messages.ActorState(record.id, messages.DEAD, record.calls.state.incarnation, cause=cause)
                record.calls.actor_state(state)
                self._carry_out(record)
