"""Makes the methods of refs (``future``, ``await``, standard pickle) find the client of this process."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from remora.base.object_ref import ObjectRef, hooks

if TYPE_CHECKING:
    from remora.processes.client.client import Client
    from remora.processes.client.futures import Futures


class _LateFutures:
    """Imports asyncio and concurrent.futures, 40 ms, when the first ref is awaited."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._futures: Futures | None = None

    def _get(self) -> Futures:
        if self._futures is None:
            from remora.processes.client.futures import Futures

            self._futures = Futures(self._client)
        return self._futures

    def future(self, ref: ObjectRef[Any]) -> Any:
        return self._get().future(ref)

    def wait_async(self, ref: ObjectRef[Any]) -> Generator[Any, None, Any]:
        return self._get().wait_async(ref)

    def reduce(self, ref: ObjectRef[Any]) -> tuple[Any, ...]:
        return self._get().reduce_outside(ref)


def install(client: Client) -> None:
    """From now on refs of this process belong to *client*."""
    late = _LateFutures(client)
    hooks.future = late.future
    hooks.wait_async = late.wait_async
    hooks.reduce = late.reduce


def uninstall() -> None:
    """Refs of a session that is over cannot be awaited."""
    hooks.future = hooks.wait_async = hooks.reduce = None
