"""One call: its function and arguments in, its reply out. Whoever runs calls (one thread, many, a loop) uses this."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from remora.base.builtin_methods import find_method
from remora.base.errors import ActorDiedError, RemoraError, TaskCancelledError, WorkerCrashedError
from remora.base.ids import ObjectId
from remora.base.limits import INLINE_LIMIT_BYTES, MAX_INLINE_BYTES
from remora.base.object_ref import BORROWED, FAILED, INLINE, PENDING, STORED, ObjectRef
from remora.messages.objects import Location, Value
from remora.messages.tasks import Argument, DefineFunction, Done, Reply, Task
from remora.processes.client.arguments import listed_ids
from remora.processes.client.values import location_of
from remora.processes.worker.submitters import Submitter
from remora.serialization import (
    Serialized,
    deserialize,
    deserialize_arguments,
    deserialize_error,
    serialize,
    serialize_error,
    serialize_system_error,
)
from remora.system.interrupts import interruptible, pending
from remora.system.process_control import end_process

if TYPE_CHECKING:
    from remora.processes.client.client import Client


class WorkerExit(BaseException):
    """The code of a call asked the process to end; the reply to the call is sent."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class ActorExit(BaseException):
    """Raised by ``exit_actor`` inside a method."""


class CallInterrupted(KeyboardInterrupt):
    """Raised in the code of a task that was cancelled: what ``except Exception`` lets through, as Ctrl-C."""


class CallRunner:
    """Runs calls. ``instance`` is the actor of this worker, whose methods are called by name."""

    def __init__(self, client: Client, slot: int) -> None:
        self._client = client
        self._begin = client.slots.begin
        self._slot = slot
        self._machine = client.refs.machine
        self.pid = os.getpid()
        self.instance: Any = None
        self.is_actor = False
        self.is_forked_copy = False
        """This is a child that a call has forked: the reply is its parent's, and it ends when it leaves the call."""
        self.class_name = ""

    def full_name(self, function_name: str) -> str:
        """With its class, when it is a method."""
        return f"{self.class_name}.{function_name}" if self.class_name else function_name

    def run(self, submitter: Submitter, task: Task) -> None:
        """Call the function and put the reply on the connection, unflushed.

        Raises:
            WorkerExit: the code called ``sys.exit`` or ``exit_actor``.
        """
        self._begin(self._slot, submitter.process, task.call)
        exit_code: int | None = None
        error_data: bytes = b""
        function = args = kwargs = result = None
        results: list[Serialized] = []
        try:
            function = submitter.functions.get(task.function)
            if function is None:
                function = self.load_function(submitter, task.function)
            if task.arguments or task.stored is not None:
                args, kwargs = self.load_arguments(task)
                result = call_user(function, args, kwargs)
            else:
                result = call_user(function, (), {})
            results = self.serialize_result(submitter, task, result)
        except BaseException as error:  # noqa: BLE001
            # The code of a user may raise anything. Only bytes leave this block: the traceback holds the arguments.
            error_data, exit_code = self.describe_failure(submitter, task, error)
        function = args = kwargs = result = None
        if error_data:
            self.finish_failed(submitter, task, error_data)
        else:
            self.finish(submitter, task, results)
        if exit_code is not None:
            raise WorkerExit(exit_code)

    def prepare(self, submitter: Submitter, task: Task) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """Function and arguments of a call, for who calls it himself."""
        self._begin(self._slot, submitter.process, task.call)
        function = submitter.functions.get(task.function)
        if function is None:
            function = self.load_function(submitter, task.function)
        if task.arguments or task.stored is not None:
            return function, *self.load_arguments(task)
        return function, (), {}

    def finish(self, submitter: Submitter, task: Task, results: list[Serialized]) -> None:
        """Put the reply with these values on the connection, unflushed."""
        if self.is_forked_copy:
            end_process(0)
        if len(results) == 1 and self._is_plain(task, results[0]) and not submitter.connection.closed:
            submitter.connection.outgoing.append(Done(task.call, results[0].to_bytes()))
        else:
            self.reply(submitter, task, results)

    def finish_failed(self, submitter: Submitter, task: Task, error_data: bytes) -> None:
        """Put the reply with this error on the connection, unflushed."""
        self._settle(submitter, task, [Value(FAILED, error_data)], [], {})

    def _is_plain(self, task: Task, serialized: Serialized) -> bool:
        """Whether counting has nothing to do with the call: values came and one small value goes."""
        if serialized.refs or serialized.size_bytes > INLINE_LIMIT_BYTES or task.num_returns != 1:
            return False
        if task.refs or task.values or task.stored is not None:
            return not listed_ids(task)
        return not (self.is_actor and self._machine.own_actor_is_lent)

    # ------------------------------------------------------------------ in

    def load_function(self, submitter: Submitter, number: int) -> Callable[..., Any]:
        """The function with this number, unpickled at its first call.

        Raises:
            DeserializationError: it cannot be loaded here.
            AttributeError: the actor has no such method.
        """
        definition = submitter.definitions[number]
        function: Callable[..., Any]
        if isinstance(definition, DefineFunction):
            refs = None
            if definition.refs:
                with self._client.lock:
                    refs = {bytes(ref.id): ref for ref in self._client.refs.adopt(definition.refs)}
                # The cached function is a ref that lives here, whether it was called yet or not.
                submitter.function_refs[number] = list(refs.values())
            function = deserialize(definition.pickled, refs)
        else:
            function = find_method(self.instance, definition.name)
        submitter.functions[number] = function
        if not self.is_actor:
            self._client.slots.set_name(self._slot, definition.name)
        return function

    def load_arguments(self, task: Task) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``(args, kwargs)``, with the values of top-level refs in their places."""
        resolve = None
        if task.refs:
            with self._client.lock:
                resolve = {bytes(ref.id): ref for ref in self._client.refs.adopt(task.refs)}
        if not task.values and task.stored is None:
            return deserialize_arguments(task.arguments, (), resolve)
        awaited = self._await_arguments(task)
        values = [
            next(awaited) if argument.value.state == PENDING else self._load_argument(argument)
            for argument in task.values
        ]
        data: bytes | memoryview = task.arguments
        if task.stored is not None:
            data = self._view(task.stored)
        return deserialize_arguments(data, values, resolve)

    def _await_arguments(self, task: Task) -> Iterator[Any]:
        """The values that did not travel with the call."""
        ids = [argument.id for argument in task.values if argument.value.state == PENDING]
        if not ids:
            return iter(())
        with self._client.lock:
            refs = self._client.refs.adopt(ids)
        return iter(self._client.values.get_many(refs, None))

    def _load_argument(self, argument: Argument) -> Any:
        value = argument.value
        if value.state == FAILED:
            raise deserialize_error(value.data)
        resolve = None
        if value.contents:
            with self._client.lock:
                resolve = {bytes(ref.id): ref for ref in self._client.refs.adopt(value.contents)}
        data: bytes | memoryview = value.data if value.state == INLINE else self._view(argument)
        return deserialize(data, resolve, object_id=argument.id)

    def _view(self, argument: Argument) -> memoryview:
        """The stored value, pinned by a ref of its own: an array that the code keeps stays valid after the call."""
        with self._client.lock:
            (ref,) = self._client.refs.adopt([argument.id])
            location = location_of(argument.value)
            if ref.state == BORROWED and location.node == self._client.node:
                ref.contents = tuple(argument.value.contents)
                ref.data = location
                ref.state = STORED
        return self._client.values.view(ref)

    # ------------------------------------------------------------------ out

    def serialize_result(self, submitter: Submitter, task: Task, result: Any) -> list[Serialized]:
        """The values of the call's returns.

        Raises:
            ValueError: the function returned another number of values than the call wants.
        """
        expected = task.num_returns
        if expected == 1:
            return [serialize(result)]
        if not expected:
            return []
        name = submitter.name_of(task.function)
        try:
            values = list(result)
        except TypeError:
            raise ValueError(
                f"{name!r} was called with num_returns={expected} and returned {type(result).__name__}, "
                "which is no sequence of that many values"
            ) from None
        if len(values) != expected:
            raise ValueError(f"{name!r} was called with num_returns={expected} and returned {len(values)} values")
        return [serialize(value) for value in values]

    def reply(self, submitter: Submitter, task: Task, results: list[Serialized]) -> None:
        """Put the reply with these values on the connection; large ones go into the arena."""
        returns: list[Value] = []
        stored: dict[ObjectId, Location] = {}
        contents: list[ObjectRef[Any]] = []
        room_bytes = MAX_INLINE_BYTES
        try:
            for item, serialized in enumerate(results):
                ids: list[bytes] = [ref.id for ref in serialized.refs]
                if serialized.size_bytes <= min(INLINE_LIMIT_BYTES, room_bytes):
                    room_bytes -= serialized.size_bytes
                    returns.append(Value(INLINE, serialized.to_bytes(), None, ids))
                else:
                    location = self._client.arena.store(serialized)
                    stored[ObjectId(submitter.process + _pair(task.call, item))] = location
                    returns.append(Value(STORED, b"", location, ids))
                contents += serialized.refs
                del serialized
        except RemoraError as error:  # a full store is the call's error, not the worker's end
            for location in stored.values():
                self._client.arena.discard(location)
            returns, stored, contents = [Value(FAILED, serialize_system_error(error))], {}, []
        results.clear()
        self._settle(submitter, task, returns, contents, stored)

    def describe_failure(self, submitter: Submitter, task: Task, error: BaseException) -> tuple[bytes, int | None]:
        """The error as data, and the exit code if it asks the process to end."""
        if self.is_forked_copy:
            _end_forked_copy(error)
        name = task.name or self.full_name(submitter.name_of(task.function))
        if isinstance(error, ActorExit):
            died = ActorDiedError(f"the actor left by itself: {name} called exit_actor()")
            return serialize_system_error(died), 0
        if isinstance(error, CallInterrupted):
            error = TaskCancelledError(f"{name!r} was cancelled while it ran")
        if isinstance(error, TaskCancelledError):
            return serialize_system_error(error), None
        exit_code = exit_code_of(error)
        if exit_code is not None:
            crashed = WorkerCrashedError(
                f"{name!r} ended its worker process {self.pid} with sys.exit({exit_code}): return, or raise"
            )
            return serialize_system_error(crashed), exit_code
        data = serialize_error(
            error,
            function_name=name,
            pid=self.pid,
            node_address=self._client.node_address,
            is_actor=self.is_actor,
        )
        return data, None

    def _settle(
        self,
        submitter: Submitter,
        task: Task,
        returns: list[Value],
        contents: list[ObjectRef[Any]],
        stored: dict[ObjectId, Location],
    ) -> None:
        with self._client.lock:
            if submitter.connection.closed:
                if len(returns) == 1:
                    returns = returns * task.num_returns  # an error is that of all
                self._client.refs.task_orphaned(submitter.process, task.call, returns, contents)
                return
            carries_refs = bool(contents)
            closed = self._client.refs.task_ended(submitter.process, task.call, contents, stored)
            if carries_refs:
                # What the reply names must be known at home before anybody hears of it: this process may die next.
                self._client.late_publications.flush()
            contents.clear()
            # Before what the machine has to say of it: a Close must not overtake its reply.
            submitter.connection.outgoing.append(Reply(task.call, returns, closed))
            self._client.refs.carry_out()


@interruptible
def call_user(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call code of the user's; the one place from which a signal may raise into it."""
    if pending:  # it was cancelled while its function or arguments were loaded
        raise pending.pop()
    return function(*args, **kwargs)


def _end_forked_copy(error: BaseException) -> NoReturn:
    exit_code = exit_code_of(error)
    if exit_code is None:
        traceback.print_exception(error)
    end_process(1 if exit_code is None else exit_code)


def exit_code_of(error: BaseException) -> int | None:
    """The exit code that a ``SystemExit`` asks for; None for other exceptions."""
    if not isinstance(error, SystemExit):
        return None
    code = error.code
    if code is None:
        return 0
    return code if isinstance(code, int) else 1


def _pair(call: int, item: int) -> bytes:
    return call.to_bytes(4, "big") + item.to_bytes(4, "big")
