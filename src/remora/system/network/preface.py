"""The first 32 bytes of every connection between nodes, in the clear::

    magic 4 | protocol 2 | Python major 1, minor 1 | purpose 1 | flags 1 | unused 6 | target 8 | cluster 8

Numbers are big-endian. They say which process is wanted, so that a node daemon can pass the connection on before
anything else was read from it, and they let a stranger be refused with a reason before anything is decrypted.
*cluster* is the start of the certificate's fingerprint. The proof of the secret covers these bytes.
"""

from __future__ import annotations

import enum
import struct
import sys

import msgspec

from remora.base.credentials import ClusterCredentials
from remora.base.ids import short
from remora.base.protocol_version import PROTOCOL_VERSION
from remora.system.network.refusals import Refusal

PREFACE_SIZE_BYTES = 32
MAGIC = b"RMRA"
_LAYOUT = struct.Struct(">4sHBBBB6x8s8s")
_ENCRYPTED = 1


class Purpose(enum.IntEnum):
    """What a connection is for. ``LINK`` is between daemons and to the head, ``CALLS`` from a process to a worker."""

    LINK = 1
    CALLS = 2
    DATA = 3
    HEARTBEAT = 4


class Preface(msgspec.Struct, frozen=True):
    """The first bytes of a connection, taken apart."""

    target: bytes
    purpose: int
    cluster: bytes
    encrypt: bool
    protocol: int = PROTOCOL_VERSION
    python: tuple[int, int] = (sys.version_info.major, sys.version_info.minor)

    def __repr__(self) -> str:
        return f"<Preface to {short(self.target)} purpose={self.purpose} cluster={self.cluster.hex()}>"

    def encode(self) -> bytes:
        """The 32 bytes."""
        flags = _ENCRYPTED if self.encrypt else 0
        return _LAYOUT.pack(MAGIC, self.protocol, *self.python, self.purpose, flags, self.target, self.cluster)


def make_preface(target: bytes, purpose: int, credentials: ClusterCredentials) -> Preface:
    """What this process says first when it wants *target*."""
    return Preface(bytes(target), int(purpose), credentials.fingerprint[:8], credentials.encrypt)


def decode_preface(data: bytes) -> Preface:
    """The preface that the 32 bytes are, whoever sent them; :func:`check_preface` judges it.

    Raises:
        ValueError: they do not start as a preface does.
    """
    magic, protocol, major, minor, purpose, flags, target, cluster = _LAYOUT.unpack(data)
    if magic != MAGIC:
        raise ValueError("these bytes are no preface")
    return Preface(target, purpose, cluster, bool(flags & _ENCRYPTED), protocol, (major, minor))


def check_preface(preface: Preface, credentials: ClusterCredentials) -> Refusal | None:
    """Why a connection with this preface must be refused here, or None."""
    own = make_preface(preface.target, preface.purpose, credentials)
    if preface.protocol != own.protocol:
        return Refusal.OTHER_PROTOCOL
    if preface.python != own.python:
        return Refusal.OTHER_PYTHON
    if preface.cluster != own.cluster:
        return Refusal.OTHER_CLUSTER
    if preface.encrypt != own.encrypt:
        return Refusal.NOT_ENCRYPTED if own.encrypt else Refusal.ENCRYPTED
    return None
