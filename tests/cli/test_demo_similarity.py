from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from remora.cli.similarity import (
    Module,
    Pair,
    best_between_packages,
    module_paths,
    most_alike,
    parse_modules,
    tf_idf,
)


def module(name: str, *words: str) -> Module:
    filler = [f"{name}_{number}" for number in range(40)]
    return Module(name, Counter([*filler, *words]), 0)


def test_the_whole_standard_library_is_found_and_nothing_foreign() -> None:
    paths = module_paths()
    assert len(paths) > 500
    assert {"ast.py", "dataclasses.py"} <= {path.name for path in paths}
    assert not [path for path in paths if "site-packages" in path.parts]


def test_a_module_is_its_identifiers(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("def add(left, right):\n    return left.value + other\n")
    [parsed] = parse_modules([tmp_path / "one.py"], tmp_path)
    assert parsed.name == "one"
    assert parsed.terms == Counter(["add", "left", "right", "left", "value", "other"])


@pytest.mark.parametrize("text", [b"def broken(:\n", b"# coding: nonsense\n", b"x = '\x00'\n", b"\xff\xfe"])
def test_what_is_no_valid_python_is_left_out(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "bad.py").write_bytes(text)
    assert parse_modules([tmp_path / "bad.py"], tmp_path) == []


def test_vectors_have_length_one_and_small_modules_are_left_out() -> None:
    shared = [f"shared_{number}" for number in range(5)]
    modules = [module(name, *shared[: 3 + row]) for row, name in enumerate("abc")]
    names, vectors = tf_idf([*modules, Module("tiny", Counter(["x"]), 0), module("d", "alone")])
    assert names == ["a", "b", "c", "d"]
    lengths = np.linalg.norm(vectors, axis=1)
    assert lengths[:3] == pytest.approx([1, 1, 1])
    assert lengths[3] == 0


def test_slices_together_find_each_pair_once_and_the_most_alike_first() -> None:
    vectors = np.array([[1, 0], [0, 1], [0.8, 0.6], [1, 0]], dtype=np.float32)
    pairs = [pair for first in range(0, 4, 2) for pair in most_alike(vectors, first, first + 2)]
    found = {(pair.first, pair.second): pytest.approx(pair.likeness) for pair in pairs}
    assert found == {(0, 3): 1.0, (0, 2): 0.8, (2, 3): 0.8, (1, 2): 0.6}


def test_one_pair_is_kept_for_each_two_packages() -> None:
    names = ["encodings.cp1", "encodings.cp2", "encodings.cp3", "wave"]
    pairs = [Pair(0.9, 0, 1), Pair(0.95, 1, 2), Pair(0.5, 0, 3), Pair(0.6, 1, 3)]
    assert best_between_packages(pairs, names, 5) == [Pair(0.95, 1, 2), Pair(0.6, 1, 3)]
