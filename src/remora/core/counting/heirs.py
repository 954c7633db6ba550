"""Being the heir of a dead home: its entries are made anew from what all living nodes report.

The heir waits for the report of every node that lives, makes the entries, frees those that nobody holds, and only then
looks at what the nodes said after their reports. Until then its own processes are treated like those of other nodes:
what they say of such an id stands in the lists of what this node holds and asks for elsewhere.
"""

from __future__ import annotations

from collections import deque

import msgspec

from remora.base.ids import NodeId, ObjectId, process_of, short
from remora.base.object_ref import PENDING
from remora.core.counting.entries import NO_CONTENTS, DescribeLoss, Entry, LossReason
from remora.core.counting.parking import GetRequest
from remora.core.counting.rebuilding import Picture, Rebuild, join, stored_entry
from remora.core.counting.reporting import Reporting
from remora.core.counting.vocabulary import CountingError, Hold, home_of, is_container
from remora.messages.copies import FreeCopies, HomeReport
from remora.messages.objects import Value

REBUILT = b"rebuilt"
"""Holds every new entry while the heir makes them all."""


class Heirs(Reporting):
    """All but processes and exports. :class:`~remora.core.counting.directory.Directory` is the whole."""

    def __init__(self, node: NodeId, describe_loss: DescribeLoss) -> None:
        super().__init__(node, describe_loss)
        self._early: dict[NodeId, list[tuple[NodeId, HomeReport]]] = {}
        """Reports about nodes of whose death this one has not heard."""
        self._held_back: dict[NodeId, deque[msgspec.Struct]] = {}
        """Per node that has reported: what it said after that, while a rebuild goes on."""
        self._node_handlers[HomeReport] = self.home_report

    def node_message(self, node: NodeId, message: msgspec.Struct) -> None:
        """A message of another node's daemon. Those of nodes that were declared dead are ignored.

        Raises:
            CountingError: the node speaks for another one, or says what no daemon says.
        """
        if node in self._dead_nodes:
            return
        if node in self._held_back and type(message) is not HomeReport:
            self._held_back[node].append(message)
        else:
            super().node_message(node, message)

    def home_report(self, node: NodeId, message: HomeReport) -> None:
        dead = NodeId(message.node)
        rebuild = self._rebuilds.get(dead)
        if rebuild is not None:
            self._take_report(rebuild, node, message)
            self._rebuild_if_complete(dead)
        elif dead not in self._dead_nodes:
            self._early.setdefault(dead, []).append((node, message))
            self._held_back.setdefault(node, deque())

    # Waiting for reports

    def _begin_succession(self, dead: NodeId, heir: NodeId, now_s: float) -> None:
        early = self._early.pop(dead, ())
        if heir == self.node:
            self._rebuilds[dead] = Rebuild(self._alive_nodes)
            for node, report in early:
                self._take_report(self._rebuilds[dead], node, report)
        super()._begin_succession(dead, heir, now_s)
        self._forget_reporter(dead)

    def _take_report(self, rebuild: Rebuild, node: NodeId, report: HomeReport) -> None:
        if any(node == reporter for reporter, _ in rebuild.reports):
            raise CountingError(f"node {short(node)} reports twice about {short(report.node)}")
        rebuild.awaited.discard(node)
        rebuild.reports.append((node, report))
        if node != self.node:
            self._held_back.setdefault(node, deque())

    def _forget_reporter(self, dead: NodeId) -> None:
        """The node reports no more; of what it reported only what it had for containers still counts."""
        self._held_back.pop(dead, None)
        for reports in self._early.values():
            reports[:] = [(node, report) for node, report in reports if node != dead]
        for home, rebuild in list(self._rebuilds.items()):
            rebuild.awaited.discard(dead)
            rebuild.reports = [
                (node, self._without_processes(report) if node == dead else report) for node, report in rebuild.reports
            ]
            self._rebuild_if_complete(home)

    def _without_processes(self, report: HomeReport) -> HomeReport:
        held = [(object_id, holder) for object_id, holder in report.held if is_container(holder)]
        return HomeReport(report.node, held, [], [], report.contained)

    def _rebuild_if_complete(self, dead: NodeId) -> None:
        rebuild = self._rebuilds[dead]
        if rebuild.awaited:
            return
        rebuild.reports.append((self.node, self._make_report(dead, [])))
        del self._rebuilds[dead]
        self._in_flux.discard(dead)
        self._rebuild(dead, rebuild)
        if not self._rebuilds and not self._early:
            held_back, self._held_back = self._held_back, {}
            for node, messages in held_back.items():
                for message in messages:
                    self.node_message(node, message)

    # Making entries

    def _rebuild(self, dead: NodeId, rebuild: Rebuild) -> None:
        """Make the entries of all ids for which the dead node answered."""
        pictures = join(rebuild.reports)
        numbers = set(self._range(dead))
        asked_here = [
            (object_id, member)
            for object_id, members in list(self._foreign.items())
            if home_of(object_id) in numbers
            for member, hold in self._foreign.pop(object_id).items()
            if hold is Hold.ASKED
        ]
        for object_id, picture in pictures.items():
            self._entries[object_id] = self._new_entry(object_id, picture)
        for object_id, picture in pictures.items():
            self._fill(object_id, self._entries[object_id], picture, dead)
        for object_id, member in asked_here:
            self._answer(object_id, member, ok=True)
        self._serve_own(numbers)
        self._drop(pictures, REBUILT)

    def _new_entry(self, object_id: ObjectId, picture: Picture) -> Entry:
        entry = Entry(process_of(object_id), Value(PENDING))
        holders = [
            holder for holder in picture.holders if is_container(holder) or home_of(holder) not in self._dead_nodes
        ]
        entry.holders = dict.fromkeys([REBUILT, *holders])
        return entry

    def _fill(self, object_id: ObjectId, entry: Entry, picture: Picture, dead: NodeId) -> None:
        """Find the entry's value, hold what is in it, and let go of copies and contents that are not its."""
        writer = picture.writer()
        value = picture.value()
        if writer is not None:
            stored_entry(entry, picture, writer, dead)
        elif value is not None:
            entry.value = value
        else:
            entry.value = self._lost(object_id, LossReason.NODE_DIED, dead)
        self._let_others_go(object_id, entry, picture, writer)
        self._hold_contents(object_id, entry, picture)
        if writer is not None:
            self._settle_copies(object_id, entry)
        self._wake(object_id, entry)

    def _let_others_go(self, object_id: ObjectId, entry: Entry, picture: Picture, writer: bytes | None) -> None:
        """Copies that are not those of the value; who waits for one is served again."""
        for node, copy in picture.copies:
            if copy.writer == writer:
                continue
            if copy.kept:
                self._unkeep(object_id, node, copy.writer)
            elif copy.whole:
                self._list_or_do(node, FreeCopies, object_id)
            else:
                entry.waiters = entry.waiters or {}
                entry.waiters[node] = 0

    def _hold_contents(self, object_id: ObjectId, entry: Entry, picture: Picture) -> None:
        contents = [ObjectId(content) for content in dict.fromkeys(entry.value.contents) if content != object_id]
        entry.contents = dict.fromkeys(contents, Hold.ASKED) if contents else NO_CONTENTS
        entry.asked = len(contents)
        for content in picture.inside_of:
            if self._home(content) != self.node:
                self._foreign.setdefault(content, {})[object_id] = Hold.HELD
            if content in entry.contents:
                self._contents_answered(object_id, content, ok=True)
            else:
                self._drop([content], object_id)
        for content in contents:
            if content not in picture.inside_of:
                self._hold(content, object_id)

    def _settle_copies(self, object_id: ObjectId, entry: Entry) -> None:
        """A kept copy is the primary one now, or one that was not kept is asked to be."""
        spread, location = entry.spread, entry.value.location
        assert spread is not None
        assert location is not None
        primary = next((node for node in spread.kept if node not in self._dead_nodes), None)
        if primary is None:
            self._promote(object_id, entry)
        else:
            self._take_place(object_id, entry, primary)
            self._keep_enough(object_id, entry)

    def _serve_own(self, numbers: set[NodeId]) -> None:
        """Processes of this node that wait for values of these ids: now their home is here."""
        for object_id, purpose in self._awaited_values(numbers):
            self._get(GetRequest(object_id, self.node, purpose))
