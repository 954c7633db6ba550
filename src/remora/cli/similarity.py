"""How alike Python modules are: the analysis of ``remora demo``, with nothing of Remora in it.

Each module becomes a vector: one number for each identifier, by how often the module uses it and how few other modules
do (TF-IDF). Two modules are as alike as the cosine of the angle between their vectors.
"""

from __future__ import annotations

import ast
import math
import sysconfig
import tokenize
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: A term counts when at least this many modules use it, and at most this many terms count, the most used first.
FEWEST_MODULES = 3
MOST_TERMS = 12_000
#: Modules with fewer distinct terms are too small to say anything.
FEWEST_TERMS = 30

Vectors = NDArray[np.float32]


class Module(NamedTuple):
    """One parsed module: its name, how often it uses each identifier, and the number of its tokens."""

    name: str
    terms: Counter[str]
    tokens: int


class Pair(NamedTuple):
    """Two modules, by their rows in the matrix, and how alike they are (1 is the same)."""

    likeness: float
    first: int
    second: int


def library_root() -> Path:
    """The folder of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def module_paths() -> list[Path]:
    """Every source file of the running Python's standard library."""
    foreign = {"site-packages", "dist-packages"}
    return sorted(path for path in library_root().rglob("*.py") if not foreign & set(path.parts))


def parse_modules(paths: Iterable[Path], root: Path) -> list[Module]:
    """Reads and parses files; those that are no valid Python (the library has some, to test with) are left out."""
    found = []
    for path in paths:
        try:
            with warnings.catch_warnings(action="ignore"), tokenize.open(path) as source:
                text = source.read()
                terms = Counter(_identifiers(ast.parse(text)))
        except (SyntaxError, ValueError):
            continue
        name = ".".join(path.relative_to(root).with_suffix("").parts)
        found.append(Module(name, terms, len(text.split())))
    return found


def tf_idf(modules: Sequence[Module]) -> tuple[list[str], Vectors]:
    """The names of the modules that are large enough, and their vectors as rows, each of length 1."""
    large = [module for module in modules if len(module.terms) >= FEWEST_TERMS]
    used_by = Counter(term for module in large for term in module.terms)
    vocabulary = [term for term, users in used_by.most_common(MOST_TERMS) if users >= FEWEST_MODULES]
    column_of = {term: column for column, term in enumerate(vocabulary)}

    vectors = np.zeros((len(large), len(vocabulary)), dtype=np.float32)
    for row, module in enumerate(large):
        for term, count in module.terms.items():
            if term in column_of:
                vectors[row, column_of[term]] = 1.0 + math.log(count)
    users = np.array([used_by[term] for term in vocabulary], dtype=np.float32)
    vectors *= np.log(len(large) / users)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors /= np.where(lengths > 0, lengths, 1)
    return [module.name for module in large], vectors


def most_alike(vectors: Vectors, first: int, last: int, per_module: int = 8) -> list[Pair]:
    """The modules most alike to each of the rows from `first` to before `last`.

    Args:
        vectors: Rows of length 1, as `tf_idf` makes them.
        first: The first row looked at.
        last: The row after the last.
        per_module: How many pairs to give for each row.

    Returns:
        Pairs in which the other module comes later, so that no pair is found from both sides.
    """
    likeness = vectors[first:last] @ vectors.T
    earlier = np.arange(len(vectors)) <= np.arange(first, last)[:, None]
    likeness[earlier] = -1.0
    best = np.argsort(-likeness, axis=1)[:, :per_module]
    return [
        Pair(float(likeness[row, other]), first + row, int(other))
        for row in range(last - first)
        for other in best[row]
        if likeness[row, other] > 0
    ]


def best_between_packages(pairs: Iterable[Pair], names: Sequence[str], count: int) -> list[Pair]:
    """The best pairs, at most one for each two packages: the encodings alone would fill any list."""
    best: dict[frozenset[str], Pair] = {}
    for pair in pairs:
        key = frozenset((_package(names[pair.first]), _package(names[pair.second])))
        if key not in best or pair > best[key]:
            best[key] = pair
    return sorted(best.values(), reverse=True)[:count]


def _identifiers(tree: ast.AST) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg


def _package(name: str) -> str:
    package, _, module = name.rpartition(".")
    return package or module
