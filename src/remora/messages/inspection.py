"""Looking at a running session or cluster: nodes, resources, tasks, objects and who holds them.

An inspector (the command line) asks the daemon of any node. That daemon asks the head (``ListActorStates``,
``FindPlacementGroups``) and the daemons of all nodes (``DescribeNode``); each of them asks its drivers and workers
(``DescribeYourself``). Everybody waits for the answers, but not long. The inspector is given what each node said, and
joins it: that costs time, which a daemon does not have. Processes are named by their ids, objects by theirs.
"""

from __future__ import annotations

import msgspec

from remora.messages.placement_groups import PlacementGroupReport


class GetNodes(msgspec.Struct, array_like=True, tag=100, frozen=True):
    """Process to daemon: which nodes are there? Answered by ``Nodes``."""

    request: int


class NodeReport(msgspec.Struct, array_like=True, frozen=True):
    """One node; amounts of resources in ones. ``cause`` says why it is not alive."""

    node: bytes
    is_alive: bool
    hostname: str
    address: str
    resources: dict[str, float]
    available: dict[str, float]
    labels: dict[str, str] = {}
    cause: str = ""
    is_head_node: bool = False


class Nodes(msgspec.Struct, array_like=True, tag=101, frozen=True):
    """The answer to ``GetNodes``."""

    request: int
    nodes: list[NodeReport]


class InspectStatus(msgspec.Struct, array_like=True, tag=102, frozen=True):
    """Inspector to daemon: what runs and what waits? Answered by ``StatusReport``.

    At most *max_calls* of each process are listed one by one; all are counted.
    """

    max_calls: int = 0


class InspectMemory(msgspec.Struct, array_like=True, tag=103, frozen=True):
    """Inspector to daemon: which objects are there, and why? Answered by ``MemoryReport``.

    At most *max_objects* of each node are listed, the largest ones; those that may be leaked are always listed.
    """

    max_objects: int = 10_000


class DescribeYourself(msgspec.Struct, array_like=True, tag=104, frozen=True):
    """Daemon to driver or worker: answer with ``ProcessReport``. Refs and pins only when *with_objects*."""

    number: int
    with_objects: bool = False
    max_calls: int = 0


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


class CallReport(msgspec.Struct, array_like=True, frozen=True):
    """A call that a process waits for. ``state``: ``waits_for_arguments``, ``queued`` there, or ``sent`` to a worker.

    ``task`` is what the ids of its returns begin with.
    """

    task: bytes
    name: str
    state: str
    attempt: int = 0


class ProcessReport(msgspec.Struct, array_like=True, tag=105, frozen=True):
    """The answer to ``DescribeYourself``.

    ``running`` names what runs here, ``running_tasks`` are the ids of that, ``received`` counts the calls that wait
    here. ``submitted`` are the calls that this process waits for, ``calls`` the first of them one by one. ``sites`` are
    lines of user code, the first one empty. ``private_bytes`` are values from 4 KB on that are kept in this process,
    outside of the store.
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
    running_tasks: list[bytes] = []
    calls: list[CallReport] = []


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
    actor: bytes = b""
    """Whose worker it is, from the moment on that it was chosen to be."""
    running_tasks: list[bytes] = []
    calls: list[CallReport] = []


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


class DescribeNode(msgspec.Struct, array_like=True, tag=108, frozen=True):
    """Daemon to daemon: answer with ``NodeMemory`` when *with_objects*, else with ``NodeStatus``.

    ``actor_workers`` tells the creation object of each worker, on any node, that lives as long as its actor's handles
    do. See ``InspectMemory`` for *max_objects*, ``InspectStatus`` for *max_calls*.
    """

    number: int
    with_objects: bool = False
    max_objects: int = 0
    actor_workers: dict[bytes, bytes] = {}
    max_calls: int = 0


class TransferReport(msgspec.Struct, array_like=True, frozen=True):
    """Values that come to a node from others and go from it. Bytes received and sent are those since its start.

    ``pulls`` are objects that are to come, of which ``pulls_in_flight`` have begun; ``sources`` and ``readers`` count
    connections.
    """

    received_bytes: int
    sent_bytes: int
    pulls: int
    pulls_in_flight: int
    in_flight_bytes: int
    sources: int
    readers: int


class ActorReport(msgspec.Struct, array_like=True, frozen=True):
    """An actor that lives, or whose handles do. ``cause`` says why it restarted, is dead, or waits for a node."""

    actor: bytes
    job: bytes
    class_name: str
    name: str
    namespace: str
    state: str
    worker: bytes
    restarts: int
    is_detached: bool
    cause: str


class NodeStatus(msgspec.Struct, array_like=True, tag=109, frozen=True):
    """Answer to ``DescribeNode``: what one node has, runs and waits for. A session alone has no ``transfers``."""

    number: int
    node: NodeReport
    store: StoreUsage
    processes: list[ProcessStatus]
    waiting: list[WaitingLease]
    transfers: TransferReport | None = None


class SilentNode(msgspec.Struct, array_like=True, frozen=True):
    """A node, or the head (an empty ``node``), that had not answered after *waited_s* seconds."""

    node: bytes
    address: str
    waited_s: float


class StatusReport(msgspec.Struct, array_like=True, tag=106, frozen=True):
    """The answer to ``InspectStatus``. The first of ``nodes`` is the one that was asked; ``dead`` ones were members."""

    nodes: list[NodeStatus]
    actors: list[ActorReport] = []
    placement_groups: list[PlacementGroupReport] = []
    silent: list[SilentNode] = []
    dead: list[NodeReport] = []


class Holder(msgspec.Struct, array_like=True, frozen=True):
    """Who keeps an object. ``kind`` is ``process``, ``container`` (an object with the ref inside), ``exported`` or
    ``detached`` (the detached actor that the object names).

    ``site`` is the line that made the ref there; empty for a ref that came in a message, and for containers. Of a
    process of another node the home knows only the id: the rest is in that node's ``ForeignUse``.
    """

    id: bytes
    kind: str
    pid: int = 0
    name: str = ""
    site: str = ""


class CopyReport(msgspec.Struct, array_like=True, frozen=True):
    """A copy besides the primary one. ``kind``: ``kept`` for the home, ``cached`` (evictable), or ``arriving``."""

    node: bytes
    kind: str


class ObjectReport(msgspec.Struct, array_like=True, frozen=True):
    """One object. ``size_bytes`` is that of its value, ``store_bytes`` what it takes of its home's store.

    ``views`` and ``viewed_bytes`` are what processes have open of it. ``primary`` is the node where a stored value
    lies. ``is_leaked`` means that only containers hold it that nothing can reach: they hold each other; its home says
    so of what only objects of other homes hold, too, and the inspector decides.
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
    primary: bytes = b""
    copies: list[CopyReport] = []


class ProcessMemory(msgspec.Struct, array_like=True, frozen=True):
    """What one process has of its node's store. ``written_bytes`` are objects that it wrote, whoever holds them now."""

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
    actor: bytes = b""


class ForeignUse(msgspec.Struct, array_like=True, frozen=True):
    """What a process has of objects that other nodes made. ``sites`` as in ``ProcessReport``.

    Of the ``refs`` only those whose line is known: the objects' homes know of the others as much as this node.
    """

    process: bytes
    sites: list[str]
    refs: list[HeldRef]
    pins: list[PinnedObject]


class PullReport(msgspec.Struct, array_like=True, frozen=True):
    """An object on its way to the node. ``purpose``: ``get``, ``argument`` or ``prefetch``; see ``PullState``."""

    id: bytes
    source: bytes
    state: str
    purpose: str
    size_bytes: int
    received_bytes: int


class StoreContents(msgspec.Struct, array_like=True, frozen=True):
    """What the used bytes of a store are. Their sum is ``used_bytes`` of ``StoreUsage``.

    ``primary``: objects whose home is the node; ``kept`` for the homes of other objects, as primary or as further
    copies; ``cached``: secondary copies, which are evicted for space; ``unclaimed``: results whose receiver has not
    told that it wants them, and what is arriving.
    """

    primary_bytes: int
    kept_bytes: int
    cached_bytes: int
    unclaimed_bytes: int


class NodeMemory(msgspec.Struct, array_like=True, tag=110, frozen=True):
    """Answer to ``DescribeNode``: the objects whose home is the node, and every byte of its store.

    ``inline_bytes`` are the values of all objects that are too small for a store. ``total_objects`` counts also those
    that are not listed.
    """

    number: int
    node: NodeReport
    store: StoreUsage
    contents: StoreContents
    objects: list[ObjectReport]
    processes: list[ProcessMemory]
    foreign: list[ForeignUse]
    pulls: list[PullReport]
    total_objects: int
    inline_bytes: int


class MemoryReport(msgspec.Struct, array_like=True, tag=107, frozen=True):
    """The answer to ``InspectMemory``. The first of ``nodes`` is the one that was asked; ``dead`` ones were members."""

    nodes: list[NodeMemory]
    actors: list[ActorReport] = []
    silent: list[SilentNode] = []
    dead: list[NodeReport] = []


class ListJobs(msgspec.Struct, array_like=True, tag=111, frozen=True):
    """Inspector to daemon, and in a cluster from there to the head: answered by ``Jobs``."""

    request: int


class JobReport(msgspec.Struct, array_like=True, frozen=True):
    """A job that runs or ran. Times are seconds since 1970; ``ended_s`` is 0 while it runs."""

    job: bytes
    pid: int
    namespace: str
    entrypoint: str
    started_s: float
    ended_s: float = 0.0
    cause: str = ""


class Jobs(msgspec.Struct, array_like=True, tag=112, frozen=True):
    """Those that ended last, and every job that runs."""

    request: int
    jobs: list[JobReport]


MESSAGES = (
    GetNodes,
    Nodes,
    InspectStatus,
    InspectMemory,
    DescribeYourself,
    ProcessReport,
    StatusReport,
    MemoryReport,
    DescribeNode,
    NodeStatus,
    NodeMemory,
    ListJobs,
    Jobs,
)
