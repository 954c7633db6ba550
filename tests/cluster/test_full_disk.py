"""A disk that is full, under the logs and the head's state: nothing ends for it, and all goes on when there is room."""

from __future__ import annotations

import errno
import os
import signal
from io import FileIO

from machines import Machine, wait_until

from remora.testing.network_lab import NetworkLab

PAGE_BYTES = 4096


def fill(machine: Machine) -> None:
    """Leave no byte in its ``/tmp``, nor in the last pages of the logs there."""
    for log in machine.tmp.glob("remora-*/*/*.log"):
        with log.open("a") as file:
            file.write("." * (-log.stat().st_size % PAGE_BYTES))
    size_bytes = 1 << 20
    with (machine.tmp / "filler").open("wb", buffering=0) as filler:
        while size_bytes:
            size_bytes = size_bytes if _has_room(filler, size_bytes) else size_bytes // 2


def _has_room(filler: FileIO, size_bytes: int) -> bool:
    try:
        return filler.write(bytes(size_bytes)) > 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False


def test_a_full_disk_ends_no_node_and_no_head(lab: NetworkLab) -> None:
    first = Machine(lab.add_host(), tmp_size="24m")
    join = first.start_head("--num-cpus", "1", "--resources", '{"first": 1}')
    second = Machine(lab.add_host())
    second.join(join, "--num-cpus", "1")
    daemon = first.pid_of("remora:daemon")
    with second.driver() as driver:
        driver("ref = remora.put(pattern(1000))")
        fill(first)
        os.kill(first.pid_of("remora:head"), signal.SIGKILL)  # its keeper logs that, and starts another one
        with first.driver():
            """It is killed at the end, and its daemon logs that."""
        assert driver("sum_of(remora.get(ref))") > 0
        (first.tmp / "filler").unlink()
        wait_until(lambda: any("remora:head" in line for line in first.processes().values()), "another head")
        place = "double.options(resources={'first': 0.1})"
        assert driver(f"remora.get({place}.remote(21), timeout=20)") == 42
    assert first.pid_of("remora:daemon") == daemon
    os.kill(first.pid_of("remora:head"), signal.SIGKILL)  # a line more, in front of which it is said what was lost
    wait_until(lambda: "could not be written: No space left on device" in first.log(), "what was lost is said")
