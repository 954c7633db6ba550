"""What an actor may still do when it ends: its clean-up and its exit handlers run to their end."""

from __future__ import annotations

import atexit
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

import remora

SOON_S = 15.0


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with remora.init(num_cpus=1):
        yield


@remora.remote
class Writer:
    """Writes a file when it ends, slowly."""

    def __init__(self, path: Path) -> None:
        self.path = path
        atexit.register(self._write_at_exit)

    def _write_at_exit(self) -> None:
        time.sleep(0.3)
        self.path.with_suffix(".atexit").touch()

    def __ray_shutdown__(self) -> None:
        self.path.with_suffix(".shutdown").touch()

    def ready(self) -> bool:
        return True

    def leave(self) -> None:
        remora.actor.exit_actor()


def written(path: Path, suffix: str) -> bool:
    """Whether the file comes in time."""
    deadline_s = monotonic() + SOON_S
    while not path.with_suffix(suffix).exists() and monotonic() < deadline_s:
        time.sleep(0.005)
    return path.with_suffix(suffix).exists()


ENDS: dict[str, Callable[[Any], Any]] = {
    "it leaves": lambda writer: writer.leave.remote(),
    "it is asked to": lambda writer: writer.__ray_terminate__.remote(),
    "its last handle goes": lambda writer: None,
}


@pytest.mark.parametrize("how", ENDS)
def test_an_actor_cleans_up_and_its_exit_handlers_run_when(how: str, tmp_path: Path) -> None:
    path = tmp_path / "ended"
    writer = Writer.remote(path)
    assert remora.get(writer.ready.remote())
    ended = ENDS[how](writer)
    del writer
    assert written(path, ".atexit")
    assert written(path, ".shutdown")
    if ended is not None:
        with pytest.raises(remora.exceptions.ActorDiedError):
            remora.get(ended, timeout=SOON_S)


def test_an_actor_that_fails_to_clean_up_ends_nevertheless() -> None:
    @remora.remote
    class Clumsy:
        def __ray_shutdown__(self) -> None:
            raise RuntimeError("cannot")

        def leave(self) -> None:
            remora.actor.exit_actor()

        def ready(self) -> bool:
            return True

    clumsy = Clumsy.remote()
    with pytest.raises(remora.exceptions.ActorDiedError, match="left by itself"):
        remora.get(clumsy.leave.remote(), timeout=SOON_S)
    with pytest.raises(remora.exceptions.ActorDiedError):
        remora.get(clumsy.ready.remote(), timeout=SOON_S)


def test_an_exit_handler_without_end_is_ended() -> None:
    @remora.remote(num_cpus=1)
    class Endless:
        def __init__(self) -> None:
            atexit.register(time.sleep, 600)

        def leave(self) -> None:
            remora.actor.exit_actor()

    endless = Endless.remote()
    with pytest.raises(remora.exceptions.ActorDiedError, match="left by itself"):
        remora.get(endless.leave.remote(), timeout=SOON_S)
    deadline_s = monotonic() + SOON_S
    while remora.available_resources().get("CPU") != 1:
        assert monotonic() < deadline_s, "its worker has not ended"
        time.sleep(0.02)
