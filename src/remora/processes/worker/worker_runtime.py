"""The runtime inside a task or an actor: the client's, and what only running code can ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import msgspec

from remora.base.bundle_names import without_group
from remora.base.resources import Resources
from remora.base.runtime import ActorFound, ContextInformation
from remora.processes.client.client import Client
from remora.processes.client.client_runtime import ClientRuntime
from remora.processes.worker.call_runner import ActorExit
from remora.processes.worker.cancellation import is_cancelled
from remora.processes.worker.context import current_call, task_id_of

if TYPE_CHECKING:
    from remora.processes.worker.main import Worker


class WorkerRuntime(ClientRuntime):
    """See :class:`remora.base.runtime.Runtime`."""

    def __init__(self, client: Client, worker: Worker) -> None:
        super().__init__(client)
        self._worker = worker

    def context(self) -> ContextInformation:
        """See :class:`~remora.base.runtime.Runtime`."""
        terms = self._worker.terms
        information = msgspec.structs.replace(
            super().context(),
            is_driver=False,
            job_id=self._worker.job.hex(),
            assigned_resources=Resources(without_group(terms.resources)).to_floats(),
            gpu_ids=terms.gpu_ids,
        )
        call = current_call()
        if call is not None:
            submitter, task = call
            information = msgspec.structs.replace(
                information,
                task_id=task_id_of(call).hex(),
                task_name=task.name or self._worker.runner.full_name(submitter.name_of(task.function)),
                function_name=submitter.name_of(task.function),
                is_cancelled=is_cancelled(call),
            )
        actor = self._worker.actor
        if actor is not None:
            information = msgspec.structs.replace(
                information,
                actor_id=actor.actor.hex(),
                actor_name=actor.name,
                namespace=actor.namespace or information.namespace,
                was_reconstructed=actor.incarnation > 1,
            )
        return information

    def current_actor(self) -> ActorFound | None:
        """See :class:`~remora.base.runtime.Runtime`."""
        actor = self._worker.actor
        if actor is None:
            return None
        with self._client.lock:
            (creation,) = self._client.refs.adopt([actor.actor])
        return creation, actor.handle

    def exit_actor(self) -> NoReturn:
        """See :class:`~remora.base.runtime.Runtime`."""
        if self._worker.actor is None or current_call() is None:
            super().exit_actor()
        raise ActorExit

    def shutdown(self) -> None:
        """A worker leaves its session when its daemon says so; code that calls this in a task means its own driver."""
