"""How many CPUs there are for us: affinity and the quotas of both kinds of cgroups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from remora.system.cpu_count import available_cpus


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


def count(tmp_path: Path, groups: str, **quotas: str) -> int:
    """CPUs when this process is in *groups* and each named file under the cgroup root has that text."""
    (tmp_path / "cgroup").write_text(groups)
    for name, text in quotas.items():
        path = tmp_path / "root" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return available_cpus(tmp_path, tmp_path / "root")


def test_without_a_quota_affinity_counts(tmp_path: Path) -> None:
    assert count(tmp_path, "0::/\n") == 8
    assert count(tmp_path, "0::/a\n", a__cpu_dot_max="max 100000\n") == 8
    assert count(tmp_path, "1:cpu:/a\n", cpu__a__cpu_dot_cfs_quota_us="-1\n", cpu__a__cpu_dot_cfs_period_us="1\n") == 8


def test_a_quota_of_version_2_counts(tmp_path: Path) -> None:
    assert count(tmp_path, "0::/a\n", a__cpu_dot_max="300000 100000\n") == 3


def test_the_tightest_group_above_counts(tmp_path: Path) -> None:
    assert count(tmp_path, "0::/a/b\n", a__b__cpu_dot_max="500000 100000", a__cpu_dot_max="200000 100000") == 2


def test_a_part_of_a_cpu_counts_as_one(tmp_path: Path) -> None:
    assert count(tmp_path, "0::/a\n", a__cpu_dot_max="150000 100000\n") == 2
    assert count(tmp_path, "0::/a\n", a__cpu_dot_max="10000 100000\n") == 1


def test_a_quota_of_version_1_counts(tmp_path: Path) -> None:
    quotas = {"cpu__a__cpu_dot_cfs_quota_us": "400000\n", "cpu__a__cpu_dot_cfs_period_us": "100000\n"}
    assert count(tmp_path, "3:cpuset:/\n2:cpu,cpuacct:/a\n", **quotas) == 4


def test_a_container_that_cannot_see_its_own_group_uses_the_root(tmp_path: Path) -> None:
    assert count(tmp_path, "0::/../docker/abc\n", cpu_dot_max="200000 100000\n") == 2


def test_a_quota_above_the_affinity_does_not_add_cpus(tmp_path: Path) -> None:
    assert count(tmp_path, "0::/a\n", a__cpu_dot_max="1600000 100000\n") == 8


def test_without_cgroups_affinity_counts(tmp_path: Path) -> None:
    assert available_cpus(tmp_path / "no_proc", tmp_path / "no_root") == 8
