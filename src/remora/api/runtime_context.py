"""``get_runtime_context``: where the calling code runs."""

from __future__ import annotations

from typing import Any

from remora.api.actors import ActorHandle, rebuild_handle
from remora.api.init import connect_or_init
from remora.base import runtime
from remora.base.runtime import ContextInformation, Runtime


class RuntimeContext:
    """Facts about the running driver, task or actor. Ids are hexadecimal strings.

    Each method looks anew, so a context may be kept and used anywhere.

    Example:
        >>> remora.get_runtime_context().get_node_id()
        '00000001'
    """

    def get(self) -> dict[str, Any]:
        """Job, node, namespace and, inside a task or an actor, its id, in one dict."""
        here = self._here
        found = {"job_id": here.job_id, "node_id": here.node_id, "namespace": here.namespace}
        if here.task_id is not None:
            found["task_id"] = here.task_id
        if here.actor_id is not None:
            found["actor_id"] = here.actor_id
        return found

    def get_job_id(self) -> str:
        """The id of the driver's job."""
        return self._here.job_id

    def get_node_id(self) -> str:
        """The id of the node that this code runs on."""
        return self._here.node_id

    def get_worker_id(self) -> str:
        """The id of this process."""
        return self._here.worker_id

    def get_task_id(self) -> str | None:
        """The id of the running task or method call; None in a driver."""
        return self._here.task_id

    def get_task_name(self) -> str | None:
        """The running task's name: the option ``name``, or the function's; None in a driver."""
        return self._here.task_name

    def get_task_function_name(self) -> str | None:
        """The running function's name, with its module; None in a driver."""
        return self._here.function_name

    def get_actor_id(self) -> str | None:
        """The id of the actor whose method or constructor runs; None outside of one."""
        return self._here.actor_id

    def get_actor_name(self) -> str | None:
        """The actor's name, empty if it was given none; None outside of an actor."""
        return self._here.actor_name

    def get_placement_group_id(self) -> str | None:
        """The id of the placement group that the running task or actor is in; None for none."""
        return _session().placement_groups.current().hex() or None

    @property
    def should_capture_child_tasks_in_placement_group(self) -> bool:
        """Whether tasks and actors that are made here run in that placement group, too."""
        return _session().placement_groups.captures_children()

    def get_assigned_resources(self) -> dict[str, float]:
        """What the running task or actor holds, as ``{"CPU": 1.0}``."""
        return dict(self._here.assigned_resources)

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        """The indices of the GPUs that the running task or actor holds."""
        return {"GPU": [str(index) for index in self._here.gpu_ids]}

    def get_session_name(self) -> str:
        """The name of the session's directory."""
        return self._here.session_directory.rstrip("/").rpartition("/")[2]

    def get_temp_dir(self) -> str:
        """The session's directory; empty in local mode."""
        return self._here.session_directory

    def is_canceled(self) -> bool:
        """Whether the running task was cancelled; for loops that look by themselves."""
        return self._here.is_cancelled

    @property
    def namespace(self) -> str:
        """The namespace in which names of actors are looked up."""
        return self._here.namespace

    @property
    def was_current_actor_reconstructed(self) -> bool:
        """Whether the running actor was started again after its process died."""
        return self._here.was_reconstructed

    @property
    def current_actor(self) -> ActorHandle[Any]:
        """A handle of the actor whose method runs.

        Raises:
            RuntimeError: no method of an actor is running here.
        """
        found = _session().current_actor()
        if found is None:
            raise RuntimeError("current_actor: no method of an actor is running here")
        return rebuild_handle(*found)

    @property
    def runtime_env(self) -> dict[str, Any]:
        """The environment that the running task or actor was given."""
        return dict(self._here.runtime_env)

    @property
    def job_id(self) -> str:
        """As :meth:`get_job_id`."""
        return self._here.job_id

    @property
    def node_id(self) -> str:
        """As :meth:`get_node_id`."""
        return self._here.node_id

    @property
    def task_id(self) -> str | None:
        """As :meth:`get_task_id`."""
        return self._here.task_id

    @property
    def actor_id(self) -> str | None:
        """As :meth:`get_actor_id`."""
        return self._here.actor_id

    @property
    def _here(self) -> ContextInformation:
        return _session().context()


def _session() -> Runtime:
    return runtime.current or connect_or_init()


_context = RuntimeContext()


def get_gpu_ids() -> list[int]:
    """The indices of the GPUs that the running task or actor holds; none in a driver.

    Example:
        >>> @remora.remote(num_gpus=1)
        ... def train():
        ...     return remora.get_gpu_ids()
    """
    return list(_context._here.gpu_ids)


def get_runtime_context() -> RuntimeContext:
    """Facts about the running driver, task or actor: ids, resources, namespace.

    Example:
        >>> remora.get_runtime_context().get_actor_id()
    """
    return _context
