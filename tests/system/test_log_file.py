"""A log never fails whoever writes to it, and says what it had to drop."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from remora.system import log_file
from remora.system.log_file import LogFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "daemon.log"


@pytest.fixture
def log(path: Path) -> Iterator[LogFile]:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    yield LogFile(descriptor)
    os.close(descriptor)


def test_lines_are_written_when_they_end_and_the_rest_when_it_is_flushed(log: LogFile, path: Path) -> None:
    print("one", "line", file=log)
    print("begun", end="", file=log)
    assert path.read_text() == "one line\n"
    print(", ended", end="", file=log, flush=True)
    assert path.read_text() == "one line\nbegun, ended"


def test_a_full_disk_fails_nobody() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        log = LogFile(descriptor)
        print("lost", file=log, flush=True)
        assert repr(log) == f"<LogFile fd={descriptor}, 1 lines lost>"
    finally:
        os.close(descriptor)


def test_what_was_dropped_is_said_with_the_reason_when_the_disk_has_room_again(
    log: LogFile, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(log_file.os, "write", refuse)
    print("first", file=log)
    print("second\nthird", file=log)
    monkeypatch.undo()
    print("fourth", file=log)
    print("fifth", file=log)
    assert path.read_text() == "[3 lines could not be written: No space left on device]\nfourth\nfifth\n"


def test_what_is_no_text_for_utf_8_is_written_escaped(log: LogFile, path: Path) -> None:
    print("a name \udcff of bytes", file=log)
    assert path.read_text() == "a name \\udcff of bytes\n"
