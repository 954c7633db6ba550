"""Another node that says anything whatever: the directory stays in order, and local processes keep what they hold."""

from __future__ import annotations

import contextlib
import random

import pytest

from remora.base.ids import ProcessId, make_object_id, make_process_id, node_of
from remora.base.object_ref import INLINE, PENDING, STORED
from remora.core.counting.directory import Directory
from remora.core.counting.entries import Loss
from remora.core.counting.vocabulary import CountingError
from remora.messages import copies, counting, objects
from remora.messages.objects import GetObjects, Location, Value
from remora.testing.random_messages import RandomMessages

SEEDS = 40
MESSAGES = 150
SAID = (*counting.MESSAGES, *copies.MESSAGES, *objects.MESSAGES)
P, WORKER = make_process_id(1, 1), make_process_id(1, 2)
HERE, HOSTILE, OTHER = (node_of(make_process_id(number, 0)) for number in (1, 2, 3))
INLINE_OBJECT, STORED_OBJECT, PENDING_OBJECT = (make_object_id(P, call) for call in (1, 2, 3))
FOREIGN = [make_object_id(make_process_id(node, 1), call) for node in (2, 3) for call in (1, 2)]
KEPT = {
    INLINE_OBJECT: Value(INLINE, b"data"),
    STORED_OBJECT: Value(STORED, b"", Location(HERE, 4096, 100)),
    PENDING_OBJECT: Value(PENDING),
}


def describe(loss: Loss) -> bytes:
    return loss.reason.name.encode()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_local_processes_hold_stays_and_nothing_breaks(seed: int) -> None:
    choice = random.Random(seed)
    directory = Directory(HERE, describe)
    for process in (P, WORKER):
        directory.process_connected(process, driver=P)
    directory.nodes_changed([HERE, HOSTILE, OTHER])
    for object_id, value in KEPT.items():
        directory.process_message(P, counting.Publish(object_id, value))
    directory.process_message(WORKER, counting.Register([*KEPT, *FOREIGN]))
    directory.process_message(WORKER, GetObjects([*FOREIGN, PENDING_OBJECT]))
    outside = ProcessId(make_process_id(2, 1))
    make = RandomMessages(choice, [P, WORKER, HERE, HOSTILE, OTHER, outside, *KEPT, *FOREIGN])
    for _ in range(MESSAGES):
        with contextlib.suppress(CountingError, ValueError, KeyError):  # what Links takes for the other's fault
            directory.node_message(HOSTILE, make.one_of(SAID))
        directory.outbox.clear()
        directory.validate()
    for object_id, value in KEPT.items():
        assert directory.is_known(object_id)
        if value.state == INLINE:
            assert directory.value_of(object_id) == value
    directory.tick(1e9)
    directory.validate()
