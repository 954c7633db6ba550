"""Counting over real processes: messages sent, and that everything is freed when nobody wants it any more."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import remora
from remora.base import runtime
from remora.messages.counting import Ack, Publish, PublishAck, Register, Release, Resolve
from remora.messages.tasks import Close, ReplyAck
from remora.processes.client.client import Client

TIMEOUT_S = 10.0
COUNTED = (Publish, PublishAck, Resolve, Register, Release, Ack, Close, ReplyAck)


@remora.remote(num_cpus=0)
class Keeper:
    def __init__(self) -> None:
        self.kept: list[Any] = []

    def keep(self, refs: Any) -> int:
        self.kept.append(refs)
        return len(self.kept)

    def look(self, refs: Any) -> int:
        return len(refs)

    def values(self) -> Any:
        return [remora.get(refs[0]) for refs in self.kept]

    def fresh(self, value: Any) -> list[Any]:
        return [remora.put(value)]

    def same(self, refs: Any) -> Any:
        return refs

    def drop(self) -> None:
        self.kept.clear()

    def pid(self) -> int:
        return os.getpid()


@remora.remote
def slow(value: Any) -> Any:
    time.sleep(0.05)
    return value


class Traffic:
    """Counts what the driver says and hears, by the class of the message."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.sent: Counter[str] = Counter()

    def count(self, message: Any) -> None:
        if isinstance(message, COUNTED):
            self.sent[type(message).__name__] += 1


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    remora.shutdown()
    remora.init(num_cpus=2, object_store_memory=64 << 20)
    assert runtime.current is not None
    yield runtime.current._client  # type: ignore[attr-defined]
    remora.shutdown()


@pytest.fixture(scope="module")
def the_keeper(client: Client) -> Any:
    return Keeper.remote()  # type: ignore[attr-defined]


@pytest.fixture
def keeper(the_keeper: Any, client: Client) -> Any:
    """An actor that keeps nothing yet; nothing of the tests before is under way."""
    get(the_keeper.drop.remote())
    eventually(lambda: len(client.refs.machine._refs) == 1)
    return the_keeper


@pytest.fixture
def traffic(client: Client, keeper: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Traffic]:
    traffic = Traffic(client)
    send = client.refs._send_to_daemon
    receive = client.daemon.on_messages
    to_process = client.refs._send_to_process

    def sent(message: Any) -> None:
        traffic.count(message)
        send(message)

    def sent_to_process(process: Any, message: Any) -> None:
        traffic.count(message)
        to_process(process, message)

    def received(connection: Any, messages: list[Any]) -> None:
        for message in messages:
            traffic.count(message)
        receive(connection, messages)

    monkeypatch.setattr(client.refs, "_send_to_daemon", sent)
    monkeypatch.setattr(client.refs, "_send_to_process", sent_to_process)
    monkeypatch.setattr(client.daemon, "on_messages", received)
    yield traffic
    monkeypatch.undo()


def get(ref: Any) -> Any:
    return remora.get(ref, timeout=TIMEOUT_S)


def eventually(is_so: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    never = remora.remote(time.sleep)
    while not is_so():
        assert time.monotonic() < deadline_s
        get(never.remote(0.01))


def free_store_bytes() -> float:
    return remora.available_resources()["object_store_memory"]


def test_values_cost_no_message_of_counting(traffic: Traffic, keeper: Any) -> None:
    ref = remora.put([1, 2])
    assert get(ref) == [1, 2]
    assert get(keeper.look.remote(ref)) == 2
    assert get([keeper.look.remote([1]) for _ in range(20)]) == [1] * 20
    assert not traffic.sent


def test_a_nested_ref_that_the_worker_drops_costs_two_messages_however_often_it_is_passed(
    traffic: Traffic, keeper: Any
) -> None:
    ref = remora.put("value")
    for _ in range(5):
        assert get(keeper.look.remote([ref])) == 1
    del ref
    eventually(lambda: traffic.sent["Release"])
    assert traffic.sent == {"Publish": 1, "Release": 1}


def test_a_nested_ref_that_an_actor_keeps_costs_the_driver_a_publication_a_close_and_a_release(
    traffic: Traffic, keeper: Any
) -> None:
    ref = remora.put("kept")
    assert get(keeper.keep.remote([ref])) == 1
    del ref
    eventually(lambda: traffic.sent["Release"])
    assert traffic.sent == {"Publish": 1, "Release": 1}
    assert get(keeper.values.remote()) == ["kept"]


def test_a_result_with_a_fresh_ref_is_registered_and_acknowledged(traffic: Traffic, keeper: Any) -> None:
    (ref,) = get(keeper.fresh.remote("fresh"))
    assert get(ref) == "fresh"
    eventually(lambda: traffic.sent["ReplyAck"])
    del ref
    eventually(lambda: traffic.sent["Release"])
    assert traffic.sent == {"Register": 1, "Ack": 1, "ReplyAck": 1, "Release": 1}


def test_an_argument_that_comes_back_costs_no_more_than_one_that_is_dropped(traffic: Traffic, keeper: Any) -> None:
    ref = remora.put("there and back")
    (back,) = get(keeper.same.remote([ref]))
    assert back is ref
    del ref, back
    eventually(lambda: traffic.sent["Release"])
    assert traffic.sent == {"Publish": 1, "Release": 1}


def test_a_pending_ref_that_was_passed_on_is_resolved_for_who_waits_for_it(keeper: Any) -> None:
    pending = slow.remote("made")
    get(keeper.keep.remote([pending]))
    assert get(keeper.values.remote()) == ["made"]


def test_containers_keep_what_they_contain_and_let_it_go(client: Client, keeper: Any) -> None:
    before = free_store_bytes()
    inner = remora.put(np.arange(500_000))
    outer = remora.put([remora.put([inner, "x"]), "y"])
    get(keeper.keep.remote([outer]))
    del inner, outer
    eventually(lambda: len(client.refs.live()) == 1)
    assert free_store_bytes() < before
    ((middle, y),) = get(keeper.values.remote())
    inner, x = get(middle)
    assert (get(inner).sum(), x, y) == (np.arange(500_000).sum(), "x", "y")
    del inner, middle
    get(keeper.drop.remote())
    eventually(lambda: free_store_bytes() >= before)


def test_an_object_outlives_the_process_that_made_it() -> None:
    maker: Any = Keeper.remote()  # type: ignore[attr-defined]
    (small,) = get(maker.fresh.remote("small"))
    (large,) = get(maker.fresh.remote(np.ones(300_000)))
    pid = get(maker.pid.remote())
    eventually(lambda: small.published)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(remora.exceptions.RayActorError):
        get(maker.pid.remote())
    assert get(small) == "small"
    assert get(large).sum() == 300_000


def test_results_of_a_dead_submitter_reach_who_holds_their_refs(tmp_path: Any) -> None:
    folder, gate = str(tmp_path), str(tmp_path / "gate")

    @remora.remote(num_cpus=0)
    def work(size: int) -> Any:
        open(os.path.join(folder, f"began {size}"), "w").close()
        while not os.path.exists(gate):
            time.sleep(0.005)
        return np.ones(size) if size > 1 else ["one"]

    @remora.remote(num_cpus=0)
    class Submitter:
        def start(self) -> Any:
            return [work.remote(1), work.remote(300_000)], os.getpid()

    submitter: Any = Submitter.remote()  # type: ignore[attr-defined]
    (small, large), pid = get(submitter.start.remote())
    eventually(lambda: len(os.listdir(tmp_path)) == 2)  # both have begun
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(remora.exceptions.RayActorError):
        get(submitter.start.remote())
    open(gate, "w").close()
    assert get(small) == ["one"]
    assert get(large).sum() == 300_000


def test_nothing_is_left_in_the_tables_when_everything_was_dropped(client: Client) -> None:
    gc.collect()
    eventually(lambda: len(client.refs.machine._refs) <= 1)
    known, before = set(client.refs.machine._refs), free_store_bytes()
    keeper: Any = Keeper.remote()  # type: ignore[attr-defined]
    kept = [remora.put(np.arange(50_000)) for _ in range(5)]
    get([keeper.keep.remote([ref]) for ref in kept])
    results = get([keeper.fresh.remote(number) for number in range(5)])
    del kept, results, keeper
    eventually(lambda: free_store_bytes() >= before)
    eventually(lambda: set(client.refs.machine._refs) == known)
    client.refs.machine.validate()
    assert client.refs.machine.is_quiet
    assert not client.refs._kept
    assert set(client.actors._records) <= known
