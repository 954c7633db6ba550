"""Calls at a later time from a reactor."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from time import monotonic

import pytest

from remora.system.reactor import Reactor


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    reactor = Reactor()
    yield reactor
    reactor.close()


def poll_until(reactor: Reactor, called: list[object], count: int) -> None:
    end_s = monotonic() + 10
    while len(called) < count and monotonic() < end_s:
        reactor.poll(10)
    assert len(called) == count


def test_calls_are_made_in_the_order_of_their_times_and_not_before(reactor: Reactor) -> None:
    called: list[object] = []
    began_s = monotonic()
    reactor.call_after(0.03, lambda: called.append("late"))
    reactor.call_after(0.01, lambda: called.append("early"))
    reactor.call_after(0, lambda: called.append("now"))
    poll_until(reactor, called, 3)
    assert called == ["now", "early", "late"]
    assert monotonic() - began_s >= 0.03


def test_a_cancelled_call_is_not_made_also_when_one_of_the_same_moment_cancels_it(reactor: Reactor) -> None:
    called: list[object] = []
    reactor.call_after(0, lambda: called.append(1)).cancel()
    reactor.call_after(0, lambda: second.cancel())
    second = reactor.call_after(0, lambda: called.append(2))
    reactor.call_after(0.01, lambda: called.append(3))
    poll_until(reactor, called, 1)
    assert called == [3]


def test_a_thread_that_polls_is_woken_for_a_call_of_another_thread(reactor: Reactor) -> None:
    called: list[object] = []
    reactor.call_after(3600, lambda: called.append("much later"))
    other = threading.Thread(target=lambda: reactor.call_after(0, lambda: called.append("now")))
    other.start()
    poll_until(reactor, called, 1)
    other.join()
    assert called == ["now"]


def test_a_call_may_ask_for_the_next(reactor: Reactor) -> None:
    called: list[object] = []

    def again() -> None:
        called.append(len(called))
        reactor.call_after(0, again)

    reactor.call_after(0, again)
    poll_until(reactor, called, 5)


def test_a_closed_reactor_takes_calls_and_makes_none() -> None:
    reactor = Reactor()
    called: list[object] = []
    reactor.call_after(0, lambda: called.append(1))
    reactor.close()
    reactor.call_after(0, lambda: called.append(2)).cancel()
    assert called == []


def test_a_reactor_that_is_closed_before_its_first_timer_takes_calls_too() -> None:
    reactor = Reactor()
    reactor.close()
    reactor.call_after(0, lambda: None).cancel()
