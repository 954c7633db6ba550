"""Looking at a running session: nodes, resources, tasks, objects and who holds them.

An inspector (the command line) asks the daemon; the daemon asks each driver and worker for its part, waits for the
answers, but not long, and answers with all of it. Processes are named by their ids, objects by theirs.
"""

from __future__ import annotations

import msgspec


class GetNodes(msgspec.Struct, array_like=True, tag=100, frozen=True):
    """Process to daemon: which nodes are there? Answered by ``Nodes``."""

    request: int


class NodeReport(msgspec.Struct, array_like=True, frozen=True):
    """One node; amounts of resources in ones."""

    node: bytes
    is_alive: bool
    hostname: str
    address: str
    resources: dict[str, float]
    available: dict[str, float]
    labels: dict[str, str] = {}


class Nodes(msgspec.Struct, array_like=True, tag=101, frozen=True):
    """The answer to ``GetNodes``."""

    request: int
    nodes: list[NodeReport]


class InspectStatus(msgspec.Struct, array_like=True, tag=102, frozen=True):
    """Inspector to daemon: what runs and what waits? Answered by ``StatusReport``."""


class InspectMemory(msgspec.Struct, array_like=True, tag=103, frozen=True):
    """Inspector to daemon: which objects are there, and why? Answered by ``MemoryReport``.

    At most *max_objects* are listed, the largest first; those that nothing can reach are always listed.
    """

    max_objects: int = 10_000


class DescribeYourself(msgspec.Struct, array_like=True, tag=104, frozen=True):
    """Daemon to driver or worker: answer with ``ProcessReport``. Refs and pins only when *with_objects*."""

    number: int
    with_objects: bool = False


class HeldRef(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A ref that lives in a process; ``site`` is an index into the report's ``sites``, 0 when it is not known."""

    id: bytes
    site: int = 0


class PinnedObject(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Views of one object's memory that live in a process; ``id`` is empty for an array that is being made."""

    id: bytes
    views: int
    size_bytes: int


class CallCount(msgspec.Struct, array_like=True, frozen=True):
    """Calls of one function or method that a process has submitted."""

    name: str
    queued: int
    """Not sent to a worker yet."""
    sent: int
    """At a worker, running or behind one that runs."""


class ProcessReport(msgspec.Struct, array_like=True, tag=105, frozen=True):
    """The answer to ``DescribeYourself``.

    ``running`` names what runs here, ``received`` counts the calls that wait here. ``submitted`` are the calls that
    this process waits for. ``sites`` are lines of user code, the first one empty. ``private_bytes`` are values from
    4 KB on that are kept in this process, outside of the store.
    """

    number: int
    running: list[str]
    received: int
    submitted: list[CallCount]
    sites: list[str] = []
    refs: list[HeldRef] = []
    pins: list[PinnedObject] = []
    omitted_refs: int = 0
    private_bytes: int = 0


class ProcessStatus(msgspec.Struct, array_like=True, frozen=True):
    """A driver or worker. ``state`` is ``driver``, ``starting``, ``idle``, ``leased``, ``blocked`` or ``actor``.

    ``has_answered`` is false for one that did not in time, because a call of it holds the interpreter's lock, say;
    ``running`` is then what it began last.
    """

    process: bytes
    pid: int
    state: str
    has_answered: bool
    name: str = ""
    running: list[str] = []
    received: int = 0
    submitted: list[CallCount] = []
    leased_to: bytes = b""


class ActorStatus(msgspec.Struct, array_like=True, frozen=True):
    """An actor that lives, or whose handles do. ``restarts`` counts those that were."""

    actor: bytes
    class_name: str
    name: str
    namespace: str
    state: str
    pid: int
    restarts: int
    cause: str


class WaitingLease(msgspec.Struct, array_like=True, frozen=True):
    """A request for workers that is not granted. ``requester`` is a process, or the actor that needs its worker."""

    requester: bytes
    resources: dict[str, float]
    count: int
    waited_s: float
    reason: str


class StoreUsage(msgspec.Struct, array_like=True, frozen=True):
    """The object store, all in bytes. ``used`` + ``reserved`` + ``lost`` + ``free`` = ``limit``.

    ``used`` by objects; ``reserved`` for processes to write into; ``lost`` to the rounding of small objects to pages.
    ``warm`` is the part of what is free that has memory already.
    """

    limit_bytes: int
    used_bytes: int
    reserved_bytes: int
    lost_bytes: int
    free_bytes: int
    warm_bytes: int


class StatusReport(msgspec.Struct, array_like=True, tag=106, frozen=True):
    """The answer to ``InspectStatus``."""

    node: NodeReport
    store: StoreUsage
    processes: list[ProcessStatus]
    actors: list[ActorStatus]
    waiting: list[WaitingLease]


class Holder(msgspec.Struct, array_like=True, frozen=True):
    """Who keeps an object. ``kind`` is ``process``, ``container`` (an object with the ref inside) or ``exported``.

    ``site`` is the line that made the ref there; empty for a ref that came in a message, and for containers.
    """

    id: bytes
    kind: str
    pid: int = 0
    name: str = ""
    site: str = ""


class ObjectReport(msgspec.Struct, array_like=True, frozen=True):
    """One object. ``size_bytes`` is that of its value, ``store_bytes`` what it takes of the store.

    ``views`` and ``viewed_bytes`` are what processes have open of it. ``is_leaked`` means that only containers hold
    it that nothing can reach: they hold each other.
    """

    id: bytes
    state: str
    size_bytes: int
    store_bytes: int
    holders: list[Holder]
    contents: list[bytes]
    views: int
    viewed_bytes: int
    is_leaked: bool
    name: str = ""


class ProcessMemory(msgspec.Struct, array_like=True, frozen=True):
    """What one process has of the store. ``written_bytes`` are objects that it wrote, whoever holds them now."""

    process: bytes
    pid: int
    name: str
    has_answered: bool
    written_bytes: int
    reserved_bytes: int
    refs: int
    views: int
    viewed_bytes: int
    private_bytes: int


class MemoryReport(msgspec.Struct, array_like=True, tag=107, frozen=True):
    """The answer to ``InspectMemory``.

    ``inline_bytes`` are the values of all objects that are too small for the store; ``listed_store_bytes`` is what
    all objects with a holder take of it, and ``unclaimed_bytes`` the rest of what is used: results whose receiver
    has not told that it wants them. ``total_objects`` counts also those that are not listed.
    """

    store: StoreUsage
    objects: list[ObjectReport]
    processes: list[ProcessMemory]
    total_objects: int
    inline_bytes: int
    listed_store_bytes: int
    unclaimed_bytes: int


MESSAGES = (
    GetNodes,
    Nodes,
    InspectStatus,
    InspectMemory,
    DescribeYourself,
    ProcessReport,
    StatusReport,
    MemoryReport,
)
