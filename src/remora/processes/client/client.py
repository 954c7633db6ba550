"""A process's part in a session: what it is connected to, who does what, and the common services.

This is where a driver's or worker's objects are put together; each part owns its state:

- ``values``: what is known of the values of refs
- ``refs``: which refs others know of, and counting
- ``tasks``, ``methods``: calls that this process submitted
- ``actors``: which actors it knows, and what became of them
- ``groups``: placement groups, and the one in which this process and its calls run
- ``arena``: reading and writing the node's shared memory
- ``leadership``: which thread reads the sockets

One lock guards all state machines. It is re-entrant only because the garbage collector may run a user's ``__del__``,
and so any API call, wherever memory is allocated.
"""

from __future__ import annotations

import socket
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from time import monotonic
from typing import Any

from remora.base.errors import InternalError, LocalRayletDiedError
from remora.base.ids import ObjectId, ProcessId, node_of, short
from remora.base.object_ref import FIRST_FINISHED, ObjectRef
from remora.messages import actors as actor_messages
from remora.messages import arena as arena_messages
from remora.messages import leases as lease_messages
from remora.messages.arena import Writer
from remora.messages.counting import Ack, Ping, PublishAck
from remora.messages.inspection import DescribeYourself, Nodes
from remora.messages.key_value import KeyValueAnswer
from remora.messages.objects import CopiesReleased, HomeDied, ObjectValue, OfferValues, ReleaseCopies
from remora.messages.session import OutputFlushed, SessionEnded, Welcome, WorkerOutput
from remora.messages.tasks import Close, ReplyAck
from remora.processes.client.actors import ActorClient
from remora.processes.client.arena import ArenaClient
from remora.processes.client.arguments import Arguments
from remora.processes.client.functions import FunctionTable
from remora.processes.client.inspection import describe_process
from remora.processes.client.late_publications import LatePublications
from remora.processes.client.leadership import Leadership
from remora.processes.client.methods import MethodClient
from remora.processes.client.peers import Peers
from remora.processes.client.pending import PendingCall
from remora.processes.client.placement_groups import MESSAGES as GROUP_MESSAGES
from remora.processes.client.placement_groups import PlacementGroupClient
from remora.processes.client.refs import Refs
from remora.processes.client.tasks import TaskClient
from remora.processes.client.values import Values, tell_waiters
from remora.serialization import serialize_system_error
from remora.system.connection import Connection
from remora.system.log_file import tail_of
from remora.system.reactor import Reactor
from remora.system.session_directory import DAEMON_LOG
from remora.system.slot_page import SlotPage

BLOCK_DELAY_S = 0.002
"""A wait shorter than this is not worth a message."""
LOG_LINES_TOLD = 10
"""Of the log of a daemon that has ended, in the errors of everything that depended on it."""
DRAIN_INTERVAL_S = 0.05
"""How often the deaths of published refs are looked at, while there are any."""

CLUSTER_REQUEST_LIMIT = 64

LEASE_MESSAGES = frozenset(lease_messages.MESSAGES)
ACTOR_MESSAGES = frozenset(actor_messages.MESSAGES)
ARENA_MESSAGES = frozenset(arena_messages.MESSAGES)


class Client:
    """One process's connection to its node daemon, and all that hangs on it."""

    def __init__(self, daemon: socket.socket, welcome: Welcome, descriptors: list[int], own_actor: Any = None) -> None:
        arena_descriptor, slot_descriptor = descriptors
        self.welcome = welcome
        self.process = ProcessId(welcome.process)
        self.node = node_of(self.process)
        self.node_address = welcome.node_address or socket.gethostname()
        self.namespace = welcome.namespace
        self.lock = threading.RLock()
        self.lock_is_mine: Callable[[], bool] = self.lock._is_owned  # type: ignore[attr-defined]
        self.next_call = count(1)
        self.reactor = Reactor()
        self.leadership = Leadership(self.reactor, self.flush, self._housekeep, self._on_crash)
        self.daemon = Connection(daemon, self.reactor, self._on_daemon_messages, self._on_daemon_lost, "daemon")
        self.constructor_call: tuple[bytes, int] = (b"", 0)
        """The call that made this process an actor: its creator has no record of it, and no reply to close."""
        self.slots = SlotPage(slot_descriptor)
        self.is_in_cluster = welcome.credentials is not None
        self.peers = Peers(self.reactor, self.process, welcome.credentials)
        self.submitters: dict[bytes, Connection] = {}
        """Connections on which others submit to this process; only a worker has some."""
        self.arena = ArenaClient(self, arena_descriptor)
        self.late_publications = LatePublications(
            self.send_to_daemon, self.arena.has_escaped, self.arena.published, self.arena.release
        )
        self.refs = Refs(self.process, self.late_publications.send, self._send_to_process, self.later, own_actor)
        self.refs.may_move = self.is_in_cluster
        self.functions = FunctionTable()
        self.values = Values(self)
        self.arguments = Arguments(self)
        self.tasks = TaskClient(self, request_limit=self._request_limit())
        self.methods = MethodClient(self)
        self.actors = ActorClient(self)
        self.groups = PlacementGroupClient(self)
        self.refs.on_died = self._on_refs_died
        self.ended: str = ""
        """Why the session is over; empty while it is not."""
        self.describe_daemon_end: Callable[[], str] = lambda: "has ended"
        """How the daemon ended, in words; a driver knows more, whose child it was."""
        self.on_message: Callable[[Any], bool] = lambda message: False
        """What a worker does with the daemon's messages that are only for workers."""
        self.on_output: Callable[[WorkerOutput | OutputFlushed], None] = lambda message: None
        self.running_calls: Callable[[], tuple[list[tuple[str, bytes]], int]] = lambda: ([], 0)
        """The names of the calls that run here, and how many wait here; a worker has some."""
        self.periodic: list[Callable[[float], float]] = []
        """Looked at whenever a leader is about to wait; each returns in how many seconds it wants to look again."""
        self.on_block: Callable[[], None] | None = None
        """What a worker does when a thread of it is about to wait for another process; ``on_unblock`` afterwards."""
        self.on_unblock: Callable[[], None] = lambda: None
        self._later: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._warned: set[str] = set()
        self._next_drain_s = 0.0
        self._replies: dict[int, Any] = {}
        self._next_request = count(1)

    def _request_limit(self) -> int:
        """How many leases are asked for at once; in a cluster this node's CPUs say nothing of how many there are."""
        limit = max(2, 2 * int(self.welcome.resources.get("CPU", 1)))
        return min(max(CLUSTER_REQUEST_LIMIT, limit) if self.is_in_cluster else limit, lease_messages.MAX_LEASES_ASKED)

    # ------------------------------------------------------------------ sending

    def send_to_daemon(self, message: Any) -> None:
        """Put a message for the daemon into the next frame; it leaves at the next :meth:`flush`."""
        self.daemon.outgoing.append(message)

    def flush_daemon(self) -> None:
        """Write what was sent to the daemon."""
        if self.daemon.outgoing:
            self.daemon.flush()

    def flush(self) -> None:
        """Write everything, to the daemon first: others may ask it about what we tell it now."""
        if self.daemon.outgoing:
            self.daemon.flush()
        if self.peers.dirty:
            self.peers.flush()
        if self._later:
            self._run_later()

    def nudge(self) -> None:
        """See that what was sent leaves soon although this thread goes on without waiting."""
        self.leadership.nudge()

    def _send_to_process(self, process: ProcessId, message: Any) -> None:
        if type(message) is Close:
            if (process, message.call) == self.constructor_call:
                return
            connection = self.submitters.get(process)
            if connection is not None:
                connection.send(message)
                connection.flush()
            return
        if type(message) is not ReplyAck:
            raise ValueError(f"{message!r} is not for another process")
        peer = self.peers.find(process)
        if peer is not None:
            peer.outgoing.append(message)
            self.peers.mark_dirty(peer)

    def wait_until(
        self, done: Callable[[], object], deadline_s: float | None = None, ref: ObjectRef[Any] | None = None
    ) -> bool:
        """Wait for another process, see :meth:`Leadership.wait_until`. A worker's CPU is lent out meanwhile."""
        if done():
            return True
        if self.lock_is_mine():
            raise RuntimeError(
                "this code cannot wait for Remora here: it is a destructor (__del__) that the garbage collector ran "
                "in the middle of Remora's own work. Call .remote() there, and get the result elsewhere"
            )
        wait_until = self.leadership.wait_until
        if self.on_block is None:
            return wait_until(done, deadline_s, ref)
        # At once when this process waits for workers itself: the CPU it holds may be the one that is missing.
        early_s = monotonic() + (0 if self.tasks.has_unanswered_requests() else BLOCK_DELAY_S)
        if deadline_s is not None and deadline_s <= early_s:
            return wait_until(done, deadline_s, ref)
        if wait_until(done, early_s, ref):
            return True
        self.on_block()
        try:
            return wait_until(done, deadline_s, ref)
        finally:
            self.on_unblock()

    def request(self, send: Callable[[int], None], timeout_s: float | None = None) -> Any:
        """Ask the daemon something: ``send(number)`` sends a message with that ``request``, the answer carries it."""
        self.check_alive()
        number = next(self._next_request)
        self._replies[number] = None
        try:
            send(number)
            deadline_s = None if timeout_s is None else monotonic() + timeout_s
            self.wait_until(lambda: self._replies[number] is not None or self.ended, deadline_s)
        finally:
            reply = self._replies.pop(number)  # an answer that comes later, after Ctrl-C, is passed over
        if reply is None:
            self.check_alive()
            raise InternalError(f"the node daemon did not answer within {timeout_s} s")
        return reply

    def answer(self, number: int, reply: Any) -> None:
        """The daemon's answer to a :meth:`request` came."""
        if number in self._replies:
            self._replies[number] = reply

    # ------------------------------------------------------------------ receiving

    def _on_daemon_messages(self, connection: Connection, messages: list[Any]) -> None:
        valued: list[ObjectRef[Any]] = []
        for message in messages:
            kind = type(message)
            if kind is ObjectValue:
                if (ref := self.values.on_value(message)) is not None:
                    valued.append(ref)
            elif kind is Ack:
                self._count(self.refs.machine.acknowledged, message.ids, message.ok)
            elif kind is PublishAck:
                self._count(self.refs.machine.publish_acknowledged, message.ids)
            elif kind is Ping:
                self._count(self.refs.machine.pinged, message.number)
            elif kind in LEASE_MESSAGES:
                if not self.on_message(message):
                    self.tasks.on_lease_message(message)
            elif kind in ARENA_MESSAGES:
                self.arena.on_message(message)
            elif kind in GROUP_MESSAGES:
                self.groups.on_message(message)
            elif kind is KeyValueAnswer or kind is Nodes:
                self.answer(message.request, message)
            elif kind is WorkerOutput or kind is OutputFlushed:
                self.on_output(message)
            elif kind is SessionEnded:
                if not self.on_message(message):
                    self.end(message.reason)
            elif kind is ReleaseCopies:
                with self.lock:
                    self.arena.drain()
                    released = self.values.release_copies(message.ids)
                self.send_to_daemon(CopiesReleased(released))
            elif kind is HomeDied:
                with self.lock:
                    self.send_to_daemon(OfferValues(message.nodes, self.refs.known_values(message.nodes)))
            elif kind is DescribeYourself:
                self.send_to_daemon(describe_process(self, message))
                self.flush_daemon()
            elif not self.on_message(message):
                self.actors.on_message(message)
        # At the end: a callback of the user's may wait, and then what comes later is served before it returns.
        for ref in valued:
            tell_waiters(ref)

    def _on_refs_died(self, ids: list[ObjectId]) -> None:
        self.actors.on_refs_died(ids)
        self.values.on_refs_died(ids)

    def _count(self, told: Callable[..., None], *arguments: Any) -> None:
        with self.lock:
            told(*arguments)
            self.refs.carry_out()

    def _on_daemon_lost(self, connection: Connection, error: Exception | None) -> None:
        log_path = f"{self.welcome.session_directory}/{DAEMON_LOG}"
        # Now: the log goes with the session's folder, which may be soon.
        tail = "\n".join(tail_of(log_path).splitlines()[-LOG_LINES_TOLD:])
        self.end(
            f"the node daemon of this session {self.describe_daemon_end()}{f' ({error})' if error else ''}; "
            f"its log, {log_path}, " + (f"ends with:\n{tail}" if tail else "is empty")
        )

    def _on_crash(self, error: Exception) -> None:
        traceback.print_exception(error)
        self.end(f"the I/O thread of process {short(self.process)} failed, an error of Remora's own: {error!r}")
        self._run_later()

    # ------------------------------------------------------------------ periodic work

    def _housekeep(self) -> float:
        """Returns in how many seconds this should be called again; -1 when only an event makes something to do."""
        if self._later:
            self._run_later()
        now_s = monotonic()
        if now_s >= self._next_drain_s:
            self._next_drain_s = now_s + DRAIN_INTERVAL_S
            with self.lock:
                self.refs.drain()
                self.late_publications.flush()
                self.arena.drain()
                self.tasks.tick(now_s)
                if not self.actors.is_idle:
                    self.actors.tick(now_s)
            self.flush()
        is_idle = self.refs.is_idle and self.arena.is_idle and self.tasks.is_idle and self.actors.is_idle
        timeout_s = -1 if is_idle else DRAIN_INTERVAL_S
        for look in tuple(self.periodic):
            wanted_s = look(now_s)
            if wanted_s >= 0 and (timeout_s < 0 or wanted_s < timeout_s):
                timeout_s = wanted_s
        return timeout_s

    def later(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call the function soon, on a thread that does not hold the lock."""
        self._later.append((function, arguments))

    def _run_later(self) -> None:
        while self._later:
            try:
                function, arguments = self._later.popleft()
            except IndexError:  # another thread took the last one
                return
            function(*arguments)

    def warn(self, text: str) -> None:
        """Tell the user once."""
        if text not in self._warned:
            self._warned.add(text)
            warnings.warn(text, RuntimeWarning, stacklevel=2)

    # ------------------------------------------------------------------ the end

    def check_alive(self) -> None:
        """
        Raises:
            LocalRayletDiedError: the session is over.
        """
        if self.ended:
            raise LocalRayletDiedError(self.ended)

    def end(self, reason: str) -> None:
        """The session is over: everything that waits ends with *reason*."""
        if self.ended:
            return
        self.ended = reason
        self._abandon_all()
        self.leadership.wake_all()

    def _abandon_all(self) -> None:
        self.tasks.abandon(self.ended)
        self.actors.abandon(self.ended)
        self.groups.abandon(self.ended)
        with self.lock:
            unfinished = [ref for ref in self.refs.live() if ref.state < FIRST_FINISHED]
        self.later(self.values.fail, unfinished, serialize_system_error(LocalRayletDiedError(self.ended)))

    def forget_call(self, record: PendingCall) -> None:
        """A call ended before it was sent."""
        self.methods.forget_call(record)

    def describe_holders(self, writers: Sequence[Writer]) -> str:
        """Whose objects take most of the store, for the text of an error."""
        return ", ".join(
            f"process {short(writer.process)}: {writer.used_bytes / 1e6:.1f} MB"
            + (" (this one)" if writer.process == self.process else "")
            for writer in writers
        )

    def describe_pending(self, ref: ObjectRef[Any]) -> str:
        """What is known of why a ref has no value yet, for a timeout's text."""
        record: PendingCall | None = ref.task
        if record is None:
            return f"it is made by process {short(ref.id[:8])}"
        if record.top_level and any(inner.state < 2 for inner in record.top_level):
            return f"{record.name!r} waits for its own arguments"
        return f"{record.name!r} has not finished"

    def abandon_in_child(self) -> None:
        """In a forked child: close its copies of our descriptors, and change nothing that the parent shares."""
        self.reactor.close()
        for connection in (self.daemon, *(peer.connection for peer in self.peers.all()), *self.submitters.values()):
            connection.abandon_in_child()
        self.arena.close()
        self.slots.close()

    def close(self) -> None:
        """Leave the session: close every connection, end the I/O thread."""
        self.ended = self.ended or "this process has left the session (remora.shutdown)"
        self._abandon_all()
        self._run_later()
        self.leadership.close()
        self.peers.close()
        self.daemon.close()
        self.values.lose_stored(self.ended)
        self.arena.close()
        self.slots.close()
        self.reactor.close()
