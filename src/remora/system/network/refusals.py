"""Why a connection between nodes is refused, as a code on the wire and as a sentence for people.

The status byte that answers a preface or a proof is 0, or a :class:`Refusal`; then two bytes follow that say more:
the acceptor's Python version (major, minor), or its protocol.
"""

from __future__ import annotations

import enum
import socket
import sys

from remora.base.protocol_version import PROTOCOL_VERSION
from remora.base.remora_error import RemoraError

GO_ON = b"\0"
DETAIL_SIZE_BYTES = 2


class Refusal(enum.IntEnum):
    """The codes. Those from 200 on are never sent: the opener itself finds these."""

    NOT_REMORA = 1
    OTHER_PROTOCOL = 2
    OTHER_PYTHON = 3
    OTHER_CLUSTER = 4
    NOT_ENCRYPTED = 5
    ENCRYPTED = 6
    UNKNOWN_TARGET = 7
    WRONG_SECRET = 8
    DECLARED_DEAD = 9
    TOO_MANY = 10
    STREAM_LOST = 11
    STARTING = 12
    WRONG_CERTIFICATE = 200
    STRANGE_ANSWER = 201


_SAME_VERSION = "install the same version of Remora on all machines of the cluster"
_NEW_JOIN_STRING = "use the join string that the head of this cluster printed last"
_SENTENCES = {
    Refusal.NOT_REMORA: f"what was sent to it is not Remora's protocol: {_SAME_VERSION}",
    Refusal.OTHER_PROTOCOL: f"it speaks protocol {{detail}} and this process {PROTOCOL_VERSION}: {_SAME_VERSION}",
    Refusal.OTHER_PYTHON: (
        f"it runs Python {{detail}} and this process Python {sys.version_info.major}.{sys.version_info.minor}: use one "
        "minor version of Python on all machines of the cluster (the patch version may differ)"
    ),
    Refusal.OTHER_CLUSTER: f"it belongs to another cluster: {_NEW_JOIN_STRING}",
    Refusal.NOT_ENCRYPTED: f"its cluster encrypts and this process was told that it does not: {_NEW_JOIN_STRING}",
    Refusal.ENCRYPTED: f"its cluster does not encrypt and this process was told that it does: {_NEW_JOIN_STRING}",
    Refusal.UNKNOWN_TARGET: "the process that was wanted does not run there, or no longer",
    Refusal.WRONG_SECRET: f"the secrets differ: {_NEW_JOIN_STRING}",
    Refusal.DECLARED_DEAD: "this node was declared dead by its cluster: end it with `remora stop` and start it anew",
    Refusal.TOO_MANY: "too many connections to it are half open: try again later",
    Refusal.STARTING: "it has not finished starting: try again later",
    Refusal.STREAM_LOST: "it has given up the connection, which was broken for too long",
    Refusal.WRONG_CERTIFICATE: (
        "it showed another certificate than this cluster's. Either another cluster has its address now, or somebody is "
        f"in between: {_NEW_JOIN_STRING}"
    ),
    Refusal.STRANGE_ANSWER: "it did not answer as a node of Remora: check the address and the port",
}


FOR_NOW = frozenset((Refusal.TOO_MANY, Refusal.STARTING))
"""A stream tries again after these; after all others it would be in vain."""


class StreamRefused(RemoraError):
    """The other side does not want the connection; trying again would not help. ``code`` says why."""

    def __init__(self, code: int, address: str = "", detail: bytes = b"") -> None:
        self.code = code
        super().__init__(f"the connection to {address or 'the other node'} was refused: {_sentence(code, detail)}")


def _sentence(code: int, detail: bytes) -> str:
    try:
        refusal = Refusal(code)
    except ValueError:
        return f"it gave a reason, number {code}, that this version does not know: {_SAME_VERSION}"
    numbers = "an unknown version"
    if refusal is Refusal.OTHER_PYTHON and detail:
        numbers = ".".join(str(number) for number in detail)
    elif detail:
        numbers = str(int.from_bytes(detail, "big"))
    return _SENTENCES[refusal].replace("{detail}", numbers)


def encode_refusal(code: int) -> bytes:
    """What is sent instead of :data:`GO_ON`."""
    if code == Refusal.OTHER_PYTHON:
        return bytes((code, sys.version_info.major, sys.version_info.minor))
    return bytes((code,)) + PROTOCOL_VERSION.to_bytes(DETAIL_SIZE_BYTES, "big")


def refuse(sock: socket.socket, code: int) -> None:
    """Answer *code* on a connection of which only the preface was read, and close it. Never blocks."""
    try:
        sock.setblocking(False)
        sock.send(encode_refusal(code))
    except OSError:
        pass  # it has left, or never read
    finally:
        sock.close()
