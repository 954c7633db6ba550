"""A queue between tasks, actors and drivers."""

from __future__ import annotations

import asyncio
import contextlib
import queue
from collections.abc import Iterable
from typing import Any

from remora.api.actor_class import ActorClass
from remora.api.actor_control import kill
from remora.api.actors import ActorHandle
from remora.api.objects import get
from remora.base.errors import GetTimeoutError


class Empty(queue.Empty):
    """The queue had no item, or none in time."""


class Full(queue.Full):
    """The queue had no room, or none in time."""


class Queue:
    """A first-in, first-out queue that lives in an actor of its own. It can be passed to tasks and actors.

    Parameters:
        maxsize: how many items it takes; 0 has no limit.
        actor_options: options of the actor, as ``{"num_cpus": 1}``.

    Example:
        >>> queue = Queue(maxsize=100)
        >>> queue.put("item")
        >>> queue.get(timeout=1)
        'item'
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        self.maxsize = maxsize
        self.actor: ActorHandle[Any] = _QUEUE_ACTOR.options(**(actor_options or {})).remote(maxsize)

    # ------------------------------------------------------------------ size

    def qsize(self) -> int:
        """How many items are in the queue now."""
        return int(get(self.actor.qsize.remote()))

    def size(self) -> int:
        """As :meth:`qsize`."""
        return self.qsize()

    def __len__(self) -> int:
        return self.qsize()

    def empty(self) -> bool:
        """Whether it has no item now."""
        return bool(get(self.actor.empty.remote()))

    def full(self) -> bool:
        """Whether it has no room now."""
        return bool(get(self.actor.full.remote()))

    # ------------------------------------------------------------------ items

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item at the end.

        Parameters:
            item: anything that can be pickled.
            block: wait for room.
            timeout: seconds to wait; None waits for ever.

        Raises:
            Full: there was no room, or none in time.
            ValueError: *timeout* is negative.
        """
        _raise_full(get(self.actor.put.remote(item, _wait_s(block, timeout))), self)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the first item.

        Parameters:
            block: wait for an item.
            timeout: seconds to wait; None waits for ever.

        Raises:
            Empty: there was no item, or none in time.
            ValueError: *timeout* is negative.
        """
        return _item(get(self.actor.get.remote(_wait_s(block, timeout))))

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """As :meth:`put`, for asyncio."""
        _raise_full(await self.actor.put.remote(item, _wait_s(block, timeout)), self)

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """As :meth:`get`, for asyncio."""
        return _item(await self.actor.get.remote(_wait_s(block, timeout)))

    def put_nowait(self, item: Any) -> None:
        """Add an item if there is room now.

        Raises:
            Full: there is none.
        """
        self.put(item, block=False)

    def get_nowait(self) -> Any:
        """Take the first item if there is one now.

        Raises:
            Empty: there is none.
        """
        return self.get(block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Add all items, or none if there is no room for all.

        Raises:
            Full: there is not enough room.
        """
        listed = list(items)
        _raise_full(get(self.actor.put_batch.remote(listed)), self, len(listed))

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take the first *num_items* items, or none if there are fewer.

        Raises:
            Empty: there are fewer.
            ValueError: *num_items* is negative.
        """
        if num_items < 0:
            raise ValueError(f"get_nowait_batch({num_items}): it must not be negative")
        found = get(self.actor.get_batch.remote(num_items))
        if found is None:
            raise Empty(f"the queue has fewer than {num_items} items")
        return list(found)

    def shutdown(self, force: bool = False, grace_period_s: float = 5) -> None:
        """End the queue's actor; items in it are lost, and calls that wait fail with ``ActorDiedError``.

        Parameters:
            force: at once; otherwise the calls that it has received end first.
            grace_period_s: how long to wait for them, in seconds.
        """
        if not force:
            with contextlib.suppress(GetTimeoutError):
                get(self.actor.__ray_ready__.remote(), timeout=grace_period_s)
        kill(self.actor)


class _QueueActor:
    """The actor. Items travel inside one-item tuples, so that ``()`` can say that there was none."""

    def __init__(self, maxsize: int) -> None:
        self._queue: asyncio.Queue[Any] = asyncio.Queue(maxsize)

    async def qsize(self) -> int:
        return self._queue.qsize()

    async def empty(self) -> bool:
        return self._queue.empty()

    async def full(self) -> bool:
        return self._queue.full()

    async def put(self, item: Any, wait_s: float | None) -> bool:
        try:
            if wait_s == 0:
                self._queue.put_nowait(item)
            else:
                async with asyncio.timeout(wait_s):
                    await self._queue.put(item)
        except (asyncio.QueueFull, TimeoutError):
            return False
        return True

    async def get(self, wait_s: float | None) -> tuple[Any, ...]:
        try:
            if wait_s == 0:
                return (self._queue.get_nowait(),)
            async with asyncio.timeout(wait_s):
                return (await self._queue.get(),)
        except (asyncio.QueueEmpty, TimeoutError):
            return ()

    async def put_batch(self, items: list[Any]) -> bool:
        if self._queue.maxsize > 0 and self._queue.qsize() + len(items) > self._queue.maxsize:
            return False
        for item in items:
            self._queue.put_nowait(item)
        return True

    async def get_batch(self, count: int) -> list[Any] | None:
        if self._queue.qsize() < count:
            return None
        return [self._queue.get_nowait() for _ in range(count)]


_QUEUE_ACTOR = ActorClass(_QueueActor, {})


def _wait_s(block: bool, timeout: float | None) -> float | None:
    if not block:
        return 0
    if timeout is not None and timeout < 0:
        raise ValueError(f"timeout={timeout}: it must not be negative")
    return timeout


def _raise_full(was_put: bool, target: Queue, count: int = 1) -> None:
    if not was_put:
        raise Full(f"the queue has no room for {count} more of at most {target.maxsize} items")


def _item(found: tuple[Any, ...]) -> Any:
    if not found:
        raise Empty("the queue has no item")
    return found[0]
