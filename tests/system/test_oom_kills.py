"""Telling a kill for want of memory from any other kill."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from remora.system.oom_kills import OomKillCounter, find_counter


@pytest.fixture
def events(tmp_path: Path) -> Path:
    path = tmp_path / "memory.events"
    path.write_text("low 0\noom 1\noom_kill 1\n")
    return path


def test_a_kill_that_the_kernel_counted_is_explained_once(events: Path) -> None:
    counter = OomKillCounter(str(events))
    assert not counter.explains(signal.SIGKILL)
    events.write_text("low 0\noom 2\noom_kill 2\n")
    assert counter.explains(signal.SIGKILL)
    assert not counter.explains(signal.SIGKILL)


def test_another_signal_or_an_exit_is_never_explained_by_memory(events: Path) -> None:
    counter = OomKillCounter(str(events))
    events.write_text("oom_kill 2\n")
    assert not counter.explains(signal.SIGSEGV)
    assert not counter.explains(None)
    assert counter.explains(signal.SIGKILL)


def test_a_group_that_has_gone_explains_nothing(events: Path) -> None:
    counter = OomKillCounter(str(events))
    events.unlink()
    assert not counter.explains(signal.SIGKILL)


@pytest.mark.parametrize(
    ("groups", "file"),
    [
        ("0::/a/b\n", "a/b/memory.events"),
        ("0::/hidden\n", "memory.events"),
        ("4:memory:/a\n0::/\n", "memory/a/memory.oom_control"),
        ("4:memory:/hidden\n0::/\n", "memory/memory.oom_control"),
    ],
)
def test_the_own_cgroup_is_asked_in_both_versions(tmp_path: Path, groups: str, file: str) -> None:
    (tmp_path / "cgroup").write_text(groups)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / file).write_text("oom_kill 0\n")
    assert find_counter(str(tmp_path / "cgroup"), str(tmp_path)) == str(tmp_path / file)


def test_without_a_cgroup_the_machine_is_asked(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("0::/\n")
    assert find_counter(str(tmp_path / "cgroup"), str(tmp_path)) == "/proc/vmstat"
