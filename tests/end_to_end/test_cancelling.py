"""Calls that are cancelled while they run, load their arguments, hold the interpreter, or do not want to end."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

import remora
from remora.exceptions import TaskCancelledError
from remora.testing.cluster import Cluster

LONG_S = 60.0
"""No test waits for it: a call that sleeps so long is cancelled."""
SOON_S = 15.0


@pytest.fixture(scope="module", params=["here", "elsewhere"])
def place(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """Options of tasks that run on the driver's node, alone or on another node of a cluster."""
    if request.param == "here":
        with remora.init(num_cpus=2):
            yield {}
        return
    with Cluster(head_node_args={"num_cpus": 1}) as cluster:
        cluster.add_node(num_cpus=2, resources={"there": 10})
        cluster.wait_for_nodes()
        with remora.init(address=cluster.address):
            yield {"resources": {"there": 0.1}}


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    return tmp_path / "begun"


def wait_for(path: Path) -> None:
    deadline_s = monotonic() + SOON_S
    while not path.exists():
        assert monotonic() < deadline_s, "the call has not begun"
        time.sleep(0.005)


def outcome(ref: remora.ObjectRef[Any]) -> Any:
    """The value, or the text of the error that says that it was cancelled."""
    try:
        return remora.get(ref, timeout=SOON_S)
    except TaskCancelledError as error:
        return f"cancelled: {error}"


class SlowToLoad:
    """Stands for arguments whose unpickling takes long, because they import much."""

    def __init__(self, begun: Path) -> None:
        self.begun = begun

    def __reduce__(self) -> Any:
        return load_slowly, (self.begun,)


def load_slowly(begun: Path) -> SlowToLoad:
    begun.touch()
    time.sleep(0.5)
    return SlowToLoad(begun)


@remora.remote(max_retries=0)
def sleep(begun: Path) -> str:
    begun.touch()
    time.sleep(LONG_S)
    return "ran to its end"


@remora.remote(max_retries=0)
def swallow(begun: Path) -> str:
    deadline_s = monotonic() + LONG_S
    while monotonic() < deadline_s:
        try:
            begun.touch()
            time.sleep(LONG_S)
        except BaseException:  # noqa: BLE001 - that is what the test is about
            pass
    return "ran to its end"


@remora.remote(max_retries=0)
def hold_the_interpreter(begun: Path) -> str:
    begun.touch()
    re.match(r"(a+)+$", "a" * 40 + "b")  # years, without another bytecode
    return "ran to its end"


def test_a_running_task_is_interrupted_at_once(place: dict[str, Any], begun: Path) -> None:
    ref = sleep.options(**place).remote(begun)
    wait_for(begun)
    remora.cancel(ref)
    assert outcome(ref) == "cancelled: 'sleep' was cancelled while it ran"


def test_a_cancelled_task_gets_a_keyboard_interrupt_and_may_clean_up(place: dict[str, Any], begun: Path) -> None:
    @remora.remote
    def clean_up() -> str:
        try:
            begun.touch()
            time.sleep(LONG_S)
        except Exception:  # noqa: BLE001 - it must not come here
            return "an exception that code handles by mistake"
        except KeyboardInterrupt:
            return "clean"
        return "ran to its end"

    ref = clean_up.options(**place).remote()
    wait_for(begun)
    remora.cancel(ref)
    assert outcome(ref) == "clean"


def test_a_cancel_that_comes_while_arguments_are_loaded_is_not_lost(place: dict[str, Any], begun: Path) -> None:
    @remora.remote
    def run(argument: SlowToLoad) -> str:
        time.sleep(LONG_S)
        return "ran to its end"

    ref = run.options(**place).remote(SlowToLoad(begun))
    wait_for(begun)
    remora.cancel(ref)
    assert outcome(ref) == "cancelled: 'run' was cancelled while it ran"


def test_force_ends_a_task_that_swallowed_the_first_cancel(place: dict[str, Any], begun: Path) -> None:
    ref = swallow.options(**place).remote(begun)
    wait_for(begun)
    begun.unlink()
    remora.cancel(ref)
    wait_for(begun)  # it has swallowed it
    remora.cancel(ref, force=True)
    assert outcome(ref) == "cancelled: task 'swallow' was cancelled"


def test_force_ends_a_task_that_lets_no_other_thread_run(place: dict[str, Any], begun: Path) -> None:
    ref = hold_the_interpreter.options(**place).remote(begun)
    wait_for(begun)
    remora.cancel(ref, force=True)
    assert outcome(ref) == "cancelled: task 'hold_the_interpreter' was cancelled"
    assert remora.get(remora.remote(len).options(**place).remote("next"), timeout=SOON_S) == 4


@pytest.mark.parametrize("max_concurrency", [1, 2])
def test_a_method_that_runs_is_told_that_it_was_cancelled_and_not_torn_apart(
    place: dict[str, Any], begun: Path, max_concurrency: int
) -> None:
    @remora.remote(max_concurrency=max_concurrency)
    class Account:
        def __init__(self) -> None:
            self.booked = self.paid = 0

        def book(self) -> bool:
            self.booked += 1
            begun.touch()
            deadline_s = monotonic() + SOON_S
            while not (was_cancelled := remora.get_runtime_context().is_canceled()) and monotonic() < deadline_s:
                time.sleep(0.005)
            self.paid += 1
            return was_cancelled

        def look(self) -> tuple[int, int, bool]:
            return self.booked, self.paid, remora.get_runtime_context().is_canceled()

    account = Account.options(**place).remote()
    ref = account.book.remote()
    wait_for(begun)
    remora.cancel(ref)
    assert outcome(ref) is True
    assert outcome(account.look.remote()) == (1, 1, False)
