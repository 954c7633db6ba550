"""A worker becomes an actor: its class, its constructor, and how its calls are run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from remora.base.errors import ActorDiedError
from remora.base.ids import ActorId, ObjectId, call_and_item_of, process_of
from remora.base.object_ref import FAILED
from remora.messages.actors import ActorConstructed, ConstructActor
from remora.messages.objects import Value
from remora.messages.tasks import LeaseTerms, Task
from remora.processes.client.arguments import listed_ids
from remora.processes.worker.call_runner import call_user
from remora.processes.worker.context import ActorContext
from remora.serialization import deserialize, deserialize_error, serialize_error, serialize_system_error

if TYPE_CHECKING:
    from remora.processes.worker.main import Worker


def construct_actor(worker: Worker, message: ConstructActor) -> None:
    """Run the constructor, tell the daemon how it went, and have calls run as the actor's options say."""
    client = worker.client
    spec = message.spec
    creator = process_of(message.actor)
    call, _ = call_and_item_of(message.actor)
    worker.actor = ActorContext(
        ActorId(message.actor),
        message.incarnation,
        message.name,
        message.namespace,
        spec.class_name,
        spec.handle,
        message.gpu_ids,
    )
    worker.runner.is_actor = True
    worker.runner.class_name = spec.class_name
    worker.take_terms(LeaseTerms(spec.resources, message.gpu_ids))
    task = Task(call, 0, spec.arguments, 0, spec.refs, spec.values, spec.stored)
    client.constructor_call = (creator, call)
    with client.lock:
        client.refs.machine.become_actor(ObjectId(message.actor))
        client.refs.machine.task_received(creator, call, [ObjectId(one) for one in listed_ids(task)])
    error_data = _construct(worker, message, task)
    # Before the daemon hears of it: the first call may arrive as soon as it does.
    if error_data:
        worker.executor = worker.make_executor(is_async=False, max_concurrency=1)
    else:
        worker.executor = worker.make_executor(spec.is_async, spec.max_concurrency)
    with client.lock:
        client.refs.task_ended(creator, call, [], {})
        client.refs.carry_out()
        error = Value(FAILED, error_data) if error_data else None
        client.send_to_daemon(ActorConstructed(message.actor, message.incarnation, error))
    client.flush()


def _construct(worker: Worker, message: ConstructActor, task: Task) -> bytes:
    """Make the instance; the error as data if that fails."""
    spec = message.spec
    client = worker.client
    cls: Any = None
    args: Any = None
    kwargs: Any = None
    try:
        with client.lock:
            resolve = {bytes(ref.id): ref for ref in client.refs.adopt(spec.refs)}
        cls = deserialize(spec.pickled_class, resolve or None)
        args, kwargs = (), {}
        if task.arguments or task.stored is not None:
            args, kwargs = worker.runner.load_arguments(task)
        worker.runner.instance = call_user(cls, args, kwargs)
    except BaseException as error:  # noqa: BLE001 - a constructor is user code and may raise anything
        data = serialize_error(
            error,
            function_name=f"{spec.class_name}.__init__",
            pid=worker.runner.pid,
            node_address=client.node_address,
            is_actor=True,
        )
        died = ActorDiedError(f"actor {spec.class_name} could not be made: {deserialize_error(data)}")
        return serialize_system_error(died)
    return b""
