"""Links to the daemons of other nodes: opened when there is something to say, closed when one side is dead.

Each side always sends over the same stream: the first one that there was when it had something to say, its own or one
that the other had opened. So messages of one direction stay in order although both may have opened one at once; not
chosen: to agree on one of the two, which needs a refusal and a second look at everything that was sent meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from remora.base.credentials import ClusterCredentials
from remora.base.ids import NodeId, ProcessId, daemon_of, node_of, short
from remora.core.counting.vocabulary import CountingError
from remora.messages.links import ForProcess, FromProcess
from remora.processes.daemon.heartbeats import HEAD_PROCESS
from remora.system.network.preface import Purpose
from remora.system.network.refusals import Refusal
from remora.system.network.stream import Stream, open_stream
from remora.system.reactor import Reactor


class LinkHandler(Protocol):
    """What the daemon does with what other nodes say."""

    def on_node_message(self, node: NodeId, message: Any) -> None:
        """Said by the daemon of the node."""

    def on_message_from(self, node: NodeId, process: ProcessId, job: ProcessId, message: Any) -> None:
        """Said by a process of the node."""

    def on_message_for(self, node: NodeId, process: ProcessId, message: Any) -> None:
        """Said by the daemon of the node to a process of this one."""

    def on_link_broken(self, node: NodeId, error: Exception) -> None:
        """The node says things that no daemon says, or refuses this one."""


class Link:
    """What there is of one other node. ``sending`` is set once; ``marker`` speaks of the next message.

    ``unsent`` is what is to be said to a node of which only others have heard until now.
    """

    __slots__ = ("is_dirty", "marker", "node", "sending", "streams", "unsent")

    def __init__(self, node: NodeId) -> None:
        self.node = node
        self.sending: Stream | None = None
        self.streams: list[Stream] = []
        self.marker: dict[int, Any] = {}
        self.unsent: list[Any] = []
        self.is_dirty = False

    def __repr__(self) -> str:
        return f"<Link to node {short(self.node)}, {len(self.streams)} streams>"


class Links:
    """All links of this node."""

    def __init__(
        self,
        reactor: Reactor,
        node: NodeId,
        credentials: ClusterCredentials,
        address_of: Callable[[NodeId], str | None],
        handler: LinkHandler,
    ) -> None:
        self._reactor = reactor
        self._self = daemon_of(node)
        self._credentials = credentials
        self._address_of = address_of
        self._handler = handler
        self._links: dict[NodeId, Link] = {}
        self._dead: set[NodeId] = set()
        self._dirty: list[Link] = []

    # ------------------------------------------------------------------ sending

    def send(self, node: NodeId, message: Any) -> None:
        """Say something to the daemon of the node; it leaves at :meth:`flush`. A dead node is told nothing."""
        if node in self._dead:
            return
        link = self._link(node)
        if link.sending is None:
            link.unsent.append(message)
            self._connect(link)
        else:
            link.sending.outgoing.append(message)
            self._mark_dirty(link)

    def send_for(self, process: ProcessId, message: Any) -> None:
        """Say something to a process of another node."""
        node = node_of(process)
        self.send(node, ForProcess(process))
        self.send(node, message)

    def is_clogged(self, node: NodeId) -> bool:
        """Whether the node does not read, or cannot be reached for now: what is said to it waits here."""
        link = self._links.get(node)
        sending = link.sending if link is not None else None
        return sending is not None and sending.is_blocked and bool(sending.outgoing)

    def flush(self) -> None:
        """Write all frames."""
        dirty = self._dirty
        while dirty:
            link = dirty.pop()
            link.is_dirty = False
            if link.sending is not None:
                link.sending.flush()

    def members_changed(self) -> None:
        """There may be addresses that there were not before."""
        for link in self._links.values():
            if link.unsent:
                self._connect(link)

    def _connect(self, link: Link) -> None:
        if not link.streams:
            address = self._address_of(link.node)
            if address is None:
                return  # the head will tell of it, or that it is dead
            self._take(link, self._open(link.node, address))
        link.sending = link.streams[0]
        link.sending.outgoing.extend(link.unsent)
        link.unsent.clear()
        self._mark_dirty(link)

    def _mark_dirty(self, link: Link) -> None:
        if not link.is_dirty:
            link.is_dirty = True
            self._dirty.append(link)

    def _open(self, node: NodeId, address: str) -> Stream:
        target = daemon_of(node)
        return open_stream(
            self._reactor,
            address,
            target,
            self._self,
            Purpose.LINK,
            self._credentials,
            self._on_messages,
            self._on_closed,
        )

    # ------------------------------------------------------------------ receiving

    def accept(self, stream: Stream, sender: bytes) -> None:
        """The daemon of another node opened a stream."""
        node = node_of(sender)
        if node in self._dead:
            stream.refuse(Refusal.DECLARED_DEAD)
            return
        if sender == self._self or sender != daemon_of(node) or sender == HEAD_PROCESS:
            stream.refuse(Refusal.UNKNOWN_TARGET)
            return
        stream.on_messages = self._on_messages
        stream.on_closed = self._on_closed
        link = self._link(node)
        self._take(link, stream)
        if link.unsent:
            self._connect(link)

    def _link(self, node: NodeId) -> Link:
        link = self._links.get(node)
        if link is None:
            link = self._links[node] = Link(node)
        return link

    def _take(self, link: Link, stream: Stream) -> None:
        stream.peer = link
        link.streams.append(stream)

    def _on_messages(self, stream: Stream, messages: list[Any]) -> None:
        link: Link = stream.peer
        if link.node in self._dead:
            return
        handler = self._handler
        marker = link.marker.pop(id(stream), None)
        try:
            for message in messages:
                kind = type(message)
                if kind is ForProcess or kind is FromProcess:
                    marker = message
                elif marker is None:
                    handler.on_node_message(link.node, message)
                elif type(marker) is ForProcess:
                    handler.on_message_for(link.node, ProcessId(marker.process), message)
                    marker = None
                else:
                    handler.on_message_from(link.node, ProcessId(marker.process), ProcessId(marker.job), message)
                    marker = None
        except (CountingError, ValueError, KeyError) as error:
            self._handler.on_link_broken(link.node, error)
            return
        if marker is not None:
            link.marker[id(stream)] = marker

    def _on_closed(self, stream: Stream, error: Exception | None) -> None:
        link: Link | None = stream.peer
        if link is None or stream not in link.streams:
            return
        link.streams.remove(stream)
        link.marker.pop(id(stream), None)
        # What was on its way is lost, so the two cannot go on with each other: either the other daemon is gone, and the
        # head finds that out, or the head must choose between them. Until then what is said goes nowhere.
        if link.node not in self._dead and error is not None:
            self._handler.on_link_broken(link.node, error)

    # ------------------------------------------------------------------ ends

    def node_dead(self, node: NodeId) -> None:
        """The node was declared dead: nothing is sent to it or taken from it any more."""
        self._dead.add(node)
        link = self._links.pop(node, None)
        if link is not None:
            for stream in link.streams:
                stream.close()

    def linked_nodes(self) -> list[NodeId]:
        """Nodes that this one has spoken with."""
        return list(self._links)

    def close(self) -> None:
        """Close all streams."""
        for node in self.linked_nodes():
            self.node_dead(node)
