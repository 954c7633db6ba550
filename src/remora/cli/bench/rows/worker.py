"""One side of a benchmark: a process with one peer in it that measures when told to.

Requests and answers are JSON objects, one a line, on standard input and output. A request has "do" (the name of a
`Side` method) and that method's arguments; an answer has its result or "error". What the peer prints goes to standard
error.

Rows are imported when the first one is prepared: whatever is loaded before `Side.start` would make the start-up look
faster than it is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from itertools import repeat
from typing import TYPE_CHECKING, Any

from .peer_modules import PeerModule, open_peer

if TYPE_CHECKING:
    from .row import Body

Answer = dict[str, Any]


class Side:
    """What a side can be told to do."""

    def __init__(self, peer: PeerModule) -> None:
        self._peer = peer
        self._body: Body | None = None
        self._calls_per_look = 1

    def load(self) -> Answer:
        """Imports the peer."""
        return _timed(self._peer.load)

    def start(self) -> Answer:
        """Initializes the peer."""
        return _timed(self._peer.start)

    def first_task(self) -> Answer:
        """Runs one task."""
        return _timed(self._peer.first_task)

    def prepare(self, row: str, seconds: float) -> Answer:
        """Prepares a row and calls it for about `seconds` (longer where the row asks for that), at least once."""
        from .catalogue import find_row

        found = find_row(row)
        self._body = found.prepare(self._peer.open(found.kind))
        calls, elapsed_s = _call_for(self._body, max(seconds, found.warm_up_s), 1)
        # The clock is read about twenty times a measurement, so that it is not part of what is measured.
        self._calls_per_look = max(1, int(calls / elapsed_s * seconds / 20))
        return {"seconds": elapsed_s}

    def measure(self, seconds: float) -> Answer:
        """Calls the prepared row for about `seconds`, at least once."""
        if self._body is None:
            raise ValueError("measure before prepare")
        calls, elapsed_s = _call_for(self._body, seconds, self._calls_per_look)
        return {"operations": calls * self._body.operations, "seconds": elapsed_s}

    def drop(self) -> Answer:
        """Lets the prepared row go."""
        body, self._body = self._body, None
        if body is not None and body.clean_up is not None:
            body.clean_up()
        return {}

    def queued_tasks(self, count: int) -> Answer:
        """Queues `count` tasks while nothing can run, then lets them run."""
        from .queued_tasks import measure_queued_tasks

        return measure_queued_tasks(self._peer.open("ray"), count)

    def stop(self) -> Answer:
        """Shuts the peer down."""
        return _timed(self._peer.stop)


def _timed(action: Any) -> Answer:
    start = time.perf_counter()
    action()
    return {"seconds": time.perf_counter() - start}


def _call_for(body: Body, seconds: float, calls_per_look: int) -> tuple[int, float]:
    call, calls = body.call, 0
    start = time.perf_counter()
    while True:
        for _ in repeat(None, calls_per_look):
            call()
        calls += calls_per_look
        elapsed_s = time.perf_counter() - start
        if elapsed_s >= seconds:
            return calls, elapsed_s


def serve(side: Side, requests: Any, answers: Any) -> None:
    """Answers requests until "stop" or the end of the input."""
    for line in requests:
        request = json.loads(line)
        action = request.pop("do")
        try:
            answer = getattr(side, action)(**request)
        except Exception:  # noqa: BLE001 - a row that fails is an answer; the side goes on to the next row
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if action == "stop":
            return


def main() -> None:
    """Entry point of the side's process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--module", required=True, help="remora, ray, futures, multiprocessing, joblib, dask, limits")
    side = Side(open_peer(parser.parse_args().module))
    # Children and libraries print to descriptor 1: the answers keep the real one for themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(side, sys.stdin, answers)
