"""A ref as a future, in ``await``, and in a pickle that is not ours."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from remora.base.object_ref import BORROWED, FIRST_FINISHED, ObjectRef
from remora.processes.client.leadership import subscribe, unsubscribe
from remora.processes.client.values import CopyLeft

if TYPE_CHECKING:
    import asyncio
    import concurrent.futures

    from remora.processes.client.client import Client


class Futures:
    """What :class:`~remora.base.object_ref.ObjectRef` calls for its own methods."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._warned_exported = False
        self._awaited: dict[int, ObjectRef[Any]] = {}
        """The refs of futures that are not done, by the future's identity.

        Nobody else need have them: the ref and what waits for it hold only each other, and the collector frees such.
        """

    def future(self, ref: ObjectRef[Any]) -> concurrent.futures.Future[Any]:
        """A future with the ref's value or error. It is loaded by the thread that hears of it."""
        import concurrent.futures  # costs milliseconds, as asyncio does; a program without futures needs neither

        self._client.values.ask_again([ref])
        future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        future.set_running_or_notify_cancel()
        unfinished = [future]
        self._awaited[id(future)] = ref

        def finish(_: ObjectRef[Any]) -> None:
            try:
                unfinished.pop()
            except IndexError:  # told twice, perhaps by two threads at once
                return
            try:
                value = self._client.values.load(ref)
            except CopyLeft:
                unfinished.append(future)
                self._when_finished(ref, finish)
            except BaseException as error:  # noqa: BLE001 - any exception of the user's is the future's result
                self._awaited.pop(id(future), None)
                future.set_exception(error)
            else:
                self._awaited.pop(id(future), None)
                future.set_result(value)

        self._when_finished(ref, finish)
        return future

    def wait_async(self, ref: ObjectRef[Any]) -> Generator[Any, None, Any]:
        """``await ref``: the loop goes on meanwhile."""
        self._client.values.ask_again([ref])
        while True:
            if ref.state < FIRST_FINISHED:
                yield from self._awaiter(ref)
            try:
                return self._client.values.load(ref)
            except CopyLeft:
                continue

    def _awaiter(self, ref: ObjectRef[Any]) -> asyncio.Future[None]:
        import asyncio

        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()

        def wake(_: ObjectRef[Any]) -> None:
            try:
                loop.call_soon_threadsafe(_set_done, waiter)
            except RuntimeError:  # the loop was closed before the value came: nobody awaits it any more
                return

        self._when_finished(ref, wake)
        return waiter

    def _when_finished(self, ref: ObjectRef[Any], callback: Any) -> None:
        def here(ref: ObjectRef[Any]) -> None:
            if ref.state != BORROWED:
                callback(ref)
                return
            # Its task has ended on another node, so only now there is something to fetch, or its copy has left again.
            unsubscribe(ref, here)
            subscribe(ref, here)
            self._client.values.request([ref])

        subscribe(ref, here if self._client.is_in_cluster else callback)
        # After that: while it was pending nobody would have told of it.
        if ref.state == BORROWED:
            self._client.values.request([ref])
        self._client.leadership.expect_replies()

    def reduce_outside(self, ref: ObjectRef[Any]) -> tuple[Any, ...]:
        """The ref is pickled by something that is not ours: it is held until the job ends, since nobody can count."""
        with self._client.lock:
            self._client.refs.export(ref)
        self._client.nudge()
        if not self._warned_exported:
            self._warned_exported = True
            frame = next((f for f in reversed(traceback.extract_stack()) if "/remora/" not in f.filename), None)
            where = f" ({frame.filename}:{frame.lineno})" if frame is not None else ""
            warnings.warn(
                f"a ref was pickled outside of Remora{where}: its object is kept until the job ends. "
                "Pass refs as arguments of remote calls, or inside of what you pass",
                RuntimeWarning,
                stacklevel=2,
            )
        return load_exported, (ref.id,)


def _set_done(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def load_exported(object_id: bytes) -> ObjectRef[Any]:
    """Unpickle a ref that was pickled outside of Remora's serializers.

    Raises:
        RuntimeError: this process is not connected to the session.
    """
    from remora.base import runtime

    current = runtime.current
    adopt = getattr(current, "adopt_exported", None)
    if adopt is None:
        raise RuntimeError("a ref can only be unpickled in a process that is connected to its session")
    return adopt(object_id)  # type: ignore[no-any-return]
