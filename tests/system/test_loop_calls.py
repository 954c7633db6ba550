"""Calls from threads run in the loop, all of them, in order, with one look behind each batch."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from remora.system.loop_calls import LoopCalls
from remora.system.reactor import Reactor


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    yield reactor
    reactor.close()


def test_calls_of_a_batch_run_in_order_and_are_looked_at_once(reactor: Reactor) -> None:
    told: list[object] = []
    calls = LoopCalls(reactor, lambda: told.append("batch"))
    for number in range(3):
        calls.post(told.append, number)
    assert told == []
    reactor.poll(5)
    assert told == [0, 1, 2, "batch"]
    calls.close()


def test_a_wake_without_calls_has_the_loop_look(reactor: Reactor) -> None:
    told: list[str] = []
    calls = LoopCalls(reactor, lambda: told.append("batch"))
    calls.wake()
    reactor.poll(5)
    assert told == ["batch"]
    assert reactor.poll(0) == 0
    calls.close()


def test_no_call_of_any_thread_is_lost(reactor: Reactor) -> None:
    told: list[tuple[int, int]] = []
    calls = LoopCalls(reactor, lambda: None)

    def post(thread: int) -> None:
        for number in range(2000):
            calls.post(told.append, (thread, number))

    threads = [threading.Thread(target=post, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    while len(told) < 8000:
        assert reactor.poll(5), f"{calls!r} has no more to do after {len(told)}"
    for thread in threads:
        thread.join()
    assert all([n for t, n in told if t == thread] == list(range(2000)) for thread in range(4))
    calls.close()


def test_nothing_is_called_after_the_end(reactor: Reactor) -> None:
    told: list[int] = []
    calls = LoopCalls(reactor, lambda: told.append(0))
    calls.post(told.append, 1)
    calls.close()
    reactor.poll(0)
    assert told == []
