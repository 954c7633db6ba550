"""Placement groups in the head: the manager, joined to the links and to what is written down.

What the manager has to say to a node's daemon is said to process 0 of the node. Who watches a group is written down
as well, so that no daemon need know that the head was started again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from remora.base.ids import daemon_of
from remora.core.journal import Journal
from remora.core.placement_groups import ForgetGroup, PlacementGroupManager, SaveGroup, Send, SendNode
from remora.messages import placement_groups as m
from remora.messages.head import MemberView

GROUP = "placement_group"
WATCHERS = "group_watchers"
"""Kinds of rows in the journal, both by the group's id."""

GROUP_MESSAGES = frozenset(m.MESSAGES)


class HeadGroups:
    """Every placement group of the cluster. *say_to(process, message)* says something to a process of any node."""

    def __init__(self, journal: Journal, say_to: Callable[[bytes, Any], None]) -> None:
        self.manager = PlacementGroupManager()
        self._journal = journal
        self._say_to = say_to
        self._rows: dict[bytes, m.PlacementGroupRow] = {}
        self._watchers: dict[bytes, dict[bytes, None]] = {}

    def on_message(self, process: bytes, job: bytes, message: Any, now_s: float) -> None:
        """What a process or a daemon says about placement groups.

        Raises:
            ValueError: it is wrong, or nothing that is said to the head.
        """
        manager = self.manager
        if isinstance(message, m.CreatePlacementGroup):
            manager.create(process, job, message, now_s)
        elif isinstance(message, m.RemovePlacementGroup):
            manager.remove(process, message, now_s)
        elif isinstance(message, m.FindPlacementGroups):
            manager.find(process, message)
        elif isinstance(message, m.WatchPlacementGroup):
            self._watch(process, message.group)
        elif isinstance(message, m.BundlesAnswer):
            manager.answered(process[:4], message, now_s)
        else:
            raise ValueError(f"{type(message).__name__} is nothing that is said to the head")
        self._carry_out()

    def _watch(self, process: bytes, group: bytes) -> None:
        if group in self._rows:
            self._watchers.setdefault(group, {})[process] = None
            self._journal.touch(WATCHERS, group)
        self.manager.watch(process, group)

    def node_changed(self, view: MemberView, now_s: float) -> None:
        """The node has told what it has."""
        self.manager.node_changed(view.node, view.total, view.available, view.labels, now_s)
        self._carry_out()

    def node_died(self, node: bytes, now_s: float) -> None:
        """Its bundles go elsewhere, and no process of it watches anything."""
        self._drop_watchers(lambda process: process.startswith(node))
        self.manager.node_died(node, now_s)
        self._carry_out()

    def process_gone(self, process: bytes) -> None:
        """It watches nothing any more."""
        self._drop_watchers(lambda watcher: watcher == process)
        self.manager.watcher_gone(process)

    def job_ended(self, job: bytes) -> None:
        """The job's groups end."""
        self.manager.job_ended(job)
        self._carry_out()

    def why_gone(self, group: bytes) -> str:
        """Why actors cannot live in the group any more; empty when they can."""
        if group in self._rows:
            return ""
        return f"its placement group {group.hex()} is gone: {self.manager.why_removed(group)}"

    def tick(self, now_s: float) -> None:
        """Groups whose pause is over are tried again."""
        due_s = self.manager.next_due_s()
        if due_s is not None and now_s >= due_s:
            self.manager.tick(now_s)
            self._carry_out()

    def _drop_watchers(self, is_gone: Callable[[bytes], bool]) -> None:
        for group, watchers in self._watchers.items():
            gone = [process for process in watchers if is_gone(process)]
            for process in gone:
                del watchers[process]
            if gone:
                self._journal.touch(WATCHERS, group)

    def _carry_out(self) -> None:
        outbox = self.manager.outbox
        effects = outbox[:]
        outbox.clear()
        for effect in effects:
            if isinstance(effect, SaveGroup):
                self._rows[effect.row.group] = effect.row
                self._journal.touch(GROUP, effect.row.group)
            elif isinstance(effect, ForgetGroup):
                self._rows.pop(effect.group, None)
                self._watchers.pop(effect.group, None)
                self._journal.touch(GROUP, effect.group)
                self._journal.touch(WATCHERS, effect.group)
            elif isinstance(effect, SendNode):
                self._say_to(daemon_of(effect.node), effect.message)
            else:
                assert isinstance(effect, Send), f"the head cannot do {effect!r}"
                self._say_to(effect.process, effect.message)

    # ------------------------------------------------------------------ writing down

    def record(self, group: bytes) -> m.PlacementGroupRow | None:
        """The group as it is to be written down."""
        return self._rows.get(group)

    def watchers(self, group: bytes) -> list[bytes] | None:
        """Who watches it, as it is to be written down."""
        watchers = self._watchers.get(group)
        return list(watchers) if watchers else None

    def restore(
        self, rows: list[m.PlacementGroupRow], watchers: dict[bytes, list[bytes]], views: list[MemberView], now_s: float
    ) -> None:
        """Take over what was written down. Those who watch are told again what they watch."""
        self._rows = {row.group: row for row in rows}
        self._watchers = {group: dict.fromkeys(processes) for group, processes in watchers.items()}
        self.manager.restore(rows, now_s)
        for group, processes in self._watchers.items():
            for process in processes:
                self.manager.watch(process, group)
        for view in views:
            self.manager.node_changed(view.node, view.total, view.available, view.labels, now_s)
        self._carry_out()

    def validate(self) -> None:
        """
        Raises:
            AssertionError: what is written down is not what there is.
        """
        self.manager.validate()
        assert self._rows == {row.group: row for row in self.manager.rows()}, f"{self!r}: rows"
        assert self._watchers.keys() <= self._rows.keys(), f"{self!r}: watchers"

    def __repr__(self) -> str:
        return f"<HeadGroups {self.manager!r}>"
