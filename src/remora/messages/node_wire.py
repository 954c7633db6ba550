"""All messages: those within a node, which travel between nodes too, and those that only nodes and the head exchange.

Apart from :mod:`remora.messages.wire`, because a session alone never needs them, and building their decoder would be
the largest part of starting one.
"""

from __future__ import annotations

from types import ModuleType

import msgspec

from remora.messages import copies, head, links, transfer, wire

NODE_MODULES: tuple[ModuleType, ...] = (links, copies, head, transfer)
"""Those with messages between nodes, in the order of their tags."""


def tag_of(message: type[msgspec.Struct]) -> int:
    """The number that a message starts with."""
    tag = message.__struct_config__.tag
    if not isinstance(tag, int):
        raise TypeError(f"{message.__name__} has the tag {tag!r}: messages have numbers")
    return tag


def _first_tag(module: ModuleType) -> int:
    return min(tag_of(message) for message in module.MESSAGES)


MODULES: tuple[ModuleType, ...] = tuple(sorted((*wire.MODULES, *NODE_MODULES), key=_first_tag))
"""All that define messages, in the order of their tags."""

ALL_MESSAGES: tuple[type[msgspec.Struct], ...] = tuple(message for module in MODULES for message in module.MESSAGES)

decode_node_body = wire.body_decoder(MODULES)
"""The messages of one frame's body from another node; raises ``msgspec.DecodeError`` for anything else."""
