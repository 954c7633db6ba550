"""What we ask of the kernel about processes. Each part runs in a process of its own that may be changed for ever."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys

import pytest

from remora.system import process_control
from remora.system.process_control import (
    ExitStatus,
    children_of,
    descendants,
    kill_worker,
    open_pidfd,
    reap,
    wait_ended,
)

TIMEOUT_S = 5.0
IMPORT = "import os, signal, subprocess, sys\nfrom remora.system.process_control import *\n"


def run(code: str) -> str:
    """What a fresh process that runs *code* prints."""
    result = subprocess.run([sys.executable, "-c", IMPORT + code], capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_an_orphan_comes_to_the_subreaper() -> None:
    assert (
        run(
            "become_subreaper()\n"
            "code = \"import subprocess; print(subprocess.Popen(['sleep', '1000'], stdout=2).pid)\"\n"
            "orphan = int(subprocess.run([sys.executable, '-c', code], stdout=subprocess.PIPE).stdout)\n"
            "print(children_of(os.getpid()) == [orphan], kill_all_descendants(5), children_of(os.getpid()))\n"
        )
        == "True True []"
    )


def test_the_title_replaces_the_command_line() -> None:
    assert (
        run(
            "set_process_title('remora:test')\n"
            "print(open('/proc/self/cmdline').read(), open('/proc/self/comm').read().strip())\n"
        )
        == "remora:test\0 remora:test"
    )


def test_a_title_that_does_not_fit_is_cut() -> None:
    assert set(run("set_process_title('x' * 100000)\nprint(open('/proc/self/cmdline').read())").rstrip("\0.")) == {"x"}


def test_the_oom_score_is_raised_and_never_lowered() -> None:
    assert run("raise_oom_score(600)\nraise_oom_score(200)\nprint(open('/proc/self/oom_score_adj').read())") == "600"


def test_the_descriptor_limit_becomes_the_hard_one() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert (
        run(
            "import resource\n"
            f"resource.setrlimit(resource.RLIMIT_NOFILE, (100, {hard}))\n"
            "print(raise_descriptor_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
        )
        == f"{hard} {hard} {hard}"
    )


def test_the_lifeline_kills_the_group_of_a_process_that_holds_the_interpreter() -> None:
    assert (
        run(
            "import ctypes\n"
            "lifeline, writer = os.pipe()\n"
            "tell, told = os.pipe()\n"
            "pid = os.fork()\n"
            "if pid == 0:\n"
            "    os.close(writer)\n"
            "    os.setpgid(0, 0)\n"
            "    arm_lifeline(lifeline)\n"
            "    child = os.fork()\n"
            "    os.write(told, b'.')\n"
            "    ctypes.PyDLL(None).pause()\n"
            "os.close(told)\n"
            "print(len(os.read(tell, 1) + os.read(tell, 1)))\n"
            "os.close(writer)\n"
            "print(reap(pid).signal, os.read(tell, 1))\n"
        )
        == "2\n9 b''"
    )


def test_a_lifeline_that_was_cut_before_it_was_armed_kills_too() -> None:
    assert (
        run(
            "lifeline, writer = os.pipe()\n"
            "go, started = os.pipe()\n"
            "pid = os.fork()\n"
            "if pid == 0:\n"
            "    os.close(writer)\n"
            "    os.setpgid(0, 0)\n"
            "    os.read(go, 1)\n"
            "    arm_lifeline(lifeline)\n"
            "    os._exit(0)\n"
            "os.close(writer)\n"
            "os.write(started, b'.')\n"
            "print(reap(pid).signal)\n"
        )
        == "9"
    )


def test_a_pidfd_tells_the_end_of_a_process() -> None:
    process = start_idle()
    pidfd = open_pidfd(process.pid)
    assert not wait_ended(pidfd, 0)
    process.kill()
    assert wait_ended(pidfd, TIMEOUT_S)
    os.close(pidfd)
    assert reap(process.pid) == ExitStatus(signal=signal.SIGKILL)
    assert reap(process.pid) == ExitStatus()
    assert process.wait() is not None


def test_a_pidfd_of_nobody_is_an_error() -> None:
    process = start_idle()
    process.kill()
    process.wait()
    with pytest.raises(ProcessLookupError):
        open_pidfd(process.pid)
    assert children_of(process.pid) == []


def test_a_kernel_without_pidfds_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(OSError, match=r"Linux 5\.3 or newer"):
        open_pidfd(os.getpid())


def test_killing_a_worker_kills_its_group_and_its_detached_descendants() -> None:
    code = (
        "import subprocess, time\n"
        "subprocess.Popen(['sleep', '1000'])\n"
        "subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "print(flush=True)\n"
        "time.sleep(1000)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, process_group=0)
    assert worker.stdout is not None
    worker.stdout.readline()
    below = descendants(worker.pid)
    assert len(below) == 2
    pidfds = [open_pidfd(pid) for pid in below]
    kill_worker(worker.pid, worker.pid)
    assert worker.wait() == -signal.SIGKILL
    assert all(wait_ended(pidfd, TIMEOUT_S) for pidfd in pidfds)
    for pidfd in pidfds:
        os.close(pidfd)
    worker.stdout.read()
    worker.stdout.close()


def test_killing_a_worker_that_has_ended_does_no_harm() -> None:
    process = start_idle()
    process.kill()
    process.wait()
    kill_worker(process.pid, process.pid)


def test_children_are_found_without_the_files_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    process = start_idle()
    expected = sorted(children_of(os.getpid()))
    monkeypatch.setattr(process_control, "_has_children_files", lambda: False)
    assert sorted(children_of(os.getpid())) == expected
    assert process.pid in expected
    process.kill()
    process.wait()


def start_idle() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "1000"])
