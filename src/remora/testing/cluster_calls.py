"""What one simulated process submits: tasks by leases, calls of actors' methods, actors and placement groups.

The decisions are those of the real machines, ``Submission`` and ``ActorCalls``; this does what
``processes/client/tasks.py``, ``actors.py`` and ``arguments.py`` do around them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from remora.base.ids import ObjectId, ProcessId, make_object_id, make_task_id, node_of
from remora.base.object_ref import FAILED, INLINE, PENDING, STORED
from remora.core.actor_calls import ActorCalls
from remora.core.actor_questions import ActorQuestions
from remora.core.node_choice import LOCALITY_BYTES
from remora.core.submission import Fail, Push, Submission
from remora.core.task_queue import LeasedWorker, TaskShape
from remora.messages import actors as a
from remora.messages import placement_groups as g
from remora.messages.leases import (
    RUNNING_UNKNOWN,
    LeaseBroken,
    LeaseDelayed,
    LeaseGranted,
    ReclaimLease,
    RequestFailed,
)
from remora.messages.objects import Value
from remora.messages.tasks import Argument, Close, Done, HandedBack, Reply, Task
from remora.processes.client import arguments
from remora.testing.cluster_network import End
from remora.testing.cluster_refs import ELSEWHERE, ProcessObjects

if TYPE_CHECKING:
    from remora.testing.cluster_world import World

Worker = LeasedWorker["PendingCall"]


class PendingCall:
    """One call until its reply; the same as the client's record."""

    __slots__ = (
        "actor",
        "call",
        "creation",
        "is_ended",
        "is_forgotten",
        "message",
        "references",
        "result",
        "retries_left",
        "retry_exceptions",
        "shape",
        "top_level",
    )

    def __init__(self, call: int, result: ObjectId, retries: int) -> None:
        self.call = call
        self.result = result
        self.message = Task(call, 1)
        self.retries_left = retries
        self.retry_exceptions = False
        self.shape: Any = None
        self.actor: ActorHandle | None = None
        self.creation: tuple[ObjectId, ...] = ()
        self.references: tuple[ObjectId, ...] = ()
        self.top_level: tuple[ObjectId, ...] = ()
        self.is_ended = False
        self.is_forgotten = False


class ActorHandle:
    """One actor that this process calls."""

    def __init__(self, actor: ObjectId, ordered: bool = True) -> None:
        self.id = actor
        self.calls: ActorCalls[PendingCall] = ActorCalls(actor, ordered)
        self.max_task_retries: int | None = None
        self.peer: ProcessId | None = None


class ProcessCalls(ProcessObjects):
    """A process that submits."""

    def __init__(self, world: World, process: ProcessId) -> None:
        super().__init__(world, process)
        self.submission: Submission[PendingCall] = world.machines.submission(8)
        self.handles: dict[ObjectId, ActorHandle] = {}
        self._questions = ActorQuestions()
        self.peers: dict[ProcessId, Worker | ActorHandle] = {}
        """Workers to which this process has a connection, and whose calls go there."""
        self._broken: dict[int, LeaseBroken] = {}
        self._unused: dict[ObjectId, None] = {}
        self.unresolved: dict[int, PendingCall] = {}
        self.requests: dict[int, Callable[[Any], None]] = {}
        """Questions to the head, and who waits for the answers."""
        self.group_states: dict[bytes, int | None] = {}
        self._again: dict[tuple[bytes, int], PendingCall] = {}
        """Calls that raised and are to run again, when the worker has let their refs go."""
        self._later: list[PendingCall] = []
        self._failed: list[tuple[PendingCall, str]] = []
        self._shapes: dict[tuple[frozenset[tuple[str, int]], str], TaskShape] = {}
        self._last_request = 0

    # ------------------------------------------------------------------ arguments

    def _new_call(
        self, nested: Sequence[ObjectId], top_level: Sequence[ObjectId], retries: int, size_bytes: int = 0
    ) -> PendingCall:
        """The record of a call, which holds its result and its arguments."""
        call = self.next_call()
        result = make_object_id(self.process, call)
        self.make(result, PENDING)
        record = PendingCall(call, result, retries)
        stored: tuple[ObjectId, ...] = ()
        if size_bytes:
            object_id = self.put((), size_bytes)
            stored = (object_id,)
            record.message.stored = Argument(object_id, self.live[object_id].value)
        record.references = (*nested, *top_level, *stored)
        record.top_level = tuple(top_level)
        record.message.refs = tuple(nested)
        self.acquire((result, *record.references))
        for object_id in nested:
            self.publish(object_id)
        return record

    def _when_resolved(self, record: PendingCall, dispatch: Callable[[PendingCall], None]) -> None:
        waiting = {one for one in record.top_level if self.live[one].is_unknown}
        if not waiting:
            if self._complete(record):
                dispatch(record)
            return
        self.unresolved[record.call] = record

        def resolved(object_id: ObjectId) -> None:
            waiting.discard(object_id)
            if not waiting:
                del self.unresolved[record.call]
                has_ended_before = record.is_ended
                if self._complete(record):
                    dispatch(record)
                if has_ended_before:
                    self._forget_record(record)

        for object_id in sorted(waiting):
            self.know(object_id, lambda ref: resolved(ref.id))

    def _complete(self, record: PendingCall) -> bool:
        """Put the values of the arguments into the message; false when one is an error."""
        for object_id in record.top_level:
            if self.live[object_id].state == FAILED:
                self._end_record(record, "an argument of it is an error")
                if record.actor is not None:
                    self._push_actor(record.actor, record.actor.calls.cancel(record)[1])
                return False
        for object_id in record.top_level:
            ref = self.live[object_id]
            if ref.state == STORED:
                self.publish(object_id)
            for inner in ref.contents if ref.contents_held else ():
                self.publish(inner)
        record.message.values = tuple(Argument(one, self.live[one].value) for one in record.top_level)
        return True

    def _end_record(self, record: PendingCall, reason: str) -> None:
        """The call has an error, at the end of the turn."""
        record.is_ended = True
        self._failed.append((record, reason))

    def _forget_record(self, record: PendingCall) -> None:
        """It has ended; what waits for its arguments still looks at it."""
        if record.call not in self.unresolved and not record.is_forgotten:
            record.is_forgotten = True
            self.let_go((record.result, *record.references, *record.creation))

    def _put_on_wire(self, peer: ProcessId, record: PendingCall) -> None:
        if record.references:
            self._kept[peer, record.call] = record.references
            self.acquire(record.references)
            ids = listed_ids(record.message)
            self.refs.submitted(peer, record.call, ids)
            self.carry_out()
        self.send_to(peer, record.message)
        self.world.call_sent(self.process, record.message, record.references)

    # ------------------------------------------------------------------ tasks

    def shape(self, need: dict[str, int], strategy: str = "") -> TaskShape:
        """That of the one function with these options."""
        key = (frozenset(need.items()), strategy)
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = self.submission.shape(need, strategy)
        return shape

    def submit(
        self,
        shape: TaskShape,
        nested: Sequence[ObjectId] = (),
        top_level: Sequence[ObjectId] = (),
        retries: int = 0,
        retry_exceptions: bool = False,
        size_bytes: int = 0,
    ) -> ObjectId:
        """Call a function; the caller acquires the result."""
        record = self._new_call(nested, top_level, retries, size_bytes)
        record.shape = shape
        record.retry_exceptions = retry_exceptions
        self.world.task_made(make_task_id(self.process, record.call), retries)
        self._when_resolved(record, self._dispatch)
        return record.result

    def _dispatch(self, record: PendingCall) -> None:
        if record.top_level:
            self._go_near(record)
        worker = self.submission.submit(record)
        if worker is None:
            self._carry_out_submission()
        else:
            worker.busy_since_s = self.world.now_s
            self._put_on_wire(ProcessId(worker.process), record)

    def _go_near(self, record: PendingCall) -> None:
        bytes_at: dict[bytes, int] = {}
        for argument in record.message.values:
            location = argument.value.location
            if location is not None and location.node != ELSEWHERE:
                bytes_at[location.node] = bytes_at.get(location.node, 0) + location.size_bytes
        near = max(bytes_at, key=lambda node: bytes_at[node], default=self.node)
        if near != self.node and bytes_at[near] - bytes_at.get(self.node, 0) >= LOCALITY_BYTES:
            queue = record.shape.queue
            record.shape = self.submission.shape(queue.resources, queue.strategy, queue.environment, near)

    def _push(self, worker: Worker, records: Sequence[PendingCall]) -> None:
        for record in records:
            self._put_on_wire(ProcessId(worker.process), record)

    def _carry_out_submission(self) -> None:
        while self.submission.outbox:
            outbox, self.submission.outbox = self.submission.outbox, []
            for effect in outbox:
                if isinstance(effect, Push):
                    self._push(effect.worker, effect.records)
                elif isinstance(effect, Fail):
                    self._end_record(effect.record, f"the task failed because {effect.cause}")
                else:
                    self.tell_daemon(effect)

    def _on_lease_message(self, message: Any) -> None:
        if isinstance(message, LeaseGranted):
            granted = self.submission.granted(message)
            if granted is not None:
                worker, records = granted
                if self._connect(ProcessId(worker.process), worker):
                    self._push(worker, records)
                else:
                    self.submission.close(worker)
        elif isinstance(message, ReclaimLease):
            self.submission.reclaim(message.lease)
        elif isinstance(message, RequestFailed):
            self.submission.request_failed(message.request, message.reason)
        elif isinstance(message, LeaseBroken):
            self._on_lease_broken(message)
        else:
            assert isinstance(message, LeaseDelayed)
        self._carry_out_submission()

    def _connect(self, peer: ProcessId, owner: Worker | ActorHandle) -> bool:
        """False when the worker is dead already, which the daemon will tell. A stream to another node never says so."""
        if peer not in self.peers and peer not in self.world.alive and node_of(peer) == self.node:
            return False
        if isinstance(owner, LeasedWorker):
            owner.connection = peer
        self.peers[peer] = owner
        self.world.connected(self.process, peer)
        return True

    def _on_lease_broken(self, message: LeaseBroken) -> None:
        worker = self.submission.worker(message.lease)
        if worker is None:
            return
        self._broken[message.lease] = message
        peer = ProcessId(worker.process)
        if peer not in self.peers:
            self._end_worker(worker)
        else:
            self.world.read_to_end(self.process, peer)
            if peer in self.peers:
                self.world.disconnected(self.process, peer)
                self._lose_peer(peer)

    def _lose_peer(self, peer: ProcessId) -> None:
        """The connection to a worker was read to its end."""
        owner = self.peers.pop(peer)
        self.refs.peer_died(peer)
        self.carry_out()
        if isinstance(owner, ActorHandle):
            if owner.peer == peer:
                owner.peer = None
                if owner.calls.state.state != a.DEAD:
                    owner.calls.connection_lost(self._not_started(owner))
                    self._questions.lost(owner.id, self.world.now_s)
            return
        if self.submission.worker(owner.lease) is owner:
            self.submission.close(owner)
            if owner.lease in self._broken:
                self._end_worker(owner)

    def _end_worker(self, worker: Worker) -> None:
        broken = self._broken.pop(worker.lease)
        self.submission.worker_died(worker, self._running_call(worker, broken.running), broken.cause)
        self._carry_out_submission()

    def _running_call(self, worker: Worker, told: bytes) -> int | None:
        if node_of(worker.process) == self.node:
            told = self.world.begun_last(ProcessId(worker.process))
        elif told == RUNNING_UNKNOWN:
            return next(reversed(worker.in_flight), None)
        return int.from_bytes(told[8:12], "big") if told[:8] == self.process else None

    # ------------------------------------------------------------------ replies

    def _on_reply(self, peer: ProcessId, owner: Worker | ActorHandle, reply: Reply) -> None:
        in_flight = owner.in_flight if isinstance(owner, LeasedWorker) else owner.calls.in_flight
        record = in_flight[reply.call]
        value = reply.returns[0]
        may_retry = value.state == FAILED and record.retry_exceptions and record.retries_left != 0
        retried = may_retry
        if may_retry and record.references:
            more = self._completed(owner, record.call)
            record.retries_left -= record.retries_left > 0
            self._again[peer, record.call] = record
        elif value.state == FAILED:
            retried, more = self._raised(owner, record.call, may_retry)
        else:
            more = self._completed(owner, record.call)
        contents, born, remote = ([], [], []) if retried else self.fill(self.live[record.result], value, peer)
        if record.references or contents or remote or not reply.closed:
            ids = [ObjectId(one) for one in contents]
            self.refs.reply_received(peer, record.call, ids, reply.closed, born, remote)
        self.carry_out()
        self._push_any(owner, more)
        if not retried:
            self._forget_record(record)

    def _let_call_go(self, key: tuple[bytes, int]) -> None:
        super()._let_call_go(key)
        record = self._again.pop(key, None)
        if record is not None:
            self._later.append(record)

    def run_later(self) -> None:
        """What was put off until the turn's end."""
        self.tell_waiters()
        while self._failed or self._later:
            if self._failed:
                record, reason = self._failed.pop(0)
                self.fail(record.result, reason)
                self._forget_record(record)
                self.tell_waiters()
                continue
            record = self._later.pop(0)
            if record.actor is None:
                self._dispatch(record)
            else:
                self._push_actor(record.actor, record.actor.calls.submit_again(record))
                self._fail_calls(record.actor)

    def _on_done(self, peer: ProcessId, owner: Worker | ActorHandle, done: Done) -> None:
        in_flight = owner.in_flight if isinstance(owner, LeasedWorker) else owner.calls.in_flight
        record = in_flight[done.call]
        ref = self.live[record.result]
        if not ref.is_finished:
            self.take_value(ref, Value(INLINE, done.data), None)
        if record.references:
            self.refs.reply_received(peer, done.call, (), True, (), ())
            self.carry_out()
        self._push_any(owner, self._completed(owner, done.call))
        self._forget_record(record)

    def _completed(self, owner: Worker | ActorHandle, call: int) -> Sequence[PendingCall]:
        if isinstance(owner, ActorHandle):
            return owner.calls.completed(call)
        return self.submission.completed(owner, call, self.world.duration_s(call))

    def _raised(self, owner: Worker | ActorHandle, call: int, may_retry: bool) -> tuple[bool, Sequence[PendingCall]]:
        if isinstance(owner, ActorHandle):
            return owner.calls.raised(call, may_retry)
        return self.submission.raised(owner, call, self.world.duration_s(call), may_retry)

    def _push_any(self, owner: Worker | ActorHandle, records: Sequence[PendingCall]) -> None:
        if isinstance(owner, ActorHandle):
            self._push_actor(owner, records)
        else:
            self._push(owner, records)
            self._carry_out_submission()

    def _on_handed_back(self, peer: ProcessId, worker: Worker, message: HandedBack) -> None:
        for call in message.calls:
            if worker.in_flight[call].references:
                self.refs.handed_back(peer, call)
                self.carry_out()
        self.submission.handed_back(worker, message.calls)
        self._carry_out_submission()

    def from_worker(self, peer: ProcessId, message: Any) -> None:
        """A worker says something of a call that it got from here."""
        owner = self.peers.get(peer)
        if owner is None:
            return  # the connection was closed
        if isinstance(message, Close):
            self.refs.close_received(peer, message.call)
        elif isinstance(message, Done):
            self._on_done(peer, owner, message)
        elif isinstance(message, Reply):
            self._on_reply(peer, owner, message)
        elif isinstance(message, End):
            self._lose_peer(peer)
        else:
            assert isinstance(message, HandedBack), f"no worker says {message!r}"
            assert isinstance(owner, LeasedWorker), "an actor hands nothing back"
            self._on_handed_back(peer, owner, message)
        self.carry_out()

    # ------------------------------------------------------------------ actors

    def ask_head(self, then: Callable[[Any], None]) -> int:
        """The number of a question whose answer goes to *then*."""
        self._last_request += 1
        self.requests[self._last_request] = then
        return self._last_request

    def create_actor(
        self,
        spec: a.ActorSpec,
        nested: Sequence[ObjectId] = (),
        top_level: Sequence[ObjectId] = (),
        *,
        name: str = "",
        detached: bool = False,
        get_if_exists: bool = False,
        then: Callable[[a.ActorFound], None] | None = None,
    ) -> ObjectId:
        """Make an actor; the caller acquires its handle. A named one waits for the answer, which *then* is told."""
        creation = self.make(self.new_id(), INLINE, (*nested, *top_level))
        for object_id in (*nested, *top_level):
            self.publish(object_id)
        values = tuple(self._without_place(one) for one in top_level)
        spec = msgspec.structs.replace(spec, refs=tuple(nested), values=values)
        handle = self.handles[creation.id] = ActorHandle(creation.id, spec.max_concurrency == 1 and not spec.is_async)
        handle.max_task_retries = spec.max_task_retries
        self._questions.created(creation.id, self.world.now_s)
        self.publish(creation.id)
        request = self.ask_head(then or (lambda found: None)) if name else 0
        self.world.actor_made(self.process, creation.id, spec)
        self.tell_daemon(a.CreateActor(creation.id, spec, name, "default", detached, get_if_exists, request))
        return creation.id

    def _without_place(self, object_id: ObjectId) -> Argument:
        """The value of an argument, for a call that somebody else makes some time: where it lies is found out then."""
        ref = self.live[object_id]
        value = Value(PENDING) if ref.is_unknown else ref.value
        if value.location is not None:
            value = msgspec.structs.replace(value, location=msgspec.structs.replace(value.location, node=ELSEWHERE))
        return Argument(object_id, value)

    def find_actor(self, name: str, then: Callable[[a.ActorFound], None]) -> None:
        """Look the name up."""
        self.tell_daemon(a.GetActor(self.ask_head(then), name, "default"))

    def handle_of(self, actor: ObjectId) -> ActorHandle:
        """The record of the actor; the first time the head is asked to tell its state, now and later."""
        handle = self.handles.get(actor)
        if handle is None:
            handle = self.handles[actor] = ActorHandle(actor)
            self.tell_daemon(a.SubscribeActor(actor))
        return handle

    def call_method(
        self,
        actor: ObjectId,
        nested: Sequence[ObjectId] = (),
        top_level: Sequence[ObjectId] = (),
        retry_exceptions: bool = False,
    ) -> ObjectId:
        """Call a method; the caller acquires the result."""
        handle = self.handle_of(actor)
        retries = handle.max_task_retries
        record = self._new_call(nested, top_level, -2 if retries is None else retries)
        record.actor = handle
        record.retry_exceptions = retry_exceptions
        record.creation = (actor,)
        self.acquire(record.creation)
        self.world.method_called(make_task_id(self.process, record.call), actor)
        arguments = [self.live[one] for one in top_level]
        if any(one.is_unknown or one.state == FAILED for one in arguments):
            handle.calls.submit_unready(record)
            self._fail_calls(handle)
            self._when_resolved(record, self._arguments_ready)
        else:
            self._complete(record)
            self._dispatch_method(handle, record)
        return record.result

    def _arguments_ready(self, record: PendingCall) -> None:
        assert record.actor is not None
        self._push_actor(record.actor, record.actor.calls.arguments_ready(record.call))

    def _dispatch_method(self, handle: ActorHandle, record: PendingCall) -> None:
        if handle.calls.submit(record):
            self._push_actor(handle, [record])
        else:
            self._fail_calls(handle)

    def _push_actor(self, handle: ActorHandle, records: Sequence[PendingCall]) -> None:
        for record in records:
            assert handle.peer is not None, "calls are only sent to an actor that is alive"
            self._put_on_wire(handle.peer, record)

    def _fail_calls(self, handle: ActorHandle) -> None:
        failed = handle.calls.outbox[:]
        handle.calls.outbox.clear()
        for effect in failed:
            state = "is dead" if effect.died else "is restarting"
            self._end_record(effect.record, f"the actor {state}: {effect.state.cause}")

    def _on_actor_state(self, state: a.ActorState) -> None:
        handle = self.handles.get(ObjectId(state.actor))
        if handle is None or not self._questions.told(state, handle.calls.state.state, self.world.now_s):
            return
        peer = handle.peer
        if state.state != a.ALIVE and peer is not None:
            self.world.read_to_end(self.process, peer)
            if handle.peer == peer and peer in self.peers:
                self.world.disconnected(self.process, peer)
                self._lose_peer(peer)
        if handle.max_task_retries is None:
            handle.max_task_retries = state.max_task_retries
            handle.calls.configure(state.is_ordered, state.max_pending_calls)
            for record in handle.calls.waiting():
                if record.retries_left == -2:
                    record.retries_left = state.max_task_retries
        if state.state == a.ALIVE and handle.peer is None:
            worker = ProcessId(state.worker)
            if not self._connect(worker, handle):
                self._questions.lost(handle.id, self.world.now_s)
                return  # it has died since; the head will say so
            handle.peer = worker
        self._push_actor(handle, handle.calls.actor_state(state))
        self._fail_calls(handle)

    def _not_started(self, handle: ActorHandle) -> set[int]:
        state = handle.calls.state
        if not state.worker or node_of(state.worker) != self.node:
            return set()
        told = self.world.begun_last(ProcessId(state.worker))
        running = int.from_bytes(told[8:12], "big") if told[:8] == self.process else None
        in_flight = list(handle.calls.in_flight)
        if running in in_flight and handle.calls.is_ordered:
            return set(in_flight[in_flight.index(running) + 1 :])
        return set()

    def kill_actor(self, actor: ObjectId, no_restart: bool) -> None:
        """End the actor."""
        self.handle_of(actor).calls.kill_sent()
        self.tell_daemon(a.KillActor(actor, no_restart))

    def on_died(self, ids: list[ObjectId]) -> None:
        self._unused.update((one, None) for one in ids if one in self.handles)

    def forget_unused(self) -> None:
        """Forget actors of which no handle lives here any more."""
        for actor in list(self._unused):
            handle = self.handles.get(actor)
            if handle is None or actor in self.live:
                del self._unused[actor]
            elif not handle.calls.pending() and self._close_peer(handle.peer):
                del self._unused[actor], self.handles[actor]
                self._questions.forget(actor)
                self.tell_daemon(a.UnsubscribeActor(actor))

    def _close_peer(self, peer: ProcessId | None) -> bool:
        if peer is not None:
            if self.refs.has_open_calls(peer):
                return False
            del self.peers[peer]
            self.world.disconnected(self.process, peer)
        return True

    # ------------------------------------------------------------------ placement groups

    def create_group(self, bundles: list[dict[str, int]], strategy: str, then: Callable[[Any], None]) -> bytes:
        """Ask for a placement group."""
        group = bytes(self.new_id())
        self.group_states[group] = None
        request = self.ask_head(then)
        self.tell_daemon(g.CreatePlacementGroup(request, group, bundles, strategy, "", "default", False, []))
        return group

    def remove_group(self, group: bytes, then: Callable[[Any], None]) -> None:
        """Give it back."""
        self.tell_daemon(g.RemovePlacementGroup(self.ask_head(then), group))

    # ------------------------------------------------------------------ the daemon

    def from_daemon(self, message: Any) -> bool:
        """The daemon says something to a submitter; false when it is no such message."""
        if isinstance(message, LeaseGranted | ReclaimLease | RequestFailed | LeaseBroken | LeaseDelayed):
            self._on_lease_message(message)
        elif isinstance(message, a.ActorState):
            self._on_actor_state(message)
        elif isinstance(message, a.ActorFound | g.PlacementGroups):
            self.requests.pop(message.request)(message)
        elif isinstance(message, g.PlacementGroupState):
            self.group_states[message.group] = message.state
        else:
            return False
        return True

    def tick(self) -> None:
        """Housekeeping, every 50 ms or so."""
        self.tell_deaths()
        self.submission.tick(self.world.now_s)
        self._carry_out_submission()
        self.forget_unused()
        for actor in self._questions.take_due(self.world.now_s):
            self.tell_daemon(a.SubscribeActor(actor))
        self.run_later()


def listed_ids(task: Task) -> list[ObjectId]:
    """The ids that travel in a call."""
    return [ObjectId(one) for one in arguments.listed_ids(task)]
