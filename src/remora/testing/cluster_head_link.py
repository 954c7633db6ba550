"""A node's link to the head in a simulated cluster: what is said is kept until it is confirmed, and said again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from remora.base.ids import NodeId, ProcessId, make_process_id
from remora.core.counted_link import CountedLink, UnitReader
from remora.core.load_reports import LoadReports
from remora.core.unreachable_peers import UnreachablePeers
from remora.messages import head as m
from remora.messages.actors import ActorState
from remora.messages.links import FromProcess
from remora.messages.session import JobEnvironment
from remora.testing.cluster_network import HEAD, Unit

if TYPE_CHECKING:
    from remora.testing.cluster_daemon import SimulatedDaemon


class SimulatedHeadLink:
    """Stands where the daemon's ``HeadLink`` stands; the same names for the same things."""

    def __init__(self, daemon: SimulatedDaemon, boot: bytes) -> None:
        self._daemon = daemon
        self._network = daemon.world
        self.boot = boot
        self.node = NodeId(b"")
        self.link = CountedLink()
        self.is_open = False
        self._reader = UnitReader()
        self._known_processes: set[bytes] = set()
        self._unreachable = UnreachablePeers()
        self._departed: dict[bytes, m.Departure] = {}
        self._loads = LoadReports(0)

    # ------------------------------------------------------------------ what the daemon has to say

    def process_message(self, process: bytes, job: bytes, message: Any) -> None:
        """A process of this node says something to the head."""
        self._known_processes.add(process)
        self._say(FromProcess(process, job), message)

    def process_ended(self, process: bytes, cause: str) -> None:
        """Nothing is said of one that the head does not know."""
        if process in self._known_processes:
            self._known_processes.discard(process)
            self._say(m.ProcessEnded(process, cause))

    def job_started(self, job: bytes, environment: JobEnvironment) -> None:
        """Before anything else of it."""
        self._say(m.JobStarted(job, environment))

    def job_ended(self, job: bytes, cause: str) -> None:
        """The driver has ended."""
        self._say(m.JobEnded(job, cause))

    def placed(self, request: m.PlaceActor, worker: bytes, address: str, slot: int, gpu_ids: tuple[int, ...]) -> None:
        """This worker waits for ``ConstructActor``."""
        self._known_processes.add(worker)
        self._loads.repeat()
        self._say(m.ActorPlaced(request.actor, request.attempt, worker, address, slot, gpu_ids))

    def rejected(self, request: m.PlaceActor, reason: str, is_final: bool = False) -> None:
        """There is no room."""
        self._say(m.PlacementRejected(request.actor, request.attempt, reason, is_final))

    def handles_gone(self, actor: bytes) -> None:
        """The creation object was freed."""
        self._say(m.ActorHandlesGone(actor))

    def peer_reachability(self, node: bytes, is_reachable: bool, reason: str = "") -> None:
        """The link to another node broke, or works again."""
        report = m.PeerReachability(node, is_reachable, reason)
        self._unreachable.said(report)
        self._say(report)

    def leave(self, reason: str) -> None:
        """This node is to end in order: it does when the head has said so to all."""
        self._say(m.LeaveCluster(reason))

    def tell_load(
        self,
        total: Mapping[str, int],
        available: Mapping[str, int],
        queue_length: int,
        demand: Sequence[tuple[dict[str, int], int]],
    ) -> None:
        """What the node has."""
        self._loads.update(total, available, queue_length, demand)
        told = self._loads.take(self._network.now_s) if self.is_open else None
        if told is not None:
            self._network.send(self.node, HEAD, told)

    def _say(self, *unit: Any) -> None:
        self.link.say(unit)
        if self.is_open:
            self._network.send(self.node, HEAD, *unit)

    # ------------------------------------------------------------------ the stream

    def reopen(self) -> None:
        """The head is there again."""
        self._reader = UnitReader()
        self._network.send(self.node, HEAD, m.Rejoin(self.node, self.boot, self.link.received))

    def head_lost(self) -> None:
        """Its process is dead."""
        self.is_open = False

    def joined(self, message: m.Joined) -> None:
        """The node is a member."""
        self.node = NodeId(message.node)
        self.is_open = True
        for departure in message.departed:
            self._departed[departure.node] = departure

    def receive(self, unit: Unit) -> None:
        """What the head says."""
        for one in self._reader.read(unit):
            message = one[-1]
            is_counted = type(message) not in m.UNCOUNTED
            if is_counted:
                self.link.received += 1
            if len(one) == 2:
                self._on_process_message(ProcessId(one[0].process), message)
            else:
                self._on_message(message)
            if is_counted:
                self._network.send(self.node, HEAD, m.Confirm(self.link.received))

    def _on_process_message(self, process: ProcessId, message: Any) -> None:
        daemon = self._daemon
        if process == make_process_id(int.from_bytes(self.node, "big"), 0):
            if isinstance(message, ActorState):
                daemon.actors.on_state(message, self._network.now_s)
            else:
                daemon.groups.on_manager_message(message, self._network.now_s)
        else:
            daemon.actors.deliver(process, message, daemon.address_of)

    def _on_message(self, message: Any) -> None:
        daemon, now_s = self._daemon, self._network.now_s
        if isinstance(message, m.JoinRefused):
            daemon.expel(message.reason)
        elif isinstance(message, m.Rejoined):
            self._on_rejoined(message)
        elif isinstance(message, m.Confirm):
            self.link.confirmed(message.received)
        elif isinstance(message, m.MembersChanged):
            daemon.on_members(message.nodes)
        elif isinstance(message, m.NodeDead):
            self._on_departure(message.departure)
        elif isinstance(message, m.PlaceActor):
            daemon.actors.place(message, now_s)
        elif isinstance(message, m.CancelPlacement):
            daemon.actors.cancel_placement(message, now_s)
        elif isinstance(message, m.KillProcess):
            daemon.workers.kill(message.process)
        elif isinstance(message, m.EndProcess):
            daemon.refused_process(message.process, message.reason)
        else:
            assert isinstance(message, m.JobEnded), f"the head does not say {message!r}"
            daemon.workers.end_job(message.job, now_s)
            daemon.directory.job_ended(ProcessId(message.job))

    def _on_rejoined(self, message: m.Rejoined) -> None:
        self.is_open = True
        self.link.confirmed(message.received)
        for unit in self.link.unconfirmed_after(message.received):
            self._network.send(self.node, HEAD, *unit)
        self._loads.repeat()
        for departure in message.departed:
            self._on_departure(departure)
        self._daemon.on_members(message.members)
        for report in self._unreachable.to_say_again(member.node for member in message.members):
            self._say(report)

    def _on_departure(self, departure: m.Departure) -> None:
        known = self._departed.get(departure.node)
        if departure.node == self.node:
            self._daemon.expel(departure.cause)
        elif known is None:
            self._departed[departure.node] = departure
            self._unreachable.departed(departure.node)
            self._daemon.on_node_dead(departure)
        else:
            self._daemon.world.check(known == departure, f"{self.node!r} is told of two deaths of one node")
