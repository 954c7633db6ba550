"""Streams of messages between processes of different nodes: what their users call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from remora.base.credentials import ClusterCredentials
from remora.system.network.acceptor import RESUME_GRACE_S, StreamAcceptor
from remora.system.network.opener import Opener
from remora.system.network.refusals import Refusal, StreamRefused
from remora.system.network.reliable_stream import Stream
from remora.system.reactor import Reactor

__all__ = ["RESUME_GRACE_S", "Refusal", "Stream", "StreamAcceptor", "StreamRefused", "open_stream"]


def open_stream(
    reactor: Reactor,
    address: str,
    target: bytes,
    sender: bytes,
    purpose: int,
    credentials: ClusterCredentials,
    on_messages: Callable[[Stream, list[Any]], None],
    on_closed: Callable[[Stream, Exception | None], None],
    peer: Any = None,
) -> Stream:
    """A stream to the process *target* of the node that listens at *address*. Returns at once; never blocks.

    What is sent before the connection stands leaves when it does. Whether it ever does is told by ``on_closed``
    (:class:`~remora.system.network.reliable_stream.Stream` says how), which is not called from here.

    Parameters:
        address: ``host:port`` of the node; a numeric IPv6 host is in brackets.
        target: a process id, ``node.0`` for the daemon, ``0.0`` for the head.
        sender: the id of this process.
        purpose: a :class:`~remora.system.network.preface.Purpose`.

    Raises:
        ValueError: *address* is no address.
    """
    return Opener(reactor, address, target, sender, purpose, credentials).open(on_messages, on_closed, peer)
