"""The store of the head on real databases, and that nothing is acknowledged before it is written."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from head_rig import HeadRig
from postgresql_server import Server, postgresql_server

from remora.core.journal import Change
from remora.core.membership import SILENCE_S
from remora.messages import actors as a
from remora.messages import head as m
from remora.messages import key_value as k
from remora.processes.head.commits import CommitPipeline
from remora.processes.head.store import HeadStore, StoreError, store_url
from remora.system.certificates import create_credentials

NOBODY = 65534


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with postgresql_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return store_url("", str(tmp_path))
    server: Server = request.getfixturevalue("server")
    return server.new_database()


def rows_of(url: str) -> dict[tuple[str, bytes], bytes]:
    store = HeadStore(url)
    try:
        return {(kind, key): value for kind, key, value in store.load()}
    finally:
        store.close()


def test_what_was_written_is_read_by_the_next_head(url: str) -> None:
    store = HeadStore(url)
    store.commit([Change("actor", b"\0\xff", b"one"), Change("job", b"", b""), Change("actor", b"k", b"v")])
    store.commit([Change("actor", b"\0\xff", b"two" * 100_000), Change("actor", b"k", None), Change("x", b"y", None)])
    store.close()
    assert rows_of(url) == {("actor", b"\0\xff"): b"two" * 100_000, ("job", b""): b""}


def test_many_rows_are_set_and_removed_at_once(url: str) -> None:
    store = HeadStore(url)
    keys = [b"%d" % number for number in range(1700)]
    store.commit([Change("key_value", key, b"v") for key in keys])
    store.commit([Change("key_value", key, None) for key in keys[1:]])
    store.close()
    assert rows_of(url) == {("key_value", b"0"): b"v"}


def test_a_transaction_is_written_whole_or_not_at_all(url: str) -> None:
    store = HeadStore(url)
    wrong = Change("actor", None, b"no key")  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="cannot be written"):
        store.commit([Change("actor", b"key", b"value"), wrong])
    store.commit([Change("actor", b"other", b"value")])
    store.close()
    assert rows_of(url) == {("actor", b"other"): b"value"}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:treasure@127.0.0.1:1/database",
        "postgresql://user@127.0.0.1:1/database?password=treasure",
        "postgresql://user:treas/ure@127.0.0.1:1/database",
        "postgresql://user:12treasure:34@127.0.0.1:port/database",
        "postgresql+none://user:treasure@127.0.0.1/database",
        "mysql://user:treasure@127.0.0.1/database",
        "sqlite://user:treasure@somewhere",
    ],
)
def test_the_password_of_a_database_is_in_no_error(url: str) -> None:
    with pytest.raises(StoreError) as error:
        HeadStore(url)
    assert "treas" not in str(error.value)


def test_a_second_head_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("remora.processes.head.store.LOCK_TIMEOUT_S", 0.1)
    monkeypatch.setattr("remora.processes.head.store.SQLITE_LOCK_TIMEOUT_S", 0.1)
    store = HeadStore(url)
    with pytest.raises(StoreError, match=r"used by another head"):
        HeadStore(url)
    store.commit([Change("actor", b"key", b"value")])
    store.close()


WRITER = """
import sys
from remora.core.journal import Change
from remora.processes.head.store import HeadStore
store = HeadStore(sys.argv[1])
number = 0
while True:
    number += 1
    store.commit([Change("actor", b"%d" % number, b"v"), Change("last", b"", b"%d" % number)])
    print(number, flush=True)
"""


def test_what_was_acknowledged_outlives_a_killed_writer(url: str) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = 0
        while acknowledged < 40:
            acknowledged = int(writer.stdout.readline())
        writer.kill()
        acknowledged = max([acknowledged, *map(int, writer.stdout.read().split())])
    rows = rows_of(url)
    last = int(rows["last", b""])
    assert last >= acknowledged
    assert {int(key) for kind, key in rows if kind == "actor"} == set(range(1, last + 1))


def test_a_server_that_was_restarted_is_written_to_again(server: Server) -> None:
    url = server.new_database()
    store = HeadStore(url)
    store.commit([Change("actor", b"1", b"v")])
    server.stop()
    with pytest.raises(StoreError, match="cannot be written"):
        store.commit([Change("actor", b"2", b"v")])
    server.start()
    store.commit([Change("actor", b"2", b"v")])
    store.close()
    assert len(rows_of(url)) == 2


def test_a_head_on_postgresql_is_killed_and_loses_nothing(server: Server, tmp_path: Path) -> None:
    rig = HeadRig(str(tmp_path), create_credentials(str(tmp_path / "secrets"), encrypt=False), server.new_database())
    rig.keeper.start()
    try:
        node = rig.join()
        node.start_job()
        actor = node.create("it")
        alive = node.wait_state(actor, a.ALIVE)
        rig.restart_head()
        assert node.ask(a.GetActor(9, "it", "space"), a.ActorFound).actor == alive.actor
        assert node.ask(m.ListActorStates(10), m.ActorStates).actors[0].state == "alive"
    finally:
        rig.close()


def test_a_database_that_is_away_holds_up_answers_and_kills_no_node(server: Server, tmp_path: Path) -> None:
    rig = HeadRig(str(tmp_path), create_credentials(str(tmp_path / "secrets"), encrypt=False), server.new_database())
    rig.keeper.start()
    try:
        one, two = rig.join(), rig.join()
        server.stop()
        one.say(k.KeyValueRequest(1, k.KEY_PUT, b"n", b"key", b"value"))
        until_s = monotonic() + SILENCE_S + 1
        rig.until(lambda: monotonic() > until_s, "time stands still")
        assert one.find(k.KeyValueAnswer, 1) is None, "acknowledged, and not written"
        assert one.departed == two.departed == []
        server.start()
        assert rig.until(lambda: one.find(k.KeyValueAnswer, 1), "no answer").count == 1
        assert two.ask(k.KeyValueRequest(2, k.KEY_GET, b"n", b"key"), k.KeyValueAnswer).value == b"value"
        assert not two.expelled
    finally:
        rig.close()


# ---------------------------------------------------------------------- errors that say what to do


def test_a_damaged_file_is_told_with_what_to_do(tmp_path: Path) -> None:
    url = store_url(str(tmp_path), "")
    HeadStore(url).close()
    damaged = bytearray((tmp_path / "head.sqlite").read_bytes())
    damaged[40:] = b"\xaa" * (len(damaged) - 40)
    (tmp_path / "head.sqlite").write_bytes(damaged)
    with pytest.raises(StoreError, match=r"head\.sqlite cannot be opened.*move it away"):
        HeadStore(url)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users may look into; those of pytest they may not."""
    with tempfile.TemporaryDirectory(prefix="rm-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="the test becomes another user, which only root may do")
def test_a_file_that_may_not_be_written_to_is_told_at_the_start(open_folder: Path) -> None:
    url = store_url(str(open_folder), "")
    HeadStore(url).close()
    (open_folder / "head.sqlite").chmod(0o444)
    pid = os.fork()
    if pid == 0:
        outcome = 1
        try:
            os.setuid(NOBODY)
            HeadStore(url)
        except StoreError as error:
            outcome = 0 if "cannot be opened" in str(error) else 2
        finally:
            os._exit(outcome)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_folder_that_is_gone_is_told_with_its_name_and_not_made_again(tmp_path: Path) -> None:
    gone = tmp_path / "of an ended session"
    with pytest.raises(StoreError, match=rf"'{gone}' for the head's state is not there"):
        store_url(str(gone), "")
    assert not gone.exists()


def test_a_state_of_another_version_is_left_alone(tmp_path: Path) -> None:
    url = store_url(str(tmp_path), "")
    HeadStore(url).close()
    with sqlite3.connect(tmp_path / "head.sqlite") as connection:
        connection.execute("UPDATE remora_head_schema SET version = 99")
    connection.close()
    with pytest.raises(StoreError, match="version 99"):
        HeadStore(url)


def test_a_database_of_another_kind_is_refused_with_those_that_can_be_used() -> None:
    with pytest.raises(StoreError, match=r"sqlite:// or postgresql://"):
        HeadStore("mysql://user:secret@host/base")


# ---------------------------------------------------------------------- the pipeline


class SlowStore:
    """A store that writes when it is let, and fails when it is told to."""

    def __init__(self) -> None:
        self.let = threading.Semaphore(0)
        self.failures = 0
        self.began = 0
        self.commits: list[list[Change]] = []

    def commit(self, changes: list[Change]) -> None:
        self.began += 1
        self.let.acquire()
        if self.failures:
            self.failures -= 1
            raise StoreError("the disk is full")
        self.commits.append(changes)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline_s = monotonic() + 5
    pause = threading.Event()
    while not condition():
        assert monotonic() < deadline_s
        pause.wait(0.001)


def take(pipeline: CommitPipeline, count: int) -> list[Any]:
    """The first parts of the next *count* messages that may leave."""
    taken: list[Any] = []

    def has_come() -> bool:
        taken.extend(messages[0] for _, messages in pipeline.take())
        return len(taken) >= count

    wait_for(has_come)
    return taken


@pytest.fixture
def store() -> SlowStore:
    return SlowStore()


@pytest.fixture
def pipeline(store: SlowStore) -> Iterator[CommitPipeline]:
    pipeline = CommitPipeline(store, lambda: None)  # type: ignore[arg-type]
    yield pipeline
    store.let.release(100)
    pipeline.close()


def change(number: int) -> list[Change]:
    return [Change("actor", b"%d" % number, b"v")]


def test_nothing_leaves_before_it_is_written_and_turns_share_a_transaction(
    pipeline: CommitPipeline, store: SlowStore
) -> None:
    pipeline.put(change(1), [("a", (1,))])
    wait_for(lambda: store.began == 1)
    for number in (2, 3, 2):
        pipeline.put(change(number), [("a", (number,))])
    pipeline.put([], [("a", ("an answer that shows what is not written",))])
    assert pipeline.take() == []
    store.let.release()
    assert take(pipeline, 1) == [1]
    store.let.release()
    assert take(pipeline, 4) == [2, 3, 2, "an answer that shows what is not written"]
    assert sum(len(commit) for commit in store.commits) == 3
    assert len(store.commits) == 2


def test_what_ends_the_writing_thread_ends_the_head(
    pipeline: CommitPipeline, store: SlowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(changes: list[Change]) -> None:
        raise ZeroDivisionError("an error of Remora's own")

    def has_ended() -> bool:
        try:
            return bool(pipeline.take())
        except ZeroDivisionError:
            return True

    monkeypatch.setattr(store, "commit", fail)
    pipeline.put(change(1), [("a", (1,))])
    wait_for(has_ended)
    with pytest.raises(ZeroDivisionError, match="of Remora's own"):
        pipeline.take()


def test_what_needs_no_write_leaves_at_once(pipeline: CommitPipeline) -> None:
    pipeline.put([], [("a", (1,))])
    assert pipeline.take() == [("a", (1,))]


def test_a_write_that_fails_is_done_again_and_nothing_leaves_meanwhile(
    pipeline: CommitPipeline, store: SlowStore, capfd: pytest.CaptureFixture[str]
) -> None:
    store.failures = 2
    store.let.release(2)
    pipeline.put(change(1), [("a", (1,))])
    wait_for(lambda: store.failures == 0)
    assert pipeline.take() == []
    store.let.release()
    assert take(pipeline, 1) == [1]
    assert capfd.readouterr().err.count("the disk is full") == 1
