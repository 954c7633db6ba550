"""Watching workers and ending what they leave. In a process of its own: orphans of pytest's are not ours to kill."""

from __future__ import annotations

import subprocess
import sys

IMPORT = """
import os, select, signal, subprocess, sys
from remora.system.child_supervisor import ChildSupervisor
from remora.system.process_control import become_subreaper, children_of

become_subreaper()
supervisor = ChildSupervisor()

def start(*command, **options):
    return subprocess.Popen(command or ["sleep", "1000"], **options)

def wait():
    poll = select.poll()
    poll.register(supervisor, select.POLLIN)
    assert poll.poll(5000), "no child has ended"
    return supervisor.reap()
"""


def run(code: str) -> list[str]:
    result = subprocess.run([sys.executable, "-c", IMPORT + code], capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
    return result.stdout.split("\n")[:-1]


def test_each_worker_is_reported_once_with_how_it_ended() -> None:
    assert run("""
for number, command in enumerate([["sh", "-c", "exit 5"], ["sh", "-c", "kill -11 $$"]], 1):
    process = start(*command, process_group=0)
    supervisor.watch_worker(process.pid, number)
    [report] = wait()
    print(report.worker_number, report.pid == process.pid, report.exit_code, report.signal, report.out_of_memory)
print(supervisor.reap(), supervisor.workers, children_of(os.getpid()))
""") == ["1 True 5 None False", "2 True None 11 False", "[] {} []"]


def test_workers_that_end_together_are_all_reported() -> None:
    assert run("""
processes = [start(process_group=0) for _ in range(20)]
for number, process in enumerate(processes):
    supervisor.watch_worker(process.pid, number)
for process in processes:
    process.kill()
reports = []
while len(reports) < 20:
    reports += wait()
print(sorted(report.worker_number for report in reports) == list(range(20)))
""") == ["True"]


def test_a_group_dies_with_its_worker_and_an_orphan_is_killed_but_not_the_spared() -> None:
    code = """
tell, told = os.pipe()
command = "sleep 1000 & setsid sleep 1000 & kill -9 $$"
spared, worker = start(), start("sh", "-c", command, process_group=0, stdout=told)
os.close(told)
supervisor.spare(spared.pid)
supervisor.watch_worker(worker.pid, 1)
print([report.signal for report in wait()])
while len(children_of(os.getpid())) > 1:
    assert wait() == []
print(children_of(os.getpid()) == [spared.pid], os.read(tell, 1))
spared.kill()
"""
    assert run(code) == ["[9]", "True b''"]


def test_a_child_that_nobody_knows_is_killed() -> None:
    assert run("""
start()
supervisor.kill_orphans()
print(wait(), children_of(os.getpid()))
""") == ["[] []"]
