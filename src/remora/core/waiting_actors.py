"""Actors of a session of one node whose strategy its node does not meet.

In a cluster the head chooses the node of an actor. Without one there is only this node: the strategy allows it, or
the actor waits, or it can never be placed.
"""

from __future__ import annotations

from collections.abc import Callable

from remora.base.ids import short
from remora.base.resources import Resources
from remora.base.scheduling import Strategy, decode_strategy
from remora.core.cluster_view import ClusterView
from remora.core.lease import ActorDelayed, ActorUnplaceable
from remora.core.lease_fairness import INFEASIBLE_AFTER_S
from remora.core.lease_waiting import WaitingRequest
from remora.core.leases import LeaseTable
from remora.core.node_choice import Never, choose, may_run


class _WaitingActor:
    __slots__ = ("actor", "environment", "is_reported", "job", "need", "placement", "since_s", "strategy")

    def __init__(
        self,
        actor: bytes,
        job: bytes,
        need: Resources,
        placement: Resources,
        strategy: str,
        environment: str,
        since_s: float,
    ) -> None:
        self.actor = actor
        self.job = job
        self.need = need
        self.placement = placement
        self.strategy: Strategy = decode_strategy(strategy)
        self.environment = environment
        self.since_s = since_s
        self.is_reported = False


class WaitingActors:
    """Between the actor registry of a session of one node and its lease table."""

    def __init__(
        self,
        table: LeaseTable,
        view: ClusterView,
        node: bytes,
        emit: Callable[[ActorDelayed | ActorUnplaceable], None],
    ) -> None:
        self._table = table
        self._view = view
        self._node = node
        self._emit = emit
        self._actors: dict[bytes, _WaitingActor] = {}

    def request(
        self,
        actor: bytes,
        job: bytes,
        need: Resources,
        placement: Resources,
        strategy: str = "",
        environment: str = "",
        *,
        now_s: float,
    ) -> None:
        """The actor wants a worker of this node: see :meth:`LeaseTable.request_actor`.

        Raises:
            ValueError: it waits for one already, or the strategy is none.
        """
        if actor in self._actors:
            raise ValueError(f"{short(actor)} waits for a worker already")
        self._actors[actor] = _WaitingActor(actor, job, need, placement, strategy, environment, now_s)
        self._place(self._actors[actor], now_s)

    def cancel(self, actor: bytes, now_s: float) -> None:
        """The actor waits no more, here or at the table."""
        self._actors.pop(actor, None)
        self._table.requester_gone(actor, now_s)

    def place_all(self, now_s: float) -> None:
        """News of this node, or time has passed."""
        for waiting in list(self._actors.values()):
            self._place(waiting, now_s)

    @property
    def are_waiting(self) -> bool:
        """Whether there is any."""
        return bool(self._actors)

    def waiting(self, now_s: float) -> list[WaitingRequest]:
        """Each, and why it waits."""
        return [
            WaitingRequest(one.actor, one.need.to_floats(), 1, one.since_s, self._why(one).reason)
            for one in self._actors.values()
        ]

    def _place(self, waiting: _WaitingActor, now_s: float) -> None:
        if may_run(Resources(), waiting.strategy, self._view, self._node):
            del self._actors[waiting.actor]
            self._table.request_actor(
                waiting.actor,
                waiting.job,
                waiting.need,
                waiting.placement,
                environment=waiting.environment,
                now_s=now_s,
            )
            return
        why = self._why(waiting)
        waited_s = now_s - waiting.since_s
        if why.is_final and (why.is_certain or waited_s >= INFEASIBLE_AFTER_S):
            del self._actors[waiting.actor]
            self._emit(ActorUnplaceable(waiting.actor, why.reason))
        elif not waiting.is_reported and waited_s >= INFEASIBLE_AFTER_S:
            waiting.is_reported = True
            self._emit(ActorDelayed(waiting.actor, why.reason))

    def _why(self, waiting: _WaitingActor) -> Never:
        answer = choose(waiting.need, waiting.placement, waiting.strategy, self._view)
        return answer if isinstance(answer, Never) else Never("its scheduling_strategy asks for another node")
