"""A worker that the kernel kills for want of memory is told from one that somebody killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LIMIT_BYTES = 128 * 1024 * 1024
DRIVER = """
import json, os, signal, sys
base, group, here = sys.argv[1:]
open(group + "/cgroup.procs", "w").write(str(os.getpid()))
sys.path.insert(0, here)
from node_stand_in import StandInNode

node = StandInNode(base)
innocent = node.fork(1)
node.ask("fork", first=2, main="eat_memory", options={})
reports = [node.ask("reports", kind="Exited", worker_number=2)]
os.kill(innocent, signal.SIGKILL)
reports.append(node.ask("reports", kind="Exited", worker_number=1))
node.close()
print(json.dumps([[report["signal"], report["out_of_memory"]] for report in reports]))
"""


@pytest.fixture
def memory_group() -> Iterator[str]:
    """A memory cgroup of 128 MB, of either version."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            group, limit = f"/sys/fs/cgroup/memory{path}/remora-test-{os.getpid()}", "memory.limit_in_bytes"
        elif not controllers:
            group, limit = f"/sys/fs/cgroup{path}/remora-test-{os.getpid()}", "memory.max"
        else:
            continue
        try:
            os.mkdir(group)
        except OSError:
            continue
        try:
            Path(group, limit).write_text(str(LIMIT_BYTES))
            yield group
        except OSError:
            continue
        finally:
            os.rmdir(group)
        return
    pytest.skip("this user may not make a memory cgroup")


def test_a_kill_for_want_of_memory_is_told_from_any_other(base: str, memory_group: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", DRIVER, base, memory_group, os.path.dirname(__file__)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == [[9, True], [9, False]]
