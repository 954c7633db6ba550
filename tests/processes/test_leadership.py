"""Who reads the sockets: leader, followers, the I/O thread, and how each takes over from the other."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

import pytest

from remora.base.ids import ObjectId
from remora.base.object_ref import FAILED, INLINE, ObjectRef
from remora.processes.client.leadership import Leadership, subscribe
from remora.processes.client.values import tell_waiters
from remora.system.interrupts import raise_or_defer
from remora.system.reactor import Reactor

TIMEOUT_S = 10.0


class Readers:
    """A leadership over one pipe: each byte that comes finishes the ref with this number."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self.crashes: list[Exception] = []
        self.leadership = Leadership(self.reactor, lambda: None, lambda: -1.0, self.crashes.append)
        self._read, self._write = os.pipe()
        self.served_by: list[int] = []
        self.refs: dict[int, ObjectRef[object]] = {}
        self.reactor.register(self._read, self._on_byte)
        self.threads: list[threading.Thread] = []
        self.results: dict[int, object] = {}

    def ref(self, number: int) -> ObjectRef[object]:
        return self.refs.setdefault(number, ObjectRef(ObjectId(bytes([number]) * 16)))

    def _on_byte(self, mask: int) -> None:
        (number,) = os.read(self._read, 1)
        self.served_by.append(threading.get_ident())
        if number == 255:
            raise ValueError("a handler failed")
        self.finish(number)

    def finish(self, number: int, state: int = INLINE) -> None:
        ref = self.ref(number)
        ref.state = state
        tell_waiters(ref)

    def arrives(self, number: int) -> None:
        os.write(self._write, bytes([number]))

    def wait(self, number: int, timeout_s: float = TIMEOUT_S) -> bool:
        ref = self.ref(number)
        return self.leadership.wait_until(lambda: ref.state >= INLINE, time.monotonic() + timeout_s, ref)

    def start(self, number: int, wait: Callable[[int], object] | None = None) -> threading.Thread:
        """A thread that waits for the ref; returns when it leads or follows."""

        def run() -> None:
            self.results[number] = (wait or self.wait)(number)

        thread = threading.Thread(target=run)
        self.threads.append(thread)
        before = self.waiting()
        thread.start()
        eventually(lambda: self.waiting() > before or not thread.is_alive())
        return thread

    def waiting(self) -> int:
        """How many of our threads lead or follow."""
        return self.followers() + (self.leadership._leader in [thread.ident for thread in self.threads])

    def followers(self) -> int:
        return len(self.leadership._followers)

    def close(self) -> None:
        for number in self.refs:
            self.finish(number)
        self.leadership.close()
        for thread in self.threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()
        self.reactor.close()
        os.close(self._read)
        os.close(self._write)


def eventually(is_so: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_so():
        assert time.monotonic() < deadline_s
        os.sched_yield()


@pytest.fixture
def readers() -> Iterator[Readers]:
    readers = Readers()
    yield readers
    readers.close()


def test_the_thread_that_waits_reads_itself(readers: Readers) -> None:
    readers.arrives(1)
    assert readers.wait(1)
    assert readers.served_by == [threading.get_ident()]


def test_a_wait_ends_at_its_deadline_as_leader_and_as_follower(readers: Readers) -> None:
    assert not readers.wait(1, 0.01)
    readers.start(2)
    assert not readers.wait(1, 0.01)
    assert readers.ref(1).waiters == []  # polling for a value leaves nothing behind


def test_the_leader_serves_its_followers_and_hands_over_when_it_is_done(readers: Readers) -> None:
    leader, follower, last = (readers.start(number) for number in (1, 2, 3))
    readers.arrives(2)
    follower.join(TIMEOUT_S)
    assert readers.results == {2: True}
    readers.arrives(1)
    leader.join(TIMEOUT_S)
    readers.arrives(3)
    last.join(TIMEOUT_S)
    assert readers.results == {1: True, 2: True, 3: True}
    assert readers.served_by == [leader.ident, leader.ident, last.ident]


def test_a_follower_without_a_ref_looks_again_whenever_something_was_served(readers: Readers) -> None:
    readers.start(9)
    counted = readers.start(8, lambda number: readers.leadership.wait_until(lambda: len(readers.served_by) >= 2))
    readers.arrives(1)
    readers.arrives(2)
    counted.join(TIMEOUT_S)
    assert readers.results[8] is True


def test_the_io_thread_reads_when_nobody_waits_and_yields_to_who_does(readers: Readers) -> None:
    readers.leadership.start_io_thread()
    readers.arrives(1)
    eventually(lambda: readers.ref(1).state == INLINE)
    io_thread = readers.served_by[0]
    assert io_thread != threading.get_ident()
    waiting = readers.start(2)
    eventually(lambda: readers.leadership._leader == waiting.ident)
    readers.arrives(2)
    waiting.join(TIMEOUT_S)
    assert readers.served_by[1] == waiting.ident


def test_many_threads_that_wait_again_and_again_all_get_theirs(readers: Readers) -> None:
    readers.leadership.start_io_thread()

    def wait_often(number: int) -> bool:
        for _ in range(50):
            readers.ref(number).state = 0
            readers.arrives(number)
            if not readers.wait(number):
                return False
        return True

    for number in range(1, 21):
        readers.start(number, wait_often)
    for thread in readers.threads:
        thread.join(TIMEOUT_S)
    assert readers.results == dict.fromkeys(range(1, 21), True)


def test_a_callback_of_the_reader_may_wait_itself(readers: Readers) -> None:
    inner: list[bool] = []
    subscribe(readers.ref(1), lambda ref: inner.append(readers.wait(2)))
    readers.arrives(1)
    readers.arrives(2)
    assert readers.wait(1)
    assert inner == [True]


def test_the_error_of_a_handler_is_told_and_is_not_raised_to_the_thread_that_happened_to_read(
    readers: Readers,
) -> None:
    readers.arrives(255)
    readers.arrives(1)
    assert readers.wait(1)
    assert [str(error) for error in readers.crashes] == ["a handler failed"]


def test_the_error_of_a_handler_in_the_io_thread_is_told(readers: Readers) -> None:
    readers.leadership.start_io_thread()
    readers.arrives(255)
    eventually(lambda: readers.crashes)


def test_an_interrupted_follower_passes_the_lead_on(readers: Readers) -> None:
    class Wanted(BaseException):
        """What the handler raises."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise_or_defer(frame, Wanted())

    before = signal.signal(signal.SIGUSR1, handle)
    main = threading.main_thread().ident
    assert main is not None
    leader = readers.start(1)
    interrupted = threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGUSR1))
    interrupted.start()
    with pytest.raises(Wanted):
        readers.wait(2)
    signal.signal(signal.SIGUSR1, before)
    interrupted.join()
    follower = readers.start(3)
    assert readers.followers() == 1
    readers.arrives(1)
    leader.join(TIMEOUT_S)
    readers.arrives(3)
    follower.join(TIMEOUT_S)
    assert readers.results == {1: True, 3: True}


def test_closing_ends_the_waits_of_other_threads_when_what_they_wait_for_has_failed(readers: Readers) -> None:
    readers.leadership.start_io_thread()
    leader, follower = readers.start(1), readers.start(2)
    for number in (1, 2):
        readers.finish(number, FAILED)
    readers.leadership.close()
    leader.join(TIMEOUT_S)
    follower.join(TIMEOUT_S)
    assert readers.results == {1: True, 2: True}
