"""Session folders: private, locked, found by others, and removed when nobody holds the lock."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from remora.system.session_directory import (
    SOCKET_PATH_LIMIT_BYTES,
    SessionDirectory,
    base_directories,
    open_base,
    remove_leftovers,
    running_sessions,
)


@pytest.fixture
def base(tmp_path: Path) -> str:
    return str(tmp_path / "base")


def create(base: str, root: str | None = None, now_s: float = 0) -> SessionDirectory:
    return SessionDirectory.create(os.getpid(), now_s, root, base)


def test_a_session_is_private_to_its_user(base: str) -> None:
    session = create(base)
    assert stat.S_IMODE(os.stat(base).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(session.path).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(session.path + ".lock").st_mode) == 0o600
    session.remove()


def test_a_base_that_others_could_enter_is_closed_to_them(base: str) -> None:
    os.mkdir(base, 0o755)
    open_base(base)
    assert stat.S_IMODE(os.stat(base).st_mode) == 0o700


def test_a_base_that_is_a_link_is_refused(base: str, tmp_path: Path) -> None:
    os.symlink(tmp_path, base)
    with pytest.raises(PermissionError, match="somebody else made it"):
        open_base(base)


def test_a_base_that_belongs_to_another_user_is_refused(base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkdir(base)
    monkeypatch.setattr(os, "getuid", lambda: os.stat(base).st_uid + 1)
    with pytest.raises(PermissionError, match="somebody else made it"):
        open_base(base)


def test_sessions_in_a_base_of_another_user_are_neither_believed_nor_removed(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = create(base)
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    os.symlink(treasure, f"{base}/1-abcdef")
    Path(f"{base}/1-abcdef.lock").touch()
    monkeypatch.setattr(os, "getuid", lambda: os.stat(base).st_uid + 1)
    assert running_sessions(base) == []
    assert remove_leftovers(base) == []
    assert treasure.exists()
    monkeypatch.undo()
    trap.remove()


def test_the_places_for_sessions_do_not_depend_on_tmpdir(monkeypatch: pytest.MonkeyPatch) -> None:
    before = base_directories()
    monkeypatch.setenv("TMPDIR", "/" + "long" * 50)
    assert base_directories() == before
    longest_name = f"{2**22}-abcdef/worker-{10**9}"
    assert all(len(f"{base}/{longest_name}") <= SOCKET_PATH_LIMIT_BYTES for base in before)


def test_a_running_session_is_listed_and_not_removed(base: str) -> None:
    session = create(base, now_s=12.5)
    assert remove_leftovers(base) == []
    [record] = running_sessions(base)
    assert (record.directory, record.driver_pid, record.started_at_s) == (session.path, os.getpid(), 12.5)
    session.remove()
    assert running_sessions(base) == []


def test_the_lock_is_kept_by_whoever_inherited_it(base: str) -> None:
    session = create(base)
    inherited = os.dup(session.lock)
    session.unlock_here()
    assert len(running_sessions(base)) == 1
    os.close(inherited)
    assert running_sessions(base) == []
    assert remove_leftovers(base) == [session.path]


def test_leftovers_are_removed_with_all_that_is_in_them(base: str) -> None:
    left, running = create(base), create(base)
    os.makedirs(left.file("deep/deeper"))
    Path(left.file("deep/deeper/file")).write_text("x")
    os.symlink("/etc", left.file("link"))
    left.unlock_here()
    assert remove_leftovers(base) == [left.path]
    assert os.path.exists("/etc/passwd")
    assert sorted(os.listdir(base)) == sorted(
        [os.path.basename(running.path), os.path.basename(running.path) + ".lock", "current"]
    )
    running.remove()


def test_a_start_that_was_killed_half_way_is_removed(base: str) -> None:
    session = create(base)
    os.rmdir(session.path)
    os.symlink("x", f"{base}/current.{os.path.basename(session.path)}")
    session.unlock_here()
    remove_leftovers(base)
    assert os.listdir(base) == []


def test_the_folder_of_another_root_is_reached_by_a_short_path_and_removed(base: str, tmp_path: Path) -> None:
    root = tmp_path.joinpath(*["r" * 100] * 5)
    session = create(base, root=str(root))
    [real] = root.iterdir()
    assert os.path.realpath(session.path) == str(real)
    assert stat.S_IMODE(real.stat().st_mode) == 0o700
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(session.file("s"))
    assert (real / "s").exists()
    session.unlock_here()
    remove_leftovers(base)
    assert list(root.iterdir()) == []
    assert os.listdir(base) == []


def test_a_root_that_cannot_be_written_to_leaves_nothing(base: str) -> None:
    with pytest.raises(OSError, match="/proc/nowhere"):
        create(base, root="/proc/nowhere")
    assert not os.path.exists(base)


def test_the_root_comes_from_the_environment(base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMORA_TMPDIR", str(tmp_path / "elsewhere"))
    session = create(base)
    assert os.path.realpath(session.path).startswith(str(tmp_path / "elsewhere"))
    session.remove()


def test_current_leads_to_the_session_that_was_started_last(base: str) -> None:
    first, second = create(base), create(base)
    assert os.path.realpath(base + "/current") == os.path.realpath(second.path)
    first.remove()
    assert os.path.realpath(base + "/current") == os.path.realpath(second.path)
    second.remove()
    assert not os.path.exists(base)


def test_removing_twice_does_no_harm(base: str) -> None:
    session = create(base)
    session.remove()
    session.remove()
    assert session.remove_if_abandoned()


def test_a_session_that_somebody_holds_is_not_abandoned(base: str) -> None:
    session = create(base)
    assert not SessionDirectory.attach(session.path).remove_if_abandoned()
    session.unlock_here()
    assert SessionDirectory.attach(session.path).remove_if_abandoned()
    assert not os.path.exists(base)
