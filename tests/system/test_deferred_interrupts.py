"""Where a signal handler may raise, and that what it kept back is raised before the thread sleeps."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from remora.processes.client.leadership import Waiter
from remora.system import interrupts
from remora.system.reactor import Reactor


class Wanted(BaseException):
    """What the handler of these tests raises."""


@pytest.fixture(autouse=True)
def _nothing_is_pending() -> Iterator[None]:
    assert not interrupts.pending
    yield
    interrupts.pending.clear()


@pytest.fixture
def handler() -> Iterator[None]:
    def handle(number: int, frame: FrameType | None) -> None:
        interrupts.raise_or_defer(frame, Wanted())

    before = signal.signal(signal.SIGUSR1, handle)
    yield
    signal.signal(signal.SIGUSR1, before)


def guarded(code: str) -> dict[str, object]:
    """The namespace of *code*, run as a module of one of our working layers."""
    namespace: dict[str, object] = {"__name__": "remora.core.made_up", "interrupts": interrupts, "sys": sys}
    exec(code, namespace)
    return namespace


def test_a_handler_may_raise_in_the_code_of_users() -> None:
    assert interrupts.may_raise_at(sys._getframe())


def test_a_handler_may_not_raise_inside_of_our_bookkeeping_nor_in_what_that_calls() -> None:
    namespace = guarded("def work(call):\n    return call()")
    work = namespace["work"]
    assert not work(lambda: interrupts.may_raise_at(sys._getframe()))  # type: ignore[operator]


def test_a_handler_may_raise_in_an_interruptible_function_and_in_user_code_that_it_calls() -> None:
    namespace = guarded("@interrupts.interruptible\ndef call_user(call):\n    return call()")
    work = guarded("def work(call):\n    return call()")["work"]
    call_user = namespace["call_user"]
    assert work(lambda: call_user(lambda: interrupts.may_raise_at(sys._getframe())))  # type: ignore[operator]


@pytest.mark.usefixtures("handler")
def test_what_was_kept_back_is_raised_at_the_check_and_only_once() -> None:
    work = guarded("def work(call):\n    call()\n    return 'whole'")["work"]
    kill = signal.raise_signal
    assert work(lambda: kill(signal.SIGUSR1)) == "whole"  # type: ignore[operator]
    with pytest.raises(Wanted):
        interrupts.check()
    interrupts.check()


@pytest.mark.parametrize("place", ["reactor", "waiter"])
def test_a_thread_does_not_go_to_sleep_on_an_interrupt_that_was_kept_back(place: str) -> None:
    interrupts.pending.append(Wanted())
    reactor = Reactor()
    with pytest.raises(Wanted):
        reactor.wait(-1) if place == "reactor" else Waiter().sleep(-1)
    reactor.close()
    assert not interrupts.pending


def test_other_threads_leave_an_interrupt_to_the_main_thread() -> None:
    interrupts.pending.append(Wanted())
    reactor = Reactor()
    thread = threading.Thread(target=reactor.wait, args=(0,))
    thread.start()
    thread.join()
    reactor.close()
    assert len(interrupts.pending) == 1


@pytest.mark.usefixtures("handler")
def test_a_signal_ends_a_wait_that_is_under_way_and_loses_nothing() -> None:
    reactor = Reactor()
    read, write = os.pipe()
    served: list[bytes] = []
    reactor.register(read, lambda mask: served.append(os.read(read, 10)))
    main = threading.main_thread().ident
    assert main is not None
    timer = threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGUSR1))
    timer.start()
    with pytest.raises(Wanted):
        reactor.wait(10)
    timer.join()
    os.write(write, b"x")
    reactor.poll(1)
    assert served == [b"x"]
    reactor.close()
    os.close(read)
    os.close(write)
