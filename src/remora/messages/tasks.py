"""Calls between the process that submits and the worker that runs, both directions of one connection.

A call number together with the submitter's process id is the task id. Functions, and methods of actors, are
announced once per connection and named by a number from then on.
"""

from __future__ import annotations

import msgspec

from remora.messages.objects import Value


class DefineFunction(msgspec.Struct, array_like=True, tag=70, frozen=True):
    """Submitter to worker, before the first call of the function on this connection."""

    function: int
    name: str
    pickled: bytes
    refs: list[bytes] = []


class DefineMethod(msgspec.Struct, array_like=True, tag=71, frozen=True):
    """Submitter to an actor's worker, before the first call of the method on this connection."""

    function: int
    name: str


class Argument(msgspec.Struct, array_like=True, frozen=True):
    """The value of a ref that was passed at top level, or of arguments that lie in the arena."""

    id: bytes
    value: Value


class Task(msgspec.Struct, array_like=True, tag=72, gc=False):
    """One call.

    ``arguments`` is the serialized ``(args, kwargs)``, empty when there are none; when it is large it is in the arena
    and ``stored`` says where. ``refs`` are the ids of the refs nested in it and of those that the function captured;
    ``values`` take the places of top-level refs, in their order. ``name`` is empty when the call has its function's.
    """

    call: int
    function: int
    arguments: bytes = b""
    num_returns: int = 1
    refs: tuple[bytes, ...] = ()
    values: tuple[Argument, ...] = ()
    stored: Argument | None = None
    attempt: int = 0
    name: str = ""


class Done(msgspec.Struct, array_like=True, tag=73, gc=False):
    """The common reply: one return, inline, no refs in it, nothing kept."""

    call: int
    data: bytes


class Reply(msgspec.Struct, array_like=True, tag=74, gc=False):
    """Any other reply. ``closed`` is false when the worker kept refs of the call: a ``Close`` follows."""

    call: int
    returns: list[Value]
    closed: bool = True


class Close(msgspec.Struct, array_like=True, tag=75, gc=False):
    """Worker to submitter: every ref of this call that still lives here is registered; its arguments may go."""

    call: int


class ReplyAck(msgspec.Struct, array_like=True, tag=76, gc=False):
    """Submitter to worker: the refs of this reply are registered here, or dropped."""

    call: int


class HandedBack(msgspec.Struct, array_like=True, tag=77, gc=False):
    """Worker to submitter: these calls were not started and will not be; send them elsewhere."""

    calls: list[int]


class CancelTask(msgspec.Struct, array_like=True, tag=78, gc=False):
    """Submitter to worker: drop the call if it has not started, else interrupt it; ``force`` ends the worker."""

    call: int
    force: bool = False
    recursive: bool = True


class LeaseTerms(msgspec.Struct, array_like=True, tag=79, frozen=True):
    """Submitter to a leased worker, before the first call of the lease: what its calls may use.

    Amounts are whole numbers of 1/10000.
    """

    resources: dict[str, int]
    gpu_ids: tuple[int, ...] = ()


MESSAGES = (DefineFunction, DefineMethod, Task, Done, Reply, Close, ReplyAck, HandedBack, CancelTask, LeaseTerms)
