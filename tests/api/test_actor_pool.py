"""ActorPool: order, idle actors, timeouts, dead actors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import remora
from remora.exceptions import ActorDiedError, GetTimeoutError
from remora.util import ActorPool

pytestmark = pytest.mark.usefixtures("runtime_mode")


@remora.remote
class Doubler:
    def double(self, value: int) -> int:
        return 2 * value

    def fail(self, value: int) -> int:
        raise ValueError(value)


@remora.remote
class Gate:
    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def pass_through(self, value: int) -> int:
        if value == 0:
            await self.opened.wait()
        return value

    async def open(self) -> None:
        self.opened.set()


def double(actor: Any, value: int) -> Any:
    return actor.double.remote(value)


def pass_through(actor: Any, value: int) -> Any:
    return actor.pass_through.remote(value)


def test_map_gives_the_results_in_order() -> None:
    pool: ActorPool[int] = ActorPool([Doubler.remote() for _ in range(2)])
    assert list(pool.map(double, range(6))) == [0, 2, 4, 6, 8, 10]
    assert not pool.has_next()


def test_map_unordered_gives_all_results() -> None:
    pool: ActorPool[int] = ActorPool([Doubler.remote() for _ in range(3)])
    assert sorted(pool.map_unordered(double, range(6))) == [0, 2, 4, 6, 8, 10]


def test_map_submits_before_anybody_asks_for_a_result() -> None:
    submitted = []

    def note(actor: Any, value: int) -> Any:
        submitted.append(value)
        return actor.double.remote(value)

    ActorPool([Doubler.remote()]).map(note, [1, 2])
    assert submitted == [1]


def test_map_drops_results_that_nobody_asked_for() -> None:
    pool: ActorPool[int] = ActorPool([Doubler.remote()])
    pool.submit(double, 1)
    pool.submit(double, 2)
    assert list(pool.map(double, [5])) == [10]


def test_get_next_unordered_takes_whichever_is_ready() -> None:
    slow, fast = Gate.remote(), Gate.remote()
    pool: ActorPool[int] = ActorPool([slow, fast])
    pool.submit(pass_through, 0)
    pool.submit(pass_through, 1)
    assert pool.get_next_unordered(timeout=10) == 1
    remora.get(slow.open.remote())
    assert pool.get_next(timeout=10) == 0
    assert not pool.has_next()


@pytest.mark.parametrize("take", [ActorPool.get_next, ActorPool.get_next_unordered])
def test_a_timeout_keeps_the_result_for_later(take: Callable[..., Any]) -> None:
    gate = Gate.remote()
    pool: ActorPool[int] = ActorPool([gate])
    pool.submit(pass_through, 0)
    with pytest.raises(GetTimeoutError):
        take(pool, timeout=0.01)
    remora.get(gate.open.remote())
    assert take(pool, timeout=10) == 0


@pytest.mark.parametrize("take", [ActorPool.get_next, ActorPool.get_next_unordered])
def test_a_timeout_that_is_ignored_gives_the_result_up(take: Callable[..., Any]) -> None:
    gate = Gate.remote()
    pool: ActorPool[int] = ActorPool([gate])
    pool.submit(pass_through, 0)
    pool.submit(pass_through, 7)
    with pytest.raises(TimeoutError, match="given up"):
        take(pool, timeout=0.01, ignore_if_timedout=True)
    assert take(pool, timeout=10) == 7
    assert not pool.has_next()


def test_an_empty_pool_says_so() -> None:
    pool: ActorPool[int] = ActorPool([])
    with pytest.raises(StopIteration):
        pool.get_next()
    with pytest.raises(StopIteration):
        pool.get_next_unordered()
    pool.submit(double, 1)
    with pytest.raises(RuntimeError, match="push one"):
        pool.get_next()
    pool.push(Doubler.remote())
    assert pool.get_next() == 2


def test_actors_can_be_taken_out_and_put_back() -> None:
    first, second = Doubler.remote(), Doubler.remote()
    pool: ActorPool[int] = ActorPool([first])
    with pytest.raises(ValueError, match="in the pool already"):
        pool.push(first)
    pool.push(second)
    assert (pool.pop_idle(), pool.pop_idle(), pool.pop_idle()) == (first, second, None)
    assert not pool.has_free()
    pool.push(first)
    pool.submit(double, 1)
    assert not pool.has_free()
    with pytest.raises(ValueError, match="in the pool already"):
        pool.push(first)
    assert pool.get_next() == 2
    assert pool.has_free()


def test_an_error_frees_the_actor() -> None:
    pool: ActorPool[int] = ActorPool([Doubler.remote()])
    pool.submit(lambda actor, value: actor.fail.remote(value), 3)
    pool.submit(double, 4)
    with pytest.raises(ValueError, match="3"):
        pool.get_next()
    assert pool.get_next() == 8


def test_a_call_that_cannot_be_made_frees_the_actor() -> None:
    pool: ActorPool[int] = ActorPool([Doubler.remote()])
    with pytest.raises(TypeError, match="too many"):
        pool.submit(lambda actor, value: actor.double.remote(value, value), 3)
    assert list(pool.map(double, [1])) == [2]


def test_a_dead_actor_leaves_the_pool() -> None:
    dead, living = Doubler.remote(), Doubler.remote()
    remora.kill(dead)
    pool: ActorPool[int] = ActorPool([dead, living])
    for value in range(4):
        pool.submit(double, value)
    with pytest.raises(ActorDiedError):
        pool.get_next()
    assert [pool.get_next() for _ in range(3)] == [2, 4, 6]
