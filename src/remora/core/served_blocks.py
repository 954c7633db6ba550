"""Pieces of the arena that other nodes are reading, which may not be written anew until they have been read.

The network reads the very pages of the arena, also after the call that sent them has returned, so a block is in use
until its reader has said that everything came.
"""

from __future__ import annotations

from collections.abc import Callable


class ServedBlocks:
    """Readers of each block, by its offset, and what to do when the last one is done.

    Example:
        >>> served = ServedBlocks()
        >>> served.read(4096)
        >>> served.free_when_served(4096, free)
        True
        >>> served.done(4096)  # calls free
    """

    def __init__(self) -> None:
        self._readers: dict[int, int] = {}
        self._to_free: dict[int, Callable[[], None]] = {}

    def __len__(self) -> int:
        return len(self._readers)

    def __repr__(self) -> str:
        return f"<ServedBlocks {len(self)} read, {len(self._to_free)} of them to be freed>"

    def is_served(self, offset: int) -> bool:
        """Whether somebody reads the block."""
        return offset in self._readers

    def read(self, offset: int) -> None:
        """One more reader of the block."""
        self._readers[offset] = self._readers.get(offset, 0) + 1

    def done(self, offset: int) -> None:
        """A reader is done.

        Raises:
            KeyError: nobody reads the block.
        """
        readers = self._readers[offset] - 1
        if readers:
            self._readers[offset] = readers
            return
        del self._readers[offset]
        free = self._to_free.pop(offset, None)
        if free is not None:
            free()

    def free_when_served(self, offset: int, free: Callable[[], None]) -> bool:
        """Have *free* called after the last reader; false, and nothing is noted, when there is none."""
        if offset not in self._readers:
            return False
        self._to_free[offset] = free
        return True
