"""What calls do at the edges of a session: callbacks, destructors, cancelled and failed arguments, shutdown."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import remora
from remora.base import runtime
from remora.messages.actors import DEAD, ActorState
from remora.messages.session import PROTOCOL_VERSION, Hello
from remora.messages.wire import encode_frame
from remora.processes.client.client import Client
from remora.system.session_directory import DAEMON_SOCKET

TIMEOUT_S = 10.0


@remora.remote(num_cpus=0)
def after(path: str, value: Any = None) -> Any:
    """The value, when the file is there."""
    while path and not os.path.exists(path):
        time.sleep(0.002)
    return value


@remora.remote
def fails() -> None:
    raise ValueError("on purpose")


@remora.remote(num_cpus=0)
class Holder:
    def __init__(self, value: Any = None) -> None:
        self.value = value

    def get(self) -> Any:
        return self.value


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    remora.shutdown()
    remora.init(num_cpus=2)
    assert runtime.current is not None
    yield runtime.current._client  # type: ignore[attr-defined]
    remora.shutdown()


@pytest.fixture
def gate(tmp_path: Any) -> str:
    return str(tmp_path / "gate")


def opened(gate: str) -> None:
    open(gate, "w").close()


def get(ref: Any) -> Any:
    return remora.get(ref, timeout=TIMEOUT_S)


def make(*arguments: Any) -> Any:
    return Holder.remote(*arguments)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("client")
def test_a_call_that_returns_nothing_may_fail() -> None:
    fails.options(num_returns=0).remote()
    assert get(after.remote("", 1)) == 1


@pytest.mark.usefixtures("client")
def test_a_loop_that_is_closed_before_the_value_comes_disturbs_nobody(gate: str) -> None:
    ref = after.remote(gate, 1)

    async def give_up() -> None:
        async def wait() -> Any:
            return await ref

        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(wait(), 0.01)

    asyncio.run(give_up())
    opened(gate)
    assert get(ref) == 1


@pytest.mark.usefixtures("client")
def test_the_callback_of_a_future_may_wait_for_another_ref(gate: str) -> None:
    got: list[Any] = []
    future = after.remote(gate, 1).future()
    future.add_done_callback(lambda done: got.append((done.result(), get(after.remote("", 2)))))
    opened(gate)
    assert get(after.remote(gate, 3)) == 3
    deadline_s = time.monotonic() + TIMEOUT_S
    while not got and time.monotonic() < deadline_s:
        get(after.remote(""))
    assert got == [(1, 2)]


def test_a_destructor_in_the_middle_of_our_work_may_call_and_is_told_that_it_cannot_wait(client: Client) -> None:
    class Dying:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            refs.append(after.remote("", 1))
            refs.append(holder.get.remote())
            try:
                get(refs[0])
            except RuntimeError as error:
                errors.append(str(error))

    refs: list[Any] = []
    errors: list[str] = []
    holder = make(2)
    get(holder.get.remote())
    with client.lock:  # as if a machine were at work
        Dying()
        gc.collect()
    assert get(refs) == [1, 2]
    assert "__del__" in errors[0]
    client.tasks._submission.validate()


@pytest.mark.usefixtures("client")
def test_an_actor_can_be_called_and_passed_on_before_its_own_arguments_are_there(gate: str) -> None:
    holder = make(after.remote(gate, "late"))
    asked = make([holder])
    ref = holder.get.remote()
    (passed,) = get(asked.get.remote())
    other = passed.get.remote()
    opened(gate)
    assert get([ref, other]) == ["late", "late"]


@pytest.mark.usefixtures("client")
def test_an_actor_whose_argument_failed_is_dead_and_says_why() -> None:
    holder = make(fails.remote())
    with pytest.raises(remora.exceptions.RayActorError, match="on purpose"):
        get(holder.get.remote())


def test_cancelling_a_call_whose_arguments_are_pending_ends_it_for_good(client: Client, gate: str) -> None:
    argument = after.remote(gate, 1)
    ref = after.remote("", argument)
    remora.cancel(ref)
    remora.cancel(ref)
    with pytest.raises(remora.exceptions.TaskCancelledError):
        get(ref)
    opened(gate)
    get(argument)
    client.tasks._submission.validate()
    assert not client.tasks._submission.records()


def test_actors_without_handles_are_forgotten_with_their_connections(client: Client) -> None:
    gc.collect()  # handles in the closures of other tests
    holders = [make(number) for number in range(4)]
    assert get([holder.get.remote() for holder in holders]) == [0, 1, 2, 3]
    gone = [record.peer.process for record in client.actors._records.values() if record.peer is not None]
    del holders
    deadline_s = time.monotonic() + TIMEOUT_S
    while any(client.peers.find(process) for process in gone) and time.monotonic() < deadline_s:
        get(after.remote(""))
    assert not any(client.peers.find(process) for process in gone)
    assert not [record for record in client.actors._records.values() if record.peer is not None]


def unknown_actor(client: Client, holder: Any) -> None:
    """The daemon's answer when the question about an actor overtakes what it is created by."""
    actor = holder._remora_actor.creation.id
    client.actors.on_message(ActorState(actor, DEAD, cause="nobody has heard of it", is_unknown=True))


def test_an_actor_that_the_daemon_does_not_know_yet_is_asked_for_again(client: Client) -> None:
    holder = make(7)
    unknown_actor(client, holder)
    assert get(holder.get.remote()) == 7


def test_an_actor_that_stays_unknown_is_dead(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("remora.core.actor_questions.UNKNOWN_PATIENCE_S", 0.0)
    holder = make(7)
    assert get(holder.get.remote()) == 7
    unknown_actor(client, holder)
    with pytest.raises(remora.exceptions.ActorDiedError, match="nobody has heard of it"):
        get(holder.get.remote())


def test_the_daemon_survives_processes_that_say_hello_and_leave_and_those_that_say_nothing(client: Client) -> None:
    path = os.path.join(client.welcome.session_directory, DAEMON_SOCKET)
    for data in (encode_frame([Hello(PROTOCOL_VERSION, "inspector", 1)]), b"\x01\0\0\0\x90", b""):
        for _ in range(5):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)
                sock.sendall(data)
    assert remora.nodes()[0]["Alive"]


def test_shutdown_ends_every_wait_of_other_threads(client: Client, gate: str) -> None:
    ended: list[str] = []
    ref = after.remote(gate)

    def run(wait: Callable[[], Any]) -> None:
        try:
            wait()
        except remora.exceptions.RayError as error:
            ended.append(type(error).__name__)
        else:
            ended.append("returned")

    waits: list[Callable[[], Any]] = [
        lambda: remora.get(ref),
        lambda: remora.get([after.remote(gate), ref]),
        lambda: remora.wait([ref]),
        lambda: ref.future().result(),
    ]
    threads = [threading.Thread(target=run, args=(wait,)) for wait in waits]
    for thread in threads:
        thread.start()
    deadline_s = time.monotonic() + TIMEOUT_S
    while len(client.leadership._followers) < 2 and time.monotonic() < deadline_s:
        os.sched_yield()
    remora.shutdown()
    for thread in threads:
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()
    assert len(ended) == len(waits)
    with pytest.raises(remora.exceptions.RayError):
        remora.get(ref)
