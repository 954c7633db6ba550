"""Nothing leaves the head before what it follows from is written down.

Each turn of the loop hands over what changed and what is to be sent. A thread writes while the loop turns on, so a slow
database holds up answers and never heartbeats. What several turns hand over meanwhile is one transaction: the slower
the database, the larger they get.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

from remora.core.journal import Change
from remora.processes.head.store import HeadStore, StoreError

FIRST_RETRY_S = 0.1
LONGEST_RETRY_S = 2.0
COMPLAIN_EVERY_S = 10.0

Outgoing = tuple[Any, tuple[Any, ...]]
"""A stream and messages for it."""


class _Batch:
    """One transaction, and what waits for it."""

    def __init__(self) -> None:
        self.changes: dict[tuple[str, bytes], Change] = {}
        self.outgoing: list[Outgoing] = []


class CommitPipeline:
    """``put`` and ``take`` are for the loop; *wake* is called from the thread when there is something to take."""

    def __init__(self, store: HeadStore, wake: Callable[[], None]) -> None:
        self._store = store
        self._wake = wake
        self._lock = threading.Condition()
        self._next: _Batch | None = None
        self._is_writing = False
        self._done: list[Outgoing] = []
        self._is_closed = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="remora-head-writer", daemon=True)
        self._thread.start()

    def put(self, changes: list[Change], outgoing: list[Outgoing]) -> None:
        """End of a turn. What needs no write, and waits for none, can be taken at once."""
        with self._lock:
            if not changes and not self._is_writing and self._next is None:
                self._done += outgoing
                return
            if self._next is None:
                self._next = _Batch()
            self._next.changes.update({(change.kind, change.key): change for change in changes})
            self._next.outgoing += outgoing
            self._lock.notify()

    def take(self) -> list[Outgoing]:
        """What may be sent now, in order.

        Raises:
            BaseException: what ended the thread; without it nothing is written any more.
        """
        with self._lock:
            if self._failure is not None:
                raise self._failure
            done, self._done = self._done, []
            return done

    def close(self) -> None:
        """End the thread after its transaction."""
        with self._lock:
            self._is_closed = True
            self._lock.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._write_batches()
        except BaseException as error:  # noqa: BLE001 - the last frame of this thread
            self._failure = error
            self._wake()

    def _write_batches(self) -> None:
        while True:
            with self._lock:
                while self._next is None:
                    if self._is_closed:
                        return
                    self._lock.wait()
                batch, self._next = self._next, None
                self._is_writing = True
            is_written = self._write(list(batch.changes.values()))
            with self._lock:
                self._is_writing = False
                if not is_written:
                    return
                self._done += batch.outgoing
            self._wake()

    def _write(self, changes: list[Change]) -> bool:
        """Until it is written; False when the head ends before."""
        pause_s = FIRST_RETRY_S
        complained_s = 0.0
        while True:
            try:
                self._store.commit(changes)
                return True
            except StoreError as error:
                if monotonic() - complained_s > COMPLAIN_EVERY_S:
                    complained_s = monotonic()
                    print(f"{error}; nothing is acknowledged until it can be", file=sys.stderr, flush=True)
            with self._lock:
                if self._is_closed or self._lock.wait_for(lambda: self._is_closed, pause_s):
                    return False
            pause_s = min(LONGEST_RETRY_S, 2 * pause_s)
