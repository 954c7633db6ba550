"""The fake network of a simulated cluster, its clock and its log.

An endpoint is a process (8 bytes), a node's daemon (4 bytes) or the head (``HEAD``). What one says to another travels
in channels that keep their order, one for each connection (*lane*): ``REPLIES`` of a worker to a submitter are another
connection than what it submits itself, and each data stream is one, too. Nothing arrives by itself: who drives the
world chooses which channel delivers next, so a seed decides everything. Every message goes through the real encoder
and decoder, as it does between processes, so nothing is shared by accident.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import msgspec

from remora.base.ids import node_of
from remora.core.counting.vocabulary import is_exports, job_of_exports
from remora.messages.node_wire import decode_node_body
from remora.messages.wire import HEADER_SIZE_BYTES, encode_frame

HEAD = bytes(8)
REPLIES = 1
Channel = tuple[bytes, bytes, int]
"""Sender, receiver, lane."""
_HEX_ID = re.compile("[0-9a-f]{32}")
UNTOLD = frozenset(("job_environment", "environment", "members", "departed", "address", "slot", "handle", "boot"))
"""Fields that no reader of a story wants to see."""
Unit = tuple[Any, ...]
"""Messages that arrive together: a marker and the message behind it, or one message."""


class Violation(AssertionError):
    """The cluster did what it never may. ``concern`` is the id of the object, task or actor, if it is one's."""

    def __init__(self, text: str, concern: bytes = b"") -> None:
        super().__init__(text)
        self.concern = concern


class End(msgspec.Struct, array_like=True, frozen=True):
    """The sender's connection was read to its end. Said by nobody: the kernel tells it."""


class Line(msgspec.Struct, frozen=True):
    """One thing that happened: *what* in words, or *unit* that arrived at *to* from *sender*."""

    at_s: float
    sender: bytes
    to: bytes = b""
    unit: Unit = ()
    what: str = ""
    concerns: tuple[bytes, ...] = ()


class Network:
    """Channels, clock and log of one world."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.alive: set[bytes] = {HEAD}
        self.channels: dict[Channel, deque[Unit]] = {}
        self.log: list[Line] = []
        self.sent: Counter[str] = Counter()
        self.names: dict[bytes, str] = {HEAD: "head"}

    # ------------------------------------------------------------------ channels

    def send(self, sender: bytes, to: bytes, *unit: Any, lane: int = 0) -> None:
        """Put the unit into the channel; what is sent by the dead or to them is lost."""
        if sender in self.alive and to in self.alive:
            self.sent[type(unit[-1]).__name__] += 1
            self._put((sender, to, lane), through_wire(unit))

    def _put(self, channel: Channel, unit: Unit) -> None:
        queue = self.channels.get(channel)
        if queue is None:
            queue = self.channels[channel] = deque()
        queue.append(unit)

    def put_data(self, sender: bytes, to: bytes, lane: int, answer: msgspec.Struct) -> None:
        """Bytes that are no message, on a data stream."""
        self._put((sender, to, lane), (answer,))

    def put_end(self, sender: bytes, to: bytes, lane: int = 0) -> None:
        """What the sender wrote arrives, then its end."""
        if to in self.alive:
            self._put((sender, to, lane), (End(),))

    def take(self, channel: Channel) -> Unit:
        """The oldest unit of the channel."""
        queue = self.channels[channel]
        unit = queue.popleft()
        if not queue:
            del self.channels[channel]
        return unit

    def drop(self, endpoint: bytes, *, from_it: bool = True, to_it: bool = True) -> None:
        """What is on its way from or to the endpoint is lost."""
        for channel in list(self.channels):
            if (from_it and channel[0] == endpoint) or (to_it and channel[1] == endpoint):
                del self.channels[channel]

    def waiting(self, sender: bytes, to: bytes, lane: int = 0) -> Iterable[Unit]:
        """What is on its way, oldest first."""
        return self.channels.get((sender, to, lane), ())

    # ------------------------------------------------------------------ log

    def note(self, who: bytes, what: str, *concerns: bytes) -> None:
        """Write down that *who* did something that concerns these ids."""
        self.log.append(Line(self.now_s, who, what=what, concerns=concerns))

    def story(self, concern: bytes = b"", without: Collection[str] = ()) -> list[str]:
        """What happened, in order; with *concern* only what touched this id, and not the messages of these kinds."""
        return [
            self.text_of(line)
            for line in self.log
            if (not concern or touches(line, concern)) and not (line.unit and type(line.unit[-1]).__name__ in without)
        ]

    def text_of(self, line: Line) -> str:
        """One line for a reader."""
        if line.what:
            return f"{line.at_s:7.2f} {self.name(line.sender)}: {self.in_words(line.what)}"
        unit = ", ".join(self.describe(message) for message in line.unit)
        return f"{line.at_s:7.2f} {self.name(line.sender)} -> {self.name(line.to)}: {unit}"

    def name(self, any_id: bytes) -> str:
        """The name of an endpoint, or of what a process made."""
        known = self.names.get(any_id)
        if known is not None:
            return known
        if len(any_id) == 8:
            return f"{self.name(node_of(any_id))}.{int.from_bytes(any_id[4:], 'big')}"
        if len(any_id) in (12, 16):
            item = int.from_bytes(any_id[12:16], "big")
            return f"{self.name(any_id[:8])}#{int.from_bytes(any_id[8:12], 'big')}" + (f".{item}" if item else "")
        if is_exports(any_id):
            return f"{self.name(node_of(any_id))}*{self.name(job_of_exports(any_id))}"
        return f"N{int.from_bytes(any_id, 'big')}" if len(any_id) == 4 else any_id.hex()

    def describe(self, value: Any) -> str:
        """A message in words: names in place of ids, and only what is not as usual."""
        if isinstance(value, bytes):
            is_id = value in self.names or len(value) in (8, 12, 16) or is_exports(value)
            return self.name(value) if is_id else (value.decode("ascii", "replace") or "''")
        if isinstance(value, int) and value >= 1 << 24:
            bits = 32 if value >= 1 << 32 else 24  # of a lease, whose number begins with its node's; of a request
            return f"{value >> bits}.{value & ((1 << bits) - 1)}"
        if isinstance(value, list | tuple | set | frozenset):
            return "[" + " ".join(self.describe(one) for one in value) + "]"
        if isinstance(value, dict):
            return "{" + " ".join(f"{self.describe(key)}:{self.describe(one)}" for key, one in value.items()) + "}"
        if isinstance(value, msgspec.Struct):
            return type(value).__name__ + "(" + " ".join(self._fields(value)) + ")"
        return self.in_words(str(value))

    def in_words(self, text: str) -> str:
        """The text with names in place of the ids in it, which are 32 hexadecimal digits."""
        return _HEX_ID.sub(lambda found: self.name(bytes.fromhex(found[0])), text)

    def _fields(self, struct: msgspec.Struct) -> Iterator[str]:
        defaults = dict(zip(reversed(struct.__struct_fields__), reversed(struct.__struct_defaults__), strict=False))
        for name in struct.__struct_fields__:
            value = getattr(struct, name)
            if name in UNTOLD:
                continue
            if name not in defaults or (value != defaults[name] and value not in ({}, [])):
                yield f"{name}={self.describe(value)}" if name in defaults else self.describe(value)


def through_wire(unit: Unit) -> Unit:
    """The unit as the receiver decodes it."""
    return tuple(decode_node_body(memoryview(encode_frame(list(unit)))[HEADER_SIZE_BYTES:]))


def touches(line: Line, concern: bytes) -> bool:
    """Whether the line speaks of the id; of a task by the number of its call, too."""
    if any(one.startswith(concern) for one in line.concerns):
        return True
    if any(_mentions(message, concern) for message in line.unit):
        return True
    if len(concern) < 12 or not line.unit:
        return False
    caller, call = concern[:8], int.from_bytes(concern[8:12], "big")
    return caller in (line.sender, line.to) and any(getattr(one, "call", None) == call for one in line.unit)


def _mentions(value: Any, concern: bytes) -> bool:
    if isinstance(value, bytes):
        return concern in value
    if isinstance(value, list | tuple):
        return any(_mentions(one, concern) for one in value)
    if isinstance(value, dict):
        return any(_mentions(key, concern) or _mentions(one, concern) for key, one in value.items())
    if isinstance(value, msgspec.Struct):
        return any(_mentions(getattr(value, name), concern) for name in value.__struct_fields__)
    return False
