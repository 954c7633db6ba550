"""Where the time of one actor call, one put and one get goes: `python benchmarks/breakdown.py [ROUNDS]`.

Each stage is run alone, many times, with the real objects of a session, and the best of 9 rounds counts. The
stages of a call do not add up to the whole: what is missing is waiting for the other process.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import remora
from remora.base import runtime
from remora.base.ids import ObjectId
from remora.base.object_ref import INLINE, ObjectRef
from remora.core.actor_calls import ActorCalls
from remora.messages.actors import ALIVE, ActorState
from remora.messages.tasks import Done, Task
from remora.messages.wire import decode_body, encode_frame
from remora.processes.client.pending import PendingCall
from remora.serialization import deserialize, serialize

ROUNDS = int(sys.argv[1]) if __name__ == "__main__" and len(sys.argv) > 1 else 9


def time_us(function: Callable[[], Any], count: int = 2000) -> float:
    """The best round's time of one call, in microseconds, without that of the loop."""
    best_s = empty_s = 1.0
    for _ in range(ROUNDS):
        start_s = time.perf_counter()
        for _ in range(count):
            function()
        middle_s = time.perf_counter()
        for _ in range(count):
            pass
        empty_s = min(empty_s, time.perf_counter() - middle_s)
        best_s = min(best_s, middle_s - start_s)
    return (best_s - empty_s) / count * 1e6


class PlainEcho:
    """Answers, and times its own worker from the inside."""

    def nothing(self) -> None:
        """The call that is taken apart."""

    def time_run(self) -> dict[str, float]:
        """Running a call in the worker, without sockets."""
        worker = runtime.current._worker  # type: ignore[union-attr]
        submitter = _SilentSubmitter(worker)
        task = Task(1, 1)
        run_us = time_us(lambda: worker.runner.run(submitter, task))
        return {
            "run it: load, call, serialize the result, make the reply": run_us,
            "of that, the number in the page of running calls": time_us(
                lambda: worker.runner._begin(worker.runner._slot, submitter.process, 1)
            ),
            "of that, serialize the result": time_us(lambda: serialize(None)),
        }


Echo = remora.remote(PlainEcho)


class _SilentSubmitter:
    """A submitter whose replies go nowhere."""

    closed = False

    def __init__(self, worker: Any) -> None:
        self.process = worker.client.process
        self.functions = {1: worker.runner.instance.nothing}
        self.connection = self
        self.outgoing = _Nothing()


class _Nothing:
    def append(self, message: object) -> None:
        """Forget it."""


def actor_call() -> dict[str, float]:
    """The stages of ``get(actor.nothing.remote())``."""
    echo = Echo.remote()
    remora.get(echo.nothing.remote())
    client = runtime.current._client  # type: ignore[union-attr]
    method = echo.nothing
    stages = {"whole": time_us(lambda: remora.get(method.remote()))}
    in_bulk_s = [_bulk_s(method) for _ in range(ROUNDS)]
    stages["whole, 1000 at a time"] = min(in_bulk_s) / 1000 * 1e6
    client.actors._dispatch = lambda record, pending: None
    stages["caller: check arguments, make ref, record and message"] = time_us(method.remote)
    del client.actors._dispatch
    stages["caller: order of the actor's calls, in and out"] = _order_us()
    frame, reply = encode_frame([Task(7, 3)]), encode_frame([Done(7, serialize(None).to_bytes())])
    stages["both: encode a frame"] = time_us(lambda: encode_frame([Task(7, 3)]))
    stages["both: decode a frame"] = time_us(lambda: decode_body(memoryview(frame)[4:]))
    stages["both: write a frame and read it, one process"] = _socket_us(bytes(frame))
    stages["both: look at the sockets (epoll)"] = time_us(lambda: client.reactor.wait(0))
    data = decode_body(memoryview(reply)[4:])[0].data
    stages["caller: the value out of the reply"] = time_us(lambda: deserialize(data))
    for name, value in remora.get(echo.time_run.remote()).items():
        stages[f"worker: {name}"] = value
    return stages


def _bulk_s(method: Any) -> float:
    start_s = time.perf_counter()
    remora.get([method.remote() for _ in range(1000)])
    return time.perf_counter() - start_s


def _order_us() -> float:
    actor = bytes(16)
    calls: ActorCalls[PendingCall] = ActorCalls(actor, ordered=True)
    calls.actor_state(ActorState(actor, ALIVE, 1))
    record = PendingCall(1, Task(1, 1), None, None, None)
    return time_us(lambda: (calls.submit(record), calls.completed(1)))


def _socket_us(frame: bytes) -> float:
    one, other = socket.socketpair()
    buffer = bytearray(4096)
    try:
        return time_us(lambda: (one.send(frame), other.recv_into(buffer)))
    finally:
        one.close()
        other.close()


def round_trip_us() -> float:
    """A few bytes to another process and back, both spinning as Remora's waiting threads do: what no call can beat."""
    one, other = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        one.close()
        while data := _spin(other):
            other.send(data)
        os._exit(0)
    other.close()
    best_us = time_us(lambda: (one.send(b"x" * 30), _spin(one)))
    one.close()
    os.waitpid(pid, 0)
    return best_us


def _spin(sock: socket.socket) -> bytes:
    sock.setblocking(False)
    while True:
        try:
            return sock.recv(4096)
        except BlockingIOError:
            os.sched_yield()


def put_and_get() -> dict[str, float]:
    """The stages of small and of stored values."""
    client = runtime.current._client  # type: ignore[union-attr]
    small, array = [1, 2, 3], np.zeros(20_000)
    ref, stored = remora.put(small), remora.put(array)
    serialized = serialize(array)

    def write_and_discard() -> None:
        client.arena.discard(client.arena.store(serialized))

    return {
        "put(5)": time_us(lambda: remora.put(5)),
        "put([1, 2, 3])": time_us(lambda: remora.put(small)),
        "of that, serialize": time_us(lambda: serialize(small).to_bytes()),
        "of that, make the ref": time_us(lambda: ObjectRef(ObjectId(b"\0" * 16), INLINE, b"", ())),
        "get of it": time_us(lambda: remora.get(ref)),
        "put(array of 160 KB)": time_us(lambda: remora.put(array), 500),
        "of that, serialize ": time_us(lambda: serialize(array)),
        "of that, space and copy": time_us(write_and_discard, 500),
        "copy of 160 KB to the same pages, alone": time_us(_copy(array), 500),
        "get of it ": time_us(lambda: remora.get(stored)),
    }


def _copy(array: np.ndarray[Any, Any]) -> Callable[[], None]:
    target = np.empty_like(array)
    return lambda: np.copyto(target, array)


def main() -> None:
    """Print both tables."""
    limit_us = round_trip_us()  # before there is a session, which a forked child must not see
    with remora.init(num_cpus=2):
        for title, stages in (("actor call", actor_call()), ("put and get", put_and_get())):
            print(f"\n{title}")
            if title == "actor call":
                print(f"{limit_us:9.2f} us  the limit: a round trip of 30 bytes between two processes that spin")
            for name, value in stages.items():
                print(f"{value:9.2f} us  {name.strip()}")


if __name__ == "__main__":
    main()
