"""How many leases a submitter asks its daemon for.

Each waiting record could use a worker of its own if tasks are slow, or share one with ``depth`` others if they are
quick. What is asked for at least doubles each time, so that a burst of n submits costs log n requests.
"""

from __future__ import annotations

from typing import Any

from remora.core.task_queue import TaskQueue
from remora.messages.leases import CancelRequest, RequestLease

_QUEUE_BITS = 24
QUEUE_NUMBERS = 1 << _QUEUE_BITS
"""Queues have numbers below this one."""
MANY_BYTES = 1 << 40
"""Said of arguments that are worth going to another node for: the tasks of a queue differ in how many they have."""


class LeaseRequests:
    """The unanswered requests of a process. A request number carries the number of its queue."""

    def __init__(self, limit: int) -> None:
        self._limit = max(1, limit)
        self._last = 0

    def want_more(self, queue: TaskQueue[Any]) -> RequestLease | None:
        """A request if more records wait than the leases asked for could take in."""
        message: RequestLease | None = None
        depth = queue.waiting[0].shape.depth
        wanted = min(self._limit, -(-queue.backlog() // depth))
        if wanted > queue.requested:
            count = min(self._limit - queue.requested, max(wanted - queue.requested, queue.requested))
            self._last += 1
            request = self._last << _QUEUE_BITS | queue.number
            queue.requests[request] = count
            queue.requested += count
            backlog = queue.backlog()
            arguments = {queue.near: MANY_BYTES} if queue.near else {}
            message = RequestLease(
                request, queue.resources, queue.strategy, queue.environment, count, backlog, arguments
            )
        queue.request_above = queue.requested * depth if queue.requested < self._limit else _NEVER
        return message

    def was_made(self, request: int) -> bool:
        """Whether the number is one of ours, answered or not."""
        return 0 < request >> _QUEUE_BITS <= self._last

    def queue_number(self, request: int) -> int:
        """The queue that made the request."""
        return request & ((1 << _QUEUE_BITS) - 1)

    def answered(self, queue: TaskQueue[Any], request: int, count: int) -> None:
        """*count* leases of the request came, or will not come. A request that was cancelled is no longer known."""
        left = queue.requests.get(request)
        if left is None:
            return
        queue.requested -= min(count, left)
        queue.request_above = 0
        if left > count:
            queue.requests[request] = left - count
        else:
            del queue.requests[request]

    def cancel(self, queue: TaskQueue[Any]) -> list[CancelRequest]:
        """Nothing waits any more: take back what is not granted."""
        messages = [CancelRequest(request) for request in queue.requests]
        queue.requests.clear()
        queue.requested = 0
        queue.request_above = 0
        return messages


_NEVER = 1 << 62
