from __future__ import annotations

import io
import mmap
import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from remora.cli.demo import find_in_one_process, run_demo
from remora.cli.similarity import module_paths
from remora.cli.store_view import Place, copies_after_put, place_of

FEW_PATHS = [path for path in module_paths() if path.parent.name in ("json", "email", "asyncio")]


class HereAndNow:
    """Ray Core's API as far as the demo uses it, with every call run at once in this process."""

    def remote(self, thing: Any) -> Any:
        if not isinstance(thing, type):
            return SimpleNamespace(remote=thing)
        return SimpleNamespace(remote=lambda *arguments: _Handle(thing(*arguments)))

    def __getattr__(self, name: str) -> Any:
        return {
            "init": lambda: None,
            "shutdown": lambda: None,
            "put": lambda value: value,
            "get": lambda value: value,
            "wait": lambda refs, **_: (refs, []),
        }[name]


class _Handle:
    def __init__(self, instance: Any) -> None:
        self._instance = instance

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._instance, name))


def test_the_job_finds_modules_that_are_alike() -> None:
    outcome = find_in_one_process(FEW_PATHS, 3)
    assert outcome.parsed == len(FEW_PATHS)
    assert len(outcome.pairs) == 3
    assert 0 < outcome.pairs[-1].likeness <= outcome.pairs[0].likeness <= 1.0001


def test_the_demo_prints_pairs_and_what_ran() -> None:
    out = io.StringIO()
    run_demo(HereAndNow(), FEW_PATHS, 3, Console(file=out, width=150))
    for words in ("The most alike modules", "copies of the matrix after the put", "seconds in one process"):
        assert words in out.getvalue()


def test_a_private_array_is_seen_as_private_and_a_mapped_one_as_shared() -> None:
    descriptor = os.memfd_create("test")
    try:
        os.ftruncate(descriptor, 8192)
        with mmap.mmap(descriptor, 8192) as mapping:
            array = np.frombuffer(mapping, dtype=np.uint8)[4096:]
            shared = place_of(array)
            del array
    finally:
        os.close(descriptor)
    assert shared.shared
    assert shared.offset == 4096
    assert not place_of(np.zeros(10)).shared


@pytest.mark.parametrize(
    ("places", "copies"),
    [
        ([Place(1, True, "0:7", 64), Place(2, True, "0:7", 64)], 0),
        ([Place(1, True, "0:7", 64), Place(2, True, "0:7", 128)], 1),
        ([Place(1, True, "0:7", 64), Place(2, False, "", 0), Place(3, False, "", 0)], 2),
        ([], 0),
    ],
)
def test_copies_are_counted_by_where_each_task_found_the_array(places: list[Place], copies: int) -> None:
    assert copies_after_put(places) == copies
