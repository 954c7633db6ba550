"""Who is in the cluster: joining, leases by heartbeats, and deaths that are declared once and for ever.

A member is alive until it leaves in order or is declared dead, for one of these reasons:

- Its heartbeat connection ended, after heartbeats had come as they should, and did not come back within ``RETURN_S``:
  the daemon was killed, nearly always. After a silence an end only says that the network was away.
- It was silent for ``SILENCE_S``, or its heartbeats say that the daemon's loop has not turned for ``STALL_S``.
- Another member cannot reach it. Both can reach the head, so neither is dead for sure; but every ``get`` between them
  would wait for ever. When a report stands for ``UNREACHABLE_S`` one of the two is declared dead: the one that has
  trouble with more members, or the younger one (the higher number) when both have it with equally many.
- Its daemon joins a second time: it was started again, so the one before is dead.

The node of the head is never declared dead: when its daemon ends the head ends, and with it the cluster. Time that the
head itself did not run (it, or its machine, was stopped) is nobody's silence.

Node numbers begin at a random one, so that refs of another cluster are no refs of this one, and are never used twice.
"""

from __future__ import annotations

import msgspec

from remora.base.ids import NodeId, short
from remora.core.journal import Journal
from remora.messages.head import Departure, JoinCluster, MemberView, NodeLoad

RETURN_S = 0.7
FRESH_S = 1.5
"""A connection that ends after so long a silence was given up by a node that heard no answers; it was not killed."""
SILENCE_S = 4.5
STALL_S = 30.0
UNREACHABLE_S = 10.0
RESTART_SILENCE_S = 10.0
"""How long a member may need to come back to a head that was started again."""
LATE_TICK_S = 1.0
"""The head itself stood still when its last tick is longer ago."""

MEMBER = "member"
COUNTER = "counter"
LAST_NUMBER = b"last_node"

MAX_NUMBER = (1 << 32) - 1


class MemberRecord(msgspec.Struct, array_like=True, frozen=True):
    """A node that is or was a member, as it is written down."""

    node: bytes
    boot: bytes
    view: MemberView
    departure: Departure | None = None


class NodeDeparted(msgspec.Struct, frozen=True):
    """The node is no member any more: tell everybody, and end what was there."""

    departure: Departure


class ViewChanged(msgspec.Struct, frozen=True):
    """The node joined, or what it has changed."""

    view: MemberView


Effect = NodeDeparted | ViewChanged


class Member:
    """A node that lives, or is believed to."""

    __slots__ = ("boot", "due_s", "is_connected", "node", "silence_s", "unreachable_since_s", "view")

    def __init__(self, node: bytes, boot: bytes, view: MemberView, due_s: float) -> None:
        self.node = node
        self.boot = boot
        self.view = view
        self.is_connected = False
        """Whether its heartbeat connection stands."""
        self.due_s = due_s
        """When it is dead unless it is heard before."""
        self.silence_s = due_s
        """When it is dead for its silence, whatever becomes of its connection."""
        self.unreachable_since_s: dict[bytes, float] = {}
        """Members that it cannot reach. It says so again to a head that was started anew."""

    def __repr__(self) -> str:
        return f"<member {short(self.node)} {self.view.address}{'' if self.is_connected else ' not connected'}>"


class Membership:
    """All members, and those that were.

    *first_number* is the number of the first node of a new cluster.
    """

    def __init__(self, journal: Journal, first_number: int = 1) -> None:
        if not 1 <= first_number <= MAX_NUMBER:
            raise ValueError(f"node numbers are 1 to {MAX_NUMBER}, not {first_number}")
        self.outbox: list[Effect] = []
        self._journal = journal
        self._last_number = first_number - 1
        self._members: dict[bytes, Member] = {}
        self._departed: dict[bytes, MemberRecord] = {}
        self._by_boot: dict[bytes, bytes] = {}
        self._last_tick_s: float | None = None

    # ------------------------------------------------------------------ joining and leaving

    def join(self, message: JoinCluster, now_s: float) -> Member | Departure:
        """The member with the message's boot, which may be new; or its departure, when it is none any more.

        Raises:
            ValueError: all numbers were given.
        """
        known = self._by_boot.get(message.boot)
        if known is not None:
            member = self._members.get(known)
            return member if member is not None else self.departure(known)
        if self._last_number >= MAX_NUMBER:
            raise ValueError("this cluster has given all its node numbers; start another one")
        if message.is_head_node:
            for old in [member for member in self._members.values() if member.view.is_head_node]:
                self._declare(old, "its daemon was started again")
        self._last_number += 1
        node = NodeId(self._last_number.to_bytes(4, "big"))
        total = dict(message.total)
        available = dict(total)
        view = MemberView(
            node,
            message.address,
            message.hostname,
            total,
            available,
            message.labels,
            is_head_node=message.is_head_node,
            store_limit_bytes=message.store_limit_bytes,
            store_free_bytes=message.store_limit_bytes,
        )
        member = self._members[node] = Member(node, message.boot, view, now_s + SILENCE_S)
        self._by_boot[message.boot] = node
        self._journal.touch(COUNTER, LAST_NUMBER)
        self._journal.touch(MEMBER, node)
        self.outbox.append(ViewChanged(view))
        return member

    def leave(self, node: bytes, reason: str) -> None:
        """It ends in order. Nothing happens when it is no member."""
        member = self._members.get(node)
        if member is not None:
            self._declare(member, f"it left the cluster: {reason}", is_orderly=True)

    # ------------------------------------------------------------------ signs of life

    def refusal(self, node: bytes, boot: bytes) -> str:
        """Why the daemon with this *boot* may not speak as *node*; empty when it may."""
        member = self._members.get(node)
        if member is not None and member.boot == boot:
            return ""
        departed = self._departed.get(node)
        if departed is not None and departed.boot == boot and departed.departure is not None:
            return (
                f"node {short(node)} is no member of this cluster any more: {departed.departure.cause}. It must stop; "
                "it may join again as a new node"
            )
        return (
            f"this cluster has no node {short(node)} with such a daemon: its head has lost its state, or is another one"
        )

    def connected(self, node: bytes, now_s: float) -> None:
        """A heartbeat connection of the member stands."""
        member = self._members.get(node)
        if member is not None:
            member.is_connected = True
            self._heard(member, now_s)

    def heartbeat(self, node: bytes, stalled_s: float, now_s: float) -> None:
        """The member's daemon lives; its loop has not turned for *stalled_s*."""
        member = self._members.get(node)
        if member is None:
            return
        self._heard(member, now_s)
        if stalled_s >= STALL_S:
            self._die(member, f"its daemon answers nothing any more: its loop has not turned for {stalled_s:.0f} s")

    def disconnected(self, node: bytes, now_s: float) -> None:
        """The heartbeat connection of the member ended."""
        member = self._members.get(node)
        if member is not None and member.is_connected:
            member.is_connected = False
            heard_s = member.silence_s - SILENCE_S
            if now_s - heard_s <= FRESH_S:
                member.due_s = min(member.silence_s, now_s + RETURN_S)

    def link_ended(self, node: bytes, now_s: float) -> None:
        """The member ended its stream to the head. If it has no heartbeats either, it was killed as it began."""
        member = self._members.get(node)
        if member is not None and not member.is_connected:
            member.due_s = min(member.due_s, now_s + RETURN_S)

    def reachability(self, node: bytes, peer: bytes, is_reachable: bool, now_s: float) -> None:
        """The member says whether it can reach another one."""
        member = self._members.get(node)
        if member is None or peer not in self._members or peer == node:
            return
        if is_reachable:
            member.unreachable_since_s.pop(peer, None)
        else:
            member.unreachable_since_s.setdefault(peer, now_s)

    def tick(self, now_s: float) -> None:
        """Declare dead who is silent or cut off. To be called at least every ``LATE_TICK_S``."""
        late_s = 0.0 if self._last_tick_s is None else now_s - self._last_tick_s
        self._last_tick_s = now_s
        if late_s > LATE_TICK_S:
            self._shift(late_s)
        for member in list(self._members.values()):
            if now_s >= member.due_s:
                self._die(member, self._why_due(member, now_s))
        self._end_unreachable(now_s)

    def _shift(self, late_s: float) -> None:
        """The head did not run for so long: nobody could be heard."""
        for member in self._members.values():
            member.due_s += late_s
            member.silence_s += late_s
            for peer in member.unreachable_since_s:
                member.unreachable_since_s[peer] += late_s

    def _heard(self, member: Member, now_s: float) -> None:
        member.silence_s = max(member.silence_s, now_s + SILENCE_S)
        member.due_s = member.silence_s

    def _why_due(self, member: Member, now_s: float) -> str:
        if not member.is_connected and now_s < member.silence_s:
            return "its heartbeat connection ended: its daemon was killed, or its machine or network went down"
        return f"it was silent for {SILENCE_S:g} s: its machine or network is down, or stopped"

    def _end_unreachable(self, now_s: float) -> None:
        while True:
            cut = [
                (member, self._members[peer])
                for member in self._members.values()
                for peer, since_s in member.unreachable_since_s.items()
                if now_s >= since_s + UNREACHABLE_S
            ]
            if not cut:
                return
            one, other = cut[0]
            loser, peer = (one, other) if self._troubles(one) > self._troubles(other) else (other, one)
            if not self._die(
                loser, f"it and node {short(peer.node)} could not reach each other for {UNREACHABLE_S:g} s"
            ):
                self._die(peer, f"it and the head's node could not reach each other for {UNREACHABLE_S:g} s")

    def _troubles(self, member: Member) -> tuple[int, bytes]:
        """With how many members it has trouble, and its age."""
        by_others = {other.node for other in self._members.values() if member.node in other.unreachable_since_s}
        return len(by_others | member.unreachable_since_s.keys()), member.node

    # ------------------------------------------------------------------ deaths

    def _die(self, member: Member, cause: str) -> bool:
        """Declare it dead; False when it is the head's node, which never is."""
        if member.view.is_head_node:
            return False
        self._declare(member, cause)
        return True

    def _declare(self, member: Member, cause: str, is_orderly: bool = False) -> None:
        del self._members[member.node]
        for other in self._members.values():
            other.unreachable_since_s.pop(member.node, None)
        departure = Departure(member.node, cause, self._choose_heir(), is_orderly)
        self._departed[member.node] = MemberRecord(member.node, member.boot, member.view, departure)
        self._journal.touch(MEMBER, member.node)
        self.outbox.append(NodeDeparted(departure))

    def _choose_heir(self) -> bytes:
        """The head's node, which no other death can take away; the oldest one when that has not joined."""
        heirs = sorted((not member.view.is_head_node, node) for node, member in self._members.items())
        return heirs[0][1] if heirs else b""

    # ------------------------------------------------------------------ what nodes have

    def load(self, node: bytes, message: NodeLoad) -> None:
        """The member has told what it has.

        Raises:
            KeyError: it is no member.
        """
        member = self._members[node]
        view = msgspec.structs.replace(
            member.view,
            total=message.total,
            available=message.available,
            queue_length=message.queue_length,
            demand=message.demand,
            store_free_bytes=message.store_free_bytes,
        )
        if message.total != member.view.total:
            self._journal.touch(MEMBER, node)
        # Also when it says the same again: what others have made of it meanwhile is a guess.
        member.view = view
        self.outbox.append(ViewChanged(view))

    # ------------------------------------------------------------------ looking

    def is_member(self, node: bytes) -> bool:
        """Whether the node is believed to live."""
        return node in self._members

    def views(self) -> list[MemberView]:
        """What all members have, oldest first."""
        return [member.view for member in self._members.values()]

    def departures(self) -> list[Departure]:
        """All that are gone, in the order of their ends."""
        return [record.departure for record in self._departed.values() if record.departure is not None]

    def departed(self) -> list[MemberRecord]:
        """All that are gone, with what they had."""
        return list(self._departed.values())

    def departure(self, node: bytes) -> Departure:
        """How the node ended.

        Raises:
            KeyError: it is a member, or never was.
        """
        departure = self._departed[node].departure
        assert departure is not None
        return departure

    def was_head_node(self, node: bytes) -> bool:
        """Whether a head ran beside this node, which is gone.

        Raises:
            KeyError: it is a member, or never was.
        """
        return self._departed[node].view.is_head_node

    @property
    def head_node(self) -> bytes:
        """The node beside whose daemon the head runs; empty before it joined."""
        return next((node for node, member in self._members.items() if member.view.is_head_node), b"")

    @property
    def last_number(self) -> int:
        """The number that was given last."""
        return self._last_number

    # ------------------------------------------------------------------ writing down

    def record(self, node: bytes) -> MemberRecord | None:
        """What is to be written down of the node."""
        member = self._members.get(node)
        if member is not None:
            return MemberRecord(member.node, member.boot, member.view)
        return self._departed.get(node)

    def restore(self, records: list[MemberRecord], last_number: int, now_s: float) -> None:
        """Take over what was written down; to be called once. Members have some time to come back.

        There are none when the head's node has left in order, which ended the cluster: this is what it begins again.
        """
        numbers = [int.from_bytes(record.node, "big") for record in records]
        self._last_number = max(self._last_number, last_number, *numbers)
        for record in sorted(records, key=lambda record: record.node):
            self._by_boot[record.boot] = record.node
            if record.departure is None:
                self._members[record.node] = Member(record.node, record.boot, record.view, now_s + RESTART_SILENCE_S)
            else:
                self._departed[record.node] = record
        if self._has_ended():
            for member in list(self._members.values()):
                self._declare(member, "the head's node left, which ended the cluster", is_orderly=True)

    def _has_ended(self) -> bool:
        ended = [record.departure for record in self._departed.values() if record.view.is_head_node]
        last = ended[-1] if ended else None
        return not self.head_node and last is not None and last.is_orderly

    def validate(self) -> None:
        """
        Raises:
            AssertionError: a node is alive and dead, or a number was not given.
        """
        assert not self._members.keys() & self._departed.keys(), f"{self!r}: alive and dead"
        nodes = [*self._members, *self._departed]
        assert all(0 < int.from_bytes(node, "big") <= self._last_number for node in nodes), f"{self!r}: numbers"
        assert set(self._by_boot.values()) == set(nodes), f"{self!r}: boots"
        assert len(self._by_boot) == len(nodes), f"{self!r}: two nodes of one daemon"
        assert sum(member.view.is_head_node for member in self._members.values()) <= 1, f"{self!r}: head's nodes"
        for member in self._members.values():
            assert member.unreachable_since_s.keys() <= self._members.keys(), f"{member!r}: unreachable"

    def __repr__(self) -> str:
        return f"<Membership {list(self._members.values())}, {len(self._departed)} gone>"
