"""The number of the protocol that processes of this version of Remora speak, on one machine and between machines."""

from __future__ import annotations

PROTOCOL_VERSION = 1
