"""What a side measures with: a module with Ray Core's API, a process pool, or nothing (the limits)."""

from __future__ import annotations

import importlib
from typing import Any

from .pools import POOL_MAKERS, Pool, RemotePool

#: The module that a pool is made from.
POOL_MODULES = {
    "futures": "concurrent.futures",
    "multiprocessing": "multiprocessing.pool",
    "joblib": "joblib",
    "dask": "distributed",
}


class RemoteModule:
    """``ray`` or ``remora``."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._module: Any = None

    def load(self) -> None:
        """Imports the module."""
        self._module = importlib.import_module(self._name)

    def start(self) -> None:
        """Initializes it with its defaults."""
        self._module.init()

    def first_task(self) -> None:
        """Runs one task."""
        if self._module.get(self._module.remote(lambda: 1).remote()) != 1:
            raise RuntimeError(f"the first task of {self._name} gave a wrong result")

    def open(self, kind: str) -> Any:
        """What rows of that kind are prepared with."""
        return RemotePool(self._module) if kind == "pool" else self._module

    def stop(self) -> None:
        """Shuts it down."""
        self._module.shutdown()


class PoolModule:
    """One of the process pools."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pool: Pool | None = None

    def load(self) -> None:
        """Imports what the pool needs."""
        importlib.import_module(POOL_MODULES[self._name])

    def start(self) -> None:
        """Makes the pool. Most pools start their processes at the first call."""
        self._pool = POOL_MAKERS[self._name]()

    def first_task(self) -> None:
        """Runs one call."""
        if self.open("pool").call_each(abs, (-1,)) != [1]:
            raise RuntimeError(f"the first call of {self._name} gave a wrong result")

    def open(self, kind: str) -> Pool:
        """The pool; raises `ValueError` for rows that need more than a pool."""
        if kind != "pool" or self._pool is None:
            raise ValueError(f"{self._name} is a process pool and cannot run rows of kind {kind!r}")
        return self._pool

    def stop(self) -> None:
        """Ends its processes."""
        if self._pool is not None:
            self._pool.close()


class Limits:
    """The machine alone."""

    def load(self) -> None:
        """Nothing to import."""

    def start(self) -> None:
        """Nothing to start."""

    def first_task(self) -> None:
        """Nothing to run."""

    def open(self, kind: str) -> None:
        """Limits need no peer."""

    def stop(self) -> None:
        """Nothing to stop."""


PeerModule = RemoteModule | PoolModule | Limits


def open_peer(name: str) -> PeerModule:
    """The peer of that name: "limits", a pool's name, or a module with Ray Core's API."""
    if name == "limits":
        return Limits()
    return PoolModule(name) if name in POOL_MODULES else RemoteModule(name)
