"""Actors of the node: :class:`~remora.core.actor_registry.ActorRegistry` joined to leases, objects and processes."""

from __future__ import annotations

from typing import Any

from remora.base.ids import ObjectId, ProcessId
from remora.base.resources import Resources
from remora.core import actor_effects as effects_core
from remora.core.actor_registry import ActorRegistry
from remora.core.lease import ActorPlaced
from remora.messages import actors as m
from remora.processes.daemon.connected import ConnectedProcess, ConnectedProcesses
from remora.processes.daemon.objects import ObjectService
from remora.processes.daemon.workers import WorkerService


class ActorService:
    """Creates, finds, restarts and ends actors."""

    def __init__(self, processes: ConnectedProcesses, workers: WorkerService, objects: ObjectService) -> None:
        self._processes = processes
        self._workers = workers
        self._objects = objects
        self.registry = ActorRegistry()
        self._delays: dict[bytes, str] = {}
        """Actors that wait for a worker for long, and why."""
        self.registry.why_waiting = lambda actor: self._delays.get(actor, "")
        workers.on_delayed = self._delays.__setitem__
        self._now_s = 0.0
        workers.on_placed = self._on_placed
        workers.on_unplaceable = self._on_unplaceable

    def on_message(self, connected: ConnectedProcess, message: Any, now_s: float) -> None:
        """A message about actors."""
        self._now_s = now_s
        if not self.registry.process_message(connected.process, connected.job, message):
            raise ValueError(f"{connected!r} sent {message!r}, which only a daemon says")
        if isinstance(message, m.CreateActor):
            self._objects.watch(ObjectId(message.actor))
            actor = self.registry.table.get(message.actor)
            if actor is not None and actor.detached:
                self._objects.keep_detached(ObjectId(message.actor))
        self.carry_out()

    def on_object_freed(self, object_id: ObjectId) -> None:
        """The creation object of an actor is freed: its last handle is gone."""
        self.registry.handles_gone(object_id)
        self.carry_out()

    def on_worker_ended(self, connected: ConnectedProcess, cause: str) -> None:
        """A worker is dead; it may have been an actor's."""
        self.registry.worker_died(connected.process, cause)
        self.registry.process_gone(connected.process)
        self.carry_out()

    def on_process_gone(self, process: ProcessId) -> None:
        """A driver is gone."""
        self.registry.process_gone(process)

    def end_job(self, job: ProcessId) -> None:
        """The driver has ended: its actors end, but the detached ones."""
        self.registry.job_ended(job)
        self.carry_out()

    def _on_placed(self, effect: ActorPlaced) -> None:
        worker = effect.worker
        self._delays.pop(effect.actor, None)
        self.registry.placed(effect.actor, worker.process, worker.address, worker.slot, effect.gpu_ids)
        self.carry_out()

    def _on_unplaceable(self, actor: bytes, reason: str) -> None:
        self._delays.pop(actor, None)
        self.registry.unplaceable(actor, reason)
        self.carry_out()

    # ------------------------------------------------------------------ doing what the registry says

    def carry_out(self) -> None:
        """Empty the outbox."""
        outbox = self.registry.outbox
        while outbox:
            effects = outbox[:]
            outbox.clear()
            for effect in effects:
                self._do(effect)

    def _do(self, effect: effects_core.Effect) -> None:
        if isinstance(effect, effects_core.Send):
            if isinstance(effect.message, m.ConstructActor):
                self._workers.set_name(effect.process, effect.message.spec.class_name)
            self._processes.send(effect.process, effect.message)
        elif isinstance(effect, effects_core.RequestPlacement):
            self._workers.router.actors.request(
                effect.actor,
                effect.job,
                Resources(effect.spec.resources),
                Resources(effect.spec.placement),
                effect.spec.strategy,
                effect.spec.environment,
                now_s=self._now_s,
            )
            self._workers.carry_out()
        elif isinstance(effect, effects_core.CancelPlacement):
            self._delays.pop(effect.actor, None)
            self._workers.router.actors.cancel(effect.actor, self._now_s)
            self._workers.carry_out()
        elif isinstance(effect, effects_core.KillWorker):
            self._workers.kill(effect.process)
        elif isinstance(effect, effects_core.ReleaseSpec):
            self._objects.drop_detached(ObjectId(effect.actor), self._now_s)
        # CreationSettled needs nothing here: the creation object has its value from birth.
