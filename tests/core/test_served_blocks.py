"""A block that other nodes read is freed when the last of them has it, and not before."""

from __future__ import annotations

import pytest

from remora.core.served_blocks import ServedBlocks


def test_a_block_that_nobody_reads_may_be_freed_at_once() -> None:
    freed: list[int] = []
    served = ServedBlocks()
    assert not served.free_when_served(4096, lambda: freed.append(4096))
    served.read(4096)
    served.done(4096)
    assert freed == []


def test_a_block_is_freed_after_its_last_reader() -> None:
    freed: list[int] = []
    served = ServedBlocks()
    served.read(4096)
    served.read(4096)
    assert served.free_when_served(4096, lambda: freed.append(4096))
    served.done(4096)
    assert served.is_served(4096)
    assert freed == []
    served.done(4096)
    assert freed == [4096]
    assert not served.is_served(4096)
    assert len(served) == 0


def test_freeing_looks_at_the_block_alone() -> None:
    served = ServedBlocks()
    served.read(4096)
    assert not served.free_when_served(8192, lambda: None)


def test_a_reader_that_was_not_counted_is_an_error() -> None:
    with pytest.raises(KeyError):
        ServedBlocks().done(4096)
