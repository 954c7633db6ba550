"""What a child that user code forks must not have of its parent's part in the session.

``os.fork`` and ``multiprocessing`` copy the process: its sockets, so that nobody would see the end of file when the
parent dies; its epoll object, which both would change; its refs, which nobody would count. So the child closes its
copies, forgets the client and gets a runtime that refuses every call. It may begin a session of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

from remora.base import runtime
from remora.base.errors import LocalRayletDiedError
from remora.base.object_ref import FAILED, FIRST_FINISHED, STORED
from remora.processes.client import ref_hooks
from remora.serialization import serialize_system_error

if TYPE_CHECKING:
    from remora.base.runtime import Runtime
    from remora.processes.client.client import Client


class ForkedRuntime:
    """The runtime of a forked child: refuses everything."""

    is_connected = False

    def __init__(self, parent_pid: int) -> None:
        self._text = _refusal(parent_pid)

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(self._text)

    def shutdown(self) -> None:
        """See :class:`~remora.base.runtime.Runtime`. The session is the parent's: nothing happens."""


class _Guard:
    """The client that a child of this process has to forget."""

    client: Client | None = None
    close_more: Callable[[], None] = lambda: None
    is_registered = False
    pid = 0


def watch(client: Client, close_more: Callable[[], None]) -> None:
    """Have forked children forget *client*; *close_more* closes, in the child, what only the caller knows."""
    _Guard.client = client
    _Guard.close_more = close_more
    _Guard.pid = os.getpid()
    if not _Guard.is_registered:
        _Guard.is_registered = True
        os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)


def forget() -> None:
    """The client is closed."""
    _Guard.client = None


def _before() -> None:
    # So that no other thread is in the middle of a change when the child gets its copy.
    if _Guard.client is not None:
        _Guard.client.lock.acquire()


def _after_in_parent() -> None:
    if _Guard.client is not None:
        _Guard.client.lock.release()


def _after_in_child() -> None:
    client, _Guard.client = _Guard.client, None
    if client is None:
        return
    text = client.ended = _refusal(_Guard.pid)
    runtime.current = cast("Runtime", ForkedRuntime(_Guard.pid))
    ref_hooks.uninstall()
    client.arena.drain()  # so that every stored object is known below; nothing is sent
    client.abandon_in_child()
    _Guard.close_more()
    data = serialize_system_error(LocalRayletDiedError(text))
    records = chain(client.arguments.unresolved(), *client.tasks.calls(), *client.actors.calls())
    for ref in (*client.refs.live(), *(ref for record in records for ref in record.return_refs())):
        if ref.state < FIRST_FINISHED or ref.state == STORED:
            ref.data, ref.state, ref.waiters = data, FAILED, None
    client.lock.release()


def _refusal(parent_pid: int) -> str:
    return (
        f"this process was forked from process {parent_pid}, and refs and actors of Remora do not go along: use them "
        "in the parent, make this work a remote function, or begin a session of this process's own with remora.init()"
    )
