"""What local mode tells about the session: one node, which is this process."""

from __future__ import annotations

import os
import platform
import threading
from typing import TYPE_CHECKING, Any

from remora.base.ids import make_process_id
from remora.base.network_address import LOOPBACK
from remora.base.options import InitOptions
from remora.base.resources import Resources
from remora.base.runtime import ContextInformation, KeyValueResult, NodeInformation
from remora.core.key_value import KeyValueTable
from remora.messages.key_value import KeyValueRequest
from remora.processes.local_calls import running
from remora.system.cpu_count import available_cpus

if TYPE_CHECKING:
    from remora.processes.local_actor import LocalActor

PROCESS = make_process_id(1, 1)
NODE_ID = PROCESS[:4].hex()
JOB_ID = "01000000"


class LocalSession:
    """The questions of :class:`remora.base.runtime.Runtime` about where the calling code runs, and on what."""

    def __init__(self, options: InitOptions) -> None:
        self.is_connected = True
        self.namespace = options.namespace or "local"
        num_cpus = options.num_cpus if options.num_cpus is not None else _machine_cpus()
        self._resources = Resources.of(num_cpus, options.num_gpus, None, options.resources).to_floats()
        self._labels = options.labels
        self._key_value = KeyValueTable()
        self._key_value_lock = threading.Lock()

    def context(self) -> ContextInformation:
        call = running.get()
        if call is None:
            return ContextInformation(job_id=JOB_ID, node_id=NODE_ID, worker_id=PROCESS.hex(), namespace=self.namespace)
        actor: LocalActor | None = call.actor
        return ContextInformation(
            job_id=JOB_ID,
            node_id=NODE_ID,
            worker_id=PROCESS.hex(),
            namespace=self.namespace,
            task_id=call.task_id.hex(),
            task_name=call.task_name,
            function_name=call.function_name,
            actor_id=actor.plan.id.hex() if actor else None,
            actor_name=actor.plan.name if actor else None,
            assigned_resources=call.resources,
            was_reconstructed=actor is not None and actor.was_restarted,
            is_cancelled=call.is_cancelled,
            is_driver=False,
        )

    def nodes(self) -> list[NodeInformation]:
        return [
            NodeInformation(
                node_id=NODE_ID,
                is_alive=self.is_connected,
                hostname=platform.node(),
                address=LOOPBACK,
                resources=self._resources,
                labels=self._labels,
            )
        ]

    def cluster_resources(self) -> dict[str, float]:
        return dict(self._resources)

    def available_resources(self) -> dict[str, float]:
        return dict(self._resources)

    def key_value(
        self, operation: int, namespace: bytes, key: bytes, value: bytes, overwrite: bool, by_prefix: bool
    ) -> KeyValueResult:
        with self._key_value_lock:
            answer = self._key_value.answer(KeyValueRequest(0, operation, namespace, key, value, overwrite, by_prefix))
        return answer.count, answer.value, answer.keys

    def address_info(self) -> dict[str, Any]:
        return {
            "address": "local",
            "node_ip_address": LOOPBACK,
            "node_id": NODE_ID,
            "session_dir": "",
            "webui_url": "",
        }


def _machine_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return available_cpus()
    return os.cpu_count() or 1
