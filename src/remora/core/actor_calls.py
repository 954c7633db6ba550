"""The submitter's side of one actor: calls in order, held back while they cannot go, sorted out when a worker dies.

Pure, and called by the client under its lock. ``submit`` and ``completed`` are on the path of every call.

The calls of an ordered (sync) actor leave in the order of submission, so one whose ref arguments are pending holds
back those after it. Async and threaded actors run calls beside each other anyway: there it only holds back itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Sequence
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from remora.base.errors import PendingCallsLimitExceeded
from remora.base.ids import short
from remora.messages.actors import ACTOR_STATE_NAMES, ALIVE, DEAD, RESTARTING, ActorState

UNKNOWN = -1
"""The daemon has not told yet, or the connection broke and it has not said what happened."""
WINDOW = 1000
"""Calls in flight to one ordered actor; more would only lie in the actor's memory instead of the caller's."""

_NO_LIMIT = 1 << 62
NOTHING: tuple[Any, ...] = ()


class CallRecord(Protocol):
    """What this machine needs of the client's record of a call."""

    call: int
    retries_left: int
    """How often the call may be repeated after its worker died; -1: without end."""


R = TypeVar("R", bound=CallRecord)


class FailCall(msgspec.Struct, frozen=True):
    """The call has no result. ``died`` tells ``ActorDiedError`` from ``ActorUnavailableError`` (it restarts).

    ``state`` is the daemon's word, with the cause and the serialized error of a constructor that raised.
    """

    record: Any
    died: bool
    state: ActorState


class ActorCalls(Generic[R]):
    """All calls of this process to one actor that have not ended.

    Example:
        >>> calls = ActorCalls(actor_id, ordered=True)
        >>> calls.submit(record)                    # it waits until the actor is known to be alive
        False
        >>> calls.actor_state(ActorState(actor_id, ALIVE, 1, worker, address))
        [record]
    """

    __slots__ = (
        "_cancelled",
        "_held",
        "_is_lost",
        "_low_water",
        "_max_pending",
        "_ordered",
        "_unready",
        "_waiting",
        "_window",
        "actor",
        "in_flight",
        "is_open",
        "outbox",
        "state",
    )

    def __init__(self, actor: bytes, ordered: bool, max_pending_calls: int = -1, window: int = WINDOW) -> None:
        self.actor = actor
        self.outbox: list[FailCall] = []
        """In order. The client empties it with ``clear()``."""
        self.in_flight: dict[int, R] = {}
        """Call number to record, in the order sent."""
        self.state = ActorState(actor, UNKNOWN)
        """What the daemon said last."""
        self.is_open = False
        """A ready call may leave at once: the actor is alive, nothing waits, the window has room."""
        self._waiting: deque[R] = deque()
        self._cancelled: set[int] = set()
        self._unready: set[int] = set()
        self._held: dict[int, R] = {}
        """Calls of an unordered actor whose arguments are pending."""
        self.configure(ordered, max_pending_calls, window)
        self._is_lost = False
        """The connection broke: the replies of what is in flight will not come."""

    @property
    def is_ordered(self) -> bool:
        """Whether the actor runs the calls of this process one after another, in the order of submission."""
        return self._ordered

    def configure(self, ordered: bool, max_pending_calls: int, window: int = WINDOW) -> None:
        """What the actor was created with, as the daemon says it to those who only have a handle.

        Only before the first call left. Without order there is no window: all the calls inside it might wait for
        the one that is outside.
        """
        self._ordered = ordered
        self._max_pending = max_pending_calls if max_pending_calls > 0 else _NO_LIMIT
        self._window = max(1, min(window if ordered else _NO_LIMIT, self._max_pending))
        self._low_water = self._window // 2 if ordered else self._window - 1
        if not ordered:
            self._held.update((one.call, one) for one in self._waiting if one.call in self._unready)
            self._waiting = deque(one for one in self._waiting if one.call not in self._unready)
            self._unready.clear()

    def waiting(self) -> list[R]:
        """The calls that were not sent yet, in order."""
        waiting = [*self._waiting, *self._held.values()]
        return [record for record in waiting if record.call not in self._cancelled]

    def submit(self, record: R) -> bool:
        """Whether the call is to be sent now; if not, it waits here.

        Raises:
            PendingCallsLimitExceeded: ``max_pending_calls`` are pending already; nothing was submitted.
        """
        if self.is_open:
            in_flight = self.in_flight
            in_flight[record.call] = record
            if len(in_flight) >= self._window:
                self.is_open = False
            return True
        self._check_limit()
        if self.state.state == DEAD:
            self.outbox.append(FailCall(record, True, self.state))
        else:
            self._waiting.append(record)
        return False

    def submit_unready(self, record: R) -> None:
        """The same for a call with pending ref arguments: ``arguments_ready`` will tell.

        Raises:
            PendingCallsLimitExceeded: ``max_pending_calls`` are pending already; nothing was submitted.
        """
        self._check_limit()
        if self.state.state == DEAD:
            self.outbox.append(FailCall(record, True, self.state))
        elif self._ordered:
            self._waiting.append(record)
            self._unready.add(record.call)
            self.is_open = False
        else:
            self._held[record.call] = record

    def arguments_ready(self, call: int) -> Sequence[R]:
        """The arguments of the call are there. Returns what can be sent now, in order.

        A call that has ended meanwhile (cancelled, or the actor is dead) is no error.
        """
        held = self._held.pop(call, None)
        if held is not None:
            self._waiting.append(held)
        self._unready.discard(call)
        return self._drain()

    def completed(self, call: int) -> Sequence[R]:
        """The call's reply has come. Returns what can be sent now, in order.

        Raises:
            KeyError: the call is not in flight.
        """
        del self.in_flight[call]
        if self.is_open or len(self.in_flight) > self._low_water:
            return NOTHING
        return self._drain()

    def raised(self, call: int, may_retry: bool) -> tuple[bool, Sequence[R]]:
        """Like ``completed`` for a reply that is an exception of the user's; the first part says if it runs again."""
        record = self.in_flight.pop(call)
        retried = may_retry and _charge(record)
        if retried:
            self._waiting.appendleft(record)
        return retried, self._drain()

    def submit_again(self, record: R) -> Sequence[R]:
        """A call that raised runs again, before all that wait: one of them may wait for its result.

        Returns what can be sent now, in order.
        """
        if self.state.state == DEAD:
            self.outbox.append(FailCall(record, True, self.state))
            return NOTHING
        self._waiting.appendleft(record)
        return self._drain()

    def cancel(self, record: R) -> tuple[bool, Sequence[R]]:
        """Whether the call is in flight, so that the worker must be told, and what can be sent now if it is not.

        The record must have been submitted. Nothing happens when it has ended: with the actor, before its arguments.
        """
        call = record.call
        if call in self.in_flight:
            return True, NOTHING
        if self._held.pop(call, None) is None and any(waiting.call == call for waiting in self._waiting):
            self._unready.discard(call)
            self._cancelled.add(call)
        return False, self._drain()

    def connection_lost(self, not_started: Container[int] = NOTHING) -> None:
        """The connection to the worker broke: nothing is sent until the daemon says what became of the actor.

        When it says that the worker lives, what is in flight is lost all the same: another connection starts anew.

        *not_started* are calls in flight of which the worker's slot proves that they did not begin. They move to
        the next worker at no charge; all others may have run.
        """
        self.is_open = False
        self._is_lost = True
        self.state = ActorState(self.actor, UNKNOWN, self.state.incarnation)
        unstarted = [record for call, record in self.in_flight.items() if call in not_started]
        for record in unstarted:
            del self.in_flight[record.call]
        self._waiting.extendleft(reversed(unstarted))

    def kill_sent(self) -> None:
        """The daemon was asked to kill the worker: no call may overtake that on its own way to the worker."""
        if self.state.state == ALIVE:
            self.is_open = False
            self.state = msgspec.structs.replace(self.state, state=UNKNOWN)

    def actor_state(self, state: ActorState) -> Sequence[R]:
        """The daemon's word. Returns what is to be sent to the actor's worker, in order, once it is connected.

        An actor that died long ago is dead without the number of a worker: nobody remembers which one was the last.

        Raises:
            ValueError: it is about another actor, or about a worker before the last one.
        """
        if state.actor != self.actor:
            raise ValueError(f"{self!r} was told of actor {short(state.actor)}")
        if state.incarnation < self.state.incarnation and state.state != DEAD:
            raise ValueError(f"{self!r} was told of its worker number {state.incarnation}")
        if self.state.state == DEAD:
            return NOTHING
        is_new_worker = state.incarnation > self.state.incarnation
        self.state = state
        if state.state == DEAD:
            self._fail_all()
            return NOTHING
        if self.in_flight and (state.state == RESTARTING or is_new_worker or self._is_lost):
            self._sort_out_lost_calls()
        self._is_lost = False
        return self._drain()

    def pending(self) -> int:
        """How many calls have not ended."""
        return len(self.in_flight) + len(self._waiting) - len(self._cancelled) + len(self._held)

    def _check_limit(self) -> None:
        if self.pending() >= self._max_pending:
            raise PendingCallsLimitExceeded(
                f"actor {short(self.actor)} has {self.pending()} pending calls from this process, "
                f"and max_pending_calls={self._max_pending}: get some results before calling it again"
            )

    def _drain(self) -> Sequence[R]:
        """Move to the worker what may go."""
        is_alive = self.state.state == ALIVE
        waiting, in_flight = self._waiting, self.in_flight
        records: list[R] = []
        while waiting:
            record = waiting[0]
            if record.call in self._cancelled:
                self._cancelled.discard(record.call)
                waiting.popleft()
                continue
            if not is_alive or len(in_flight) >= self._window or record.call in self._unready:
                break
            in_flight[record.call] = waiting.popleft()
            records.append(record)
        self.is_open = is_alive and not waiting and len(in_flight) < self._window
        return records

    def _sort_out_lost_calls(self) -> None:
        repeated = []
        for record in self.in_flight.values():
            if _charge(record):
                repeated.append(record)
            else:
                self.outbox.append(FailCall(record, False, self.state))
        self.in_flight = {}
        self._waiting.extendleft(reversed(repeated))

    def _fail_all(self) -> None:
        self.is_open = False
        lost = [*self.in_flight.values(), *self._waiting, *self._held.values()]
        self.outbox.extend(FailCall(record, True, self.state) for record in lost if record.call not in self._cancelled)
        self.in_flight = {}
        for left in (self._waiting, self._cancelled, self._unready, self._held):
            left.clear()

    def validate(self) -> None:
        """
        Raises:
            AssertionError: a call is in two places, or one waits that could leave.
        """
        waiting = {record.call for record in self._waiting}
        places = [*waiting, *self.in_flight, *self._held]
        assert len(places) == len(set(places)), f"{self!r}: a call is in two places"
        assert self._cancelled | self._unready <= waiting, f"{self!r}: marks without a call"
        assert len(self.in_flight) <= self._window, f"{self!r}: more in flight than the window"
        assert not (self.is_open and self._waiting), f"{self!r}: open while calls wait"
        assert self.is_open <= (self.state.state == ALIVE), f"{self!r}: open and not alive"
        assert self._ordered or not self._unready, f"{self!r}: calls of an unordered actor wait for each other"
        if self.state.state == ALIVE and self._waiting and not self.in_flight:
            assert self._waiting[0].call in self._unready, f"{self!r}: a call waits that could leave"

    def __repr__(self) -> str:
        state = ACTOR_STATE_NAMES.get(self.state.state, "unknown")
        return (
            f"<ActorCalls {short(self.actor)} {state} worker={self.state.incarnation} "
            f"in_flight={len(self.in_flight)} waiting={self.pending() - len(self.in_flight)}>"
        )


def _charge(record: CallRecord) -> bool:
    if not record.retries_left:
        return False
    if record.retries_left > 0:
        record.retries_left -= 1
    return True
