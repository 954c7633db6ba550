"""Local mode: a runtime without other processes, in which ``breakpoint()`` and a debugger work.

A call runs inside ``.remote()``, in the caller's thread; its error waits in the ref until ``get``. Nothing is copied
and nothing is limited: values are the caller's own objects, also arrays, and resources bind nobody. What a
program can see of tasks, actors, names and errors is otherwise as in a session with workers.
"""

from __future__ import annotations

import copy as copying
import threading
import weakref
from collections.abc import Generator
from itertools import count
from typing import TYPE_CHECKING, Any, NoReturn

from remora.base import runtime as runtimes
from remora.base.errors import (
    ActorAlreadyExistsError,
    ActorHandleNotFoundError,
    GetTimeoutError,
    PendingCallsLimitExceeded,
)
from remora.base.ids import make_object_id, short
from remora.base.object_ref import FIRST_FINISHED, IMMEDIATE, ObjectRef, hooks
from remora.base.options import ActorOptions, InitOptions, MethodOptions, TaskOptions
from remora.base.runtime import (
    Actor,
    ActorFound,
    Class,
    Function,
    Method,
    Refs,
)
from remora.processes.local_actor import LocalActor, make_actor
from remora.processes.local_actor_plan import plan_of
from remora.processes.local_calls import ActorExit, LocalCall, Outcomes, run_call, running, value_of, when_ready
from remora.processes.local_placement_groups import LocalPlacementGroups
from remora.processes.local_session import NODE_ID, PROCESS, LocalSession

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike


class LocalRuntime(LocalSession):
    """See :class:`remora.base.runtime.Runtime`, whose methods these are."""

    def __init__(self, options: InitOptions) -> None:
        super().__init__(options)
        self._outcomes = Outcomes()
        self.placement_groups = LocalPlacementGroups(PROCESS, NODE_ID, self.namespace, self.put)
        self._next_call = count(1)
        self._naming = threading.RLock()
        self._named: dict[tuple[str, str], weakref.ref[ObjectRef[Any]]] = {}
        self._detached: dict[LocalActor, ObjectRef[Any]] = {}
        self._actors: weakref.WeakSet[LocalActor] = weakref.WeakSet()
        self._exported: dict[bytes, ObjectRef[Any]] = {}
        hooks.future = self._outcomes.future
        hooks.wait_async = self._wait_async
        hooks.reduce = self._reduce

    # ------------------------------------------------------------------ objects

    def put(self, value: object, owner: Actor | None = None, copies: int = 1) -> ObjectRef[Any]:
        ref = self._new_refs(1)[0]
        ref.data = value
        ref.state = IMMEDIATE
        return ref

    def get_one(self, ref: ObjectRef[Any], timeout_s: float | None, copy: bool = False) -> Any:
        return self.get_many([ref], timeout_s, copy)[0]

    def get_many(self, refs: list[ObjectRef[Any]], timeout_s: float | None, copy: bool = False) -> list[Any]:
        for ref in refs:
            self._check_own(ref)
        if not self._outcomes.wait_until(lambda: all(ref.state >= FIRST_FINISHED for ref in refs), timeout_s):
            missing = [ref for ref in refs if ref.state < FIRST_FINISHED]
            raise GetTimeoutError(timeout_s=timeout_s, pending=len(missing), object_id=missing[0].id)
        values = [value_of(ref) for ref in refs]
        return [copying.deepcopy(value) for value in values] if copy else values

    def wait(
        self, refs: list[ObjectRef[Any]], num_returns: int, timeout_s: float | None, fetch_local: bool
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        def finished() -> list[ObjectRef[Any]]:
            return [ref for ref in refs if ref.state >= FIRST_FINISHED]

        self._outcomes.wait_until(lambda: len(finished()) >= num_returns, timeout_s)
        ready = finished()[:num_returns]
        chosen = set(ready)
        return ready, [ref for ref in refs if ref not in chosen]

    def create(self, shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray[Any, Any]:
        import numpy

        return numpy.empty(shape, dtype)

    # ------------------------------------------------------------------ tasks and actors

    def submit(self, function: Function, args: tuple[Any, ...], kwargs: dict[str, Any], options: TaskOptions) -> Refs:
        refs = self._new_refs(options.num_returns)
        call = LocalCall(
            function=function.function,
            args=args,
            kwargs=kwargs,
            refs=refs,
            task_id=self._task_id(refs),
            function_name=function.name,
            task_name=options.name or function.name,
            retries=options.max_retries,
            retry_exceptions=options.retry_exceptions,
            resources=options.resources.to_floats(),
        )
        self._outcomes.begin(call)
        when_ready(call, lambda: run_call(call, self._outcomes), self._outcomes)
        return _shaped(refs)

    def create_actor(
        self, actor_class: Class, args: tuple[Any, ...], kwargs: dict[str, Any], options: ActorOptions
    ) -> ActorFound:
        key = (options.namespace or self.namespace, options.name)
        with self._naming:
            if options.name and (found := self._find(key)):
                if options.get_if_exists:
                    return found
                raise ActorAlreadyExistsError(
                    f"an actor named {options.name!r} lives in namespace {key[0]!r} already: use another name, or "
                    "get_if_exists=True to get that one"
                )
            creation = self._new_refs(1)[0]
            plan = plan_of(actor_class, args, kwargs, options, creation, key[0])
            actor = make_actor(plan, self._outcomes)
            self._actors.add(actor)
            creation.data = actor
            creation.state = IMMEDIATE
            if options.name:
                self._named[key] = plan.creation
            if options.detached:
                self._detached[actor] = creation
        actor.start()
        return creation, plan.description

    def submit_method(
        self, actor: Actor, method: Method, args: tuple[Any, ...], kwargs: dict[str, Any], options: MethodOptions
    ) -> Refs:
        local = self._local_actor(actor)
        self._check_pending_calls(local)
        refs = self._new_refs(options.num_returns)
        name = f"{actor.class_name}.{method.name}"
        call = LocalCall(
            function=local.method(method.name),
            args=args,
            kwargs=kwargs,
            refs=refs,
            task_id=self._task_id(refs),
            function_name=name,
            task_name=options.name or name,
            actor=local,
            concurrency_group=options.concurrency_group,
            retries=local.plan.max_task_retries if options.max_task_retries is None else options.max_task_retries,
            retry_exceptions=options.retry_exceptions,
            resources=local.plan.resources,
        )
        self._outcomes.begin(call)
        local.submit(call)
        return _shaped(refs)

    def cancel(self, ref: ObjectRef[Any], force: bool, recursive: bool) -> None:
        call = self._outcomes.call_of(ref)
        if call is None:
            return
        if force and call.actor is not None:
            raise ValueError("cancel(force=True) kills a worker and is not for methods of actors: use kill(handle)")
        self._outcomes.cancelled(call)
        if call.future is not None:
            call.future.cancel()

    def kill(self, actor: Actor, no_restart: bool) -> None:
        local = self._local_actor(actor)
        if no_restart:
            local.end("It was killed with remora.kill")
        else:
            local.restart()
        if local.death is not None:
            self._detached.pop(local, None)

    def get_actor(self, name: str, namespace: str | None) -> ActorFound:
        key = (namespace or self.namespace, name)
        with self._naming:
            found = self._find(key)
        if found is None:
            raise ValueError(f"there is no live actor named {name!r} in namespace {key[0]!r}")
        return found

    def list_named_actors(self, all_namespaces: bool) -> list[tuple[str, str]]:
        with self._naming:
            living = [key for key in tuple(self._named) if self._find(key)]
        return sorted(key for key in living if all_namespaces or key[0] == self.namespace)

    def current_actor(self) -> ActorFound | None:
        call = running.get()
        return _found(call.actor) if call is not None and call.actor is not None else None

    def exit_actor(self) -> NoReturn:
        call = running.get()
        if call is None or call.actor is None:
            raise TypeError("exit_actor() ends the actor whose method calls it; no method of an actor is running here")
        raise ActorExit

    # ------------------------------------------------------------------ session

    def shutdown(self) -> None:
        if not self.is_connected:
            return
        self.is_connected = False
        for actor in list(self._actors):
            actor.end("The session was shut down")
        self._detached.clear()
        self._named.clear()
        self._exported.clear()
        hooks.future = hooks.wait_async = hooks.reduce = None

    # ------------------------------------------------------------------ refs

    def _new_refs(self, number: int) -> list[ObjectRef[Any]]:
        call = next(self._next_call)
        return [ObjectRef(make_object_id(PROCESS, call, item), task=self) for item in range(number)]

    def _task_id(self, refs: list[ObjectRef[Any]]) -> bytes:
        return refs[0].id[:12] if refs else make_object_id(PROCESS, next(self._next_call))[:12]

    def _check_own(self, ref: ObjectRef[Any]) -> None:
        if ref.task is not self:
            raise ActorHandleNotFoundError(f"{ref!r} belongs to another session than the one that is running")

    def _wait_async(self, ref: ObjectRef[Any]) -> Generator[Any, None, Any]:
        import asyncio

        return (yield from asyncio.wrap_future(self._outcomes.future(ref)).__await__())

    def _reduce(self, ref: ObjectRef[Any]) -> tuple[Any, ...]:
        self._exported[ref.id] = ref
        return restore_ref, (ref.id,)

    # ------------------------------------------------------------------ actors

    def _local_actor(self, actor: Actor) -> LocalActor:
        self._check_own(actor.creation)
        local = actor.creation.data
        assert isinstance(local, LocalActor)
        return local

    def _check_pending_calls(self, actor: LocalActor) -> None:
        limit = actor.plan.max_pending_calls
        if 0 < limit <= len(self._outcomes.calls_to(actor)):
            raise PendingCallsLimitExceeded(
                f"actor {actor.plan.class_name} has {limit} unfinished calls, as many as its max_pending_calls allows"
            )

    def _find(self, key: tuple[str, str]) -> ActorFound | None:
        """The living actor of that namespace and name. Wants the lock on names."""
        named = self._named.get(key)
        creation = named() if named is not None else None
        if creation is None or creation.data.death is not None:
            self._named.pop(key, None)
            return None
        return creation, creation.data.plan.description


def restore_ref(object_id: bytes) -> ObjectRef[Any]:
    """What a ref becomes that was pickled in this session by the standard pickle."""
    session = runtimes.current
    ref = session._exported.get(object_id) if isinstance(session, LocalRuntime) else None
    if ref is None:
        raise ActorHandleNotFoundError(f"object {short(object_id)} belongs to a session that has ended")
    return ref


def _shaped(refs: list[ObjectRef[Any]]) -> Refs:
    if len(refs) == 1:
        return refs[0]
    return refs or None


def _found(actor: LocalActor) -> ActorFound | None:
    creation = actor.plan.creation()
    return (creation, actor.plan.description) if creation is not None else None
