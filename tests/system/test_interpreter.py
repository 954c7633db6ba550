"""Fresh interpreters: find what this one finds, and inherit only what they are given."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from remora.base.configuration import NodeConfiguration
from remora.system.interpreter import choose_hash_seed, resolve, spawn_interpreter
from remora.system.process_control import ExitStatus, reap

CHILD = """
import json, os, signal, sys
from remora.base.configuration import NodeConfiguration
from remora.system.interpreter import read_configuration

def main():
    configuration = read_configuration(NodeConfiguration, 2)
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    os.write(5, json.dumps({
        "namespace": configuration.namespace,
        "read": os.read(4, 100).decode(),
        "descriptors": sorted(int(path.rpartition("/")[2]) for path in links if os.path.lexists(path)),
        "inheritable": [os.get_inheritable(fd) for fd in (4, 5)],
        "hash": hash("remora"),
        "session": os.getsid(0) == os.getpid(),
        "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        "blocked": len(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        "executable": sys.executable,
        "prefix": sys.prefix,
        "variables": sorted(name for name in os.environ if name.startswith("REMORA_")),
    }).encode())
    print("to the log")
    sys.exit(7)
"""


def spawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hash_seed: int = 1) -> dict[str, Any]:
    """What a child tells that was given a pipe to read and one to write."""
    (tmp_path / "child_of_test.py").write_text(CHILD)
    monkeypatch.syspath_prepend(str(tmp_path))
    to_child, from_parent = os.pipe()
    from_child, to_parent = os.pipe()
    os.write(from_parent, b"hello")
    leak = os.dup(0)
    os.set_inheritable(leak, True)
    configuration = NodeConfiguration(session_directory="", namespace="told")
    log = str(tmp_path / "log")
    pid = spawn_interpreter("child_of_test:main", "title", configuration, [to_child, to_parent], log, hash_seed)
    os.close(to_parent)
    assert reap(pid) == ExitStatus(exit_code=7), Path(log).read_text()
    answer = os.read(from_child, 10000)
    for descriptor in (to_child, from_parent, from_child, leak):
        os.close(descriptor)
    assert Path(log).read_text().endswith("to the log\n")
    told: dict[str, Any] = json.loads(answer)
    return told


def test_a_fresh_interpreter_has_what_it_was_given_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    told = spawn(tmp_path, monkeypatch)
    assert told["namespace"] == "told"
    assert told["read"] == "hello"
    assert told["descriptors"] == [0, 1, 2, 4, 5]
    assert told["inheritable"] == [False, False]
    assert told["session"]
    assert told["interrupt"]
    assert told["blocked"] == 0
    assert (told["executable"], told["prefix"]) == (sys.executable, sys.prefix)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_hash_seed_decides_the_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, same, other = (spawn(tmp_path, monkeypatch, seed)["hash"] for seed in (5, 5, 6))
    assert first == same
    assert first != other


def test_a_join_string_is_not_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMORA_JOIN", "remora://10.0.0.1:7000/1/tls/fingerprint/secret")
    monkeypatch.setenv("REMORA_ADDRESS", " remora://10.0.0.1:7000/1/tls/fingerprint/secret")
    monkeypatch.setenv("REMORA_OTHER", "auto")
    variables = spawn(tmp_path, monkeypatch)["variables"]
    assert "REMORA_OTHER" in variables
    assert not {"REMORA_JOIN", "REMORA_ADDRESS"} & set(variables)


def test_a_module_in_the_working_directory_does_not_shadow_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "here"
    directory.mkdir()
    (directory / "msgspec.py").write_text("raise ImportError('shadowed')")
    monkeypatch.chdir(directory)
    assert spawn(tmp_path, monkeypatch)["namespace"] == "told"


def test_the_drivers_own_hash_seed_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHASHSEED", "12")
    assert choose_hash_seed() == 12
    monkeypatch.setenv("PYTHONHASHSEED", "random")
    assert choose_hash_seed() != choose_hash_seed()


def test_an_embedded_python_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(RuntimeError, match=r"sys\.executable"):
        spawn_interpreter("a:b", "", NodeConfiguration(session_directory=""), [], "/dev/null", 0)


def test_a_name_leads_to_its_object() -> None:
    assert resolve("os.path:join") is os.path.join
