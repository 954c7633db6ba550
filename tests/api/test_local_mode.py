"""What local mode promises beyond the behaviour of all runtimes: this process, this thread, these objects."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

import remora
from remora.exceptions import ActorDiedError, PendingCallsLimitExceeded, TaskCancelledError


@pytest.fixture(autouse=True)
def local_session() -> Iterator[None]:
    remora.shutdown()
    with remora.init(local_mode=True, num_cpus=2):
        yield


@remora.remote
def where() -> tuple[int, int]:
    return os.getpid(), threading.get_ident()


def test_tasks_run_in_the_callers_thread() -> None:
    assert remora.get(where.remote()) == (os.getpid(), threading.get_ident())


def test_a_task_runs_inside_remote_and_its_error_waits_for_get() -> None:
    seen = []

    @remora.remote
    def note() -> None:
        seen.append(1)
        raise ValueError("later")

    ref = note.remote()
    assert seen == [1]
    with pytest.raises(ValueError, match="later"):
        remora.get(ref)


def test_values_are_not_copied() -> None:
    value = object()

    @remora.remote
    def same(received: Any) -> Any:
        return received

    assert remora.get(remora.put(value)) is value
    assert remora.get(same.remote(value)) is value


def test_a_keyboard_interrupt_reaches_the_caller_and_ends_the_call() -> None:
    @remora.remote
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted.remote()


def test_an_actor_may_call_itself() -> None:
    @remora.remote
    class Tree:
        def depth(self, levels: int) -> Any:
            me = remora.get_runtime_context().current_actor
            return levels and remora.get(me.depth.remote(levels - 1)) + 1

    assert remora.get(Tree.remote().depth.remote(3)) == 3


def test_calls_of_many_threads_to_one_actor_do_not_overlap() -> None:
    @remora.remote
    class Counter:
        def __init__(self) -> None:
            self.busy = False
            self.count = 0

        def use(self) -> None:
            assert not self.busy
            self.busy = True
            threading.Event().wait(0.0005)
            self.busy = False
            self.count += 1

        def total(self) -> int:
            return self.count

    counter = Counter.remote()

    def use() -> None:
        remora.get([counter.use.remote() for _ in range(5)])

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert remora.get(counter.total.remote()) == 20


def test_the_instance_goes_with_the_last_handle() -> None:
    class Plain:
        def itself(self) -> Any:
            return weakref.ref(self)

    actor = remora.remote(Plain).remote()
    instance = remora.get(actor.itself.remote())
    assert instance() is not None
    del actor
    assert instance() is None


def test_the_thread_of_an_async_actor_goes_with_the_actor() -> None:
    @remora.remote
    class Async:
        async def thread(self) -> threading.Thread:
            return threading.current_thread()

    actor = Async.remote()
    thread = remora.get(actor.thread.remote())
    assert thread is not threading.main_thread()
    del actor
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_a_waiting_call_fails_when_its_async_actor_is_killed() -> None:
    @remora.remote
    class Async:
        async def sleep(self) -> None:
            await asyncio.Event().wait()

    actor = Async.remote()
    ref = actor.sleep.remote()
    remora.kill(actor)
    with pytest.raises(ActorDiedError, match="killed"):
        remora.get(ref, timeout=10)


def test_shutdown_ends_calls_that_wait() -> None:
    @remora.remote
    class Async:
        async def sleep(self) -> None:
            await asyncio.Event().wait()

    ref = Async.remote().sleep.remote()
    future = ref.future()
    remora.shutdown()
    assert isinstance(future.exception(timeout=10), ActorDiedError)


def test_a_task_that_waits_for_its_argument_can_be_cancelled() -> None:
    @remora.remote
    class Async:
        async def sleep(self) -> None:
            await asyncio.Event().wait()

    actor = Async.remote()
    argument = actor.sleep.remote()

    @remora.remote
    def use(value: Any) -> None: ...

    ref = use.remote(argument)
    remora.cancel(ref)
    with pytest.raises(TaskCancelledError):
        remora.get(ref, timeout=10)
    remora.kill(actor)


def test_force_is_not_for_methods_of_actors() -> None:
    @remora.remote
    class Async:
        async def sleep(self) -> None:
            await asyncio.Event().wait()

    actor = Async.remote()
    ref = actor.sleep.remote()
    with pytest.raises(ValueError, match=r"kill\(handle\)"):
        remora.cancel(ref, force=True)
    remora.kill(actor)


def test_an_unknown_concurrency_group_is_refused() -> None:
    @remora.remote(concurrency_groups={"io": 2})
    class Grouped:
        @remora.method(concurrency_group="io")
        async def read(self) -> str:
            return "read"

        @remora.method(concurrency_group="net")
        async def fetch(self) -> None: ...

    grouped = Grouped.remote()
    assert remora.get(grouped.read.remote()) == "read"
    with pytest.raises(ValueError, match="'net'"):
        grouped.fetch.remote()


def test_a_call_beyond_the_limit_of_unfinished_ones_is_refused() -> None:
    @remora.remote(max_pending_calls=2)
    class Async:
        async def sleep(self) -> None:
            await asyncio.Event().wait()

    actor = Async.remote()
    waiting = [actor.sleep.remote() for _ in range(2)]
    with pytest.raises(PendingCallsLimitExceeded, match="2 unfinished calls"):
        actor.sleep.remote()
    remora.cancel(waiting[0])
    actor.sleep.remote()
    remora.kill(actor)
