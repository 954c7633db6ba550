from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import remora
from remora.base import runtime
from remora.base.ids import ObjectId
from remora.base.object_ref import STORED, ObjectRef
from remora.processes.client.young_objects import YoungObjects


class Shell:
    """Notes what the objects ask for."""

    def __init__(self) -> None:
        self.released: list[int] = []
        self.published: list[bytes] = []
        self.young = YoungObjects(self.publish, self.released.append)

    def publish(self, ref: ObjectRef[Any]) -> None:
        self.published.append(ref.id)
        self.young.published(ref.data)

    def add(self, offset: int) -> ObjectRef[Any]:
        ref: ObjectRef[Any] = ObjectRef(ObjectId(offset.to_bytes(16, "big")), STORED, offset)
        self.young.add(ref, offset)
        return ref


def test_an_object_that_dies_young_gives_its_space_back_and_is_never_published() -> None:
    shell = Shell()
    kept, dropped = shell.add(64), shell.add(128)
    del dropped
    shell.young.publish_all()
    assert (shell.released, shell.published) == ([128], [kept.id])
    assert not shell.young


def test_an_object_that_was_published_meanwhile_is_the_daemons() -> None:
    shell = Shell()
    escaped = shell.add(64)
    shell.young.published(64)
    del escaped
    shell.young.publish_all()
    assert (shell.released, shell.published) == ([], [])


def test_space_that_is_used_again_belongs_to_the_object_that_lies_there_now() -> None:
    shell = Shell()
    first = shell.add(64)
    shell.young.published(64)
    second = shell.add(64)
    del first
    shell.young.drain()
    assert shell.released == []
    del second
    shell.young.drain()
    assert shell.released == [64]


@pytest.fixture
def client() -> Iterator[Any]:
    remora.init(num_cpus=1)
    yield runtime.current._client  # type: ignore[union-attr]
    remora.shutdown()


def test_a_loop_of_puts_and_drops_sends_nothing_and_uses_the_same_pages(client: Any) -> None:
    array = np.ones(200_000, "u1")
    offsets = {remora.put(array).data.offset for _ in range(1000)}
    assert len(offsets) <= 40


def test_an_object_that_leaves_its_process_is_published_first(client: Any) -> None:
    @remora.remote
    def total(array: Any, nested: list[Any]) -> float:
        return float(array.sum() + remora.get(nested[0]).sum())

    ref, other = remora.put(np.ones(20_000)), remora.put(np.ones(30_000))
    result = total.remote(ref, [other])
    assert ref.published
    assert other.published
    assert remora.get(result) == 50_000


def test_an_object_that_left_and_died_before_the_daemon_heard_of_it_gives_its_space_back_once(client: Any) -> None:
    remora.put(np.ones(20_000))  # from here on there is an extent
    with client.lock:
        ref = remora.put(np.ones(20_000))
        offset = ref.data.offset
        client.refs.publish(ref)
        del ref
        client.arena.drain()
        client.refs.drain()
        client.late_publications.flush()
        assert offset in {remora.put(np.ones(20_000)).data.offset for _ in range(25)}
    assert remora.get(remora.put(np.ones(20_000)))[-1] == 1


def test_an_object_that_stays_is_published_soon(client: Any) -> None:
    ref = remora.put(np.ones(200_000))
    client.wait_until(lambda: ref.published)
    assert remora.get(ref)[-1] == 1
