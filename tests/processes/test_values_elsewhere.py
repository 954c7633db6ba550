"""What a process does with the values that its daemon tells it."""

from __future__ import annotations

import itertools
from threading import RLock
from types import SimpleNamespace
from typing import Any

from remora.base.ids import make_object_id, make_process_id, node_of
from remora.base.object_ref import STORED, ObjectRef
from remora.messages.objects import Location, ObjectValue, Value
from remora.processes.client.values import Values

PROCESS = make_process_id(1, 1)
HERE = Location(node_of(PROCESS), 0, 100)


def test_who_waits_for_a_value_that_came_meanwhile_as_an_argument_is_told() -> None:
    ref: ObjectRef[Any] = ObjectRef(make_object_id(make_process_id(2, 1), 1), STORED, HERE, published=True)
    refs = SimpleNamespace(find=lambda object_id: ref)
    client: Any = SimpleNamespace(
        process=PROCESS, node=node_of(PROCESS), next_call=itertools.count(1), lock=RLock(), refs=refs
    )
    assert Values(client).on_value(ObjectValue(ref.id, Value(STORED, b"", HERE))) is ref
