"""What a driver or worker answers about itself: what runs, what waits, which refs and views live here."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING

import msgspec

from remora.base.call_sites import describe_site
from remora.base.ids import make_task_id
from remora.base.object_ref import STORED, ObjectRef
from remora.messages.inspection import CallCount, CallReport, DescribeYourself, HeldRef, PinnedObject, ProcessReport
from remora.processes.client.methods import ActorRecord
from remora.processes.client.pending import PendingCall

if TYPE_CHECKING:
    from remora.processes.client.client import Client

MAX_REFS = 50_000
"""More refs than this are counted and not listed, large objects first: it takes 1 us each, and calls wait meanwhile."""
MAX_CALLS = 50_000
"""More queued calls than this are counted and not told apart."""

_function_of = attrgetter("function")


def describe_process(client: Client, message: DescribeYourself) -> ProcessReport:
    """This process now. Any thread may ask; the lock is taken for as long as the listing takes."""
    running, received = client.running_calls()
    with client.lock:
        submitted = _Submitted(client, message.max_calls)
        if not message.with_objects:
            return _without_objects(message.number, running, received, submitted)
        # The daemon is to know, before this report, all that waits for the next look: young objects, then deaths.
        client.arena.drain()
        client.refs.drain()
        client.late_publications.flush()
        sites = _Sites()
        live = client.refs.live()
        if len(live) > MAX_REFS:
            live.sort(key=lambda ref: ref.state != STORED)
        lines = _lines_of_arguments(submitted.records)
        refs = [
            HeldRef(ref.id, sites.index_of_text(lines[ref.id]) if ref.id in lines else sites.index_of(ref.site))
            for ref in live[:MAX_REFS]
        ]
        pins = _pinned(client)
        private_bytes = client.values.inline_budget.held_bytes
    omitted_refs = max(0, len(live) - MAX_REFS)
    return msgspec.structs.replace(
        _without_objects(message.number, running, received, submitted),
        sites=sites.texts,
        refs=refs,
        pins=pins,
        omitted_refs=omitted_refs,
        private_bytes=private_bytes,
    )


def _without_objects(
    number: int, running: list[tuple[str, bytes]], received: int, submitted: _Submitted
) -> ProcessReport:
    names, tasks = [name for name, _ in running], [task for _, task in running]
    return ProcessReport(number, names, received, submitted.counts, running_tasks=tasks, calls=submitted.calls)


class _Sites:
    """The lines of user code in a report, each once; the first one is "unknown"."""

    def __init__(self) -> None:
        self.texts = [""]
        self._indices: dict[str, int] = {"": 0}
        self._of_site: dict[int, int] = {}

    def index_of(self, site: int | None) -> int:
        """The index of what a ref noted."""
        if not site:
            return 0
        index = self._of_site.get(site)
        if index is None:
            index = self._of_site[site] = self.index_of_text(describe_site(site))
        return index

    def index_of_text(self, text: str) -> int:
        """The index of a line."""
        index = self._indices.setdefault(text, len(self.texts))
        if index == len(self.texts):
            self.texts.append(text)
        return index


class _Submitted:
    """The calls that this process waits for: ``counts`` by name, and the ``records`` that were looked at.

    The first *max_calls* of them are in ``calls``, those at workers first.
    """

    def __init__(self, client: Client, max_calls: int) -> None:
        self.counts: list[CallCount] = []
        self.records: list[PendingCall] = []
        self.calls: list[CallReport] = []
        self._process = client.process
        self._max_calls = max_calls
        unresolved = client.arguments.unresolved()
        self._unresolved = {id(record) for record in unresolved}
        queued, backlog, sent = client.tasks.first_calls(MAX_CALLS)
        # Methods whose arguments have no values yet are among the calls of their actor.
        tasks = [record for record in unresolved if type(record.shape) is not ActorRecord]
        self._add("", [*queued, *tasks], sent)
        if backlog > len(queued):
            self.counts.append(CallCount("(tasks behind these)", backlog - len(queued), 0))
        for actor in client.actors.records():
            in_flight = list(actor.calls.in_flight.values())
            waiting = actor.calls.pending() - len(in_flight)
            if waiting > MAX_CALLS:
                self.counts.append(CallCount(f"{actor.class_name}, any method", waiting, 0))
            self._add(f"{actor.class_name}.", actor.calls.waiting() if waiting <= MAX_CALLS else [], in_flight)

    def _add(self, prefix: str, queued: list[PendingCall], sent: list[PendingCall]) -> None:
        waiting, under_way = Counter(map(_function_of, queued)), Counter(map(_function_of, sent))
        for function in {**waiting, **under_way}:
            self.counts.append(CallCount(prefix + function.name, waiting[function], under_way[function]))
        self.records += queued
        self.records += sent
        self._list(prefix, sent, "sent")
        self._list(prefix, queued, "queued")

    def _list(self, prefix: str, records: list[PendingCall], state: str) -> None:
        for record in islice(records, self._max_calls - len(self.calls)):
            task = make_task_id(self._process, record.call)
            shown = "waits_for_arguments" if id(record) in self._unresolved else state
            self.calls.append(CallReport(task, prefix + record.name, shown, record.message.attempt))


def _lines_of_arguments(calls: list[PendingCall]) -> dict[bytes, str]:
    """Arguments too large for a message are objects that no ref of the user's shows: the call's line made them."""
    found = {}
    for record in calls:
        stored = record.message.stored
        refs = record.return_refs() if stored is not None else []
        if stored is not None and refs:
            found[stored.id] = f"{describe_site(refs[0].site)} (arguments of {record.name})"
    return found


def _pinned(client: Client) -> list[PinnedObject]:
    views: Counter[bytes] = Counter()
    sizes: Counter[bytes] = Counter()
    for pin in client.arena.pins():
        object_id = pin.kept.id if isinstance(pin.kept, ObjectRef) else b""
        views[object_id] += 1
        sizes[object_id] += pin.size_bytes
    return [PinnedObject(object_id, count, sizes[object_id]) for object_id, count in views.items()]
