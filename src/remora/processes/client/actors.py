"""Actors as their callers see them: made, found by name, followed while they live and killed.

The life of an actor is decided by the daemon, in a cluster by the head; calls of methods are in ``methods.py``.
"""

from __future__ import annotations

from struct import Struct
from time import monotonic
from typing import TYPE_CHECKING, Any

from remora.base.errors import ActorAlreadyExistsError
from remora.base.ids import ActorId, ObjectId, ProcessId
from remora.base.object_ref import INLINE, ObjectRef
from remora.base.options import ActorOptions
from remora.base.runtime import Actor, ActorFound, Class
from remora.core.actor_questions import EXPLANATION_TIMEOUT_S, ActorQuestions
from remora.messages import actors as messages
from remora.messages.tasks import Task
from remora.processes.client.arguments import without_places
from remora.processes.client.methods import ActorRecord
from remora.processes.client.peers import Peer, patience_after
from remora.processes.client.pending import PendingCall
from remora.serialization import serialize, serialize_function

if TYPE_CHECKING:
    from remora.processes.client.client import Client

_pack_pair = Struct(">II").pack
_data_of_none = serialize(None).to_bytes()


class ActorClient:
    """The actors that this process has created or got handles of."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = client.lock
        self._refs = client.refs
        self._methods = client.methods
        self._peers = client.peers
        self._prefix = client.process
        self._next_call = client.next_call
        self._records: dict[bytes, ActorRecord] = {}
        self._unused: dict[ActorId, None] = {}
        """Actors whose last handle here died, until they can be forgotten."""
        self._questions = ActorQuestions()

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
            record = self._records[actor] = ActorRecord(self._methods, actor, actor_class.name)
        self._questions.created(actor, monotonic())
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
        record = self.find_record(actor)
        with self._lock:
            record.calls.kill_sent()
            self._client.send_to_daemon(messages.KillActor(actor.id, no_restart))
        self._client.flush_daemon()

    # ------------------------------------------------------------------ what becomes of those that are called here

    def find_record(self, actor: Actor) -> ActorRecord:
        """The record of the actor; the first time the daemon is asked to tell its state, now and later."""
        with self._lock:
            record = self._records.get(actor.id)
            if record is None:
                self._client.check_alive()
                record = self._records[actor.id] = ActorRecord(self._methods, actor.id, actor.class_name)
                self._client.send_to_daemon(messages.SubscribeActor(actor.id))
            actor.state = record
        self._client.flush_daemon()
        return record

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
        if not self._questions.told(state, record.calls.state.state, monotonic()):
            return
        if state.waits_for:
            self._client.warn(f"actor {record.class_name} waits for a worker: {state.waits_for}")
        peer = record.peer
        if state.state != messages.ALIVE and peer is not None:
            # The worker is dead, so all that it ever wrote is there.
            peer.connection.read_to_end()
            if not peer.connection.closed:
                self._peers.disconnect(peer)
                self._methods.on_peer_lost(peer, None)
        with self._lock:
            record.configure(state.is_ordered, state.max_task_retries, state.max_pending_calls)
            if state.state == messages.ALIVE and record.peer is None:
                try:
                    record.peer = self._peers.connect(ProcessId(state.worker), state.address, self._methods, record)
                except OSError as error:
                    # Either it has died since, and the daemon says so, or this process lacks something.
                    patience_s = patience_after(error, EXPLANATION_TIMEOUT_S, self._client.warn)
                    self._questions.lost(record.id, monotonic(), patience_s)
                    return
            self._methods.push(record, record.calls.actor_state(state))
            self._methods.fail_lost(record)

    def lost(self, record: ActorRecord) -> None:
        """The connection to the actor has ended; the daemon says why, or is asked after a while. Wants the lock."""
        self._questions.lost(record.id, monotonic())

    def on_refs_died(self, ids: list[ObjectId]) -> None:
        """Those of them that were the last handles of actors are looked at by the next :meth:`tick`."""
        if self._records:
            self._unused.update((ActorId(one), None) for one in ids if one in self._records)

    @property
    def is_idle(self) -> bool:
        """Whether :meth:`tick` has nothing to do."""
        return not self._unused and self._questions.is_idle

    def tick(self, now_s: float) -> None:
        """Forget actors that nobody here can call, ask for those that cannot be reached. Wants the lock."""
        self._forget_unused()
        for actor in self._questions.take_due(now_s):
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
                self._questions.forget(actor)
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
                self._methods.fail_lost(record)
