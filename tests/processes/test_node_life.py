"""However a part of a node ends, nothing of it stays."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from node_stand_in import StandInNode

from remora.base.configuration import NodeConfiguration
from remora.system.launch import NodeStartError, launch
from remora.system.process_control import open_pidfd, wait_ended
from remora.system.session_directory import remove_leftovers, running_sessions

TIMEOUT_S = 3.0
DRIVER = """
import json, os, signal, sys
sys.path.insert(0, sys.argv[2])
from node_stand_in import StandInNode

node = StandInNode(sys.argv[1])
pids = {"daemon": node.node.pid, "zygote": node.ask("pids")["zygote"]}
pids["worker"] = node.fork(1, "hold_interpreter")
pids["parent"] = node.fork(2, "have_family")
pids["family"] = node.printed(2)
# It holds a copy of every descriptor, so the end of the driver is no end of file for anybody.
pids["bystander"] = os.fork()
if not pids["bystander"]:
    signal.pause()
print(json.dumps([node.node.session.path, pids]), flush=True)
signal.pause()
"""


class Victims:
    """A driver in a process of its own that has forked, with a node, two workers and their children; pidfds of all."""

    def __init__(self, base: str) -> None:
        self.driver = subprocess.Popen(
            [sys.executable, "-c", DRIVER, base, os.path.dirname(__file__)], stdout=subprocess.PIPE, text=True
        )
        assert self.driver.stdout is not None
        self.path, pids = json.loads(self.driver.stdout.readline())
        self.family: list[int] = pids.pop("family")
        self.bystander: int = pids.pop("bystander")
        self.pids: dict[str, int] = {"driver": self.driver.pid, **pids}
        self.detached = self.family[1:]
        self.pidfds = {pid: open_pidfd(pid) for pid in [*self.pids.values(), *self.family]}

    def kill(self, *names: str) -> None:
        """Stop them all before the first is killed, so that none has time to react to another's end."""
        for sent in (signal.SIGSTOP, signal.SIGKILL):
            for name in names:
                # The end of the one before may have ended this one.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pids[name], sent)

    def survivors(self, *but: int) -> list[int]:
        """Who has not ended in time; those in *but* are not waited for."""
        return [pid for pid, pidfd in self.pidfds.items() if not wait_ended(pidfd, 0 if pid in but else TIMEOUT_S)]

    def close(self) -> None:
        for pid, pidfd in self.pidfds.items():
            if not wait_ended(pidfd, 0):
                os.kill(pid, signal.SIGKILL)
            os.close(pidfd)
        os.kill(self.bystander, signal.SIGKILL)
        self.driver.wait()
        assert self.driver.stdout is not None
        self.driver.stdout.close()


@pytest.fixture
def victims(base: str) -> Iterator[Victims]:
    victims = Victims(base)
    yield victims
    victims.close()


@pytest.mark.parametrize(
    "names",
    [["driver"], ["driver", "zygote"], ["driver", "worker"], ["driver", "daemon"]],
    ids="+".join,
)
def test_when_the_driver_is_killed_no_process_and_no_file_stays(victims: Victims, base: str, names: list[str]) -> None:
    victims.kill(*names)
    assert victims.survivors() == []
    assert not os.path.exists(base)


def test_a_killed_daemon_takes_zygote_and_workers_with_it_and_leaves_its_log_to_the_driver(victims: Victims) -> None:
    victims.kill("daemon")
    driver = victims.pids["driver"]
    assert victims.survivors(driver) == [driver]
    assert os.path.exists(victims.path + "/daemon.log")
    assert len(remove_leftovers(os.path.dirname(victims.path))) == 1


def test_workers_die_even_when_everything_that_watches_them_is_killed_at_once(victims: Victims, base: str) -> None:
    victims.kill("driver", "daemon", "zygote")
    # Of what a worker put into a session of its own no one is left who knows.
    assert set(victims.survivors(*victims.detached)) <= set(victims.detached)
    assert remove_leftovers(base) == [victims.path]


def test_leftovers_of_killed_processes_are_removed_by_the_next_start(victims: Victims, base: str) -> None:
    victims.kill("driver", "daemon", "zygote", "worker", "parent")
    # With its worker killed too, no one may be left who knows of the family.
    assert set(victims.survivors(*victims.family)) <= set(victims.family)
    assert os.path.exists(victims.path)
    node = StandInNode(base)
    assert not os.path.exists(victims.path)
    assert [record.directory for record in running_sessions(base)] == [node.node.session.path]
    node.close()


def test_workers_outlive_their_zygote_and_the_daemon_watches_them(node: StandInNode) -> None:
    pid = node.fork(1, "have_family")
    family = [open_pidfd(member) for member in node.printed(1)]
    pidfd = open_pidfd(pid)
    os.kill(node.ask("pids")["zygote"], signal.SIGKILL)
    node.ask("reports", kind="ZygoteEnded")
    assert node.ask("pids")["zygote"] == 0
    assert pid in node.ask("pids")["children"]
    assert not any(wait_ended(each, 0) for each in [pidfd, *family])
    node.ask("restart")
    second = node.fork(2)
    os.kill(pid, signal.SIGKILL)
    assert node.ask("reports", kind="Exited", worker_number=1)["signal"] == signal.SIGKILL
    assert all(wait_ended(each, TIMEOUT_S) for each in family)
    os.kill(second, signal.SIGTERM)
    assert node.ask("reports", kind="Exited", worker_number=2)["signal"] == signal.SIGTERM
    for each in [pidfd, *family]:
        os.close(each)


def test_a_fork_that_a_killed_zygote_did_not_do_is_reported_as_failed(node: StandInNode) -> None:
    zygote = node.ask("pids")["zygote"]
    os.kill(zygote, signal.SIGSTOP)
    node.ask("fork", first=1, main="idle", options={})
    os.kill(zygote, signal.SIGKILL)
    assert "SIGKILL" in node.ask("reports", kind="ForkFailed", worker_number=1)["reason"]


def test_a_worker_that_a_killed_zygote_did_not_report_does_not_stay(node: StandInNode) -> None:
    pidfd = open_pidfd(node.fork())
    node.ask("forget_workers")
    os.kill(node.ask("pids")["zygote"], signal.SIGKILL)
    node.ask("reports", kind="ZygoteEnded")
    assert wait_ended(pidfd, TIMEOUT_S)
    os.close(pidfd)


def test_a_new_session_works_in_the_same_process_after_the_daemon_was_killed(base: str) -> None:
    node = StandInNode(base)
    os.kill(node.node.pid, signal.SIGKILL)
    status = node.node.exit_status(TIMEOUT_S)
    assert status is not None
    assert status.signal == signal.SIGKILL
    node.close()
    assert not os.path.exists(base)
    again = StandInNode(base)
    assert again.ask("pids")["daemon"] == again.node.pid
    again.close()


def test_an_orderly_end_leaves_nothing(base: str) -> None:
    node = StandInNode(base)
    node.fork(1, "have_family")
    pidfds = [open_pidfd(pid) for pid in [*node.printed(1), *node.ask("pids")["children"]]]
    node.close()
    assert all(wait_ended(pidfd, 0) for pidfd in pidfds)
    assert not os.path.exists(base)
    for pidfd in pidfds:
        os.close(pidfd)


def test_a_daemon_that_fails_to_start_says_why(base: str) -> None:
    with pytest.raises(NodeStartError, match=r"(?s)exited with code 1.*the stars are not right"):
        StandInNode(base, daemon_main="node_stand_in:failing_daemon")
    assert not os.path.exists(base)


def test_a_daemon_that_does_not_get_ready_is_ended(base: str) -> None:
    node = launch(NodeConfiguration(session_directory="", daemon_main="node_stand_in:silent_daemon"), None, base)
    with pytest.raises(NodeStartError, match=r"was not ready after 0\.2 s"):
        node.wait_ready(0.2)
    assert not os.path.exists(base)


def test_a_session_works_in_a_folder_with_a_very_long_path(base: str, tmp_path: Path) -> None:
    root = tmp_path.joinpath(*["long" * 20] * 10)
    node = StandInNode(base, root=str(root))
    assert os.path.realpath(node.node.log_path).startswith(str(root))
    node.fork(1)
    node.close()
    assert os.listdir(root) == []
    assert not os.path.exists(base)


def test_the_daemon_inherits_no_descriptor_of_the_driver(base: str) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    node = StandInNode(base)
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)
    node.close()


def test_sessions_that_run_are_listed(node: StandInNode, base: str) -> None:
    [record] = running_sessions(base)
    assert record.directory == node.node.session.path
    assert record.driver_pid == os.getpid()
    assert os.path.realpath(base + "/current") == os.path.realpath(record.directory)
