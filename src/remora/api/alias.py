"""Another name for Remora: after ``install_as("ray")``, ``import ray`` reaches it.

The modules are the same objects under both names, so ``ray.exceptions.GetTimeoutError`` is Remora's.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

VARIABLE = "REMORA_INSTALL_AS"
"""Environment variable with the names, separated by commas, under which Remora is known in this process tree."""

_ELSEWHERE = {
    "remote_function": "remora.api.remote_function",
    "runtime_context": "remora.api.runtime_context",
}
"""Modules of Ray Core that lie elsewhere in Remora."""

_NOT_PART = ("data", "train", "tune", "serve", "rllib", "workflow", "dag", "autoscaler", "air", "job_submission")


def install_as(name: str = "ray") -> None:
    """From now on ``import <name>`` gives Remora, here and in every process that this one starts.

    Parameters:
        name: a top-level module name.

    Raises:
        ValueError: *name* is no name of a top-level module.
        RuntimeError: another module of that name is imported already.

    Example:
        >>> remora.install_as("ray")
        >>> from ray.util import ActorPool
    """
    if not name.isidentifier() or name == "remora":
        raise ValueError(f"install_as({name!r}): it takes the name of a top-level module, such as 'ray'")
    remora = importlib.import_module("remora")
    if sys.modules.setdefault(name, remora) is not remora:
        raise RuntimeError(f"install_as({name!r}): another module {name!r} is imported already; install before that")
    if not any(isinstance(finder, _Finder) and finder.name == name for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder(name))
    names = _names_in_environment()
    if name not in names:
        os.environ[VARIABLE] = ",".join([*names, name])


def install_from_environment() -> None:
    """Install the names that a parent process installed."""
    for name in _names_in_environment():
        install_as(name)


def _names_in_environment() -> list[str]:
    return [name for name in os.environ.get(VARIABLE, "").split(",") if name]


class _Finder(MetaPathFinder):
    """Finds ``name`` and everything below it. It comes first, so an installed package of that name stays unused."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._prefix = f"{name}."

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name and not fullname.startswith(self._prefix):
            return None
        part = fullname[len(self._prefix) :]
        if part.partition(".")[0] in _NOT_PART:
            raise ModuleNotFoundError(f"{fullname}: {part.partition('.')[0]} is not part of Remora", name=fullname)
        return ModuleSpec(fullname, _AliasLoader(_ELSEWHERE.get(part, f"remora.{part}" if part else "remora")))


class _AliasLoader(Loader):
    """Loads a module of Remora under another name: the same module object, unchanged."""

    def __init__(self, module_name: str) -> None:
        self._module_name = module_name
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._module_name)
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        alias = str(module.__spec__.name) if module.__spec__ is not None else ""
        module.__spec__ = self._spec  # the import system has just put the other name's there
        # A function that bears the name of a module beside it would be replaced by that module when it is imported.
        for name, submodule in list(sys.modules.items()):
            parent, _, child = name.rpartition(".")
            if parent == module.__name__ and getattr(module, child, submodule) is not submodule:
                sys.modules.setdefault(f"{alias}.{child}", submodule)
