"""The program that is measured: a driver on the first node of a cluster, with ``ray`` or ``remora``.

It is run as a file by the interpreter of either side, so it imports nothing of this package. Requests and answers are
JSON objects, one a line, on standard input and output; "do" in a request names a method of `Driver`, the rest are its
arguments. What libraries print goes to standard error.

Times that begin in one process and end in another are read from ``time.monotonic``, which all processes of a machine
share, whatever their network namespace.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

SETTLE_S = 1.0
"""So long after the last ref to an object is gone both systems have freed it everywhere."""
TIMEOUT_S = 120.0
POLL_S = 0.005

Answer = dict[str, Any]


class Driver:
    """What the driver can be told to do. Nodes are named by the custom resource that only they have."""

    def __init__(self, module: str) -> None:
        self._module = importlib.import_module(module)
        self._readers: dict[str, Any] = {}
        self._array = np.zeros(0, dtype=np.uint8)
        self._watched: Any = None

    def connect(self, address: str) -> Answer:
        """Connects to the node on this host."""
        self._module.init(address=address, log_to_driver=False)
        return {}

    def wait_for_nodes(self, count: int) -> Answer:
        """Waits until so many nodes are alive."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while _alive(self._module) != count:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"{_alive(self._module)} nodes are alive instead of {count}")
            time.sleep(POLL_S)
        return {}

    def disconnect(self) -> Answer:
        """Leaves the cluster."""
        self._module.shutdown()
        return {}

    # ------------------------------------------------------------------ objects

    def start_readers(self, nodes: list[str]) -> Answer:
        """Starts an actor on each node, which the following methods use."""
        readers = {
            node: _reader_class(self._module).options(num_cpus=0, resources={node: 0.001}).remote() for node in nodes
        }
        self._module.get([reader.ready.remote() for reader in readers.values()])
        self._readers |= readers
        return {}

    def send_one(self, size: int, nodes: list[str]) -> Answer:
        """Puts one object here, and has it read on these nodes at once: seconds until the last of them has it."""
        if len(self._array) != size:
            self._array = np.full(size, 7, dtype=np.uint8)
        ref = self._module.put(self._array)
        start_s = time.monotonic()
        ends_s = self._module.get([self._readers[node].read.remote([ref], size) for node in nodes])
        del ref
        time.sleep(SETTLE_S)
        return {"seconds": max(ends_s) - start_s}

    def fetch_many(self, node: str, count: int, size: int) -> Answer:
        """Has objects made on a node, and gets them here at once."""
        refs = self._module.get(self._readers[node].make.remote(count, size))
        start_s = time.monotonic()
        values = self._module.get(refs)
        seconds = time.monotonic() - start_s
        if len(values) != count or any(len(value) != size for value in values):
            raise RuntimeError(f"{len(values)} objects came back")
        del refs, values
        time.sleep(SETTLE_S)
        return {"seconds": seconds, "objects": count}

    # ------------------------------------------------------------------ calls

    def task_calls(self, node: str, at_once: int, seconds: float) -> Answer:
        """Calls tasks on a node, so many at once; the first half of the time is not counted."""
        function = self._module.remote(_nothing).options(resources={node: 0.001})
        return self._call_for(function.remote, at_once, seconds)

    def actor_calls(self, node: str, at_once: int, seconds: float) -> Answer:
        """Calls an actor on a node, so many at once; the first half of the time is not counted."""
        return self._call_for(self._readers[node].nothing.remote, at_once, seconds)

    def _call_for(self, call: Callable[[], Any], at_once: int, seconds: float) -> Answer:
        get = self._module.get

        def round_of_calls() -> None:
            if at_once == 1:
                get(call())
            else:
                get([call() for _ in range(at_once)])

        _repeat(round_of_calls, seconds / 2)
        rounds, elapsed_s = _repeat(round_of_calls, seconds)
        return {"calls": rounds * at_once, "seconds": elapsed_s}

    def placement_groups(self, bundles: int, num_cpus: int, seconds: float) -> Answer:
        """Makes groups of so many bundles with so many CPUs each, waits for each group, and removes it."""
        util = importlib.import_module(f"{self._module.__name__}.util.placement_group")

        def one_group() -> None:
            group = util.placement_group([{"CPU": num_cpus}] * bundles, strategy="PACK")
            if not group.wait(TIMEOUT_S):
                raise TimeoutError(f"a placement group was not made within {TIMEOUT_S:g} s")
            util.remove_placement_group(group)

        _repeat(one_group, seconds / 2)
        rounds, elapsed_s = _repeat(one_group, seconds)
        return {"groups": rounds, "seconds": elapsed_s}

    # ------------------------------------------------------------------ deaths

    def start_watching(self, node: str, alive: int) -> Answer:
        """Has an actor on a node look at the list of nodes until only so many are alive."""
        self._watched = self._readers[node].watch.remote(alive)
        return {}

    def watched(self) -> Answer:
        """When it saw that, in seconds of the machine's clock."""
        return {"at_s": self._module.get(self._watched)}


def _nothing() -> None:
    return None


def _alive(module: Any) -> int:
    return sum(bool(node["Alive"]) for node in module.nodes())


def _repeat(action: Callable[[], object], seconds: float) -> tuple[int, float]:
    rounds = 0
    start_s = time.monotonic()
    while True:
        action()
        rounds += 1
        elapsed_s = time.monotonic() - start_s
        if elapsed_s >= seconds:
            return rounds, elapsed_s


def _reader_class(module: Any) -> Any:
    timeout_s, poll_s = TIMEOUT_S, POLL_S  # the class is pickled by value: it takes along what it names here

    class Reader:
        def __init__(self) -> None:
            self.module = module

        def ready(self) -> bool:
            return True

        def nothing(self) -> None:
            return None

        def read(self, refs: list[Any], size: int) -> float:
            array = self.module.get(refs[0])
            end_s = time.monotonic()
            if len(array) != size or array[0] != 7 or array[-1] != 7:
                raise RuntimeError("the object that came is another one")
            return end_s

        def make(self, count: int, size: int) -> list[Any]:
            return [self.module.put(np.full(size, number % 256, dtype=np.uint8)) for number in range(count)]

        def watch(self, alive: int) -> float:
            deadline_s = time.monotonic() + timeout_s
            while sum(bool(node["Alive"]) for node in self.module.nodes()) > alive:
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"more than {alive} nodes still count as alive")
                time.sleep(poll_s)
            return time.monotonic()

    return module.remote(Reader)


def serve(driver: Driver, requests: Any, answers: Any) -> None:
    """Answers requests until the end of the input."""
    for line in requests:
        request = json.loads(line)
        try:
            answer = getattr(driver, request.pop("do"))(**request)
        except Exception:  # noqa: BLE001 - a request that fails is an answer; the benchmark decides what it means
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Entry point of the driver's process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--module", required=True, choices=("remora", "ray"))
    module = parser.parse_args().module
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(Driver(module), sys.stdin, answers)


if __name__ == "__main__":
    main()
