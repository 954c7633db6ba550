"""A virtual environment for each peer, made on first use."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

#: What pip installs for each peer. The standard library's pools need numpy only because rows do.
PEER_PACKAGES: dict[str, tuple[str, ...]] = {
    "ray": ("ray==2.60.0", "numpy"),
    "futures": (),
    "multiprocessing": (),
    "joblib": ("joblib", "numpy"),
    "dask": ("distributed", "numpy"),
}


@dataclass(frozen=True)
class Environment:
    """Where a side runs.

    Attributes:
        module: What `rows.peer_modules.open_peer` opens.
        python: The interpreter.
    """

    module: str
    python: str


def ours() -> Environment:
    """Remora, in the interpreter that runs this."""
    return Environment("remora", sys.executable)


def peer_environment(name: str, say: Callable[[str], None]) -> Environment:
    """The peer's environment; installs it when it is not there.

    Args:
        name: A key of `PEER_PACKAGES`.
        say: Called with one line before something slow begins.

    Raises:
        RuntimeError: pip could not install the peer; the text has pip's last lines.
    """
    packages = PEER_PACKAGES[name]
    if not packages:
        return Environment(name, sys.executable)
    folder = _cache_folder() / f"{name}-python{sys.version_info.major}.{sys.version_info.minor}"
    complete = folder / "installed"
    python = folder / "bin" / "python"
    if not complete.exists() or complete.read_text() != " ".join(packages):
        say(f"installing {' '.join(packages)} into {folder} (once)")
        _install(folder, python, packages)
        complete.write_text(" ".join(packages))
    return Environment(name, str(python))


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "remora" / "peers"


def _install(folder: Path, python: Path, packages: tuple[str, ...]) -> None:
    venv.create(folder, with_pip=True, clear=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last_lines = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise RuntimeError(f"pip could not install {' '.join(packages)} into {folder}:\n{last_lines}")
