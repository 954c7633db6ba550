"""Made-up /proc and cgroup trees; paths of the mounts lie in the test's own folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from remora.system.memory_limits import MemoryLimits

MB = 1 << 20
GB = 1 << 30


class Machine:
    """A machine with 100 GB, 50 of them available."""

    def __init__(self, folder: Path) -> None:
        self.proc = folder / "proc"
        self.mount = folder / "sys" / "fs" / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        self.mount.mkdir(parents=True)
        self.available(50 * GB)
        self.write(self.proc / "self" / "cgroup", "")
        self.write(self.proc / "self" / "mountinfo", "")

    def write(self, path: Path, text: str | int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    def available(self, available_bytes: int) -> None:
        self.write(
            self.proc / "meminfo",
            f"MemTotal:       {100 * GB // 1024} kB\nMemFree:  1 kB\nMemAvailable:   {available_bytes // 1024} kB",
        )

    @property
    def escaped_mount(self) -> str:
        return str(self.mount).replace(" ", "\\040")

    def version_2(self, path: str, root: str = "/") -> None:
        self.write(self.proc / "self" / "cgroup", f"0::{path}")
        self.write(
            self.proc / "self" / "mountinfo",
            "22 1 0:20 / /proc rw - proc proc rw\n"
            f"30 1 0:26 {root} {self.escaped_mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw",
        )

    def version_1(self, path: str, root: str = "/") -> None:
        self.write(self.proc / "self" / "cgroup", f"9:name=systemd:/\n4:memory:{path}\n1:cpu,cpuacct:{path}\n0::/")
        self.write(
            self.proc / "self" / "mountinfo",
            f"31 30 0:28 / {self.escaped_mount}/cpu rw - cgroup cgroup rw,cpu\n"
            f"32 30 0:29 {root} {self.escaped_mount}/memory rw,relatime - cgroup cgroup rw,memory\n"
            f"33 30 0:30 / {self.escaped_mount}/unified rw - cgroup2 cgroup2 rw",
        )

    def group_2(self, name: str, limit: str | int, usage: int, idle_cache: int = 0, high: str | int = "max") -> None:
        folder = self.mount / name
        self.write(folder / "memory.max", limit)
        self.write(folder / "memory.high", high)
        self.write(folder / "memory.current", usage)
        self.write(folder / "memory.stat", f"anon 5\ninactive_file {idle_cache}\nactive_file 7")

    def group_1(self, name: str, limit: int, usage: int, idle_cache: int = 0) -> None:
        folder = self.mount / "memory" / name
        self.write(folder / "memory.limit_in_bytes", limit)
        self.write(folder / "memory.usage_in_bytes", usage)
        self.write(folder / "memory.stat", f"inactive_file 1\ntotal_inactive_file {idle_cache}")

    def left(self) -> int:
        return MemoryLimits(self.proc).read().available_bytes


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "with a space")


def test_without_cgroups_the_machine_counts_and_3_percent_stay(machine: Machine) -> None:
    assert machine.left() == 47 * GB
    assert MemoryLimits(machine.proc).read().limited_by == "the machine"


def test_at_least_256_mb_stay(machine: Machine) -> None:
    machine.version_2("/job")
    machine.group_2("job", GB, 100 * MB)
    assert machine.left() == (1024 - 100 - 256) * MB


def test_less_than_what_stays_is_a_negative_number(machine: Machine) -> None:
    machine.available(2 * GB)
    assert machine.left() == -GB


def test_the_tightest_group_above_the_process_counts_in_version_2(machine: Machine) -> None:
    machine.version_2("/slice/job/step")
    machine.group_2("slice", 8 * GB, 7 * GB)
    machine.group_2("slice/job", 6 * GB, 2 * GB)
    machine.group_2("slice/job/step", "max", 2 * GB)
    machine.group_2("slice/job/sibling", 1, 1)
    reading = MemoryLimits(machine.proc).read()
    assert reading.available_bytes == (1024 - 256) * MB
    assert reading.limited_by == f"memory cgroup {machine.mount / 'slice'}"


def test_the_soft_limit_of_version_2_counts_too(machine: Machine) -> None:
    machine.version_2("/job")
    machine.group_2("job", 8 * GB, GB, high=4 * GB)
    assert machine.left() == 3 * GB - 256 * MB


def test_the_tightest_group_above_the_process_counts_in_version_1(machine: Machine) -> None:
    machine.version_1("/slice/job")
    machine.group_1("", 9223372036854771712, 90 * GB)
    machine.group_1("slice", 4 * GB, 3 * GB)
    machine.group_1("slice/job", 9223372036854771712, 3 * GB)
    assert machine.left() == (1024 - 256) * MB


def test_page_cache_that_lies_idle_is_not_counted_as_used(machine: Machine) -> None:
    machine.version_1("/job")
    machine.group_1("job", 2 * GB, 2 * GB, idle_cache=GB)
    assert machine.left() == (1024 - 256) * MB


def test_a_container_sees_its_own_group_at_the_mount_point(machine: Machine) -> None:
    machine.version_1("/docker/abc", root="/docker/abc")
    machine.group_1("", 2 * GB, GB)
    assert machine.left() == (1024 - 256) * MB


def test_a_group_outside_of_what_is_mounted_is_taken_as_the_mount(machine: Machine) -> None:
    machine.version_2("/../other")
    machine.group_2("", 2 * GB, GB)
    assert machine.left() == (1024 - 256) * MB


def test_limits_are_read_anew_each_time_and_a_group_may_vanish(machine: Machine) -> None:
    machine.version_2("/job")
    machine.group_2("job", 2 * GB, GB)
    limits = MemoryLimits(machine.proc)
    assert limits.available_bytes() == (1024 - 256) * MB
    machine.group_2("job", 3 * GB, GB)
    assert limits.available_bytes() == (2048 - 256) * MB
    for file in (machine.mount / "job").iterdir():
        file.unlink()
    assert limits.available_bytes() == 47 * GB


def test_this_machine_has_a_reading() -> None:
    assert isinstance(MemoryLimits().available_bytes(), int)
