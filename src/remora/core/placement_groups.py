"""The placement groups of a cluster: creating, placing, placing again after a node has died, removing.

The manager lives in the head, or in the node daemon of a session without one. It knows what nodes have free from what
they report, so it may be wrong: a node has the last word when it is asked to hold bundles. All of an attempt are held
before any of them counts, and what is held is returned as soon as one node has said no or has died. Attempts of
several groups may be under way at once, since each of them leaves out what the others have asked for; after a refusal
a group pauses, longer each time, so that two cannot keep each other from being placed.

Everything it says may be repeated after a restart from ``rows``; nodes and processes do nothing twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from remora.base.ids import short
from remora.base.scheduling import decode_strategy
from remora.core.asked_amounts import AskedAmounts
from remora.core.bundle_placement import STRATEGIES, BundleRequest, NodeRoom, NoRoom, choose_nodes
from remora.core.placement_group import Group
from remora.messages import placement_groups as m

FIRST_RETRY_S = 0.02
LONGEST_RETRY_S = 1.0
"""Pauses after refusals double from the first to the longest."""
TELL_AFTER_S = 1.0
"""How long a group waits that no node can ever take until those who watch it are told why."""
REMEMBERED_REMOVED = 1000


class Send(msgspec.Struct, frozen=True):
    """Send the message to the process; a daemon is the process 0 of its node."""

    process: bytes
    message: m.PlacementGroups | m.PlacementGroupState


class SendNode(msgspec.Struct, frozen=True):
    """Send the message to the daemon of the node, about bundles there."""

    node: bytes
    message: m.ReserveBundles | m.CommitBundles | m.ReturnBundles


class SaveGroup(msgspec.Struct, frozen=True):
    """Store the row, before what follows in the outbox is sent."""

    row: m.PlacementGroupRow


class ForgetGroup(msgspec.Struct, frozen=True):
    """Delete the row, before what follows in the outbox is sent."""

    group: bytes


Effect = Send | SendNode | SaveGroup | ForgetGroup


class PlacementGroupManager:
    """Every placement group that is not removed.

    Example:
        >>> manager = PlacementGroupManager()
        >>> manager.node_changed(node, {"CPU": 40_000}, {"CPU": 40_000}, {}, now_s=0.0)
        >>> manager.create(driver, job, CreatePlacementGroup(1, group, [{"CPU": 10_000}]), now_s=0.0)
        >>> manager.outbox[-1]
        SendNode(node=..., message=ReserveBundles(...))
    """

    def __init__(self) -> None:
        self.outbox: list[Effect] = []
        """In order. The shell takes what is in it, and leaves an empty list."""
        self._groups: dict[bytes, Group] = {}
        self._names: dict[tuple[str, str], bytes] = {}
        self._nodes: dict[bytes, NodeRoom] = {}
        self._waiting: dict[bytes, Group] = {}
        """Groups with bundles that have no place and no attempt under way, oldest first."""
        self._removed: dict[bytes, m.PlacementGroupReport] = {}
        self._asked = AskedAmounts()
        self._changed: dict[bytes, Group | None] = {}
        self._sends: list[Send | SendNode] = []

    # ------------------------------------------------------------------ what processes ask

    def create(self, process: bytes, job: bytes, message: m.CreatePlacementGroup, now_s: float) -> None:
        """Make the group and try to place it. The same message again is answered again.

        Raises:
            ValueError: the message is wrong: no bundle, no such strategy, or not a selector for each bundle.
        """
        bundles = _bundles_of(message.bundles, message.selectors)
        if message.strategy not in STRATEGIES or not bundles:
            raise ValueError(f"{short(process)} asks for {len(bundles)} bundles by {message.strategy!r}")
        group = self._groups.get(message.group)
        if group is None and message.group not in self._removed:
            key = (message.namespace, message.name)
            if message.name and key in self._names:
                self._sends.append(Send(process, m.PlacementGroups(message.request, error=self._why_taken(key))))
                self._flush()
                return
            group = self._groups[message.group] = Group(job, message, bundles, now_s)
            if message.name:
                self._names[key] = group.id
            self._changed[group.id] = group
            self._waiting[group.id] = group
            self._try_to_place([group], now_s)
        report = group.report() if group is not None else self._removed[message.group]
        self._sends.append(Send(process, m.PlacementGroups(message.request, [report])))
        self._flush()

    def remove(self, process: bytes, message: m.RemovePlacementGroup, now_s: float) -> None:
        """End the group, whatever its state, and answer."""
        group = self._groups.get(message.group)
        if group is not None:
            self._remove(group, "it was removed by remove_placement_group()")
        self._sends.append(Send(process, m.PlacementGroups(message.request)))
        self._flush()

    def find(self, process: bytes, message: m.FindPlacementGroups) -> None:
        """Answer with the group that is meant, or with all."""
        error = ""
        reports: list[m.PlacementGroupReport] = []
        if message.name:
            holder = self._names.get((message.namespace, message.name))
            if holder is None:
                error = f"there is no placement group named {message.name!r} in namespace {message.namespace!r}"
            else:
                reports.append(self._groups[holder].report())
        elif message.group:
            group = self._groups.get(message.group)
            report = group.report() if group is not None else self._removed.get(message.group)
            reports += [report] if report is not None else []
        else:
            reports = self.reports()
        self._sends.append(Send(process, m.PlacementGroups(message.request, reports, error)))
        self._flush()

    def watch(self, process: bytes, group_id: bytes) -> None:
        """Tell the process the state of the group, now and at every change."""
        group = self._groups.get(group_id)
        if group is not None:
            group.watchers[process] = None
            state = group.state_message()
        else:
            state = m.PlacementGroupState(group_id, m.REMOVED, self.why_removed(group_id))
        self._sends.append(Send(process, state))
        self._flush()

    def watcher_gone(self, process: bytes) -> None:
        """It watches nothing any more."""
        for group in self._groups.values():
            group.watchers.pop(process, None)

    def job_ended(self, job: bytes) -> None:
        """Remove the job's groups but the detached ones."""
        for group in [group for group in self._groups.values() if group.job == job and not group.detached]:
            self._remove(group, "its job ended")
        self._flush()

    # ------------------------------------------------------------------ what nodes report

    def node_changed(
        self,
        node: bytes,
        total: Mapping[str, int],
        available: Mapping[str, int],
        labels: Mapping[str, str],
        now_s: float,
    ) -> None:
        """The node is there, and has this in all and free; what waits is tried again."""
        self._nodes[node] = NodeRoom(total, available, labels)
        self._try_to_place(list(self._waiting.values()), now_s)
        self._flush()

    def node_died(self, node: bytes, now_s: float) -> None:
        """Its bundles are to be placed elsewhere. Nothing happens when it was dead already."""
        self._nodes.pop(node, None)
        for group in list(self._groups.values()):
            if group.on_node(node):
                self._lose_node(group, node)
        for group in self._groups.values():
            for watcher in [watcher for watcher in group.watchers if watcher[: len(node)] == node]:
                del group.watchers[watcher]
        self._try_to_place(list(self._waiting.values()), now_s)
        self._flush()

    def answered(self, node: bytes, message: m.BundlesAnswer, now_s: float) -> None:
        """The node has held, refused or committed bundles. An answer to an attempt that is over is passed over."""
        room = self._nodes.get(node)
        if room is not None:
            self._nodes[node] = NodeRoom(room.total, message.available, room.labels)
        group = self._groups.get(message.group)
        indices = group.of_attempt(message.attempt, node) if group is not None else []
        if group is not None and indices:
            if message.outcome == m.RESERVED:
                self._held(group, indices, message.attempt)
            elif message.outcome == m.COMMITTED:
                self._in_place(group, indices, now_s)
            else:
                self._unplace(group, indices)
                self._give_up_attempt(group)
                group.pause(now_s, FIRST_RETRY_S, LONGEST_RETRY_S)
            self._changed[group.id] = group
        self._try_to_place(list(self._waiting.values()), now_s)
        self._flush()

    def tick(self, now_s: float) -> None:
        """Try those whose pause is over, and say of those that can never be placed why."""
        self._try_to_place(list(self._waiting.values()), now_s)
        for group in self._waiting.values():
            if group.is_infeasible and not group.was_told and now_s - group.waits_since_s >= TELL_AFTER_S:
                group.was_told = True
                self._tell(group)
        self._flush()

    def next_due_s(self) -> float | None:
        """When :meth:`tick` has something to do, or None."""
        due_s = [group.not_before_s for group in self._waiting.values() if group.not_before_s]
        due_s += [
            group.waits_since_s + TELL_AFTER_S
            for group in self._waiting.values()
            if group.is_infeasible and not group.was_told
        ]
        return min(due_s, default=None)

    # ------------------------------------------------------------------ what is stored, and told to people

    def rows(self) -> list[m.PlacementGroupRow]:
        """What :meth:`restore` needs; each change of it is a ``SaveGroup`` or ``ForgetGroup`` in the outbox, too."""
        return [group.row() for group in self._groups.values()]

    def restore(self, rows: Iterable[m.PlacementGroupRow], now_s: float) -> None:
        """Go on where the manager stood that stored these rows.

        What was being reserved is returned and tried anew; what was being committed is committed, again or at last.

        Raises:
            ValueError: there are groups already.
        """
        if self._groups:
            raise ValueError(f"{self!r} cannot be restored: it has groups")
        for row in rows:
            group = Group.of_row(row, _bundles_of(row.bundles, row.selectors), now_s)
            self._groups[group.id] = group
            if group.name:
                self._names[group.namespace, group.name] = group.id
            for attempt, node in sorted(group.committing()):
                self._sends.append(SendNode(node, m.CommitBundles(group.id, attempt)))
            if group.has_attempt:
                self._changed[group.id] = group
            for node, units in _asked_of(group, range(len(group.places))):
                self._asked.add(node, units)
            self._give_up_attempt(group)
        self._flush()

    def reports(self) -> list[m.PlacementGroupReport]:
        """All groups, those that were removed lately too, for tables."""
        return [*self._removed.values(), *(group.report() for group in self._groups.values())]

    def why_removed(self, group_id: bytes) -> str:
        """Why there is no such group."""
        report = self._removed.get(group_id)
        return report.reason if report is not None else "it was removed long ago, or belongs to another session"

    @property
    def has_waiting(self) -> bool:
        """Whether a group waits for room."""
        return bool(self._waiting)

    # ------------------------------------------------------------------ placing

    def _try_to_place(self, groups: list[Group], now_s: float) -> None:
        """Start attempts for those that fit now, in this order. Equal groups without room are looked at once."""
        refused: dict[object, NoRoom] = {}
        for group in groups:
            if now_s < group.not_before_s or group.id not in self._waiting:
                continue
            group.not_before_s = 0.0
            key = group.shape()
            found: dict[int, bytes] | NoRoom | None = refused.get(key)
            if found is None:
                occupied = [place.node for place in group.places if place.node]
                found = choose_nodes(group.unplaced(), group.strategy, self._rooms(), occupied)
            group.scheduling_attempts += 1
            if isinstance(found, NoRoom):
                refused[key] = found
                group.reason, group.is_infeasible = found.reason, found.is_never
                group.waits_since_s = group.waits_since_s or now_s
            else:
                self._begin_attempt(group, found, now_s)

    def _begin_attempt(self, group: Group, chosen: Mapping[int, bytes], now_s: float) -> None:
        group.begin(chosen, now_s)
        del self._waiting[group.id]
        for node, asked in _asked_of(group, chosen):
            self._asked.add(node, asked)
        for node in sorted(set(chosen.values())):
            units = {index: dict(group.bundles[index].units) for index in sorted(chosen) if chosen[index] == node}
            self._sends.append(SendNode(node, m.ReserveBundles(group.id, group.attempt, units)))
        self._changed[group.id] = group

    def _rooms(self) -> dict[bytes, NodeRoom]:
        """What nodes have free, without what they are asked to hold at this moment."""
        return {node: self._asked.without(node, room) for node, room in self._nodes.items()}

    def _held(self, group: Group, indices: list[int], attempt: int) -> None:
        self._not_asked_any_more(group, indices)
        group.move(indices, m.RESERVING, m.HELD)
        together = group.of_attempt(attempt)
        if all(group.places[index].phase == m.HELD for index in together):
            group.move(together, m.HELD, m.COMMITTING)
            for node in sorted({group.places[index].node for index in together}):
                self._sends.append(SendNode(node, m.CommitBundles(group.id, attempt)))

    def _in_place(self, group: Group, indices: list[int], now_s: float) -> None:
        group.move(indices, m.COMMITTING, m.IN_PLACE)
        if all(place.phase == m.IN_PLACE for place in group.places) and group.state != m.CREATED:
            group.created(now_s)
            self._tell(group)

    def _give_up_attempt(self, group: Group) -> None:
        """Return what is held or being reserved, and wait, if a bundle has no place."""
        held = [index for index, place in enumerate(group.places) if place.phase in (m.RESERVING, m.HELD)]
        for node in sorted({group.places[index].node for index in held}):
            there = [index for index in held if group.places[index].node == node]
            self._sends.append(SendNode(node, m.ReturnBundles(group.id, there)))
        self._unplace(group, held)
        if group.unplaced():
            self._waiting[group.id] = group

    def _unplace(self, group: Group, indices: list[int]) -> None:
        self._not_asked_any_more(group, indices)
        group.unplace(indices)

    def _not_asked_any_more(self, group: Group, indices: Iterable[int]) -> None:
        """Those of the bundles whose node has not answered are about to be held, or to lose their place."""
        for node, units in _asked_of(group, indices):
            self._asked.take_back(node, units)

    def _lose_node(self, group: Group, node: bytes) -> None:
        self._unplace(group, group.on_node(node))
        self._give_up_attempt(group)
        if any(place.node for place in group.places) or group.state == m.CREATED:
            has_changed = group.state != m.RESCHEDULING
            group.state = m.RESCHEDULING
            group.reason = f"node {short(node)}, which had bundles of it, has died"
            if has_changed:
                self._tell(group)
        self._changed[group.id] = group

    def _remove(self, group: Group, reason: str) -> None:
        nodes = sorted({place.node for place in group.places if place.node})
        self._not_asked_any_more(group, range(len(group.places)))
        group.state = m.REMOVED
        group.reason = reason
        self._tell(group)
        text = f"its placement group {group.describe()} is gone: {reason}"
        self._sends += [SendNode(node, m.ReturnBundles(group.id, [], text)) for node in nodes]
        del self._groups[group.id]
        self._waiting.pop(group.id, None)
        if group.name:
            del self._names[group.namespace, group.name]
        self._changed[group.id] = None
        self._removed[group.id] = group.report()
        if len(self._removed) > REMEMBERED_REMOVED:
            del self._removed[next(iter(self._removed))]

    # ------------------------------------------------------------------ saying

    def _why_taken(self, key: tuple[str, str]) -> str:
        return (
            f"the name {key[1]!r} is taken in namespace {key[0]!r} by {self._groups[self._names[key]]!r}: choose "
            "another name, or use get_placement_group() to get that group"
        )

    def _tell(self, group: Group) -> None:
        message = group.state_message()
        self._sends += [Send(watcher, message) for watcher in group.watchers]

    def _flush(self) -> None:
        """Rows first: what others are told must not be forgotten."""
        for group_id, group in self._changed.items():
            self.outbox.append(SaveGroup(group.row()) if group is not None else ForgetGroup(group_id))
        self._changed.clear()
        self.outbox += self._sends
        self._sends.clear()

    def validate(self) -> None:
        """
        Raises:
            AssertionError: names, nodes and states do not agree with the groups.
        """
        named = {(group.namespace, group.name): group.id for group in self._groups.values() if group.name}
        assert named == self._names, f"{self!r}: names"
        assert not self._groups.keys() & self._removed.keys(), f"{self!r}: removed and there"
        asked = AskedAmounts()
        for group in self._groups.values():
            group.validate()
            for node, units in _asked_of(group, range(len(group.places))):
                asked.add(node, units)
            waits = bool(group.unplaced()) and not group.has_attempt
            assert waits == (group.id in self._waiting), f"{group!r}: waiting"
        assert self._asked == asked, f"{self!r}: {self._asked!r} is to be {asked!r}"
        assert not self._changed, f"{self!r}: not saved"
        assert not self._sends, f"{self!r}: not said"

    def __iter__(self) -> Iterator[Group]:
        return iter(self._groups.values())

    def __repr__(self) -> str:
        return f"<PlacementGroupManager {list(self._groups.values())}, {len(self._nodes)} nodes>"


def _asked_of(group: Group, indices: Iterable[int]) -> list[tuple[bytes, Mapping[str, int]]]:
    """The nodes that are asked for bundles with these indices, and for what."""
    return [
        (group.places[index].node, group.bundles[index].units)
        for index in indices
        if group.places[index].phase == m.RESERVING
    ]


def _bundles_of(bundles: list[dict[str, int]], selectors: list[str]) -> list[BundleRequest]:
    if selectors and len(selectors) != len(bundles):
        raise ValueError(f"there are {len(selectors)} selectors for {len(bundles)} bundles")
    texts = selectors or [""] * len(bundles)
    return [BundleRequest(units, decode_strategy(text).labels) for units, text in zip(bundles, texts, strict=True)]
