"""Placement groups at a node daemon: what processes ask, what the manager says.

In a session without a head the manager lives here. In a cluster it lives in the head: what processes ask is passed on
by ``relay``, and what the head says comes to :meth:`PlacementGroupService.on_manager_message`. Either way the daemon
watches a group once, for all its processes that do, and for itself: as soon as something here asks for resources of
a group it must hear of the group's end, because then nobody else would end the waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from remora.base.bundle_names import group_of
from remora.base.ids import NodeId, ProcessId, daemon_of
from remora.core.placement_groups import PlacementGroupManager, Send, SendNode
from remora.messages import placement_groups as m
from remora.processes.daemon.bundles import BundleService
from remora.processes.daemon.connected import ConnectedProcess, ConnectedProcesses
from remora.processes.daemon.workers import WorkerService

Relay = Callable[[ProcessId, ProcessId, Any], None]
"""``relay(process, job, message)``: to the head, as said by the process, of that job. The daemon itself has no job."""


class PlacementGroupService:
    """Creates, finds, watches and removes placement groups for the processes of this node."""

    def __init__(
        self, node: NodeId, labels: Mapping[str, str], processes: ConnectedProcesses, workers: WorkerService
    ) -> None:
        self._node = node
        self._labels = labels
        self._processes = processes
        self._daemon = daemon_of(node)
        self._bundles = BundleService(workers)
        self._bundles.answer = self._on_bundles_answer
        self._manager: PlacementGroupManager | None = PlacementGroupManager()
        self._relay: Relay = lambda process, job, message: None
        self._states: dict[bytes, m.PlacementGroupState | None] = {}
        """Of every group that is watched; None until the manager has answered."""
        self._watchers: dict[bytes, dict[bytes, None]] = {}
        self._reported_free: dict[str, int] = {}
        self._now_s = 0.0

    def use_head(self, relay: Relay) -> None:
        """The manager is in the head from now on, and nothing was asked before."""
        self._manager = None
        self._relay = relay

    # ------------------------------------------------------------------ what processes of this node say

    def on_message(self, connected: ConnectedProcess, message: Any, now_s: float) -> None:
        """A message about placement groups."""
        self._now_s = now_s
        process, job = connected.process, connected.job
        if isinstance(message, m.WatchPlacementGroup):
            self._watch(process, message.group)
        elif isinstance(message, m.CreatePlacementGroup | m.RemovePlacementGroup | m.FindPlacementGroups):
            if self._manager is None:
                self._relay(process, job, message)
            else:
                self._ask_manager(self._manager, process, job, message)
            if isinstance(message, m.CreatePlacementGroup):
                self._watch(process, message.group)
        else:
            raise ValueError(f"{connected!r} sent {message!r}, which only a daemon says")
        self._carry_out()

    def note_request(self, resources: Iterable[str], now_s: float) -> None:
        """Something here waits for resources of these names, which may be those of a group."""
        group = group_of(resources)
        if group and group not in self._states:
            self._now_s = now_s
            self._watch(self._daemon, group)
            self._carry_out()

    def on_process_gone(self, process: bytes) -> None:
        """It watches nothing any more."""
        for watchers in self._watchers.values():
            watchers.pop(process, None)

    def job_ended(self, job: bytes, now_s: float) -> None:
        """A driver has gone while the node lives on. In a cluster the head knows by itself."""
        self._now_s = now_s
        if self._manager is not None:
            self._manager.job_ended(job)
            self._carry_out()

    def look(self, now_s: float) -> None:
        """Whatever became free may be what a group waits for. To be called in every turn of the loop; it is cheap."""
        self._bundles.settle(now_s)
        manager = self._manager
        if manager is not None and manager.has_waiting:
            self._now_s = now_s
            due_s = manager.next_due_s()
            if self._bundles.free() != self._reported_free:
                self._report_node(manager)
            if due_s is not None and now_s >= due_s:
                manager.tick(now_s)
            self._carry_out()

    def reports(self) -> list[m.PlacementGroupReport]:
        """The groups of a session without a head, for people."""
        return self._manager.reports() if self._manager is not None else []

    def next_due_s(self) -> float | None:
        """When :meth:`look` has something to do although nothing happens, or None."""
        return self._manager.next_due_s() if self._manager is not None else None

    # ------------------------------------------------------------------ what the manager says

    def on_manager_message(self, message: Any, now_s: float) -> None:
        """The manager says something to this daemon."""
        self._now_s = now_s
        if isinstance(message, m.PlacementGroupState):
            self._on_state(message)
        else:
            self._bundles.on_message(message, now_s)

    def _on_state(self, message: m.PlacementGroupState) -> None:
        if message.group not in self._states:
            return
        self._states[message.group] = message
        for process in self._watchers.get(message.group, {}):
            self._processes.send(process, message)
        if message.state == m.REMOVED:
            del self._states[message.group]
            self._watchers.pop(message.group, None)
            reason = f"its placement group {message.group.hex()} is gone: {message.reason}"
            self._bundles.group_removed(message.group, reason, self._now_s)

    def _watch(self, process: bytes, group: bytes) -> None:
        if process != self._daemon:
            self._watchers.setdefault(group, {})[process] = None
        if group not in self._states:
            self._states[group] = None
            if self._manager is None:
                self._relay(self._daemon, self._daemon, m.WatchPlacementGroup(group))
            else:
                self._manager.watch(self._daemon, group)
            return
        state = self._states[group]
        if state is not None:
            self._processes.send(process, state)

    # ------------------------------------------------------------------ the manager, when it is here

    def _ask_manager(self, manager: PlacementGroupManager, process: ProcessId, job: ProcessId, message: Any) -> None:
        if isinstance(message, m.CreatePlacementGroup):
            self._report_node(manager)
            manager.create(process, job, message, self._now_s)
        elif isinstance(message, m.RemovePlacementGroup):
            manager.remove(process, message, self._now_s)
        else:
            manager.find(process, message)

    def _report_node(self, manager: PlacementGroupManager) -> None:
        self._reported_free = dict(self._bundles.free())
        manager.node_changed(self._node, self._bundles.total(), self._reported_free, self._labels, self._now_s)

    def _on_bundles_answer(self, message: m.BundlesAnswer) -> None:
        if self._manager is None:
            self._relay(self._daemon, self._daemon, message)
        else:
            self._manager.answered(self._node, message, self._now_s)

    def _carry_out(self) -> None:
        if self._manager is None:
            return
        outbox = self._manager.outbox
        while outbox:
            effects = outbox[:]
            outbox.clear()
            for effect in effects:
                if isinstance(effect, SendNode):
                    self._bundles.on_message(effect.message, self._now_s)
                elif isinstance(effect, Send) and effect.process == self._daemon:
                    self.on_manager_message(effect.message, self._now_s)
                elif isinstance(effect, Send):
                    self._processes.send(effect.process, effect.message)
                # Rows are stored by a head only: this session's groups end with this process.
