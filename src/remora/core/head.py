"""The head of a cluster as one machine: membership, jobs, actors, key-value, and the links to the nodes.

The shell hands it what nodes say, the time, and what became of heartbeat connections. At the end of a turn the shell
calls :meth:`Head.end_turn`, writes the changes down, and only then sends what is in the outbox. A head that is made
from what was written down goes on where the one before it was (:meth:`Head.restore`).

What one process said wrongly ends that process, not its node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from remora.base.ids import node_of, short
from remora.base.protocol_version import PROTOCOL_VERSION
from remora.core import actor_effects
from remora.core.actor_placement import ActorPlacer, Hopeless
from remora.core.actor_registry import ActorRegistry
from remora.core.cluster_view import ClusterView
from remora.core.counted_link import UnitReader
from remora.core.head_checks import check_contents, check_join, check_load, check_node_message, check_process_message
from remora.core.head_farewell import Farewell
from remora.core.head_groups import HeadGroups
from remora.core.head_links import HeadLinks, ToNode
from remora.core.head_processes import handle
from remora.core.head_rows import read_rows, write_row
from remora.core.head_views import ChangedViews
from remora.core.jobs import JobTable
from remora.core.journal import Change, Journal
from remora.core.key_value import KeyValueTable
from remora.core.membership import Membership, NodeDeparted, ViewChanged
from remora.messages import head as m
from remora.messages.links import ForProcess, ProcessGone


class Identity(msgspec.Struct, frozen=True):
    """What makes this cluster this one. ``certificate`` and ``key`` are given to nodes that join.

    ``python`` is the minor version that all processes have. ``epoch_s`` is the Unix time at 0 of the clock that
    tells the head the time.
    """

    cluster: bytes
    python: tuple[int, int]
    first_number: int = 1
    certificate: bytes = b""
    key: bytes = b""
    epoch_s: float = 0.0


class Head:
    """Everything that the head knows and decides."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._journal = Journal()
        self.complaints: list[str] = []
        """What nodes said that they should not have, for the log."""
        self.membership = Membership(self._journal, identity.first_number)
        self.links = HeadLinks(self._journal)
        self.view = ClusterView()
        self.jobs = JobTable(self._journal)
        self.registry = ActorRegistry(self._journal)
        self.placer = ActorPlacer(self._journal, self.view)
        self.registry.why_waiting = self.placer.why_waiting
        self.key_value = KeyValueTable(self._journal)
        self.groups = HeadGroups(self._journal, self.say_to)
        self.placer.why_group_is_gone = self.groups.why_gone
        self._readers: dict[bytes, UnitReader] = {}
        """One for each node that has a stream."""
        self._now_s = 0.0
        self._changed_views = ChangedViews()
        self._farewell = Farewell()

    # ------------------------------------------------------------------ nodes come and go

    def join(self, message: m.JoinCluster, now_s: float) -> m.Joined | m.JoinRefused:
        """A daemon wants a node number; the answer."""
        self._now_s = now_s
        refusal = self._why_not(message)
        if refusal:
            return m.JoinRefused(refusal)
        outcome = self.membership.join(message, now_s)
        if isinstance(outcome, m.Departure):
            refusal = self.membership.refusal(outcome.node, message.boot)
            return m.JoinRefused(refusal, is_departed=True)
        try:
            self._open_link(outcome.node)
        except ValueError as error:
            return m.JoinRefused(f"this node was a member before it joined: {error}", is_departed=True)
        self._readers[outcome.node] = UnitReader()
        self._carry_out()
        identity = self._identity
        return m.Joined(
            outcome.node,
            identity.cluster,
            self.membership.head_node,
            self.membership.views(),
            self.membership.departures(),
            identity.certificate,
            identity.key,
        )

    def _open_link(self, node: bytes) -> None:
        """Say what a new member must know first, or again what followed an answer that it has not heard."""
        if node in self.links.nodes():
            self.links.outbox += [ToNode(node, unit) for unit in self.links.say_again(node, 0)]
            return
        self.links.open(node)
        for job in dict.fromkeys(actor.job for actor in self.registry.actors()):
            record = self.jobs.record(job)
            if record is not None and self.jobs.has_ended(job):  # its detached actors may have workers there
                self.links.say(node, m.JobEnded(job, record.report.cause))

    def _why_not(self, message: m.JoinCluster) -> str:
        if message.protocol != PROTOCOL_VERSION:
            return (
                f"the node at {message.address} speaks protocol {message.protocol}, and this cluster "
                f"{PROTOCOL_VERSION}: install the same version of Remora on all machines"
            )
        theirs, ours = tuple(message.python), self._identity.python
        if theirs != ours:
            return (
                f"the node at {message.address} runs Python {theirs[0]}.{theirs[1]}, and this cluster "
                f"{ours[0]}.{ours[1]}: start the node with Python {ours[0]}.{ours[1]} (patch versions may differ)"
            )
        try:
            check_join(message)
        except ValueError as error:
            return f"what the node says of itself cannot be: {error}"
        return ""

    def rejoin(self, message: m.Rejoin, now_s: float) -> list[Any]:
        """A member has made its stream anew; what it is to be told on it."""
        self._now_s = now_s
        node = message.node
        refusal = self.membership.refusal(node, message.boot)
        if refusal:
            return [m.JoinRefused(refusal, is_departed=True)]
        try:
            self.links.confirmed(node, message.received)
            units = self.links.say_again(node, message.received)
        except ValueError as error:
            return [m.JoinRefused(f"the head's state is not the one that this node knows: {error}", is_departed=True)]
        self._readers[node] = UnitReader()
        views, departed = self.membership.views(), self.membership.departures()
        rejoined = m.Rejoined(self.links.received(node), views, departed)
        return [rejoined, *(part for unit in units for part in unit)]

    def heartbeat_opened(self, message: m.HeartbeatHello, now_s: float) -> str:
        """A connection for heartbeats begins; why it is refused, or an empty text."""
        refusal = self.membership.refusal(message.node, message.boot)
        if not refusal:
            self.membership.connected(message.node, now_s)
        return refusal

    def heartbeat(self, node: bytes, message: m.Heartbeat, now_s: float) -> m.HeartbeatAnswer:
        """A sign of life; the answer. One that was declared dead hears so on its stream, after it was written down."""
        self._now_s = now_s
        self.membership.heartbeat(node, message.stalled_s, now_s)
        self._carry_out()
        return m.HeartbeatAnswer(message.number)

    def heartbeat_closed(self, node: bytes, now_s: float) -> None:
        """The node's connection for heartbeats ended, and it has no other one."""
        self.membership.disconnected(node, now_s)

    def link_ended(self, node: bytes, now_s: float) -> None:
        """The node's stream was read to its end, and it has no other one."""
        self._farewell.heard(node)
        self.membership.link_ended(node, now_s)

    def tick(self, now_s: float) -> None:
        """Deaths by silence, actors that wait, and views that are due. To be called every 0.1 s."""
        self._now_s = now_s
        self.membership.tick(now_s)
        self._carry_out()
        self.groups.tick(now_s)

    # ------------------------------------------------------------------ what nodes say

    def on_messages(self, node: bytes, messages: list[Any], now_s: float) -> None:
        """A frame of a member's stream, which began with a join or a rejoin."""
        self._now_s = now_s
        reader = self._readers.get(node)
        if reader is None:
            if node != self._farewell.node:
                self._tell_departed(node)
            return
        for unit in reader.read(messages):
            if not self.membership.is_member(node):
                break
            message = unit[-1]
            if type(message) in m.UNCOUNTED:
                self._on_uncounted(node, message)
                continue
            self.links.heard(node)
            if len(unit) == 2:
                self._on_process_message(node, unit[0], message)
            else:
                self._on_node_message(node, message)
        self._carry_out()

    def _tell_departed(self, node: bytes) -> None:
        """It still has a stream: it must hear that it is no member any more."""
        departure = self.membership.departure(node)
        self.links.mention(node, m.JoinRefused(f"node {short(node)} was declared dead: {departure.cause}", True))

    def _on_uncounted(self, node: bytes, message: Any) -> None:
        try:
            if isinstance(message, m.Confirm):
                self.links.confirmed(node, message.received)
                if not self.links.keeps(node):
                    self._farewell.heard(node)
            elif isinstance(message, m.NodeLoad):
                check_load(message)
                self.membership.load(node, message)
                self.placer.load_told(node)
            else:
                raise ValueError(f"it says {type(message).__name__} in the middle of its stream")
        except ValueError as error:
            self.complaints.append(f"node {short(node)}: {error}")

    def _on_process_message(self, node: bytes, marker: Any, message: Any) -> None:
        try:
            check_process_message(node, marker, message)
        except ValueError as error:
            self.complaints.append(f"node {short(node)}: {error}")
            return
        process = marker.process
        try:
            check_contents(node, message)
            handle(self, process, marker.job, message, self._now_s)
        except ValueError as error:
            self.complaints.append(str(error))
            self.links.say(node, m.EndProcess(process, str(error)))

    def _on_node_message(self, node: bytes, message: Any) -> None:
        try:
            handler = self._node_handlers.get(type(message))
            if handler is None:
                raise ValueError(f"it sent {type(message).__name__}, which no daemon says to the head")
            check_node_message(node, message, self.links.nodes())
            handler(self, node, message)
        except ValueError as error:
            self.complaints.append(f"node {short(node)}: {error}")

    def _on_leave(self, node: bytes, message: m.LeaveCluster) -> None:
        self.membership.leave(node, message.reason)

    def _on_reachability(self, node: bytes, message: m.PeerReachability) -> None:
        self.membership.reachability(node, message.node, message.is_reachable, self._now_s)

    def _on_job_started(self, node: bytes, message: m.JobStarted) -> None:
        self.jobs.started(message, self._unix_s)
        self.placer.try_again()

    def _on_job_ended(self, node: bytes, message: m.JobEnded) -> None:
        self._end_job(message.job, message.cause)

    def _on_placed(self, node: bytes, message: m.ActorPlaced) -> None:
        if self.placer.placed(node, message.actor, message.attempt):
            self.registry.placed(message.actor, message.worker, message.address, message.slot, message.gpu_ids)
        else:
            self.links.say(node, m.KillProcess(message.worker))

    def _on_rejected(self, node: bytes, message: m.PlacementRejected) -> None:
        if not message.is_final:
            self.placer.rejected(node, message.actor, message.attempt, message.reason, self._now_s)
        elif self.placer.give_up(node, message.actor, message.attempt):
            self.registry.unplaceable(message.actor, message.reason)

    def _on_handles_gone(self, node: bytes, message: m.ActorHandlesGone) -> None:
        self.registry.handles_gone(message.actor)

    def _on_process_ended(self, node: bytes, message: m.ProcessEnded) -> None:
        self.registry.worker_died(message.process, message.cause)
        self.registry.process_gone(message.process)
        self.groups.process_gone(message.process)

    def _on_process_gone(self, node: bytes, message: ProcessGone) -> None:
        self.registry.process_gone(message.process)
        self.groups.process_gone(message.process)

    _node_handlers: dict[type, Callable[[Head, bytes, Any], None]] = {
        m.LeaveCluster: _on_leave,
        m.PeerReachability: _on_reachability,
        m.JobStarted: _on_job_started,
        m.JobEnded: _on_job_ended,
        m.ActorPlaced: _on_placed,
        m.PlacementRejected: _on_rejected,
        m.ActorHandlesGone: _on_handles_gone,
        m.ProcessEnded: _on_process_ended,
        ProcessGone: _on_process_gone,
    }

    # ------------------------------------------------------------------ what follows from it

    def say_to(self, process: bytes, message: Any) -> None:
        """Say it to a process of any node."""
        self.links.say(node_of(process), ForProcess(process), message)

    def _carry_out(self) -> None:
        """Empty the outboxes of the machines, which may fill each other's."""
        while True:
            for effect in _taken(self.membership.outbox):
                if isinstance(effect, NodeDeparted):
                    self._node_departed(effect.departure)
                else:
                    self._view_changed(effect)
            for actor_effect in _taken(self.registry.outbox):
                self._do(actor_effect)
            self._place()
            if not (self.membership.outbox or self.registry.outbox):
                return

    def _place(self) -> None:
        self.placer.run(self.jobs.environment, self._now_s)
        for effect in _taken(self.placer.outbox):
            if isinstance(effect, Hopeless):
                self.registry.unplaceable(effect.actor, effect.reason)
            else:
                self.links.say(effect.node, effect.message)

    def _do(self, effect: actor_effects.Effect) -> None:
        if isinstance(effect, actor_effects.Send):
            self.say_to(effect.process, effect.message)
        elif isinstance(effect, actor_effects.RequestPlacement):
            try:
                self.placer.request(effect.actor, effect.job, effect.spec)
            except ValueError as error:
                self.registry.unplaceable(effect.actor, str(error))
        elif isinstance(effect, actor_effects.CancelPlacement):
            self.placer.cancel(effect.actor)
        elif isinstance(effect, actor_effects.KillWorker):
            self.links.say(node_of(effect.process), m.KillProcess(effect.process))
        # CreationSettled and ReleaseSpec need nothing here: the actor's home counts its creation object.

    def _node_departed(self, departure: m.Departure) -> None:
        node = departure.node
        others = [member for member in self.links.nodes() if member != node]
        for member in others:
            self.links.say(member, m.NodeDead(departure))
        self._farewell.heard(node)
        if not departure.is_orderly:
            self._tell_departed(node)
        elif self.membership.was_head_node(node):
            self._farewell.begin(m.NodeDead(departure), others, self._now_s)
        else:
            self.links.mention(node, m.NodeDead(departure))
        self.links.close(node)
        self._readers.pop(node, None)
        self._changed_views.drop(node)
        self.view.died(node, departure.cause)
        self.placer.node_died(node)
        self.registry.node_died(node, f"node {short(node)} is gone: {departure.cause}")
        self.groups.node_died(node, self._now_s)
        for job in self.jobs.of_node(node):
            self._end_job(job, f"the node of its driver is gone: {departure.cause}")

    def _end_job(self, job: bytes, cause: str) -> None:
        if self.jobs.ended(job, cause, self._unix_s):
            self.registry.job_ended(job)
            self.groups.job_ended(job)
            self.placer.try_again()
            self.jobs.forget_oldest(actor.job for actor in self.registry.actors())
            for node in self.links.nodes():
                if node != node_of(job):  # which knows it
                    self.links.say(node, m.JobEnded(job, cause))

    def _view_changed(self, effect: ViewChanged) -> None:
        view = effect.view
        is_new = self.view.get(view.node) is None
        self._report(view)
        self.groups.node_changed(view, self._now_s)
        self._changed_views.add(view, is_new, self._now_s)

    def _report(self, view: m.MemberView) -> None:
        self.view.report(
            view.node,
            address=view.address,
            total=view.total,
            available=view.available,
            labels=view.labels,
            queue_length=view.queue_length,
            now_s=self._now_s,
        )

    @property
    def _unix_s(self) -> float:
        return self._identity.epoch_s + self._now_s

    # ------------------------------------------------------------------ writing down

    def end_turn(self) -> tuple[list[Change], list[ToNode]]:
        """What is to be written down, and what is to be sent after that; both are taken."""
        changed = self._changed_views.take(self._now_s)
        if changed is not None:
            for node in self.links.nodes():
                self.links.mention(node, changed)
        self.links.confirm()
        last_word = self._farewell.take(self._now_s)
        if last_word is not None:
            self.links.mention(self._farewell.node, last_word)
        changes = [Change(kind, key, write_row(self, kind, key)) for kind, key in self._journal.take()]
        return changes, _taken(self.links.outbox)

    def restore(self, rows: Iterable[tuple[str, bytes, bytes]], now_s: float) -> None:
        """Take over what another head wrote down: ``(kind, key, value)`` in any order. To be called once, first.

        Raises:
            ValueError: a row is none of ours.
        """
        self._now_s = now_s
        state = read_rows(rows)
        self.membership.restore(state.members, state.last_number, now_s)
        for view in self.membership.views():
            self._report(view)
        for departure in self.membership.departures():
            self.view.died(departure.node, departure.cause)
        self.jobs.restore(state.jobs)
        self.registry.table.restore(state.actors, state.specs, state.draining)
        self.placer.restore(state.placements, state.specs, state.last_attempt)
        self.key_value.restore(state.values)
        self.links.restore(state.links, state.said)
        self.groups.restore(state.groups, state.watchers, self.membership.views(), now_s)
        self._carry_out()

    def validate(self) -> None:
        """
        Raises:
            AssertionError: the machines do not agree.
        """
        for machine in (self.membership, self.links, self.jobs, self.registry, self.placer, self.view, self.groups):
            machine.validate()
        assert set(self.links.nodes()) == {view.node for view in self.membership.views()}, f"{self!r}: links"

    def __repr__(self) -> str:
        return f"<Head {self.membership!r} {self.jobs!r} {self.registry!r} {self.placer!r}>"


def _taken(outbox: list[Any]) -> list[Any]:
    taken = outbox[:]
    outbox.clear()
    return taken
