"""Spreading calls over a fixed set of actors."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from remora.api.actors import ActorHandle
from remora.api.objects import get, wait
from remora.base.errors import ActorDiedError, GetTimeoutError
from remora.base.object_ref import ObjectRef

V = TypeVar("V")
Call = Callable[[ActorHandle[Any], V], ObjectRef[Any]]


class ActorPool(Generic[V]):
    """Calls go to actors that are idle; each actor has one call at a time. Not to be used by several threads at once.

    Parameters:
        actors: handles of the actors.

    Example:
        >>> pool = ActorPool([Worker.remote(), Worker.remote()])
        >>> list(pool.map(lambda actor, value: actor.double.remote(value), [1, 2, 3]))
        [2, 4, 6]
    """

    def __init__(self, actors: Iterable[ActorHandle[Any]]) -> None:
        self._idle: deque[ActorHandle[Any]] = deque(actors)
        self._waiting: deque[tuple[Call[V], V]] = deque()
        self._running: dict[ObjectRef[Any], tuple[int, ActorHandle[Any]]] = {}
        self._by_number: dict[int, ObjectRef[Any]] = {}
        self._next_to_start = 0
        self._next_to_return = 0

    # ------------------------------------------------------------------ calls

    def submit(self, fn: Call[V], value: V) -> None:
        """Have ``fn(actor, value)`` called with the next idle actor; it returns a ref.

        Example:
            >>> pool.submit(lambda actor, value: actor.double.remote(value), 1)
        """
        if not self._idle:
            self._waiting.append((fn, value))
            return
        actor = self._idle.popleft()
        try:
            ref = fn(actor, value)
        except BaseException:
            self._idle.appendleft(actor)
            raise
        number = self._next_to_start
        self._next_to_start += 1
        self._running[ref] = (number, actor)
        self._by_number[number] = ref

    def has_next(self) -> bool:
        """Whether there are results that were not returned yet."""
        return bool(self._running) or bool(self._waiting)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The next result in the order of :meth:`submit`.

        Parameters:
            timeout: seconds to wait; None waits for ever.
            ignore_if_timedout: at the timeout, give this result up: it will not be returned.

        Raises:
            StopIteration: there are no more results.
            GetTimeoutError: it was not there in time; with *ignore_if_timedout* the next call goes on after it.
        """
        self._check_has_next()
        self._skip_returned()
        ref = self._by_number[self._next_to_return]
        ready, _ = wait([ref], timeout=timeout)
        if not ready and not ignore_if_timedout:
            raise GetTimeoutError(timeout_s=timeout, object_id=ref.id)
        self._next_to_return += 1
        return self._take(ref, bool(ready), timeout)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """Whichever result is there first.

        Parameters:
            timeout: seconds to wait; None waits for ever.
            ignore_if_timedout: at the timeout, give up the oldest of the missing results.

        Raises:
            StopIteration: there are no more results.
            GetTimeoutError: none was there in time.
        """
        self._check_has_next()
        ready, missing = wait(list(self._running), timeout=timeout)
        if not ready and not ignore_if_timedout:
            raise GetTimeoutError(timeout_s=timeout, pending=len(missing), object_id=missing[0].id)
        return self._take(ready[0] if ready else missing[0], bool(ready), timeout)

    def map(self, fn: Call[V], values: Iterable[V]) -> Iterator[Any]:
        """Call *fn* for each value, spread over the actors; results in the order of *values*.

        All calls are submitted at once; results that nobody asked for are dropped first.
        """
        self._drop_results()
        for value in values:
            self.submit(fn, value)
        return self._results(self.get_next)

    def map_unordered(self, fn: Call[V], values: Iterable[V]) -> Iterator[Any]:
        """As :meth:`map`, results as they come."""
        self._drop_results()
        for value in values:
            self.submit(fn, value)
        return self._results(self.get_next_unordered)

    # ------------------------------------------------------------------ actors

    def has_free(self) -> bool:
        """Whether an actor is idle and no call waits for one."""
        return bool(self._idle) and not self._waiting

    def pop_idle(self) -> ActorHandle[Any] | None:
        """Take an idle actor out of the pool; None if there is none."""
        return self._idle.popleft() if self.has_free() else None

    def push(self, actor: ActorHandle[Any]) -> None:
        """Put an actor into the pool.

        Raises:
            ValueError: it is in the pool already.
        """
        if actor in self._idle or any(actor == busy for _, busy in self._running.values()):
            raise ValueError(f"{actor!r} is in the pool already")
        self._give_back(actor)

    # ------------------------------------------------------------------ inside

    def _check_has_next(self) -> None:
        if not self.has_next():
            raise StopIteration("the pool has no more results")
        if not self._running:
            raise RuntimeError(f"the pool has no living actors, and {len(self._waiting)} calls wait for one: push one")

    def _take(self, ref: ObjectRef[Any], is_ready: bool, timeout: float | None) -> Any:
        actor = self._forget(ref)
        if not is_ready:
            self._give_back(actor)
            raise GetTimeoutError(f"the result was not there within {timeout} s and was given up", timeout_s=timeout)
        try:
            value = get(ref)
        except ActorDiedError:
            self._start_waiting()  # not given back: a dead actor would fail every call that it is given
            raise
        except BaseException:
            self._give_back(actor)
            raise
        self._give_back(actor)
        return value

    def _forget(self, ref: ObjectRef[Any]) -> ActorHandle[Any]:
        number, actor = self._running.pop(ref)
        del self._by_number[number]
        return actor

    def _give_back(self, actor: ActorHandle[Any]) -> None:
        self._idle.append(actor)
        self._start_waiting()

    def _start_waiting(self) -> None:
        if self._waiting and self._idle:
            self.submit(*self._waiting.popleft())

    def _skip_returned(self) -> None:
        """Go past the results that :meth:`get_next_unordered` has returned."""
        while self._next_to_return not in self._by_number and self._next_to_return < self._next_to_start:
            self._next_to_return += 1

    def _drop_results(self) -> None:
        while self._running:
            ready, _ = wait(list(self._running))
            self._give_back(self._forget(ready[0]))

    def _results(self, next_result: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():
            yield next_result()
