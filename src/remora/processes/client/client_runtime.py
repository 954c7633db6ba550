"""The runtime of a process that is in a session: what the API layer calls, and which part of the client does it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from remora.base.ids import process_of
from remora.base.network_address import LOOPBACK, split_address
from remora.base.object_ref import FIRST_FINISHED, ObjectRef
from remora.base.runtime import Actor, ActorFound, ContextInformation, KeyValueResult, NodeInformation
from remora.messages.inspection import GetNodes, NodeReport
from remora.messages.key_value import KeyValueRequest
from remora.processes.client.client import Client
from remora.processes.client.methods import ActorRecord
from remora.processes.client.pending import PendingCall

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike


class ClientRuntime:
    """Implements :class:`remora.base.runtime.Runtime`. The hot methods are those of their owners, without a detour."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.get_one = client.values.get_one
        self.get_many = client.values.get_many
        self.wait = client.values.wait
        self.submit = client.tasks.submit
        self.submit_method = client.methods.submit_method
        self.create_actor = client.actors.create
        self.get_actor = client.actors.get
        self.list_named_actors = client.actors.list_named
        self.kill = client.actors.kill
        self.placement_groups = client.groups

    @property
    def is_connected(self) -> bool:
        """See :class:`~remora.base.runtime.Runtime`."""
        return not self._client.ended

    def put(self, value: object, owner: Actor | None = None, copies: int = 1) -> ObjectRef[Any]:
        """See :class:`~remora.base.runtime.Runtime`."""
        values = self._client.values
        return values.put(value) if copies == 1 else values.put_copies(value, copies)

    def create(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray[Any, Any]:
        """See :class:`~remora.base.runtime.Runtime`."""
        return self._client.arena.create_array(shape, dtype)

    def cancel(self, ref: ObjectRef[Any], force: bool, recursive: bool) -> None:
        """See :class:`~remora.base.runtime.Runtime`."""
        record: PendingCall | None = ref.task
        if ref.state >= FIRST_FINISHED or record is None:
            if ref.state < FIRST_FINISHED and process_of(ref.id) != self._client.process:
                raise ValueError(
                    f"{ref!r} is made by a task of another process; only the process that called it can cancel"
                )
            return
        if type(record.shape) is ActorRecord:
            if force:
                raise ValueError("force=True ends the process of the actor: use remora.kill(handle) for that")
            self._client.methods.cancel(record, recursive)
        else:
            self._client.tasks.cancel(record, force, recursive)

    def current_actor(self) -> ActorFound | None:
        """See :class:`~remora.base.runtime.Runtime`."""
        return None

    def exit_actor(self) -> NoReturn:
        """See :class:`~remora.base.runtime.Runtime`."""
        raise TypeError("exit_actor() was called outside of an actor: only a method of an actor can end it")

    def context(self) -> ContextInformation:
        """See :class:`~remora.base.runtime.Runtime`."""
        client = self._client
        return ContextInformation(
            job_id=client.process.hex(),
            node_id=client.node.hex(),
            worker_id=client.process.hex(),
            namespace=client.namespace,
            session_directory=client.welcome.session_directory,
        )

    def nodes(self) -> list[NodeInformation]:
        """See :class:`~remora.base.runtime.Runtime`."""
        return [
            NodeInformation(
                node_id=report.node.hex(),
                is_alive=report.is_alive,
                hostname=report.hostname,
                address=report.address,
                resources=report.resources,
                labels=report.labels,
                death_reason=report.cause,
            )
            for report in self._node_reports()
        ]

    def cluster_resources(self) -> dict[str, float]:
        """See :class:`~remora.base.runtime.Runtime`."""
        return _total(report.resources for report in self._node_reports() if report.is_alive)

    def available_resources(self) -> dict[str, float]:
        """See :class:`~remora.base.runtime.Runtime`."""
        return _total(report.available for report in self._node_reports() if report.is_alive)

    def _node_reports(self) -> list[NodeReport]:
        client = self._client
        return list(client.request(lambda request: client.send_to_daemon(GetNodes(request))).nodes)

    def key_value(
        self, operation: int, namespace: bytes, key: bytes, value: bytes, overwrite: bool, by_prefix: bool
    ) -> KeyValueResult:
        """See :class:`~remora.base.runtime.Runtime`."""
        client = self._client
        asked = (operation, namespace, key, value, overwrite, by_prefix)
        answer = client.request(lambda request: client.send_to_daemon(KeyValueRequest(request, *asked)))
        return answer.count, answer.value, answer.keys

    def adopt_exported(self, object_id: bytes) -> ObjectRef[Any]:
        """The ref of an id that came in a pickle which is not ours."""
        with self._client.lock:
            ref = self._client.refs.load(object_id)
        self._client.nudge()
        return ref

    def address_info(self) -> dict[str, Any]:
        """See :class:`~remora.base.runtime.Runtime`."""
        welcome = self._client.welcome
        return {
            "address": welcome.session_directory,
            "session_dir": welcome.session_directory,
            "node_id": self._client.node.hex(),
            "node_ip_address": split_address(self._client.node_address)[0] if self._client.is_in_cluster else LOOPBACK,
            "namespace": self._client.namespace,
        }

    def shutdown(self) -> None:
        """See :class:`~remora.base.runtime.Runtime`."""
        self._client.close()


def _total(amounts: Any) -> dict[str, float]:
    total: dict[str, float] = {}
    for one in amounts:
        for name, amount in one.items():
            total[name] = total.get(name, 0) + amount
    return total
