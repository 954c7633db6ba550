"""Network namespaces: who is in one, who removes it, and where there can be none."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest
from running_processes import is_running

from remora.testing import namespaces
from remora.testing.namespaces import NAMESPACES, processes_in, remove_leftovers, skip_reason
from remora.testing.network_host import Host
from remora.testing.network_lab import NetworkLab

KILLED_RUN = """
import os, signal, subprocess
from remora.testing.network_lab import NetworkLab
lab = NetworkLab()
host = lab.add_host("orphan")
process = host.popen(["sleep", "1000"], stdout=subprocess.DEVNULL)
print(host.namespace.name, process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def network_of_this_thread() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def test_only_the_thread_that_enters_is_in_the_namespace_and_only_within_the_block(hosts: tuple[Host, Host]) -> None:
    home = network_of_this_thread()
    seen: list[int] = []
    entered, left = threading.Event(), threading.Event()

    def look() -> None:
        assert entered.wait(10)
        seen.append(network_of_this_thread())
        left.set()

    other = threading.Thread(target=look)
    other.start()
    with hosts[0].entered():
        there = network_of_this_thread()
        with hosts[1].entered():
            assert network_of_this_thread() not in (home, there)
        assert network_of_this_thread() == there != home
        entered.set()
        assert left.wait(10)
    other.join()
    assert seen == [home]
    assert network_of_this_thread() == home


def test_a_thread_leaves_the_namespace_also_by_an_error(hosts: tuple[Host, Host]) -> None:
    home = network_of_this_thread()
    with pytest.raises(KeyError), hosts[0].entered():
        raise KeyError
    assert network_of_this_thread() == home


def test_what_a_killed_run_left_is_removed_with_its_processes(lab: NetworkLab) -> None:
    run = subprocess.run([sys.executable, "-c", KILLED_RUN], stdout=subprocess.PIPE, text=True, check=False)
    assert run.returncode == -signal.SIGKILL
    name, pid = run.stdout.split()
    remove_leftovers()
    assert not (NAMESPACES / name).exists()
    assert not is_running(int(pid))


def test_what_a_living_run_has_is_left_alone(hosts: tuple[Host, Host]) -> None:
    process = hosts[0].popen(["sleep", "1000"])
    assert not set(remove_leftovers()) & {host.namespace.name for host in hosts}
    assert processes_in(hosts[0].namespace.name) == [process.pid]
    assert processes_in(hosts[1].namespace.name) == []


def test_the_reason_to_skip_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = skip_reason.__wrapped__
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert ask() == "network namespaces are made by root only"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool in ("tc", "ss") else tool)
    assert ask() == "not installed: tc, ss (Debian package iproute2)"


@pytest.mark.parametrize(
    ("refused", "reason"),
    [("netns", "network namespaces are forbidden here"), ("tc", "refuses what a test network needs")],
)
def test_the_reason_to_skip_says_what_was_refused(
    lab: NetworkLab, monkeypatch: pytest.MonkeyPatch, refused: str, reason: str
) -> None:
    run_tool = namespaces.run_tool

    def refuse(*command: str, text: str | None = None) -> str:
        if refused in command and "delete" not in command:
            raise RuntimeError("Operation not permitted")
        return run_tool(*command, text=text)

    monkeypatch.setattr(namespaces, "run_tool", refuse)
    said = skip_reason.__wrapped__()
    assert said is not None
    assert reason in said
    assert "Operation not permitted" in said
    assert not [name for name in namespaces.names_of_ours() if name.endswith("probe")]


def test_the_reason_to_skip_names_the_device_that_relays_need(lab: NetworkLab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "TUN", "/dev/no-such-device")
    assert str(skip_reason.__wrapped__()).startswith("/dev/no-such-device cannot be opened (No such file")


def test_a_command_that_fails_is_shown_with_what_it_said(hosts: tuple[Host, Host]) -> None:
    with pytest.raises(RuntimeError, match=r"ip -n .*no-such-link.*Cannot find device"):
        hosts[0].namespace.ip("link set no-such-link up")
