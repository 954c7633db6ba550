"""When a home dies: every node tells its heir what it has of its ids, and from then on everything.

The head declares a node dead once, and names the heir. Then every node asks its processes what they know (bounded in
time), and reports to the heir: what its members hold or asked for, the copies it has, the values its processes know,
and what its own objects are held by. Until then it sends nothing about these ids; what processes say meanwhile stands
in its lists, and so in the report. When the heir dies, the next one is told all of it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from remora.base.ids import NodeId, ObjectId, ProcessId
from remora.base.object_ref import STORED
from remora.core.counting.entries import DescribeLoss
from remora.core.counting.other_nodes import OtherNodes
from remora.core.counting.rebuilding import Rebuild
from remora.core.counting.vocabulary import NOBODY, Hold, home_of, is_container
from remora.messages.copies import HomeReport, ReportedCopy
from remora.messages.counting import NodeRegister
from remora.messages.objects import GetObjects, HomeDied, OfferValues, Value

OFFER_PATIENCE_S = 2.0
"""How long processes may take to say which values they know."""


class Asking:
    """Processes of this node are asked what they know of a dead home's ids."""

    __slots__ = ("deadline_s", "processes", "values")

    def __init__(self, processes: Iterable[ProcessId], deadline_s: float) -> None:
        self.processes = set(processes)
        self.deadline_s = deadline_s
        self.values: list[tuple[bytes, Value]] = []


class Reporting(OtherNodes):
    """What every node does when a home dies. :class:`~remora.core.counting.directory.Directory` is the whole."""

    def __init__(self, node: NodeId, describe_loss: DescribeLoss) -> None:
        super().__init__(node, describe_loss)
        self._asking: dict[NodeId, Asking] = {}
        """Per dead node of which this one has not reported."""
        self._rebuilds: dict[NodeId, Rebuild] = {}
        """Per dead node whose heir this is, until all have reported."""

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
            # The rest of what it knows is looked at when all others have reported: it may change until then.
            self._tell_node(heir, HomeReport(dead, [], [], values, []))
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
