"""The node's side of the head: joining, and one stream on which nothing is lost while the head is away.

What this node has to say is kept until the head has written it down (:mod:`remora.core.counted_link`). When the head
was killed and started again, the stream to it ends; another one is opened and goes on where the head's store is. The
node works meanwhile; it stops only when the head says that it was declared dead or that its own node has left, or is
away for too long.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any

from remora.base.credentials import ClusterCredentials
from remora.base.ids import NODE_ID_SIZE_BYTES, ProcessId
from remora.base.protocol_version import PROTOCOL_VERSION
from remora.base.remora_error import RemoraError
from remora.core.counted_link import CountedLink, Unit, UnitReader
from remora.core.load_reports import LoadReports
from remora.core.unreachable_peers import UnreachablePeers
from remora.messages import head as m
from remora.messages.links import FromProcess
from remora.messages.session import JobEnvironment
from remora.processes.daemon.head_listener import HeadListener
from remora.processes.daemon.heartbeats import HEAD_PROCESS, HeartbeatThread
from remora.system.network.preface import Purpose
from remora.system.network.stream import Refusal, Stream, StreamRefused, open_stream
from remora.system.reactor import Reactor

JOIN_TIMEOUT_S = 10.0
MOST_REFUSALS = 3
"""An opener tries for a second where nobody listens. A head that is being started again needs one or two."""
REOPEN_PAUSE_S = 0.1
AWAY_LIMIT_S = 60.0
"""A node that has not reached the head for so long stops: its cluster is over."""

LASTING_REFUSALS = frozenset(
    (
        Refusal.NOT_REMORA,
        Refusal.OTHER_PROTOCOL,
        Refusal.OTHER_PYTHON,
        Refusal.OTHER_CLUSTER,
        Refusal.NOT_ENCRYPTED,
        Refusal.ENCRYPTED,
        Refusal.WRONG_SECRET,
        Refusal.WRONG_CERTIFICATE,
        Refusal.STRANGE_ANSWER,
    )
)
"""Of a join: trying again would not help. The other ones come while the head is being started."""


class JoinError(RemoraError, RuntimeError):
    """The node could not join the cluster; the text says why and what to do."""


class HeadLink:
    """One node's link to the head.

    Example:
        >>> link = HeadLink(reactor, "10.0.0.1:7000", credentials, daemon)
        >>> joined = link.join("10.0.0.2:7001", total.units, store_limit_bytes, labels={"zone": "a"})
        >>> link.job_started(driver, environment, pid, "python main.py")
        >>> link.flush()    # once in each turn of the loop
    """

    def __init__(
        self, reactor: Reactor, head_address: str, credentials: ClusterCredentials, listener: HeadListener
    ) -> None:
        self.node = b""
        """This node's id, once it has joined."""
        self._reactor = reactor
        self._address = head_address
        self._credentials = credentials
        self._listener = listener
        self._boot = os.urandom(16)
        self._link = CountedLink()
        self._reader = UnitReader()
        self._early: list[Unit] | None = []
        """What the head said behind the answer to the join, until the loop turns; None from then on."""
        self._stream: Stream | None = None
        self._is_open = False
        """Whether the head has answered on this stream, so that counted messages may go there."""
        self._first: m.JoinCluster | None = None
        self._joined: m.Joined | None = None
        self._failure: JoinError | None = None
        self._last_error: Exception | None = None
        self._refusals = 0
        """How often in a row nobody listened where the head should."""
        self._heartbeats: HeartbeatThread | None = None
        self._away_since_s: float | None = None
        self._must_confirm = False
        self._loads = LoadReports(0)
        self._known_processes: set[bytes] = set()
        """Those that the head may know, so that their ends are told."""
        self._unreachable = UnreachablePeers()
        self._departed: set[bytes] = set()
        self._head_node = b""
        self._is_leaving = False
        self._has_left = False
        self._is_closed = False

    # ------------------------------------------------------------------ joining and leaving

    def join(
        self,
        address: str,
        total: dict[str, int],
        store_limit_bytes: int = 0,
        labels: dict[str, str] | None = None,
        is_head_node: bool = False,
        timeout_s: float = JOIN_TIMEOUT_S,
    ) -> m.Joined:
        """Become a member. Polls the reactor until the head has answered, so whatever is registered there is served.

        The listener hears of the members and of the departed ones before this returns; heartbeats have begun then.
        What else the head says, as what has waited for this node, it hears when the loop turns (:meth:`flush`).

        Parameters:
            address: ``host:port`` at which other nodes reach this one.
            total: what this node has, in units.
            store_limit_bytes: the most that its store may hold.
            is_head_node: whether the head runs beside this node's daemon.

        Raises:
            JoinError: the cluster refused this node, or did not answer within *timeout_s*.
        """
        python = (sys.version_info.major, sys.version_info.minor)
        self._first = m.JoinCluster(
            self._boot,
            PROTOCOL_VERSION,
            python,
            address,
            socket.gethostname(),
            os.getpid(),
            dict(total),
            labels or {},
            is_head_node,
            store_limit_bytes,
        )
        self._loads = LoadReports(store_limit_bytes)
        self._open()
        deadline_s = monotonic() + timeout_s
        while self._joined is None and self._failure is None:
            left_s = deadline_s - monotonic()
            if left_s <= 0 or self._refusals >= MOST_REFUSALS:
                self._failure = JoinError(
                    f"its head did not answer: {self._describe_last_error()}. Check that the head runs, that the join "
                    "string is the one that it printed last, and that its port can be reached from this machine"
                )
                break
            self._reactor.poll(left_s)
        if self._failure is not None:
            self.close()
            raise self._failure
        assert self._joined is not None
        return self._joined

    def _describe_last_error(self) -> str:
        error = self._last_error
        if error is None or isinstance(error, TimeoutError):
            return f"nothing comes back from {self._address}"
        if isinstance(error, ConnectionRefusedError):
            return f"nobody listens at {self._address}"
        if isinstance(error, OSError) and error.strerror:
            return f"{self._address}: {error.strerror}"
        return str(error)

    def leave(self, reason: str, timeout_s: float = 2.0) -> bool:
        """Leave the cluster in order; whether the head has answered in time. Polls the reactor."""
        if self._is_closed:
            return True
        self._is_leaving = True
        self._say(m.LeaveCluster(reason))
        self.flush()
        deadline_s = monotonic() + timeout_s
        while not self._has_left and not self._is_closed and monotonic() < deadline_s:
            self._reactor.poll(max(0.0, deadline_s - monotonic()))
        self.close()
        return self._has_left

    def close(self) -> None:
        """End the link and the heartbeats without a word; the head declares this node dead when it was a member."""
        self._is_closed = True
        if self._heartbeats is not None:
            self._heartbeats.close()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    # ------------------------------------------------------------------ what the daemon has to say

    def process_message(self, process: bytes, job: bytes, message: Any) -> None:
        """A process of this node says *message* to the head: all of ``messages/actors.py`` that a process says,
        ``KeyValueRequest``, ``ListJobs``, ``ListActorStates``, ``GetNodes``."""
        self._known_processes.add(process)
        self._say(FromProcess(process, job), message)

    def process_ended(self, process: bytes, cause: str) -> None:
        """A process of this node has ended. Nothing is said of one that the head does not know."""
        if process in self._known_processes:
            self._known_processes.discard(process)
            self._say(m.ProcessEnded(process, cause))

    def job_started(self, job: bytes, environment: JobEnvironment, pid: int, entrypoint: str) -> None:
        """A driver of this node began a job; to be said before anything else of it."""
        self._say(m.JobStarted(job, environment, pid, entrypoint))

    def job_ended(self, job: bytes, cause: str) -> None:
        """The driver has ended; this node ends what belongs to the job by itself."""
        self._say(m.JobEnded(job, cause))

    def placed(self, request: m.PlaceActor, worker: bytes, address: str, slot: int, gpu_ids: tuple[int, ...]) -> None:
        """This worker waits for the actor's ``ConstructActor``, which follows."""
        self._known_processes.add(worker)
        # What the head makes of this it may have heard already, as a smaller load: told again, it is right.
        self._loads.repeat()
        self._say(m.ActorPlaced(request.actor, request.attempt, worker, address, slot, gpu_ids))

    def rejected(self, request: m.PlaceActor, reason: str, is_final: bool = False) -> None:
        """There is no room now; when it *is_final*, no node can ever make a worker for the actor, and it ends."""
        self._say(m.PlacementRejected(request.actor, request.attempt, reason, is_final))

    def handles_gone(self, actor: bytes) -> None:
        """This node is the home of the actor's creation object, and has freed it."""
        self._say(m.ActorHandlesGone(actor))

    def peer_reachability(self, node: bytes, is_reachable: bool, reason: str = "") -> None:
        """The link to another node broke and cannot be made again, or works again."""
        report = m.PeerReachability(node, is_reachable, reason)
        self._unreachable.said(report)
        self._say(report)

    def tell_load(
        self,
        total: Mapping[str, int],
        available: Mapping[str, int],
        queue_length: int = 0,
        demand: Sequence[tuple[dict[str, int], int]] = (),
        store_free_bytes: int = 0,
    ) -> None:
        """What this node has; may be called in every turn, and leaves when it changed, at most every 50 ms."""
        self._loads.update(total, available, queue_length, demand, store_free_bytes)

    def hasten_load(self) -> None:
        """What the node is about to have is what the head waits for: the next load leaves at once."""
        self._loads.hasten()

    def flush(self) -> None:
        """Write everything; to be called once in every turn of the loop, and at least every second.

        From the first time on the listener hears all that the head says: it is a whole daemon then.
        """
        if self._heartbeats is not None:
            self._heartbeats.loop_turned()
        self._begin_to_serve()
        stream = self._stream
        if stream is None or not self._is_open:
            return
        self._tell_load(stream)
        if self._must_confirm:
            self._must_confirm = False
            stream.send(m.Confirm(self._link.received))
        stream.flush()

    def _begin_to_serve(self) -> None:
        early, self._early = self._early, None
        for unit in early or ():
            if not self._is_closed:
                self._on_unit(unit)

    def _tell_load(self, stream: Stream) -> None:
        now_s = monotonic()
        load = self._loads.take(now_s)
        if load is not None:
            stream.send(load)
        elif (due_s := self._loads.due_s()) is not None:
            self._reactor.call_after(due_s - now_s, self.flush)

    def _say(self, *unit: Any) -> None:
        self._link.say(unit)
        if self._stream is not None and self._is_open:
            for message in unit:
                self._stream.send(message)

    @property
    def is_head_away(self) -> bool:
        """Whether the head does not answer at present."""
        return not self._is_open or self._stream is None or not self._stream.is_connected

    # ------------------------------------------------------------------ the stream

    def _open(self) -> None:
        if self._is_closed:
            return
        self._is_open = False
        self._reader = UnitReader()
        if self._early is not None:
            self._early.clear()  # it was not counted as received, and so is said again
        # A daemon that is no member yet has no id; the head looks at the first message only.
        sender = bytes(NODE_ID_SIZE_BYTES) + self._boot[:4]
        stream = open_stream(
            self._reactor,
            self._address,
            ProcessId(HEAD_PROCESS),
            ProcessId(sender),
            Purpose.LINK,
            self._credentials,
            self._on_messages,
            self._on_closed,
        )
        self._stream = stream
        if self._joined is None:
            stream.send(self._first)
        else:
            stream.send(m.Rejoin(self.node, self._boot, self._link.received))
        stream.flush()

    def _on_closed(self, stream: Stream, error: Exception | None) -> None:
        if stream is not self._stream or self._is_closed:
            return
        self._stream = None
        self._is_open = False
        self._last_error = error
        self._refusals = self._refusals + 1 if isinstance(error, ConnectionRefusedError) else 0
        if isinstance(error, StreamRefused):
            if self._joined is None and error.code in LASTING_REFUSALS:
                self._failure = JoinError(str(error))
                return
            if error.code == Refusal.DECLARED_DEAD:
                self._expel(str(error))
                return
        self._reactor.call_after(REOPEN_PAUSE_S, self._open)

    def _watch(self) -> None:
        """Every second: how long is the head away?"""
        if self._is_closed:
            return
        now_s = monotonic()
        if not self.is_head_away:
            self._away_since_s = None
        elif self._away_since_s is None:
            self._away_since_s = now_s
        elif now_s - self._away_since_s > AWAY_LIMIT_S:
            self._expel(f"the head at {self._address} could not be reached for {AWAY_LIMIT_S:g} s: the cluster is over")
            return
        self._reactor.call_after(1.0, self._watch)

    def _expel(self, reason: str) -> None:
        self._has_left = self._has_left or self._is_leaving
        if not self._is_closed:
            self.close()
            if not self._is_leaving:
                self._listener.on_expelled(reason)

    def _on_messages(self, stream: Stream, messages: list[Any]) -> None:
        for unit in self._reader.read(messages):
            if stream is not self._stream:
                return
            if self._early is None or self._joined is None:
                self._on_unit(unit)
            else:
                self._early.append(unit)

    def _on_unit(self, unit: Unit) -> None:
        message = unit[-1]
        if type(message) not in m.UNCOUNTED:
            self._link.received += 1
            self._must_confirm = True
        if len(unit) == 2:
            self._listener.on_process_message(unit[0].process, message)
        else:
            self._handlers[type(message)](self, message)

    # ------------------------------------------------------------------ what the head says

    def _on_joined(self, message: m.Joined) -> None:
        self.node = message.node
        self._joined = message
        self._is_open = True
        hello = m.HeartbeatHello(self.node, self._boot)
        self._heartbeats = HeartbeatThread(self._address, self._credentials, hello, self._on_heartbeat_refused)
        self._heartbeats.start()
        self._watch()
        self._tell_of(message.members, message.departed)

    def _on_join_refused(self, message: m.JoinRefused) -> None:
        if self._joined is None:
            self._failure = JoinError(f"the cluster refused this node: {message.reason}")
        else:
            self._expel(message.reason)

    def _on_rejoined(self, message: m.Rejoined) -> None:
        self._is_open = True
        self._link.confirmed(message.received)
        assert self._stream is not None
        for unit in self._link.unconfirmed_after(message.received):
            for part in unit:
                self._stream.send(part)
        self._loads.repeat()
        self._tell_of(message.members, message.departed)
        for report in self._unreachable.to_say_again(member.node for member in message.members):
            self._say(report)
        self.flush()

    def _tell_of(self, members: list[m.MemberView], departed: list[m.Departure]) -> None:
        for departure in departed:
            self._on_departure(departure)
        self._on_members(members)

    def _on_members(self, members: list[m.MemberView]) -> None:
        for member in members:
            if member.is_head_node:
                self._head_node = member.node
        self._listener.on_members(members)

    def _on_departure(self, departure: m.Departure) -> None:
        if departure.node == self.node:
            self._has_left = True
            if not departure.is_orderly:
                self._expel(departure.cause)
        elif departure.node not in self._departed:
            self._departed.add(departure.node)
            self._unreachable.departed(departure.node)
            self._listener.on_node_dead(departure)
            if departure.node == self._head_node and departure.is_orderly:
                self._expel(f"the head's node has left, which ends the cluster: {departure.cause}")

    def _on_confirm(self, message: m.Confirm) -> None:
        self._link.confirmed(message.received)

    def _on_heartbeat_refused(self, reason: str) -> None:
        """In the thread of the heartbeats."""
        self._reactor.call_after(0.0, lambda: self._expel(reason))

    _handlers: dict[type, Callable[[HeadLink, Any], None]] = {
        m.Joined: _on_joined,
        m.JoinRefused: _on_join_refused,
        m.Rejoined: _on_rejoined,
        m.Confirm: _on_confirm,
        m.MembersChanged: lambda self, message: self._on_members(message.nodes),
        m.NodeDead: lambda self, message: self._on_departure(message.departure),
        m.PlaceActor: lambda self, message: self._listener.on_place_actor(message),
        m.CancelPlacement: lambda self, message: self._listener.on_cancel_placement(message),
        m.KillProcess: lambda self, message: self._listener.on_kill_process(message.process),
        m.EndProcess: lambda self, message: self._listener.on_end_process(message.process, message.reason),
        m.JobEnded: lambda self, message: self._listener.on_job_ended(message.job, message.cause),
    }

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "away" if self.is_head_away else "open"
        return f"<HeadLink {self.node.hex()} to {self._address} {state} {self._link!r}>"
