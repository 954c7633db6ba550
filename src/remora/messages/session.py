"""How a process comes to its node daemon, and what they tell each other about themselves."""

from __future__ import annotations

import msgspec

from remora.base.credentials import ClusterCredentials
from remora.base.protocol_version import PROTOCOL_VERSION as PROTOCOL_VERSION


class Hello(msgspec.Struct, array_like=True, tag=1, frozen=True):
    """First message of every connection, from the side that opened it.

    ``role`` is ``driver``, ``worker``, ``peer`` (another process of the node, which submits tasks here) or
    ``inspector`` (the command line). ``process`` is empty when the daemon is to choose it.
    """

    version: int
    role: str
    pid: int
    process: bytes = b""
    token: str = ""


class Welcome(msgspec.Struct, array_like=True, tag=2, frozen=True):
    """The daemon's answer to a driver or worker; two descriptors come with it, arena (read-write) and slots.

    In a cluster ``node_address`` is the ``host:port`` of the node, and ``credentials`` open connections to others.
    """

    process: bytes
    session_directory: str
    store_limit_bytes: int
    resources: dict[str, float]
    namespace: str
    slot: int = 0
    job: bytes = b""
    node_address: str = ""
    credentials: ClusterCredentials | None = None


class Refused(msgspec.Struct, array_like=True, tag=3, frozen=True):
    """The connection was refused, with a sentence for the user; it is closed after this."""

    reason: str


class Leaving(msgspec.Struct, array_like=True, tag=4, frozen=True):
    """The process ends in order: everything it had to acknowledge is acknowledged."""


class SessionEnded(msgspec.Struct, array_like=True, tag=5, frozen=True):
    """The session is over for this process; ``reason`` says why."""

    reason: str


class JobEnvironment(msgspec.Struct, array_like=True, tag=6, frozen=True):
    """Driver to daemon, once: what its workers must have to find the same modules.

    ``modules`` are those that the driver has imported and that workers may be forked with.
    """

    sys_path: list[str]
    working_directory: str
    main_file: str
    namespace: str
    log_to_driver: bool = True
    modules: list[str] = []


class WorkerOutput(msgspec.Struct, array_like=True, tag=7, frozen=True):
    """Lines that a worker printed, for the driver's terminal."""

    pid: int
    name: str
    lines: list[str]
    is_error: bool = False
    dropped_lines: int = 0
    node_address: str = ""
    """Of the worker's node, when that is not the driver's."""


class StopNode(msgspec.Struct, array_like=True, tag=8, frozen=True):
    """Inspector to daemon: leave the cluster in order, and end with everything that runs here."""

    reason: str


class FlushOutput(msgspec.Struct, array_like=True, tag=9, frozen=True):
    """Driver to daemon, daemon to daemon: send what my workers have printed until now, then ``OutputFlushed``.

    A result goes straight to the driver and may overtake the lines of its task, which go by way of the daemons.
    """

    request: int


class OutputFlushed(msgspec.Struct, array_like=True, tag=10, frozen=True):
    """The answer of one node, behind the lines themselves. ``has_more`` says that not all fitted: ask again.

    The driver's own node says how many *others* it has asked, each of which answers too.
    """

    request: int
    others: int = 0
    has_more: bool = False


MESSAGES = (
    Hello,
    Welcome,
    Refused,
    Leaving,
    SessionEnded,
    JobEnvironment,
    WorkerOutput,
    StopNode,
    FlushOutput,
    OutputFlushed,
)
