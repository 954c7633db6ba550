"""Each rule of the protocol, switched off: some story or seed must then break. Otherwise nothing tests the rule."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from remora.base.ids import NodeId, ObjectId, ProcessId
from remora.base.object_ref import PENDING
from remora.core.counting.carriers import ArrivedItem, Carrier, CountedRef, OpenCall
from remora.core.counting.directory import Directory
from remora.core.counting.entries import Entry
from remora.core.counting.parking import DropRequest, HoldRequest, KeepRequest, Request
from remora.core.counting.process import ProcessRefs
from remora.core.counting.vocabulary import Hold, LetGo, Send, home_of, is_process
from remora.messages import counting as m
from remora.messages.objects import Value
from remora.messages.tasks import Task
from remora.testing.counting_client import SimulatedClient
from remora.testing.counting_mutants import Mutant
from remora.testing.counting_parts import End
from remora.testing.counting_world import World

STORIES = Path(__file__).parent / "stories"


class Unchecked(ProcessRefs):
    """Its own invariants must not be what catches it."""

    def validate(self) -> None:
        pass


# Rules of the process


class ReleasesWhileRegistering(Unchecked):
    def _weigh(self, ref: CountedRef) -> None:
        if not ref.is_wanted and ref.hold is Hold.ASKED:
            ref.hold = Hold.HELD
        super()._weigh(ref)

    def acknowledged(self, ids: Iterable[ObjectId], ok: bool) -> None:
        super().acknowledged(
            [object_id for object_id in ids if object_id in self._refs and self._refs[object_id].hold is Hold.ASKED], ok
        )


class DoesNotAwaitPublications(Unchecked):
    def _tell_value(self, message: m.Publish | m.Resolve) -> None:
        self.outbox.append(Send(b"", message))

    def publish_acknowledged(self, ids: Iterable[ObjectId]) -> None:
        pass


class LetsArgumentsGoWhenTheReplyArrives(Unchecked):
    def reply_received(self, worker: ProcessId, call: int, *args: Any, **more: Any) -> None:
        super().reply_received(worker, call, *args, **more)
        self.outbox.append(LetGo(worker, call))


class LetsArgumentsGoBeforeTheClose(Unchecked):
    def _settle(self, opened: OpenCall) -> None:
        super()._settle(opened)
        if opened.replied and not opened.closed:
            self.outbox.append(LetGo(opened.worker, opened.call))


class ReleasesContainersFirst(Unchecked):
    def _may_release(self, ref: CountedRef) -> bool:
        return True


class CoversByContainersThatAreCoveredThemselves(Unchecked):
    def _cover_as_unpacked(self, ref: CountedRef, container: CountedRef) -> None:
        ref.take_out_of(container)


class ExcusesByOtherCovers(Unchecked):
    def _may_close(self, carrier: Carrier) -> bool:
        refs = [self._refs[object_id] for object_id in carrier.ids]
        return self._all_safe(ref for ref in refs if not set(ref.covers or ()) - {carrier})


class ClosesTasksWithoutRegistering(Unchecked):
    def task_ended(self, *args: Any, **more: Any) -> bool:
        super().task_ended(*args, **more)
        return True

    def _reconsider(self, carrier: Carrier) -> None:
        pass


class AcknowledgesRepliesWithoutRegistering(Unchecked):
    def reply_received(
        self, worker: ProcessId, call: int, contents: Iterable[ObjectId] = (), *args: Any, **more: Any
    ) -> None:
        if contents:
            self.outbox.append(Send(worker, m.ItemAck(call, -1)))
        super().reply_received(worker, call, contents, *args, **more)

    def item_acked(self, submitter: ProcessId, call: int, item: int) -> None:
        if item >= 0 or (submitter, call, item) in self._unacknowledged:
            super().item_acked(submitter, call, item)

    def reply_acked(self, submitter: ProcessId, call: int) -> None:
        if (submitter, call, -1) in self._unacknowledged:
            super().reply_acked(submitter, call)


class DoesNotKeepResults(Unchecked):
    def _keep_until_acknowledged(self, *args: Any) -> None:
        pass

    def _acknowledge(self, key: tuple[ProcessId, int, int]) -> None:
        pass


class DoesNotCoverWhatComesBackFromItsArguments(Unchecked):
    def _cover_arrived(self, contents: Iterable[ObjectId], opened: OpenCall | None, carrier: Carrier) -> bool:
        listed = opened.listed if opened is not None else frozenset[ObjectId]()
        return super()._cover_arrived([object_id for object_id in contents if object_id not in listed], opened, carrier)

    def appeared(self, ids: Iterable[ObjectId]) -> None:
        for object_id in ids:
            self._ref(object_id).instances += 1


class AcknowledgesItemsAtOnce(Unchecked):
    def _acknowledge_item(self, carrier: ArrivedItem) -> None:
        if self._items.pop(carrier, True) is None:
            self.outbox.append(Send(carrier.worker, m.ItemAck(carrier.call, carrier.item)))


class KeepsCopiesOfDeadWorkers(Unchecked):
    def peer_died(self, peer: ProcessId) -> None:
        super().peer_died(peer)
        self.outbox = [e for e in self.outbox if not (isinstance(e, Send) and isinstance(e.message, m.DropUnclaimed))]


class KeepsUnwantedCopies(Unchecked):
    def drop_copy(self, object_id: ObjectId, writer: ProcessId) -> None:
        pass


class CountsOnlyTheFirstBirth(Unchecked):
    def appeared(self, ids: Iterable[ObjectId]) -> None:
        super().appeared([object_id for object_id in ids if not self._ref(object_id).instances])


class LendsItsHandleWithoutHoldingIt(Unchecked):
    own_actor_is_lent = False  # type: ignore[assignment]

    def _register_own_actor(self) -> None:
        pass


# Rules of the home


class ParksUntilPublished(Directory):
    def _park(self, asked: bytes, request: Request) -> bool:
        if asked in self._processes:
            self._parking.park(ProcessId(asked), request)
        return asked in self._processes


class SendsOnePingForAll(Directory):
    def _park(self, asked: bytes, request: Request) -> bool:
        sent = len(self.outbox)
        first = not self._parking._of_process.get(ProcessId(asked))
        parked = super()._park(asked, request)
        if not first:
            del self.outbox[sent:]
        return parked

    def pong(self, process: ProcessId, message: m.Pong) -> None:
        super().pong(process, m.Pong(1 << 60))


class ResolvesWhatIsFreed(Directory):
    def resolve(self, process: ProcessId, message: m.Resolve) -> None:
        object_id = ObjectId(message.id)
        if object_id not in self._entries:
            self._entries[object_id] = Entry(process, Value(PENDING))
            self._entries[object_id].holders.clear()
            self._pending[object_id] = None
        super().resolve(process, message)

    def validate(self) -> None:
        pass


class CountsAnObjectForItself(Directory):
    def _set_value(self, object_id: ObjectId, entry: Entry, value: Value, sender: ProcessId, writer: bytes) -> None:
        super()._set_value(object_id, entry, value, sender, writer)
        if object_id in value.contents:
            entry.holders[object_id] = None


class DoesNotSync(Directory):
    def node_reconnected(self, node: NodeId) -> None:
        self._void_requests_of(node)


class ForgetsPublishersOfFreedContainers(Directory):
    def _freed(self, object_id: ObjectId, entry: Entry) -> None:
        entry.acknowledge = None
        super()._freed(object_id, entry)


class NobodyKeepsCopiesAtFirst(Directory):
    def store(self, process: ProcessId, message: m.Store) -> None:
        super().store(process, message)
        if (message.id, process) in self._copies and not message.keeper:
            self._copies._copies[message.id, process][1].pop(process, None)

    def validate(self) -> None:
        pass


class AnswersWhenTheValueIsThere(Directory):
    def _answer(self, object_id: ObjectId, holder: bytes, ok: bool) -> None:
        entry = self._entries.get(object_id)
        if entry is not None and entry.value.state == PENDING and is_process(holder):
            self.late = [*getattr(self, "late", ()), (object_id, holder)]
        else:
            super()._answer(object_id, holder, ok)

    def _wake(self, object_id: ObjectId, entry: Entry) -> None:
        super()._wake(object_id, entry)
        late: list[tuple[ObjectId, bytes]] = getattr(self, "late", [])
        self.late = [request for request in late if request[0] != object_id]
        for _, holder in [request for request in late if request[0] == object_id]:
            super()._answer(object_id, holder, ok=True)


class AsksDeadNodes(Directory):
    def _hold(self, object_id: ObjectId, member: bytes) -> None:
        if home_of(object_id) in self._dead_nodes:
            self._foreign.setdefault(object_id, {})[member] = Hold.ASKED
            self._note_held(member, object_id)
        else:
            super()._hold(object_id, member)


class AcknowledgesContainersAtOnce(Directory):
    def _acknowledge_publication(self, object_id: ObjectId, entry: Entry) -> None:
        if entry.acknowledge is not None:
            self._list(entry.acknowledge, m.PublishAck, object_id)
            entry.acknowledge = None


class DropsContentsWithTheirContainerOnlyHere(Directory):
    def _drop_here(self, object_id: ObjectId, holder: bytes) -> list[ObjectId]:
        return [content for content in super()._drop_here(object_id, holder) if home_of(content) == self.node]


class DoesNotUnpark(Directory):
    def _drop_here(self, object_id: ObjectId, holder: bytes) -> list[ObjectId]:
        parking, self._parking = self._parking, type(self._parking)()
        try:
            return super()._drop_here(object_id, holder)
        finally:
            self._parking = parking


class DropsUnknownCopiesAtOnce(Directory):
    def _drop_copy(self, request: DropRequest, final: bool = False) -> None:
        super()._drop_copy(request, final=True)


class LosesUnknownCopiesAtOnce(Directory):
    def _keep_copy(self, request: KeepRequest, final: bool = False) -> None:
        super()._keep_copy(request, final=True)


class TakesDeadHolders(Directory):
    def _may_hold(self, holder: bytes) -> bool:
        return True

    def process_ended(self, process: ProcessId, now_s: float, at_once: bool) -> None:
        parked = [
            (asked, request)
            for asked, request in self._parking._parked.values()
            if asked != process and isinstance(request, HoldRequest)
        ]
        super().process_ended(process, now_s, at_once)
        for asked, request in parked:
            self._parking.park(asked, request)


# Rules of the shells


class HearsOfDeathsBeforeTheLastWords(World):
    def _enqueue(self, sender: bytes, to: bytes, message: msgspec.Struct) -> None:
        super()._enqueue(sender, to, message)
        if isinstance(message, End) and to in self.directories:
            self.channels[sender, to].rotate(1)

    def _daemon_receives(self, node: NodeId, sender: bytes, message: msgspec.Struct) -> None:
        directory = self.directories[node]
        if sender in self.clients and sender not in directory._processes:
            directory._processes[ProcessId(sender)] = ProcessId(sender)
            super()._daemon_receives(node, sender, message)
            del directory._processes[ProcessId(sender)]
        else:
            super()._daemon_receives(node, sender, message)
            directory.tick(self.now_s)


class CapturedRefsAreNoArguments(World):
    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        for client in self.clients.values():
            client.__class__ = _CapturesUnheld


class _CapturesUnheld(SimulatedClient):
    def submit(
        self, worker: ProcessId, nested: Iterable[ObjectId] = (), top_level: Iterable[ObjectId] = ()
    ) -> tuple[int, ObjectId]:
        refs = tuple(nested)
        for object_id in refs:
            self.escape(object_id)
        send, self.network = self.network.send, _Captured(self.network, refs)
        try:
            return super().submit(worker, (), top_level)
        finally:
            self.network = send.__self__  # type: ignore[attr-defined]


class _Captured:
    """Puts refs into tasks that their submitter does not hold as arguments."""

    def __init__(self, network: Any, refs: tuple[ObjectId, ...]) -> None:
        self.network = network
        self.refs = refs
        self.actors = network.actors

    def send(self, sender: bytes, to: bytes, message: msgspec.Struct) -> None:
        if isinstance(message, Task):
            message = msgspec.structs.replace(message, refs=self.refs)
        self.network.send(sender, to, message)


MUTANTS = [
    Mutant(ReleasesWhileRegistering, "aba-local aba-remote"),
    Mutant(DoesNotAwaitPublications, "repack-keep repack"),
    Mutant(LetsArgumentsGoWhenTheReplyArrives, "keep return-arg"),
    Mutant(LetsArgumentsGoBeforeTheClose, "keep"),
    Mutant(ReleasesContainersFirst, "unpack-held unpack4"),
    Mutant(CoversByContainersThatAreCoveredThemselves, "unpack-ing"),
    Mutant(ExcusesByOtherCovers, "two-covers"),
    Mutant(ClosesTasksWithoutRegistering, "keep"),
    Mutant(AcknowledgesRepliesWithoutRegistering, "return-new"),
    Mutant(DoesNotKeepResults, "return-new"),
    Mutant(DoesNotCoverWhatComesBackFromItsArguments, "inlined-and-returned"),
    Mutant(AcknowledgesItemsAtOnce, "generator"),
    Mutant(KeepsCopiesOfDeadWorkers, "big-local", "kill"),
    Mutant(KeepsUnwantedCopies, "big big-local"),
    Mutant(CountsOnlyTheFirstBirth, "keep aba-local twice"),
    Mutant(LendsItsHandleWithoutHoldingIt, "actor-lends-itself"),
    Mutant(ParksUntilPublished, "keep two-unknown"),
    Mutant(SendsOnePingForAll, "two-unknown-late"),
    Mutant(ResolvesWhatIsFreed, "pending-drop"),
    Mutant(CountsAnObjectForItself, "self"),
    Mutant(DoesNotSync, "keep", "cut"),
    Mutant(ForgetsPublishersOfFreedContainers, "pending-drop big"),
    Mutant(NobodyKeepsCopiesAtFirst, "big", "kill"),
    Mutant(AnswersWhenTheValueIsThere, "pending-wait"),
    Mutant(AsksDeadNodes, "orphan pass-on", "kill"),
    Mutant(AcknowledgesContainersAtOnce, "repack repack-keep"),
    Mutant(DropsContentsWithTheirContainerOnlyHere, "repack-keep"),
    Mutant(DoesNotUnpark, "container-freed-early"),
    Mutant(DropsUnknownCopiesAtOnce, "big-local"),
    Mutant(LosesUnknownCopiesAtOnce, "big-local"),
    Mutant(TakesDeadHolders, "dead-before-published"),
    Mutant(HearsOfDeathsBeforeTheLastWords, "last-words"),
    Mutant(CapturedRefsAreNoArguments, "function"),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.part.__name__)
def test_a_rule_switched_off_is_caught(mutant: Mutant) -> None:
    assert mutant.break_something(STORIES) is not None
