"""Who has, or is receiving, a copy of one object besides the primary one, and who should read from whom.

A reader is sent to the holder that the fewest read from now, then to the one that has served the fewest. A node that
is still receiving is a holder, too. So readers that come together form a chain, through which the value flows chunk by
chunk: the node that made it sends it about once, however many read it.
"""

from __future__ import annotations

from collections.abc import Iterable

from remora.base.ids import NodeId, short


class Receiver:
    """A node that is receiving a copy."""

    __slots__ = ("failed", "is_to_keep", "sources")

    def __init__(self) -> None:
        self.sources: list[NodeId] = []
        """From whom it was told to read, and may be reading still when they have dropped their copies."""
        self.failed: set[NodeId] = set()
        """Who did not give it the value."""
        self.is_to_keep = False
        """The home made it a keeper of a further copy."""


class Spread:
    """The copies of one object. Nodes that keep a further copy are in ``kept``, evictable ones in ``complete``."""

    __slots__ = ("candidates", "complete", "kept", "promoted", "receiving", "refused", "served", "wanted")

    def __init__(self) -> None:
        self.receiving: dict[NodeId, Receiver] = {}
        self.complete: dict[NodeId, None] = {}
        self.kept: dict[NodeId, None] = {}
        self.served: dict[NodeId, int] = {}
        self.wanted = 1
        """On how many nodes the value is to be kept, the primary one included."""
        self.refused: set[NodeId] = set()
        """Nodes that could not keep one more copy."""
        self.promoted: NodeId | None = None
        """The primary copy was lost, and this node is asked to keep its own as the primary."""
        self.candidates: list[NodeId] = []
        """Who will be asked after that."""

    def sources_for(self, reader: NodeId, primary: NodeId) -> list[NodeId]:
        """Where *reader* is to read, the best first, and only the first may be receiving; writes the reader down.

        Returns nothing, and forgets the reader, when nobody is left who has not failed it.
        """
        if reader == primary or reader in self.kept:
            return [reader]
        self.complete.pop(reader, None)
        receiver = self.receiving.setdefault(reader, Receiver())
        receiver.sources = []
        whole = [node for node in (primary, *self.kept, *self.complete) if node not in receiver.failed]
        partial = [node for node in self.receiving if node not in receiver.failed and not self._reads(node, reader)]
        load = self._load()
        ranked = sorted(whole + partial, key=lambda node: (load.get(node, 0), self.served.get(node, 0)))
        if not ranked:
            del self.receiving[reader]
            return []
        best = ranked[0]
        self.served[best] = self.served.get(best, 0) + 1
        receiver.sources = [best, *(node for node in ranked[1:] if node in whole)]
        return receiver.sources

    def arrived(self, node: NodeId) -> None:
        """The node has the whole value; who failed to read it there may try again."""
        for receiver in self.receiving.values():
            receiver.failed.discard(node)
        if self.receiving.pop(node, None) is not None and node not in self.kept:
            self.complete[node] = None

    def keep(self, node: NodeId) -> None:
        """The node keeps its copy."""
        self.receiving.pop(node, None)
        self.complete.pop(node, None)
        self.kept[node] = None

    def dropped(self, node: NodeId) -> None:
        """The node has no copy that it may drop, and receives none."""
        self.receiving.pop(node, None)
        self.complete.pop(node, None)

    def remove(self, node: NodeId) -> None:
        """The node has nothing at all."""
        self.dropped(node)
        self.kept.pop(node, None)
        self.served.pop(node, None)

    @property
    def evictable(self) -> list[NodeId]:
        """Nodes with a copy, whole or not, that they do not keep."""
        return [*self.complete, *self.receiving]

    def is_keeper(self, node: NodeId) -> bool:
        """Whether the node keeps a further copy, or was asked to."""
        receiver = self.receiving.get(node)
        return node in self.kept or node == self.promoted or (receiver is not None and receiver.is_to_keep)

    def _reads(self, node: NodeId, from_node: NodeId) -> bool:
        """Whether what *node* receives may come from *from_node*, on whatever way: reading from it is a circle."""
        seen: set[NodeId] = set()
        todo = [node]
        while todo:
            current = todo.pop()
            if current == from_node:
                return True
            if current not in seen:
                seen.add(current)
                receiver = self.receiving.get(current)
                todo += receiver.sources if receiver is not None else ()
        return False

    def _load(self) -> dict[NodeId, int]:
        load: dict[NodeId, int] = {}
        for receiver in self.receiving.values():
            for source in receiver.sources[:1]:
                load[source] = load.get(source, 0) + 1
        return load

    def __repr__(self) -> str:
        return (
            f"<Spread: kept on {_names(self.kept)}, whole on {_names(self.complete)}, "
            f"arriving on {_names(self.receiving)}>"
        )


def _names(nodes: Iterable[NodeId]) -> str:
    return "[" + ", ".join(map(short, nodes)) + "]"
