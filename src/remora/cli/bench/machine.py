"""What machine and which versions a run was made on."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from remora.cli.bench.environments import PEER_PACKAGES, Environment


def describe_machine() -> dict[str, str]:
    """Processor, cores, memory and kernel."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory_bytes / 1e9:.0f} GB",
        "kernel": platform.release(),
    }


def describe_versions(environments: dict[str, Environment]) -> dict[str, str]:
    """Python's version, and each side's by its name."""
    versions = {"python": platform.python_version()}
    for environment in environments.values():
        package = "distributed" if environment.module == "dask" else environment.module
        if environment.module == "remora" or PEER_PACKAGES.get(environment.module):
            versions[environment.module] = _package_version(environment.python, package)
    return versions


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _package_version(python: str, package: str) -> str:
    program = f"from importlib.metadata import version; print(version({package!r}))"
    done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
