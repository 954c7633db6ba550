"""Actors of local mode: the instance lives in this process.

A plain actor runs each call at once, in the caller's thread; a call whose arguments are unfinished holds back those
behind it. A threaded actor (``max_concurrency`` above 1) keeps no order. An async actor has an event loop in a thread
of its own, because its methods wait for each other and the caller may have a loop already.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any

from remora.base.builtin_methods import find_method
from remora.base.errors import ActorDiedError
from remora.processes.local_actor_plan import ActorPlan
from remora.processes.local_calls import (
    ActorExit,
    LocalCall,
    Outcomes,
    has_failed_argument,
    run_call,
    running,
    value_of,
    when_ready,
)
from remora.serialization import deserialize_error, serialize_error

CLEAN_UP_TIMEOUT_S = 1.0


class LocalActor:
    """A threaded actor, and what all actors share."""

    def __init__(self, plan: ActorPlan, outcomes: Outcomes) -> None:
        self.plan = plan
        self.outcomes = outcomes
        self.was_restarted = False
        self.death: ActorDiedError | None = None
        # Re-entrant: a method may call a method of its own actor, and that runs at once inside it.
        self._turn = threading.RLock()
        self._restarts_left = plan.max_restarts
        self._instance: Any = None

    def start(self) -> None:
        """Run the constructor. If it raises, the actor is dead and every call says why."""
        try:
            with self._turn:
                self._instance = self._make_instance()
        except ActorExit:
            self.end("It called exit_actor in its constructor")
        except Exception as error:  # noqa: BLE001 - the user's constructor; it is raised by the calls of methods
            name = f"{self.plan.class_name}.__init__"
            told = deserialize_error(serialize_error(error, function_name=name, pid=os.getpid(), is_actor=True))
            self.end(f"Its constructor raised. {told}", never_started=True)

    def submit(self, call: LocalCall) -> None:
        """Run the call, now or when its arguments are finished."""
        with self._turn:  # the constructor may be running in another thread
            pass
        when_ready(call, functools.partial(self.run, call), self.outcomes)

    def method(self, name: str) -> Callable[..., Any]:
        """Runs a method of the instance of that moment, which a restart may have replaced."""
        return lambda *args, **kwargs: find_method(self._instance, name)(*args, **kwargs)

    def run(self, call: LocalCall) -> None:
        """Run a call whose arguments are finished."""
        if self.death is not None:
            self.outcomes.refused(call, self.death)
            return
        try:
            run_call(call, self.outcomes)
        except ActorExit:
            self.end("It called exit_actor")

    def end(self, reason: str, *, never_started: bool = False) -> None:
        """For good: calls that have not ended and those to come fail."""
        if self.death is not None:
            return
        self.death = self._died(reason, never_started)
        self._fail_calls(self.death)
        self._instance = None

    def restart(self) -> None:
        """Kill it, and start it again if it has a restart left."""
        if self._restarts_left == 0 or self.death is not None:
            self.end("It was killed with remora.kill, and no restart was left")
            return
        self._restarts_left -= 1
        self.was_restarted = True
        self._fail_calls(self._died("It was killed with remora.kill and started again"))
        self.start()

    def _make_instance(self) -> Any:
        plan = self.plan
        call = LocalCall(
            function=plan.cls,
            args=plan.args,
            kwargs=plan.kwargs,
            refs=[],
            task_id=plan.id[:12],
            function_name=f"{plan.class_name}.__init__",
            task_name=f"{plan.class_name}.__init__",
            actor=self,
        )
        self.outcomes.wait_until(call.is_ready)
        for ref in call.argument_refs():
            value_of(ref)
        args, kwargs = call.values()
        token = running.set(call)
        try:
            return plan.cls(*args, **kwargs)
        finally:
            running.reset(token)

    def _died(self, reason: str, never_started: bool = False) -> ActorDiedError:
        plan = self.plan
        return ActorDiedError(
            actor_id=plan.id,
            class_name=plan.class_name,
            actor_name=plan.name,
            reason=reason,
            never_started=never_started,
            pid=os.getpid(),
        )

    def _fail_calls(self, error: ActorDiedError) -> None:
        for call in self.outcomes.calls_to(self):
            self.outcomes.refused(call, error)


class OrderedActor(LocalActor):
    """A plain actor: one call at a time, in the order of ``.remote``."""

    def __init__(self, plan: ActorPlan, outcomes: Outcomes) -> None:
        super().__init__(plan, outcomes)
        self._queue: deque[LocalCall] = deque()

    def submit(self, call: LocalCall) -> None:
        self._queue.append(call)
        self._run_queue()

    def _run_queue(self) -> None:
        with self._turn:
            while self._queue:
                if not self._queue[0].is_ready():
                    when_ready(self._queue[0], self._run_queue, self.outcomes)
                    return
                self.run(self._queue.popleft())


class AsyncActor(LocalActor):
    """An actor whose methods run on one event loop, in each concurrency group as many at once as its limit says."""

    def __init__(self, plan: ActorPlan, outcomes: Outcomes) -> None:
        super().__init__(plan, outcomes)
        self._limits = {group: asyncio.Semaphore(limit) for group, limit in plan.limits.items()}
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=_run_loop, args=(self._loop,), name="remora-local-async-actor", daemon=True).start()
        self._stop = weakref.finalize(self, _stop_loop, self._loop)

    def submit(self, call: LocalCall) -> None:
        if call.concurrency_group not in self._limits:
            raise ValueError(
                f"{call.function_name} is in concurrency group {call.concurrency_group!r}, which its actor does not "
                "have: name it in @remora.remote(concurrency_groups={...})"
            )
        if self.death is not None:
            self.outcomes.refused(call, self.death)
            return
        # A context of its own, as in another process; also, finished tasks keep theirs, and all that is in it.
        call.future = Context().run(asyncio.run_coroutine_threadsafe, self._run_async(call), self._loop)

    def end(self, reason: str, *, never_started: bool = False) -> None:
        super().end(reason, never_started=never_started)
        self._stop()

    def _make_instance(self) -> Any:
        async def make() -> Any:
            return LocalActor._make_instance(self)

        return Context().run(asyncio.run_coroutine_threadsafe, make(), self._loop).result()

    async def _run_async(self, call: LocalCall) -> None:
        try:
            await self._arguments_of(call)
            async with self._limits[call.concurrency_group]:
                token = running.set(call)
                try:
                    if not has_failed_argument(call, self.outcomes):
                        await self._run_method(call)
                finally:
                    running.reset(token)
        except asyncio.CancelledError:
            self.outcomes.cancelled(call)
        except ActorExit:
            self.end("It called exit_actor")

    async def _arguments_of(self, call: LocalCall) -> None:
        """Wait until they are finished."""
        loop = self._loop
        for ref in call.argument_refs():
            finished = asyncio.Event()
            self.outcomes.when_finished(ref, lambda event=finished: loop.call_soon_threadsafe(event.set))  # type: ignore[misc]
            await finished.wait()

    async def _run_method(self, call: LocalCall) -> None:
        args, kwargs = call.values()
        while True:
            try:
                result = call.function(*args, **kwargs)
                if inspect.isasyncgen(result):
                    result = [item async for item in result]
                elif inspect.isawaitable(result):
                    result = await result
                self.outcomes.returned(call, result)
                return
            except (asyncio.CancelledError, ActorExit):
                raise
            except BaseException as error:  # noqa: BLE001 - whatever the user's code raises belongs to the refs
                if not call.take_retry(error):
                    self.outcomes.raised(call, error)
                    return

    def _fail_calls(self, error: ActorDiedError) -> None:
        calls = self.outcomes.calls_to(self)
        super()._fail_calls(error)
        for call in calls:
            if call.future is not None:
                call.future.cancel()


def make_actor(plan: ActorPlan, outcomes: Outcomes) -> LocalActor:
    """An actor of the kind that the plan asks for, not started yet."""
    if plan.is_async:
        return AsyncActor(plan, outcomes)
    return LocalActor(plan, outcomes) if sum(plan.limits.values()) > 1 else OrderedActor(plan, outcomes)


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    """The loop's thread. It knows nothing of the actor, so that the actor can be forgotten while it runs."""
    asyncio.set_event_loop(loop)
    loop.run_forever()
    if tasks := asyncio.all_tasks(loop):
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks, timeout=CLEAN_UP_TIMEOUT_S))
    loop.close()


def _stop_loop(loop: asyncio.AbstractEventLoop) -> None:
    loop.call_soon_threadsafe(loop.stop)
