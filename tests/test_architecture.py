"""The layers of docs/architecture.md, held against the imports of the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "remora"

LAYERS = [
    {"cli"},
    {"api"},
    {"processes"},
    {"system"},
    {"core"},
    {"messages", "serialization"},
    {"base"},
]
RANK = {package: rank for rank, layer in enumerate(LAYERS) for package in layer}
IMPURE = {
    "asyncio",
    "socket",
    "threading",
    "time",
    "random",
    "os",
    "logging",
    "subprocess",
    "select",
    "signal",
}


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    package = ["remora", *path.relative_to(SOURCE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module, node.lineno
            if module == "remora":
                for alias in node.names:
                    yield f"remora.{alias.name}", node.lineno


def layer_of(name: str) -> str:
    """The layer of a package or module right below ``remora``; those that users import belong to the API."""
    return name if name in RANK or name == "testing" else "api"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_package_imports_only_from_packages_below_it(path: Path) -> None:
    package = layer_of(path.relative_to(SOURCE).parts[0])
    if package == "testing" or path.name == "cluster_utils.py":  # Ray's name for a part of testing
        return
    for module, line in imports_of(path):
        parts = module.split(".")
        if parts[0] != "remora" or len(parts) < 2:
            continue
        assert parts[1] != "testing", f"{path}:{line}: nothing imports testing"
        imported = layer_of(parts[1])
        if imported != package:
            assert RANK[imported] > RANK[package], f"{path}:{line}: {package} may not import {module}"


@pytest.mark.parametrize("path", sorted((SOURCE / "core").rglob("*.py")), ids=lambda p: p.name)
def test_core_is_pure(path: Path) -> None:
    for module, line in imports_of(path):
        assert module.split(".")[0] not in IMPURE, f"{path}:{line}: core is told the time and does no I/O"
