"""When a home dies: its heir is told by all living nodes what they have of its ids, and answers for its number.

The head declares a node dead once, and names the heir. Then every node asks its processes what they know (bounded in
time), and reports to the heir: what its members hold or asked for, the copies it has, the values its processes know,
and what its own objects are held by. Until then it sends nothing about these ids; after it everything goes to the heir.
The heir waits for the report of every node that lives, makes new entries, frees those that nobody holds, and only then
looks at what came after the reports. When the heir dies, the next one is told all of it again.

Until the entries are made the heir's own processes are treated like those of the other nodes: what they say of such an
id stands in the lists of what this node holds and asks for elsewhere, and nothing is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import msgspec

from remora.base.ids import NodeId, ObjectId, ProcessId, process_of, short
from remora.base.object_ref import PENDING, STORED
from remora.core.counting.entries import NO_CONTENTS, DescribeLoss, Entry, LossReason
from remora.core.counting.other_nodes import OtherNodes
from remora.core.counting.parking import GetRequest
from remora.core.counting.rebuilding import Picture, join, stored_entry
from remora.core.counting.vocabulary import NOBODY, CountingError, Hold, home_of, is_container
from remora.messages.copies import FreeCopies, HomeReport, ReportedCopy
from remora.messages.counting import NodeRegister
from remora.messages.objects import GetObjects, HomeDied, OfferValues, Value

OFFER_PATIENCE_S = 2.0
"""How long processes may take to say which values they know."""
REBUILT = b"rebuilt"
"""Holds every new entry while the heir makes them all."""


class Asking:
    """Processes of this node are asked what they know of a dead home's ids."""

    __slots__ = ("deadline_s", "processes", "values")

    def __init__(self, processes: Iterable[ProcessId], deadline_s: float) -> None:
        self.processes = set(processes)
        self.deadline_s = deadline_s
        self.values: list[tuple[bytes, Value]] = []


class Rebuild:
    """This node is the heir of a dead home, and waits for reports, its own included."""

    __slots__ = ("awaited", "reports", "values")

    def __init__(self, awaited: Iterable[NodeId]) -> None:
        self.awaited = set(awaited)
        self.reports: list[tuple[NodeId, HomeReport]] = []
        self.values: list[tuple[bytes, Value]] = []
        """What processes of this node know."""


class Heirs(OtherNodes):
    """All but the processes. :class:`~remora.core.counting.directory.Directory` is the whole."""

    def __init__(self, node: NodeId, describe_loss: DescribeLoss) -> None:
        super().__init__(node, describe_loss)
        self._asking: dict[NodeId, Asking] = {}
        """Per dead node of which this one has not reported."""
        self._rebuilds: dict[NodeId, Rebuild] = {}
        """Per dead node whose heir this is."""
        self._early: dict[NodeId, list[tuple[NodeId, HomeReport]]] = {}
        """Reports about nodes of whose death this one has not heard."""
        self._held_back: dict[NodeId, deque[msgspec.Struct]] = {}
        """Per node that has reported: what it said after that, while a rebuild goes on."""

    def node_message(self, node: NodeId, message: msgspec.Struct) -> None:
        """A message of another node's daemon. Those of nodes that were declared dead are ignored.

        Raises:
            CountingError: the node speaks for another one, or says what no daemon says.
        """
        if node in self._dead_nodes:
            return
        if type(message) is HomeReport:
            self._home_report(node, message)
        elif node in self._held_back:
            self._held_back[node].append(message)
        else:
            super().node_message(node, message)

    def deaths_before(self, heirs: dict[NodeId, NodeId]) -> None:
        """Told to a node that joins, before anything else: who died before, and the heir of each."""
        self._heirs |= heirs
        self._dead_nodes |= heirs.keys()

    def offer_values(self, process: ProcessId, message: OfferValues) -> None:
        """A process says what it knows of ids whose home died."""
        for node in message.nodes:
            asking = self._asking.get(NodeId(node))
            if asking is not None and process in asking.processes:
                asking.values += message.values
                self._asked(NodeId(node), asking, process)
                return

    # Death

    def _begin_succession(self, dead: NodeId, heir: NodeId, now_s: float) -> None:
        """The node is dead, and *heir* will answer for it and for all for which it answered."""
        for other in [other for other in self._asking if self._passes(other, dead)]:
            del self._asking[other]  # told to the dead node no more; the next heir is told all of it
        self._heirs[dead] = heir
        self._copies.inherit(dead, heir)
        for other in self._range(dead):
            self._in_flux.discard(other)
        self._in_flux.add(dead)
        for object_id in [object_id for object_id in self._resolving if self._home(object_id) == NOBODY]:
            self._resolved(object_id)
        self._forget_reporter(dead)
        early = self._early.pop(dead, ())
        if heir == self.node:
            self._rebuilds[dead] = Rebuild(self._alive_nodes)
            for node, report in early:
                self._take_report(self._rebuilds[dead], node, report)
        asking = self._asking[dead] = Asking(self._processes, now_s + OFFER_PATIENCE_S)
        for process in self._processes:
            self._tell(process, HomeDied(list[bytes](self._range(dead))))
        self._asked(dead, asking, None)

    def _range(self, dead: NodeId) -> list[NodeId]:
        """The numbers for which the node answered: its own, and those it was the heir of."""
        return [dead, *(other for other in self._heirs if other != dead and self._passes(other, dead))]

    def _passes(self, node: NodeId, through: NodeId) -> bool:
        while node in self._heirs and node != through:
            node = self._heirs[node]
        return node == through

    def _asked(self, dead: NodeId, asking: Asking, process: ProcessId | None) -> None:
        """One process less to wait for."""
        if process is not None:
            asking.processes.discard(process)
        if not asking.processes:
            self._report(dead)

    def _forget_asked_process(self, process: ProcessId) -> None:
        for dead, asking in list(self._asking.items()):
            self._asked(dead, asking, process)

    def _end_patience(self, now_s: float) -> None:
        for dead in [dead for dead, asking in self._asking.items() if asking.deadline_s <= now_s]:
            self._report(dead)

    # Reporting

    def _report(self, dead: NodeId) -> None:
        heir, values = self._heirs[dead], self._asking.pop(dead).values
        if heir == self.node:
            self._rebuilds[dead].values = values
            self._rebuilds[dead].awaited.discard(self.node)
            self._rebuild_if_complete(dead)
            return
        self._tell(heir, self._make_report(dead, values))
        self._in_flux.discard(dead)
        numbers = set(self._range(dead))
        for object_id, members in self._foreign.items():
            if home_of(object_id) in numbers:
                for member in [member for member, hold in members.items() if hold is Hold.ASKED]:
                    self._list(heir, NodeRegister, object_id, member)
        for object_id, purpose in self._awaited_values(numbers):
            self._list(heir, GetObjects, object_id, purpose)

    def _awaited_values(self, numbers: set[NodeId]) -> list[tuple[ObjectId, int]]:
        """What is asked for, or arriving, and for which purpose; it is asked for again."""
        awaited = {object_id: min(waiting.values()) for object_id, waiting in self._remote_gets.items()}
        awaited |= {object_id: copy.purpose for object_id, copy in self._local if copy.location is None}
        return [(object_id, purpose) for object_id, purpose in awaited.items() if home_of(object_id) in numbers]

    def _make_report(self, dead: NodeId, values: list[tuple[bytes, Value]]) -> HomeReport:
        """What this node knows of the ids for which the dead node answered."""
        numbers = set(self._range(dead))
        held = [
            (object_id, member)
            for object_id, members in self._foreign.items()
            if home_of(object_id) in numbers
            for member in members
        ]
        contained = [
            (holder, object_id)
            for object_id, entry in self._entries.items()
            for holder in entry.holders
            if is_container(holder) and home_of(holder) in numbers
        ]
        held += [
            (ObjectId(content), container)
            for container, content in self._contained_in_reports()
            if home_of(content) in numbers
        ]
        copies = [copy for copy in self._own_copies(dead) if home_of(copy.id) in numbers]
        return HomeReport(dead, list[tuple[bytes, bytes]](held), copies, values, list[tuple[bytes, bytes]](contained))

    def _contained_in_reports(self) -> Iterator[tuple[bytes, bytes]]:
        """What is held for objects whose entries this node is about to make."""
        for rebuild in self._rebuilds.values():
            for _, report in rebuild.reports:
                yield from report.contained

    def _own_copies(self, dead: NodeId) -> Iterator[ReportedCopy]:
        for object_id, local in self._local:
            whole = local.location is not None
            yield ReportedCopy(object_id, local.writer, local.value, whole, False, local.wanted, local.sources)
        for kept in self._copies.kept_for(self._heirs[dead]):
            value = Value(STORED, b"", kept.location, kept.contents)
            yield ReportedCopy(kept.id, kept.writer, value, whole=True, kept=True, wanted=kept.wanted)

    # Being the heir

    def _home_report(self, node: NodeId, message: HomeReport) -> None:
        dead = NodeId(message.node)
        rebuild = self._rebuilds.get(dead)
        if rebuild is not None:
            self._take_report(rebuild, node, message)
            self._rebuild_if_complete(dead)
        elif dead not in self._dead_nodes:
            self._early.setdefault(dead, []).append((node, message))
            self._held_back.setdefault(node, deque())

    def _take_report(self, rebuild: Rebuild, node: NodeId, report: HomeReport) -> None:
        if any(node == reporter for reporter, _ in rebuild.reports):
            raise CountingError(f"node {short(node)} reports twice about {short(report.node)}")
        rebuild.awaited.discard(node)
        rebuild.reports.append((node, report))
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
        rebuild.reports.append((self.node, self._make_report(dead, rebuild.values)))
        del self._rebuilds[dead]
        self._in_flux.discard(dead)
        self._rebuild(dead, rebuild)
        if not self._rebuilds and not self._early:
            held_back, self._held_back = self._held_back, {}
            for node, messages in held_back.items():
                for message in messages:
                    self.node_message(node, message)

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
