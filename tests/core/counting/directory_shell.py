"""A directory's messages in, and its effects out."""

from __future__ import annotations

import msgspec

from remora.base.ids import NODE_ID_SIZE_BYTES, NodeId, ProcessId
from remora.core.counting.directory import Directory
from remora.core.counting.vocabulary import Effect


def taken(directory: Directory) -> list[Effect]:
    """What it wants done, in order; then nothing is left of it, and what it knows is sound."""
    directory.validate()
    effects = list(directory.outbox)
    directory.outbox.clear()
    return effects


def tell(directory: Directory, who: bytes, *messages: msgspec.Struct) -> list[Effect]:
    """A process of the node, or another node, says this."""
    for message in messages:
        if len(who) == NODE_ID_SIZE_BYTES:
            directory.node_message(NodeId(who), message)
        else:
            directory.process_message(ProcessId(who), message)
    return taken(directory)
