"""Many threads at once, and both sides writing at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

import remora

TIMEOUT_S = 20


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    remora.shutdown()
    remora.init(num_cpus=2, object_store_memory=256 << 20)
    yield
    remora.shutdown()


@remora.remote
def double(number: int) -> int:
    return 2 * number


@remora.remote
def echo(data: bytes) -> bytes:
    return data


@remora.remote
class Echo:
    def echo(self, data: bytes) -> bytes:
        return data

    def add(self, number: int) -> int:
        return number + 1


def test_five_hundred_threads_call_put_and_get_at_once() -> None:
    actor = Echo.remote()
    begin = threading.Barrier(500)
    wrong: list[object] = []

    def call(number: int) -> None:
        try:
            begin.wait(TIMEOUT_S)
            small, large = remora.put([number]), remora.put(bytes([number % 256]) * 150_000)
            got = [
                remora.get(double.remote(number), timeout=TIMEOUT_S),
                *remora.get([actor.add.remote(number), double.remote(number)], timeout=TIMEOUT_S),
                remora.get(small),
                remora.get(large, timeout=TIMEOUT_S)[0],
                len(remora.wait([double.remote(number), actor.add.remote(1)], num_returns=2, timeout=TIMEOUT_S)[0]),
            ]
            expected = [2 * number, number + 1, 2 * number, [number], number % 256, 2]
            if got != expected:
                wrong.append((got, expected))
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            wrong.append(error)

    threads = [threading.Thread(target=call, args=(number,), daemon=True) for number in range(500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []


@pytest.mark.parametrize("kind", ["tasks", "actor"])
def test_many_large_calls_with_large_results_do_not_stand_still_while_nobody_reads(kind: str) -> None:
    call = echo if kind == "tasks" else Echo.remote().echo
    data = b"x" * 10_000
    refs = [call.remote(data) for _ in range(5_000)]
    results = remora.get(refs, timeout=TIMEOUT_S)
    assert all(result == data for result in results)


def test_an_actor_that_calls_back_with_large_data_while_it_is_called_does_not_stand_still() -> None:
    @remora.remote(max_concurrency=4)
    class Relay:
        def __init__(self, to: object) -> None:
            self.to = to

        def relay(self, data: bytes) -> int:
            return sum(map(len, remora.get([self.to.echo.remote(data) for _ in range(20)], timeout=TIMEOUT_S)))  # type: ignore[attr-defined]

    relay = Relay.remote(Echo.remote())
    data = b"x" * 10_000
    assert remora.get([relay.relay.remote(data) for _ in range(50)], timeout=TIMEOUT_S) == [200_000] * 50
