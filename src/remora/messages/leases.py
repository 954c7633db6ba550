"""Leases: how a process that submits tasks comes to workers of its own for a while.

The submitter asks its daemon for workers by the shape of its tasks, pushes tasks straight to the workers that it is
granted, and gives them back when it has nothing left for them or when the daemon asks. Resource amounts are whole
numbers of 1/10000 (:mod:`remora.base.resources`). A lease number is the number of the granting node in its upper 32
bits and a count of that node's in the lower ones: it names one grant of the cluster and is never used again.

The submitter's daemon asks other nodes for what it has no room for, by the same messages behind ``FromProcess``; their
answers come back behind ``ForProcess``. A node that has no room answers with ``LeaseRejected`` and never asks a third.
"""

from __future__ import annotations

import msgspec

WORKER_BLOCKED = 0
"""The worker waits in ``get``, ``wait``, ``await`` or ``next``: its CPUs may run something else."""
WORKER_RUNNING = 1
"""It woke up and uses its CPUs again, whatever runs beside it."""
WORKER_IDLE = 2
"""The answer to ``LeaseEnded``: it has nothing more to run."""

MAX_LEASES_ASKED = 1 << 14
"""In one request: a daemon looks at each of them, and grants nearly all at once when they need no resources."""

RUNNING_UNKNOWN = b"\0"
"""``LeaseBroken.running`` when any task sent to the worker may have begun."""


class KillLeased(msgspec.Struct, array_like=True, tag=59, frozen=True):
    """Holder to daemon: end the worker, which a cancelled call does not let go of. ``LeaseBroken`` follows."""

    lease: int


class RequestLease(msgspec.Struct, array_like=True, tag=60, frozen=True):
    """Submitter to daemon: *count* more workers for tasks of this shape, each granted when there is room.

    ``request`` is a number that the submitter has not used before. ``backlog`` is how many tasks wait for a
    worker, for ``remora status``. ``environment`` is the key of a runtime environment, empty for the job's own.
    ``strategy`` says where: empty for the default, ``SPREAD``, or a JSON object (:mod:`remora.base.scheduling`).

    ``arguments`` says how many bytes of the tasks' arguments are on which node, as far as the submitter knows. Between
    daemons, ``patient`` asks the node to let the request wait for a moment if it has no room, behind its own ones.
    """

    request: int
    resources: dict[str, int]
    strategy: str = ""
    environment: str = ""
    count: int = 1
    backlog: int = 0
    arguments: dict[bytes, int] = {}
    patient: bool = False


class CancelRequest(msgspec.Struct, array_like=True, tag=61, frozen=True):
    """Submitter to daemon: what of this request is not granted yet is not wanted any more."""

    request: int


class LeaseGranted(msgspec.Struct, array_like=True, tag=62, frozen=True):
    """Daemon to submitter: the worker runs your tasks and nobody else's until you return the lease.

    ``address`` is the worker's socket on its own node, and ``host:port`` of its node's daemon for submitters on other
    nodes. ``slot`` is the worker's place in the page of running calls of its node.
    """

    request: int
    lease: int
    worker: bytes
    address: str
    slot: int
    gpu_ids: tuple[int, ...] = ()


class LeaseDelayed(msgspec.Struct, array_like=True, tag=63, frozen=True):
    """Daemon to submitter: the request waits, and ``reason`` tells the user why it may wait for long."""

    request: int
    reason: str


class RequestFailed(msgspec.Struct, array_like=True, tag=64, frozen=True):
    """Daemon to submitter: the rest of the request can never be granted; its tasks fail with ``reason``.

    ``is_group_removed`` says that it is because their placement group is gone.
    """

    request: int
    reason: str
    is_group_removed: bool = False


class LeaseBroken(msgspec.Struct, array_like=True, tag=65, frozen=True):
    """Daemon to the holder of a lease: the worker died; ``cause`` says how (signal, exit code, out of memory).

    ``running`` is for a holder on another node, which cannot read the page of running calls: the id of the task that
    the worker began last, 12 zero bytes if it began none, and ``RUNNING_UNKNOWN`` when its node is dead.
    """

    lease: int
    worker: bytes
    cause: str
    running: bytes = b""


class ReclaimLease(msgspec.Struct, array_like=True, tag=66, frozen=True):
    """Daemon to the holder: others starve; let what was sent to the worker end, then return the lease."""

    lease: int


class ReturnLease(msgspec.Struct, array_like=True, tag=67, frozen=True):
    """Holder to daemon: nothing of mine is running or queued at these workers."""

    leases: list[int]


class WorkerState(msgspec.Struct, array_like=True, tag=68, frozen=True):
    """Worker to its daemon: ``WORKER_BLOCKED``, ``WORKER_RUNNING`` or ``WORKER_IDLE``."""

    state: int


class LeaseEnded(msgspec.Struct, array_like=True, tag=69, frozen=True):
    """Daemon to worker: the holder of your lease is gone. End what runs, then say ``WORKER_IDLE``."""

    lease: int


MESSAGES = (
    KillLeased,
    RequestLease,
    CancelRequest,
    LeaseGranted,
    LeaseDelayed,
    RequestFailed,
    LeaseBroken,
    ReclaimLease,
    ReturnLease,
    WorkerState,
    LeaseEnded,
)
