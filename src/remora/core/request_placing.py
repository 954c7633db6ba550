"""Where the units of requests go: to this node's own table, to other nodes, or nowhere yet.

The rules are told in :mod:`remora.core.lease_routing`, whose part this is: it knows processes and their leases, here
are the requests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from remora.base.ids import short
from remora.base.resources import Resources
from remora.core.cluster_view import ClusterView
from remora.core.lease import Send
from remora.core.lease_fairness import INFEASIBLE_AFTER_S
from remora.core.lease_waiting import WaitingRequest
from remora.core.leases import LeaseTable
from remora.core.node_choice import Never, Wait, choose, may_run
from remora.core.routed_requests import (
    ProcessRecord,
    RequestShape,
    RoutedRequest,
    RouterEffect,
    ShapeKey,
    ToNode,
)
from remora.messages.leases import CancelRequest, KillLeased, LeaseDelayed, RequestFailed, RequestLease, ReturnLease
from remora.messages.links import FromProcess

PATIENT_AFTER_S = 0.1

Answer = bytes | Wait | Never
NO_PLACEMENT = Resources()


class RequestPlacer:
    """All requests of this node's processes that are not granted. What must be done is given to *emit*."""

    def __init__(self, table: LeaseTable, view: ClusterView, node: bytes, emit: Callable[[RouterEffect], None]) -> None:
        self._table = table
        self._view = view
        self._node = node
        self._emit = emit
        self._shapes: dict[ShapeKey, RequestShape] = {}
        self._last_spread: dict[ShapeKey, bytes] = {}
        """Where the last task of a shape went that is to be spread; a shape is forgotten when nothing of it waits."""

    def add(self, process: ProcessRecord, message: RequestLease, now_s: float) -> None:
        """A new request, placed at once.

        Raises:
            ValueError: its strategy is none.
        """
        key = (process.job, Resources(message.resources), message.strategy, message.environment)
        shape = self._shapes.get(key)
        if shape is None:
            shape = self._shapes[key] = RequestShape(key)
            shape.last_node = self._last_spread.get(key, b"")
        request = process.requests[message.request] = RoutedRequest(process, shape, message, now_s)
        shape.requests[request] = None
        shape.units += message.count
        self.place(request, now_s)

    def job_ended(self, job: bytes) -> None:
        """Forget the turns of its shapes."""
        for key in [key for key in self._last_spread if key[0] == job]:
            del self._last_spread[key]

    def requests(self) -> Iterator[RoutedRequest]:
        """Every request, by shape; it may be forgotten meanwhile."""
        for shape in list(self._shapes.values()):
            yield from list(shape.requests)

    # ------------------------------------------------------------------ placing units

    def place(self, request: RoutedRequest, now_s: float) -> None:
        """Send the units that wait here to where there is room, else to the table, if this node can run them."""
        is_alone = len(self._view.alive()) == 1 and not request.shape.key[2]
        if is_alone and not request.failed and self._may_run_here(request):
            self._to_table(request, request.waiting, now_s)  # no cluster: there is nothing to choose
            return
        planned, answer = self._plan(request, request.waiting, now_s)
        here = planned.pop(self._node, 0)
        self._view.ask(self._node, request.shape.need, -here)
        for node, count in planned.items():
            self._forward(request, node, count)
        if self._node not in request.failed and self._may_run_here(request):
            here = request.waiting
        self._to_table(request, here, now_s)
        if request.waiting and not isinstance(answer, bytes):
            self._fail_if_hopeless(request, answer, now_s)

    def improve_all(self, now_s: float) -> None:
        """Units that wait, here or in turn somewhere, go where there is room now."""
        for shape in list(self._shapes.values()):
            for request in list(shape.requests):
                if not self._improve(request, now_s) and not request.at and not request.failed:
                    break  # nobody has room for this shape

    def ask_patiently(self, now_s: float) -> None:
        """Units that have waited for long take their turns at nodes that can run them."""
        if len(self._view.alive()) == 1:
            return
        for shape in list(self._shapes.values()):
            is_stuck: bool | None = None
            for request in list(shape.requests):
                if now_s - request.since_s < PATIENT_AFTER_S:
                    break
                process, number = request.process.process, request.number
                queued = self._table.queued(process, number) if request.at_table else 0
                if queued and is_stuck is None:
                    is_stuck = self._table.is_stuck(process, number)
                if queued and not is_stuck:
                    break  # this node will run it, and the others of the shape
                if (request.waiting or queued) and not self._ask_in_turn(request, queued, now_s):
                    break

    def _ask_in_turn(self, request: RoutedRequest, queued: int, now_s: float) -> bool:
        """Spread what waits here and *queued* units at the table; whether others of the shape may do the same."""
        need = request.shape.need
        excluded = self._excluded(request, now_s, (self._node,))
        answer = self._choose(request, excluded)
        able = answer.nodes if isinstance(answer, Wait) else ()
        nodes = [view for view in self._view.alive() if view.node in able and view.node not in excluded]
        if not nodes:
            return bool(request.at or request.failed)
        nodes.sort(key=lambda view: (view.use_with(need), view.queue_length))
        request.take_from_table(self._table.take_back(request.process.process, request.number, queued, now_s))
        each, more = divmod(request.waiting, len(nodes))
        for index, view in enumerate(nodes):
            share = each + (index < more)
            if share:
                self._view.ask(view.node, need, share)
                self._forward(request, view.node, share, is_patient=True)
        return True

    def _improve(self, request: RoutedRequest, now_s: float) -> bool:
        """Whether there may be room for more of the shape."""
        process, number = request.process.process, request.number
        if request.waiting:
            self.place(request, now_s)
        queued = self._table.queued(process, number) if request.at_table else 0
        if queued:
            planned, _ = self._plan(request, queued, now_s, but=(self._node,))
            moved = self._table.take_back(process, number, sum(planned.values()), now_s)
            assert moved == sum(planned.values()), f"{request!r}: the table has fewer than it said"
            request.take_from_table(moved)
            for node, count in planned.items():
                self._forward(request, node, count)
            queued -= moved
        if request.waiting or queued:
            return False
        waits_in_turn = [node for node, is_called in request.patient.items() if not is_called]
        if not waits_in_turn:
            return True
        if isinstance(self._choose(request, self._excluded(request, now_s)), bytes):
            request.patient[waits_in_turn[0]] = True
            self.tell(waits_in_turn[0], request.process, CancelRequest(number))
            return True
        return False

    def _plan(
        self, request: RoutedRequest, count: int, now_s: float, but: Sequence[bytes] = ()
    ) -> tuple[dict[bytes, int], Answer]:
        """Nodes with room for up to *count* units, asked for in the view; and what was said of the last one."""
        excluded = self._excluded(request, now_s, but)
        planned: dict[bytes, int] = {}
        answer: Answer = b""
        for _ in range(count):
            answer = self._choose(request, excluded)
            if not isinstance(answer, bytes):
                break
            planned[answer] = planned.get(answer, 0) + 1
            request.shape.last_node = answer
            self._view.ask(answer, request.shape.need)
        return planned, answer

    def _excluded(self, request: RoutedRequest, now_s: float, but: Sequence[bytes] = ()) -> set[bytes]:
        excluded = {*but, *request.at, *request.failed}
        for node in request.shape.refused:
            view = self._view.get(node)
            if view is not None and request.shape.is_refused_by(view, now_s):
                excluded.add(node)
        return excluded

    def _choose(self, request: RoutedRequest, excluded: set[bytes]) -> Answer:
        self.refresh_own_view()
        shape = request.shape
        return choose(
            shape.need,
            NO_PLACEMENT,
            shape.strategy,
            self._view,
            self._node,
            arguments=request.message.arguments,
            after=shape.last_node,
            excluded=excluded,
        )

    def _may_run_here(self, request: RoutedRequest) -> bool:
        self.refresh_own_view()
        return may_run(request.shape.need, request.shape.strategy, self._view, self._node)

    def refresh_own_view(self) -> None:
        """What is free here is seen through the ledger's own dict; what there is in all may be another one now."""
        own = self._view.get(self._node)
        if own is not None and own.is_alive:
            own.total = self._table.ledger.total.units

    def _forward(self, request: RoutedRequest, node: bytes, count: int, is_patient: bool = False) -> None:
        """Ask the node for units that wait here; in the view they are asked for already."""
        request.waiting -= count
        request.at[node] = request.at.get(node, 0) + count
        view = self._view.get(node)
        request.asked_after[node] = view.reports if view is not None else 0
        if is_patient:
            request.patient[node] = False
        message = msgspec.structs.replace(request.message, count=count, arguments={}, patient=is_patient)
        self.tell(node, request.process, message)

    def _to_table(self, request: RoutedRequest, count: int, now_s: float) -> None:
        if not count:
            return
        process, message = request.process, request.message
        request.waiting -= count
        request.at_table += count
        if self._table.queued(process.process, message.request):
            self._table.want_more(process.process, message.request, count, now_s)
            return
        self._table.request(
            process.process,
            process.job,
            message.request,
            request.shape.need,
            message.strategy,
            message.environment,
            count,
            now_s=now_s,
        )

    def tell(
        self, node: bytes, process: ProcessRecord, message: RequestLease | CancelRequest | ReturnLease | KillLeased
    ) -> None:
        """Say it to the node in the name of the process."""
        process.nodes[node] = None
        self._emit(ToNode(node, FromProcess(process.process, process.job), message))

    # ------------------------------------------------------------------ answers

    def answered(self, request: RoutedRequest, node: bytes, count: int) -> int:
        """The node has answered for so many units; returns how many of them it had been asked for."""
        asked = request.at.get(node, 0)
        count = min(count, asked)
        self._view.ask(node, request.shape.need, -count)
        if count < asked:
            request.at[node] -= count
        elif asked:
            del request.at[node], request.asked_after[node]
            request.patient.pop(node, None)
        return count

    def granted(self, request: RoutedRequest, node: bytes) -> None:
        """The node has granted one unit. A report since it was asked has counted that, or another one will."""
        view = self._view.get(node)
        if view is not None and request.asked_after.get(node) == view.reports:
            self._view.take(node, request.shape.need)
        self.answered(request, node, 1)
        self._one_less(request)

    def granted_here(self, request: RoutedRequest) -> None:
        """The table has granted one unit."""
        request.at_table -= 1
        self._one_less(request)

    def _one_less(self, request: RoutedRequest) -> None:
        request.shape.units -= 1
        if not request.units:
            self.forget(request)

    def rejected(self, request: RoutedRequest, node: bytes, count: int, now_s: float) -> None:
        """The node has no room for so many units: it is not asked again before there is news of it."""
        request.waiting += self.answered(request, node, count)
        view = self._view.get(node)
        if view is not None:
            request.shape.refused[node] = (view.revision, now_s)
        self.place(request, now_s)

    def failed(self, request: RoutedRequest, node: bytes, message: RequestFailed, now_s: float) -> None:
        """The node can start no worker for the request, and has dropped what it had of it; or nobody can."""
        if message.is_group_removed:
            self.abandon(request, now_s)
            self._emit(Send(request.process.process, message))
        elif node not in request.failed:
            request.failed[node] = message.reason
            if node == self._node:
                request.take_from_table(request.at_table)
            else:
                request.waiting += self.answered(request, node, request.at.get(node, 0))
            self.place(request, now_s)

    def node_died(self, node: bytes) -> None:
        """What the node was asked for waits here again."""
        for shape in self._shapes.values():
            shape.refused.pop(node, None)
            for request in shape.requests:
                request.waiting += request.at.pop(node, 0)
                request.asked_after.pop(node, None)
                request.patient.pop(node, None)

    # ------------------------------------------------------------------ the end of a request

    def abandon(self, request: RoutedRequest, now_s: float) -> None:
        """Nothing more of it is wanted; those who were asked are told."""
        if request.at_table:
            self._table.cancel(request.process.process, request.number, now_s)
        for node in request.at:
            self.tell(node, request.process, CancelRequest(request.number))
        self.forget(request)

    def forget(self, request: RoutedRequest) -> None:
        """It is granted in whole, or its process is gone."""
        request.shape.units -= request.units
        for node, count in request.at.items():
            self._view.ask(node, request.shape.need, -count)
        for places in (request.at, request.asked_after, request.patient):
            places.clear()
        request.waiting = request.at_table = 0
        del request.process.requests[request.number]
        del request.shape.requests[request]
        if not request.shape.requests:
            del self._shapes[request.shape.key]
            if request.shape.strategy.spread:
                self._last_spread[request.shape.key] = request.shape.last_node

    def report(self, now_s: float) -> None:
        """Say why requests wait that no node can run."""
        for request in self.requests():
            if request.is_reported or not request.waiting or now_s - request.since_s < INFEASIBLE_AFTER_S:
                continue
            answer = self._choose(request, self._excluded(request, now_s))
            if isinstance(answer, Never) and not answer.is_final:
                request.is_reported = True
                self._emit(Send(request.process.process, LeaseDelayed(request.number, answer.reason)))

    def _fail_if_hopeless(self, request: RoutedRequest, answer: Wait | Never, now_s: float) -> None:
        reason = ""
        if isinstance(answer, Never):
            is_sure = answer.is_certain or now_s - request.since_s >= INFEASIBLE_AFTER_S
            reason = answer.reason if answer.is_final and is_sure else ""
        elif request.failed.keys() >= set(answer.nodes):
            reason = request.failed[answer.nodes[-1]]
        if reason:
            self.abandon(request, now_s)
            self._emit(Send(request.process.process, RequestFailed(request.number, reason)))

    # ------------------------------------------------------------------ looking

    def demand(self) -> dict[Resources, int]:
        """How many units of each shape of resources are still to come. Cheap: it is asked for very often."""
        found: dict[Resources, int] = {}
        for shape in self._shapes.values():
            found[shape.need] = found.get(shape.need, 0) + shape.units
        return found

    def waiting(self, now_s: float) -> list[WaitingRequest]:
        """Every unit that is not at the table, and why it waits."""
        found = []
        for request in self.requests():
            process, amounts = request.process.process, request.shape.need.to_floats()
            if request.waiting:
                answer = self._choose(request, self._excluded(request, now_s))
                reason = "" if isinstance(answer, bytes) else answer.reason
                found.append(WaitingRequest(process, amounts, request.waiting, request.since_s, reason))
            for node, count in request.at.items():
                how = "it takes its turn at" if node in request.patient else "it was asked of"
                reason = f"{how} {self._view.get(node)}"
                found.append(WaitingRequest(process, amounts, count, request.since_s, reason))
        return found

    @property
    def has_waiting(self) -> bool:
        """Whether units wait here, so that time may change something."""
        return any(request.waiting for shape in self._shapes.values() for request in shape.requests)

    def validate(self) -> None:
        """
        Raises:
            AssertionError: requests, the view and the table do not agree.
        """
        asked: dict[bytes, dict[str, int]] = {}
        for key, shape in self._shapes.items():
            assert shape.requests, f"{shape!r} is kept for nothing"
            assert shape.key == key, f"{shape!r} is filed wrongly"
            assert shape.units == sum(request.units for request in shape.requests), f"{shape!r} counts wrongly"
            for request in shape.requests:
                self._validate_request(request)
                for node, count in request.at.items():
                    amounts = asked.setdefault(node, {})
                    for name, amount in shape.need.units.items():
                        amounts[name] = amounts.get(name, 0) + count * amount
        for view in self._view:
            assert view.asked == asked.get(view.node, {}), f"{view!r} was asked for {asked.get(view.node)}"

    def _validate_request(self, request: RoutedRequest) -> None:
        assert request.units > 0, f"{request!r} wants nothing"
        assert request.waiting >= 0 <= request.at_table, f"{request!r} counts wrongly"
        assert all(count > 0 for count in request.at.values()), f"{request!r} counts wrongly"
        assert request.patient.keys() <= request.at.keys(), f"{request!r} is patient where nothing waits"
        assert request.asked_after.keys() == request.at.keys(), f"{request!r} has places that it forgot"
        assert self._node not in request.at, f"{request!r} was sent to its own node"
        for node in request.at:
            assert not self._view.is_dead(node), f"{request!r} waits for the dead node {short(node)}"
        queued = self._table.queued(request.process.process, request.number)
        assert queued <= request.at_table, f"{request!r} has more at the table than it knows"

    def __repr__(self) -> str:
        return f"<RequestPlacer {list(self._shapes.values())}>"
