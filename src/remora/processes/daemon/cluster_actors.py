"""Actors of a node in a cluster: the head has the registry, this node finds workers and passes messages on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from remora.base.ids import NodeId, ObjectId, ProcessId, make_process_id, node_of
from remora.base.resources import Resources
from remora.core.lease import ActorPlaced
from remora.messages import actors as m
from remora.messages.head import CancelPlacement, PlaceActor
from remora.processes.daemon.connected import ConnectedProcess, ConnectedProcesses
from remora.processes.daemon.head_link import HeadLink
from remora.processes.daemon.objects import ObjectService
from remora.processes.daemon.workers import WorkerService


class ClusterActorService:
    """Stands where :class:`~remora.processes.daemon.actors.ActorService` stands in a session of one node."""

    def __init__(
        self, head: HeadLink, processes: ConnectedProcesses, workers: WorkerService, objects: ObjectService
    ) -> None:
        self._head = head
        self._processes = processes
        self._workers = workers
        self._objects = objects
        self._waiting: dict[bytes, PlaceActor] = {}
        """Actors that wait here for a worker."""
        self.class_names: dict[bytes, str] = {}
        """Of the actors whose workers are here, by worker."""
        self._now_s = 0.0
        workers.on_placed = self._on_placed
        workers.on_unplaceable = lambda actor, reason: self._reject(actor, reason, is_final=True)
        workers.on_delayed = lambda actor, reason: self._reject(actor, reason, is_final=False)

    @property
    def _process(self) -> ProcessId:
        """As which the daemon itself speaks to the head."""
        return make_process_id(int.from_bytes(self._head.node, "big"), 0)

    # ------------------------------------------------------------------ what processes of this node say

    def on_message(self, connected: ConnectedProcess, message: Any, now_s: float) -> None:
        """A message about actors."""
        if isinstance(message, m.CreateActor):
            self._objects.watch(ObjectId(message.actor))
        self._head.process_message(connected.process, connected.job, message)
        if isinstance(message, m.CreateActor) and message.detached and node_of(message.actor) == self._head.node:
            self._objects.keep_detached(ObjectId(message.actor))
            # The daemon itself is told when it is dead, or at once when the name was taken.
            self._head.process_message(self._process, b"", m.SubscribeActor(message.actor))

    def on_object_freed(self, object_id: ObjectId) -> None:
        """The creation object of an actor is freed: its last handle is gone."""
        self._head.handles_gone(object_id)

    def on_worker_ended(self, connected: ConnectedProcess, cause: str) -> None:
        """A worker is dead; it may have been an actor's."""
        self.class_names.pop(connected.process, None)
        self._head.process_ended(connected.process, cause)

    def on_process_gone(self, process: ProcessId) -> None:
        """A driver is gone."""
        self._head.process_ended(process, "it has left")

    def end_job(self, job: ProcessId) -> None:
        """The driver has ended: the head ends the actors of its job."""
        self._head.job_ended(job, "its driver has ended")

    # ------------------------------------------------------------------ what the head says

    def place(self, message: PlaceActor, now_s: float) -> None:
        """Find a worker for the actor."""
        self._now_s = now_s
        self._waiting[message.actor] = message
        self._workers.know_job(ProcessId(message.job), message.job_environment)
        self._workers.leases.request_actor(
            message.actor,
            message.job,
            Resources(message.resources),
            Resources(message.placement),
            "",  # the head has obeyed the strategy when it chose this node
            message.environment,
            now_s=now_s,
        )
        self._workers.carry_out()

    def cancel_placement(self, message: CancelPlacement, now_s: float) -> None:
        """The actor needs no worker any more."""
        waiting = self._waiting.get(message.actor)
        if waiting is not None and waiting.attempt == message.attempt:
            self._withdraw(message.actor, now_s)

    def on_state(self, state: m.ActorState, now_s: float) -> None:
        """What became of a detached actor that a process of this node has made."""
        if state.state == m.DEAD:
            self._objects.drop_detached(ObjectId(state.actor), now_s)

    def deliver(self, process: ProcessId, message: Any, address_of: Callable[[NodeId], str | None]) -> None:
        """The head's word to a process of this node."""
        if isinstance(message, m.ConstructActor):
            self.class_names[process] = message.spec.class_name
            self._workers.set_name(process, message.spec.class_name)
        elif isinstance(message, m.ActorState) and message.worker and self._processes.is_elsewhere(message.worker):
            # To callers of other nodes the worker is reached at its node's address.
            address = address_of(NodeId(message.worker[:4]))
            if address is None:
                return  # its node has died since it was said, and what became of the actor follows
            message = msgspec.structs.replace(message, address=address)
        self._processes.send(process, message)

    # ------------------------------------------------------------------ what the lease table says

    def _on_placed(self, effect: ActorPlaced) -> None:
        worker = effect.worker
        request = self._waiting.pop(effect.actor, None)
        if request is None:
            self._workers.kill(worker.process)
        else:
            self._head.placed(request, worker.process, worker.address, worker.slot, effect.gpu_ids)

    def _reject(self, actor: bytes, reason: str, *, is_final: bool) -> None:
        request = self._waiting.get(actor)
        if request is not None:
            self._withdraw(actor, self._now_s)
            self._head.rejected(request, reason, is_final)

    def _withdraw(self, actor: bytes, now_s: float) -> None:
        del self._waiting[actor]
        self._workers.leases.requester_gone(actor, now_s)
        self._workers.carry_out()
