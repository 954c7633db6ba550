"""The head of a simulated cluster: the real machine, a fake disk, and turns that end as those of the real server do.

Nothing that follows from a change leaves before the change is on the disk. Between the turn, the write and the sending
anything may happen, also the death of the head, which begins again from what is on the disk.
"""

from __future__ import annotations

from typing import Any

from remora.base.ids import NodeId
from remora.core.head import Head, Identity
from remora.core.journal import Change
from remora.messages.head import Heartbeat, HeartbeatHello, JoinCluster, Joined, Rejoin, Rejoined
from remora.testing.cluster_network import HEAD, End, Network, Unit, Violation

IDENTITY = Identity(cluster=b"simulated cluster"[:16], python=(3, 11), epoch_s=1.7e9)
Outgoing = tuple[NodeId, int, Unit]
"""A node, which of its streams, and messages for it."""


class Batch:
    """What is written in one transaction, and what waits for it."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.outgoing: list[Outgoing] = []


class SimulatedHead:
    """The head process, from one death to the next."""

    def __init__(self, network: Network, machine: type[Head] = Head) -> None:
        self._network = network
        self._machine = machine
        self.disk: dict[tuple[str, bytes], bytes] = {}
        self.head: Head | None = None
        self.streams: dict[NodeId, int] = {}
        """Nodes with a stream, and the number of it."""
        self._last_stream = 0
        self._answers: list[Outgoing] = []
        self._next: Batch | None = None
        self._writing: Batch | None = None
        self._written: list[Outgoing] = []
        self.start()

    @property
    def machine(self) -> Head:
        """The machine; only while the head lives."""
        assert self.head is not None, "the head is dead"
        return self.head

    def start(self) -> None:
        """A new process reads the disk."""
        self.head = self._machine(IDENTITY)
        rows = [(kind, key, value) for (kind, key), value in self.disk.items()]
        self.head.restore(rows, self._network.now_s)
        self._network.alive.add(HEAD)
        self._network.note(HEAD, f"starts with {len(rows)} rows")
        self.end_turn()

    def kill(self) -> None:
        """The process dies; what it had not written is lost, and so are its streams."""
        self._network.note(HEAD, "dies")
        self.head = None
        self._network.alive.discard(HEAD)
        self._network.drop(HEAD)
        self.streams.clear()
        self._answers, self._next, self._writing, self._written = [], None, None, []

    # ------------------------------------------------------------------ what nodes say

    def join(self, message: JoinCluster) -> Joined:
        """A daemon starts; the answer, written down before."""
        answer = self.machine.join(message, self._network.now_s)
        assert isinstance(answer, Joined), f"{answer!r}"
        self._bind(NodeId(answer.node))
        self._network.alive.add(answer.node)
        self.end_turn()
        while self.has_disk_work:
            self.work_on_disk()
        return answer

    def receive(self, node: NodeId, unit: Unit) -> None:
        """What the node's stream brings."""
        first = unit[0]
        now_s = self._network.now_s
        if isinstance(first, End):
            self.streams.pop(node, None)
            self.machine.heartbeat_closed(node, now_s)
        elif isinstance(first, Rejoin):
            answer = self.machine.rejoin(first, now_s)
            if isinstance(answer[0], Rejoined):
                self._bind(node)
                self._answers.append((node, self.streams[node], tuple(answer)))
            else:
                self._network.send(HEAD, node, *answer)
        elif node in self.streams:
            self.machine.on_messages(node, list(unit), now_s)
        self.end_turn()

    def _bind(self, node: NodeId) -> None:
        self._last_stream += 1
        self.streams[node] = self._last_stream

    def heartbeat(self, node: NodeId, boot: bytes, is_connected: bool) -> str:
        """A sign of life; why the node must stop, or an empty text."""
        now_s = self._network.now_s
        refusal = "" if is_connected else self.machine.heartbeat_opened(HeartbeatHello(node, boot), now_s)
        if not refusal:
            refusal = self.machine.heartbeat(node, Heartbeat(0), now_s).refusal
        self.end_turn()
        return refusal

    def tick(self) -> None:
        """Time has passed."""
        self.machine.tick(self._network.now_s)
        self.end_turn()

    # ------------------------------------------------------------------ turns and the disk

    def end_turn(self) -> None:
        """Hand over what changed and what is to be sent."""
        head = self.machine
        changes, effects = head.end_turn()
        outgoing, self._answers = self._answers, []
        for effect in effects:
            node = NodeId(effect.node)
            if node in self.streams:
                outgoing.append((node, self.streams[node], effect.messages))
        if head.complaints:
            raise Violation(f"the head complains: {'; '.join(head.complaints)}")
        if not changes and self._writing is None and self._next is None:
            self._written += outgoing
            self._send_written()
        elif changes or outgoing:
            self._next = self._next or Batch()
            self._next.changes += changes
            self._next.outgoing += outgoing
            self._begin_to_write()

    @property
    def has_disk_work(self) -> bool:
        """Whether something is being written, or written and not sent."""
        return self._writing is not None or bool(self._written)

    def work_on_disk(self) -> None:
        """The next step: what was written is told to those who wait for it, or one transaction ends."""
        if self._written:
            self._send_written()
            return
        batch = self._writing
        assert batch is not None, "the disk has nothing to do"
        for change in batch.changes:
            if change.value is None:
                self.disk.pop((change.kind, change.key), None)
            else:
                self.disk[change.kind, change.key] = change.value
        self._written += batch.outgoing
        self._writing = None
        self._begin_to_write()

    def _begin_to_write(self) -> None:
        if self._writing is None:
            self._writing, self._next = self._next, None

    def _send_written(self) -> None:
        written, self._written = self._written, []
        for node, stream, messages in written:
            if self.streams.get(node) == stream:
                self._send(node, messages)

    def _send(self, node: NodeId, messages: tuple[Any, ...]) -> None:
        self._network.send(HEAD, node, *messages)
