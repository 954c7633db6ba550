"""init, shutdown and the automatic init, apart from what a session then does."""

from __future__ import annotations

import threading
from typing import Any

import pytest

import remora
from remora.api import init as life
from remora.base import runtime
from remora.exceptions import ActorHandleNotFoundError
from remora.system import interrupts

pytestmark = pytest.mark.usefixtures("no_session")


def test_a_with_block_ends_its_session() -> None:
    with remora.init(local_mode=True, num_cpus=2) as session:
        assert remora.is_initialized()
        assert session["node_id"] == session.address_info["node_id"]
        assert set(session) == set(session.address_info)
    assert not remora.is_initialized()


def test_a_with_block_leaves_a_later_session_alone() -> None:
    with remora.init(local_mode=True):
        remora.shutdown()
        remora.init(local_mode=True)
    assert remora.is_initialized()


def test_shutdown_without_a_session_does_nothing() -> None:
    remora.shutdown()
    assert not remora.is_initialized()


def test_a_second_init_is_an_error_unless_it_is_to_be_ignored() -> None:
    remora.init(local_mode=True, num_cpus=2)
    with pytest.raises(RuntimeError, match=r"remora.shutdown\(\) first"):
        remora.init(local_mode=True)
    remora.init(num_cpus=7, ignore_reinit_error=True)
    assert remora.cluster_resources()["CPU"] == 2.0


def test_init_works_again_after_shutdown() -> None:
    for cpus in (1, 2):
        remora.init(local_mode=True, num_cpus=cpus)
        assert remora.cluster_resources()["CPU"] == cpus
        remora.shutdown()


def test_a_session_that_ended_by_itself_can_be_followed_by_another() -> None:
    remora.init(local_mode=True, num_cpus=1)
    assert runtime.current is not None
    runtime.current.shutdown()
    assert not remora.is_initialized()
    remora.init(local_mode=True, num_cpus=3)
    assert remora.cluster_resources()["CPU"] == 3.0


def test_questions_about_a_cluster_need_one() -> None:
    for question in (remora.nodes, remora.cluster_resources, remora.available_resources):
        with pytest.raises(RuntimeError, match=r"before remora.init\(\)"):
            question()


def test_an_unknown_option_starts_nothing() -> None:
    with pytest.raises(ValueError, match="Did you mean 'num_cpus'"):
        remora.init(num_cpu=1)
    assert not remora.is_initialized()


def test_another_system_than_linux_is_told_so_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(life.sys, "platform", "win32")
    with pytest.raises(RuntimeError, match=r"needs Linux \(this is win32\); remora.init\(local_mode=True\) works"):
        remora.init()


def test_first_use_starts_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    start_local(monkeypatch)
    assert remora.get(remora.put(1)) == 1
    assert remora.is_initialized()


def test_many_threads_start_one_session(monkeypatch: pytest.MonkeyPatch) -> None:
    started = start_local(monkeypatch)
    barrier = threading.Barrier(8)

    def use() -> None:
        barrier.wait()
        remora.put(1)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) == 1


def test_shutdown_in_a_worker_leaves_its_session_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    remora.init(local_mode=True)
    worker = runtime.current
    with monkeypatch.context() as patch:
        patch.setattr(worker, "shutdown", lambda: None)
        remora.shutdown()
    assert runtime.current is worker


def test_what_a_signal_handler_kept_back_is_raised_when_the_call_ends() -> None:
    remora.init(local_mode=True)
    ref = remora.put(1)
    for call in (lambda: remora.get(ref), lambda: remora.put(2), lambda: remora.wait([ref])):
        interrupts.pending.append(KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            call()
        assert not interrupts.pending


def test_another_thread_than_the_main_one_raises_nothing_for_it() -> None:
    remora.init(local_mode=True)
    interrupts.pending.append(KeyboardInterrupt())
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(remora.put(1)))
    thread.start()
    thread.join()
    with pytest.raises(KeyboardInterrupt):
        remora.put(2)
    assert len(found) == 1


def test_handles_and_refs_of_an_ended_session_say_so() -> None:
    @remora.remote
    class Thing:
        def use(self) -> None: ...

    remora.init(local_mode=True)
    thing, ref = Thing.remote(), remora.put(1)
    remora.shutdown()
    remora.init(local_mode=True)
    with pytest.raises(ActorHandleNotFoundError, match="another session"):
        thing.use.remote()
    with pytest.raises(ActorHandleNotFoundError, match="another session"):
        remora.get(ref)


def start_local(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Automatic init starts local mode here; returns the list of starts."""
    started: list[Any] = []
    start = life._start

    def start_in_local_mode(options: Any, is_local: bool) -> None:
        started.append(options)
        start(options, True)

    monkeypatch.setattr(life, "_start", start_in_local_mode)
    return started


def test_the_key_value_store_needs_a_session() -> None:
    from remora.experimental import internal_kv

    assert not internal_kv._internal_kv_initialized()
    with pytest.raises(RuntimeError, match=r"before remora\.init\(\)"):
        internal_kv._internal_kv_get("key")
    remora.init(local_mode=True)
    assert internal_kv._internal_kv_initialized()
