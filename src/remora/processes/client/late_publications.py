"""What this process tells its daemon about refs, without the publications that turn out to be needless.

Large arguments are published because a worker might keep a view of them; mostly it does not, and the ``Release``
follows a moment later. So such a ``Publish`` waits here until anything else about refs is said, or the next look
(50 ms). If its ``Release`` comes first, neither is sent. That is safe: a home that is asked for an id it does not know
pings the maker, and the answer to that goes through here as well, behind everything that waits.

Only the driver of a session does so: with it everything ends. A worker may be killed before it has published what
an actor keeps a view of, so it says everything at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from remora.messages.counting import Publish, Release, Resolve, Store


class LatePublications:
    """The way of all messages of counting to the daemon. All methods want the client's lock.

    ``on_late(offset)`` is told when a publication begins to wait: from then on what is said of the object here decides
    about its space. ``on_published(offset)`` is told when the daemon has been told of an object that this process
    wrote, and ``release(offset)`` when it will never be.
    """

    def __init__(
        self,
        send: Callable[[Any], None],
        on_late: Callable[[int], None],
        on_published: Callable[[int], None],
        release: Callable[[int], None],
    ) -> None:
        self._send = send
        self._on_late = on_late
        self._on_published = on_published
        self._release = release
        self._late: dict[bytes, Publish] = {}
        self.may_wait = False
        """Set by a driver."""

    def __repr__(self) -> str:
        return f"<LatePublications {len(self._late)}>"

    def send(self, message: Any) -> None:
        """Say something about refs."""
        kind = type(message)
        if kind is Publish and self.may_wait and message.value.location is not None:
            if not message.writer and not message.value.contents:
                self._late[message.id] = message
                self._on_late(message.value.location.offset)
                return
        elif kind is Release and self._late:
            message = self._without_needless(message)
            if message is None:
                return
        self.flush()
        self._tell(message)

    def flush(self) -> None:
        """Say what waits."""
        if self._late:
            late, self._late = self._late, {}
            for message in late.values():
                self._tell(message)

    def _without_needless(self, message: Release) -> Release | None:
        ids = []
        for object_id in message.ids:
            late = self._late.pop(object_id, None)
            if late is None:
                ids.append(object_id)
            elif late.value.location is not None:
                self._release(late.value.location.offset)
        if len(ids) == len(message.ids):
            return message
        return Release(ids) if ids else None

    def _tell(self, message: Any) -> None:
        self._send(message)
        location = None
        if isinstance(message, Store):
            location = message.location
        elif isinstance(message, Publish | Resolve) and not message.writer:
            location = message.value.location
        if location is not None:
            self._on_published(location.offset)
