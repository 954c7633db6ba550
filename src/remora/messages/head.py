"""Between the head and the nodes: who is in the cluster, what each node has, where actors live, jobs.

A node has one stream to the head. Nearly everything on it is **counted**: each side numbers what it says from 1, keeps
it until the other confirms it (``Confirm``), and says it again from there when the head was restarted (``Rejoin``). The
head confirms what it has written to its store, and writes down what it says before it says it; so both directions
lose nothing and repeat nothing. A marker (``FromProcess``, ``ForProcess``) counts together with the message behind it.
Not counted are the messages of joining, ``Confirm``, ``NodeLoad`` and ``MembersChanged``: each of the last two replaces
the one before. Heartbeats have a connection of their own, which the node writes and reads in a thread of its own.

Amounts of resources are whole numbers of 1/10000. Processes are named by their ids, nodes by theirs, both as *bin*.
"""

from __future__ import annotations

import msgspec

from remora.messages.inspection import ActorReport
from remora.messages.session import JobEnvironment


class MemberView(msgspec.Struct, array_like=True, frozen=True):
    """What all nodes know of one that lives. ``address`` is ``host:port`` of its daemon.

    ``queue_length`` counts the requests for workers that wait at the node; ``demand`` has their shapes, each with its
    count. How much of the store is free may have changed by a part since.
    """

    node: bytes
    address: str
    hostname: str
    total: dict[str, int]
    available: dict[str, int]
    labels: dict[str, str] = {}
    queue_length: int = 0
    demand: list[tuple[dict[str, int], int]] = []
    is_head_node: bool = False
    store_limit_bytes: int = 0
    store_free_bytes: int = 0


class Departure(msgspec.Struct, array_like=True, frozen=True):
    """A node that is no member any more, for ever. ``heir`` answers for the objects whose home it was.

    ``heir`` is empty when no node was left.
    """

    node: bytes
    cause: str
    heir: bytes = b""
    is_orderly: bool = False
    """It left by itself; its end is no failure."""


class JoinCluster(msgspec.Struct, array_like=True, tag=150, frozen=True):
    """Node to head, first message of its stream: it wants a node number. Answered by ``Joined`` or ``JoinRefused``.

    ``boot`` are 16 random bytes of this daemon, so that a request that is made twice joins once.
    """

    boot: bytes
    protocol: int
    python: tuple[int, int]
    address: str
    hostname: str
    pid: int
    total: dict[str, int]
    labels: dict[str, str] = {}
    is_head_node: bool = False
    store_limit_bytes: int = 0


class Joined(msgspec.Struct, array_like=True, tag=151, frozen=True):
    """Head to node: you are a member. ``certificate`` and ``key`` (PEM) are the cluster's; empty without TLS."""

    node: bytes
    cluster: bytes
    head_node: bytes
    members: list[MemberView]
    departed: list[Departure]
    certificate: bytes = b""
    key: bytes = b""


class JoinRefused(msgspec.Struct, array_like=True, tag=152, frozen=True):
    """Head to node: you are no member, and this is why. ``is_departed``: you were declared dead, and must stop."""

    reason: str
    is_departed: bool = False


class Rejoin(msgspec.Struct, array_like=True, tag=153, frozen=True):
    """Node to head, first message of a new stream of a member: it has handled *received* counted messages."""

    node: bytes
    boot: bytes
    received: int


class Rejoined(msgspec.Struct, array_like=True, tag=154, frozen=True):
    """Head to node: *received* of your counted messages are written down; say the later ones again. Mine follow."""

    received: int
    members: list[MemberView]
    departed: list[Departure]


class Confirm(msgspec.Struct, array_like=True, tag=155, frozen=True):
    """Either way: *received* counted messages need not be kept."""

    received: int


class LeaveCluster(msgspec.Struct, array_like=True, tag=156, frozen=True):
    """Node to head: this node ends in order. Answered by ``NodeDead`` of itself."""

    reason: str


class NodeDead(msgspec.Struct, array_like=True, tag=157, frozen=True):
    """Head to all nodes: this one is no member any more. It is said once, and never taken back."""

    departure: Departure


class NodeLoad(msgspec.Struct, array_like=True, tag=158, frozen=True):
    """Node to head, when it changed, at most every 50 ms: see ``MemberView``."""

    total: dict[str, int]
    available: dict[str, int]
    queue_length: int = 0
    demand: list[tuple[dict[str, int], int]] = []
    store_free_bytes: int = 0


class MembersChanged(msgspec.Struct, array_like=True, tag=159, frozen=True):
    """Head to nodes: the nodes that joined or changed since the last one."""

    nodes: list[MemberView]


class HeartbeatHello(msgspec.Struct, array_like=True, tag=160, frozen=True):
    """Node to head, first message of a connection for heartbeats."""

    node: bytes
    boot: bytes


class Heartbeat(msgspec.Struct, array_like=True, tag=161, frozen=True):
    """Node to head, every half second: the daemon lives. Its loop has not turned for *stalled_s* seconds."""

    number: int
    stalled_s: float = 0.0


class HeartbeatAnswer(msgspec.Struct, array_like=True, tag=162, frozen=True):
    """Head to node: the heartbeat was read. To a hello with ``refusal``: you are no member any more; stop."""

    number: int
    refusal: str = ""


class PeerReachability(msgspec.Struct, array_like=True, tag=163, frozen=True):
    """Node to head: its link to this member broke and cannot be made again, or works again."""

    node: bytes
    is_reachable: bool
    reason: str = ""


class JobStarted(msgspec.Struct, array_like=True, tag=164, frozen=True):
    """Node to head: a driver of this node began a job; ``job`` is the driver's process id."""

    job: bytes
    environment: JobEnvironment
    pid: int = 0
    entrypoint: str = ""


class JobEnded(msgspec.Struct, array_like=True, tag=165, frozen=True):
    """Node to head: the driver has ended. Head to all nodes: what belongs to the job ends."""

    job: bytes
    cause: str


class PlaceActor(msgspec.Struct, array_like=True, tag=166, frozen=True):
    """Head to node: find a worker for the actor. Answered by ``ActorPlaced`` or ``PlacementRejected``.

    ``attempt`` counts the actor's placements. ``resources`` are held for its life; ``placement`` is what the node
    must have in all.
    """

    actor: bytes
    attempt: int
    job: bytes
    job_environment: JobEnvironment
    class_name: str
    resources: dict[str, int]
    placement: dict[str, int] = {}
    strategy: str = ""
    environment: str = ""


class CancelPlacement(msgspec.Struct, array_like=True, tag=167, frozen=True):
    """Head to node: the actor needs no worker any more. One that was found meanwhile is ended by ``KillProcess``."""

    actor: bytes
    attempt: int


class ActorPlaced(msgspec.Struct, array_like=True, tag=168, frozen=True):
    """Node to head: this worker waits for the actor's ``ConstructActor``."""

    actor: bytes
    attempt: int
    worker: bytes
    address: str
    slot: int
    gpu_ids: tuple[int, ...] = ()


class PlacementRejected(msgspec.Struct, array_like=True, tag=169, frozen=True):
    """Node to head: there is no room here now; or, when it *is_final*, no worker can ever be made for the actor."""

    actor: bytes
    attempt: int
    reason: str
    is_final: bool = False


class ActorHandlesGone(msgspec.Struct, array_like=True, tag=170, frozen=True):
    """Home node to head: the creation object of the actor was freed, so nobody can call it any more."""

    actor: bytes


class KillProcess(msgspec.Struct, array_like=True, tag=171, frozen=True):
    """Head to node: end this worker at once."""

    process: bytes


class ProcessEnded(msgspec.Struct, array_like=True, tag=172, frozen=True):
    """Node to head: a worker, driver or inspector that was spoken of has ended; *cause* says how."""

    process: bytes
    cause: str


class EndProcess(msgspec.Struct, array_like=True, tag=173, frozen=True):
    """Head to node: the process broke the protocol; end its connection with this *reason*."""

    process: bytes
    reason: str


class ListActorStates(msgspec.Struct, array_like=True, tag=174, frozen=True):
    """Process to daemon, daemon to head: answered by ``ActorStates``."""

    request: int


class ActorStates(msgspec.Struct, array_like=True, tag=175, frozen=True):
    """The actors of all nodes."""

    request: int
    actors: list[ActorReport]


MESSAGES = (
    JoinCluster,
    Joined,
    JoinRefused,
    Rejoin,
    Rejoined,
    Confirm,
    LeaveCluster,
    NodeDead,
    NodeLoad,
    MembersChanged,
    HeartbeatHello,
    Heartbeat,
    HeartbeatAnswer,
    PeerReachability,
    JobStarted,
    JobEnded,
    PlaceActor,
    CancelPlacement,
    ActorPlaced,
    PlacementRejected,
    ActorHandlesGone,
    KillProcess,
    ProcessEnded,
    EndProcess,
    ListActorStates,
    ActorStates,
)

UNCOUNTED = frozenset((JoinCluster, Joined, JoinRefused, Rejoin, Rejoined, Confirm, NodeLoad, MembersChanged))
