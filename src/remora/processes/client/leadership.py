"""Who reads the sockets of a driver or worker: the thread that waits.

A thread that waits for a reply becomes the **leader** and polls itself, first spinning a little, so that a
reply costs no thread switch. Threads that wait while another one leads are **followers**: they sleep on a lock of
their own until their ref is done or the lead is handed to them. When no user thread has led for a moment, the **I/O
thread** leads, so that calls also leave, and messages are also answered, while the user computes.

Chosen over one I/O thread that reads for everybody: that costs two thread switches per reply, 40-60 us each.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from remora.base.object_ref import FIRST_FINISHED, ObjectRef
from remora.core.spinning import LONG_YIELD_S, SpinPolicy
from remora.system.interrupts import check_before_blocking, interruptible, pending
from remora.system.reactor import Reactor

SPIN_S = 50e-6
STANDBY_S = 0.001
HELP_OUT_S = 0.01
LONGEST_SLEEP_S = 3600.0
"""System calls refuse large numbers; who sleeps so long looks again."""
CLOSE_TIMEOUT_S = 5.0
SOON_S = 0.06
"""A message that nobody waits for may lie this long before it is sent."""

_monotonic = time.monotonic
_yield = os.sched_yield
_get_ident = threading.get_ident


class Waiter:
    """A sleeping thread; ``wake`` may be called by any thread, also before the sleep and more than once."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wake(self, _: object = None) -> None:
        try:
            self._lock.release()
        except RuntimeError:  # it is awake already
            return

    @interruptible
    def sleep(self, timeout_s: float) -> None:
        """Until :meth:`wake`, or *timeout_s* (negative: no limit)."""
        if pending:
            check_before_blocking()
        self._lock.acquire(timeout=timeout_s)


class Leadership:
    """The lead over one reactor.

    Parameters:
        flush: writes what was sent and not written yet; called before a leader blocks.
        housekeep: periodic work of the process; returns in how many seconds it wants to be called again (-1: when
            something happens).
        on_crash: told of an exception in a handler or in the I/O thread: an error of ours, and the session is over.
    """

    def __init__(
        self,
        reactor: Reactor,
        flush: Callable[[], None],
        housekeep: Callable[[], float],
        on_crash: Callable[[Exception], None],
    ) -> None:
        self.reactor = reactor
        self._flush = flush
        self._housekeep = housekeep
        self._on_crash = on_crash
        self._lead = threading.Lock()
        self._leader = 0
        self._io_leads = False
        self._wanted = False
        self._turns = 0
        self._blocked = False
        self._may_sleep_long = False
        self._followers: dict[Waiter, None] = {}
        self._observers: dict[Waiter, None] = {}
        self._nudge = Waiter()
        self._closed = False
        self._crashed = False
        self._served_elsewhere = False
        self._spinning = SpinPolicy()
        self._io_thread: threading.Thread | None = None

    # ------------------------------------------------------------------ waiting

    def wait_until(
        self, done: Callable[[], object], deadline_s: float | None = None, ref: ObjectRef[object] | None = None
    ) -> bool:
        """Serve the sockets until ``done()`` is true; false when *deadline_s* (monotonic) came first.

        *ref*, when given, is the one whose end makes ``done`` true: a follower then sleeps until exactly that.
        """
        if done():
            return True
        if self._lead.acquire(False):
            return self._lead_until(done, deadline_s)
        if self._leader == _get_ident():
            # A callback of the user's, called while this thread serves, waits itself: serve on, one level deeper.
            return self._serve_until(done, deadline_s)
        return self._follow_until(done, deadline_s, ref)

    def serve_now(self) -> None:
        """Serve what is ready, without waiting, unless somebody else is serving. For threads that send a lot."""
        if self._lead.acquire(False):
            self._leader = _get_ident()
            self._turns += 1
            try:
                self._serve(self.reactor.wait(0))
            finally:
                self._leave()
        elif self._io_leads and not self._wanted:
            self._wanted = True
            self.reactor.wake()

    def _lead_until(self, done: Callable[[], object], deadline_s: float | None) -> bool:
        """As the leader; gives the lead up at the end."""
        self._leader = _get_ident()
        self._turns += 1
        try:
            return self._serve_until(done, deadline_s)
        finally:
            self._blocked = self._may_sleep_long = False
            self._leave()

    def _serve_until(self, done: Callable[[], object], deadline_s: float | None) -> bool:
        self._flush()
        if self._spin(done):
            return True
        reactor = self.reactor
        while not done():
            self._flush()
            timeout_s = self._look_before_sleep()
            if done():  # what was put off until now may have been it
                return True
            if deadline_s is not None:
                left_s = deadline_s - _monotonic()
                if left_s <= 0:
                    return bool(done())
                if timeout_s < 0 or left_s < timeout_s:
                    timeout_s = min(left_s, LONGEST_SLEEP_S)
            self._blocked = True
            events = reactor.wait(timeout_s)
            self._blocked = False
            if events:
                self._serve(events)
        return True

    def _look_before_sleep(self) -> float:
        """Housekeeping; how long the leader may sleep then."""
        # Set before the look: what is sent after it finds the mark, what is sent before is seen.
        self._may_sleep_long = True
        timeout_s = self._housekeep()
        self._may_sleep_long = timeout_s < 0 or timeout_s > SOON_S
        return timeout_s

    def _serve(self, events: list[tuple[int, int]]) -> None:
        try:
            self.reactor.serve(events)
        except Exception as error:  # noqa: BLE001 - whoever reads runs everybody's handlers: it is not his error
            self._crashed = True
            self._on_crash(error)
        if self._observers:
            for waiter in tuple(self._observers):
                waiter.wake()

    def _spin(self, done: Callable[[], object]) -> bool:
        """Poll without blocking for a moment; a wake-up from a blocking call costs more than a short reply."""
        now_s = _monotonic()
        policy = self._spinning
        if not policy.may_spin(now_s):
            return False
        end_s = now_s + SPIN_S
        reactor = self.reactor
        while now_s < end_s:
            if events := reactor.wait(0):
                self._serve(events)
                if done():
                    policy.hit()
                    return True
                # Something came, so more may come: the moment starts again.
                self._flush()
                now_s = _monotonic()
                end_s = now_s + SPIN_S
                continue
            _yield()
            before_s, now_s = now_s, _monotonic()
            if now_s - before_s > LONG_YIELD_S:
                if policy.long_yield(now_s):
                    return False
                # Somebody else had the core. What is awaited may have come meanwhile: the moment starts again.
                end_s = now_s + SPIN_S
        return False

    def _leave(self) -> None:
        self._turns += 1
        self._leader = 0
        self._lead.release()
        self._hand_over()

    def _give_up(self) -> None:
        """The I/O thread leaves; its turns are not counted, it stands by for the threads whose turns are."""
        self._leader = 0
        self._lead.release()
        self._hand_over()

    def _hand_over(self) -> None:
        for waiter in self._followers:
            waiter.wake()
            return

    def _follow_until(
        self, done: Callable[[], object], deadline_s: float | None, ref: ObjectRef[object] | None
    ) -> bool:
        waiter = Waiter()
        if ref is not None:
            subscribe(ref, waiter.wake)
        else:
            self._observers[waiter] = None
        self._followers[waiter] = None
        try:
            self._flush()
            while not done():
                if self._closed:
                    return bool(done())
                if self._lead.acquire(False):
                    del self._followers[waiter]
                    return self._lead_until(done, deadline_s)
                if self._io_leads and not self._wanted:
                    self._wanted = True
                    self.reactor.wake()
                timeout_s = -1.0
                if deadline_s is not None:
                    timeout_s = min(deadline_s - _monotonic(), LONGEST_SLEEP_S)
                    if timeout_s <= 0:
                        return False
                waiter.sleep(timeout_s)
            return True
        finally:
            if ref is not None and ref.state < FIRST_FINISHED:
                unsubscribe(ref, waiter.wake)
            self._observers.pop(waiter, None)
            if self._followers.pop(waiter, waiter) is None and not self._lead.locked():
                # The lead may have been handed to this thread just when it ended: pass it on.
                self._hand_over()

    # ------------------------------------------------------------------ I/O thread

    def start_io_thread(self) -> None:
        """Start the thread that leads while no user thread waits."""
        self._io_thread = threading.Thread(target=self._run_io, name="remora-io", daemon=True)
        self._io_thread.start()

    def expect_replies(self) -> None:
        """A reply is awaited by nobody who reads: the I/O thread takes the lead as soon as it is free."""
        self._nudge.wake()

    def nudge(self) -> None:
        """Something was sent and nobody may be there to write it: have it written soon."""
        if self._io_leads or self._blocked:
            self.reactor.wake()

    def nudge_soon(self) -> None:
        """Something was sent that nobody waits for: have it written within :data:`SOON_S`, with what follows it.

        A thread woken for each would cost more than what it sends.
        """
        if self._may_sleep_long:
            self.reactor.wake()

    def serve_elsewhere(self) -> None:
        """From now on an event loop watches the reactor and calls :meth:`serve_now`; the I/O thread only helps out."""
        self._served_elsewhere = True

    def _help_out(self) -> None:
        """Serve what the event loop has left lying for a while, because something blocks it."""
        seen = self._turns
        self._nudge.sleep(HELP_OUT_S)
        self._flush()
        if self._turns == seen and self._lead.acquire(False):
            self._leader = _get_ident()
            try:
                self._housekeep()
                self._serve(self.reactor.wait(0))
            finally:
                self._give_up()

    def _run_io(self) -> None:
        try:
            self._stand_by()
        except Exception as error:  # noqa: BLE001 - the thread's main function: without it nobody would ever hear
            self._on_crash(error)

    def _stand_by(self) -> None:
        while not self._closed and not self._crashed:
            if self._served_elsewhere:
                self._help_out()
                continue
            seen = self._turns
            self._nudge.sleep(STANDBY_S)
            self._flush()
            if self._turns != seen:
                continue
            self._lead.acquire()
            if self._turns != seen:
                # A user thread has waited long and stopped now: it will probably wait again at once.
                self._give_up()
                continue
            self._leader = _get_ident()
            self._io_leads = True
            try:
                while not (self._wanted or self._closed or self._crashed or self._served_elsewhere):
                    timeout_s = self._look_before_sleep()
                    events = self.reactor.wait(timeout_s)
                    if events:
                        self._serve(events)
                    self._flush()
            finally:
                self._io_leads = self._may_sleep_long = False
                self._wanted = False
                self._give_up()

    def wake_all(self) -> None:
        """Every waiting thread looks again whether it is done."""
        for waiter in tuple(self._followers):
            waiter.wake()
        if not self.reactor.closed:
            self.reactor.wake()

    def close(self) -> None:
        """End the I/O thread and wait until nobody polls any more. What others wait for must be done already."""
        if self._closed:
            return
        self._closed = True
        self._nudge.wake()
        self.wake_all()
        if self._leader == _get_ident():
            return
        if self._io_thread is not None:
            self._io_thread.join(timeout=CLOSE_TIMEOUT_S)
        # Kept for good: nobody polls a closed reactor.
        self._lead.acquire(timeout=CLOSE_TIMEOUT_S)


def subscribe(ref: ObjectRef[object], callback: Callable[[ObjectRef[object]], object]) -> None:
    """Call ``callback(ref)`` when *ref* gets its value; perhaps more than once, and now if it has it already.

    It is called as well when the value is known to be on another node, and then again, unless it returned True.
    """
    with _subscribing:
        waiters = ref.waiters
        if waiters is None:
            ref.waiters = [callback]
        else:
            waiters.append(callback)
    # Looked at after the callback is listed: whoever sets the state takes the list after that, or has looked before.
    if ref.state >= FIRST_FINISHED:
        unsubscribe(ref, callback)
        callback(ref)


def unsubscribe(ref: ObjectRef[object], callback: Callable[[ObjectRef[object]], object]) -> None:
    """Do not call *callback* any more, if it was not called yet."""
    with _subscribing:
        waiters = ref.waiters
        if waiters is not None and callback in waiters:
            waiters.remove(callback)


_subscribing = threading.Lock()
