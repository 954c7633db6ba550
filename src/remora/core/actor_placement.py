"""Which node gets an actor: the head chooses one by what it has heard, and asks it.

A node that has no room by then refuses, and is not asked again for this actor for ``REFUSED_S`` or until it has told
what it has. Actors wait here until some node has room; the ones that no node can hold wait, too, since another one may
join: why they wait is told to whoever looks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from remora.base.ids import NODE_ID_SIZE_BYTES, short
from remora.core.cluster_view import ClusterView
from remora.core.journal import Journal
from remora.core.node_choice import Never, Wait, choose
from remora.core.waiting_placings import Placing, WaitingPlacings
from remora.messages.actors import ActorSpec
from remora.messages.head import CancelPlacement, PlaceActor
from remora.messages.session import JobEnvironment

PLACEMENT = "placement"
COUNTER = "counter"
LAST_ATTEMPT = b"last_attempt"
REFUSED_S = 0.5


class PlacementRecord(msgspec.Struct, array_like=True, frozen=True):
    """An actor that needs a worker, as it is written down; ``node`` is empty while none was asked."""

    actor: bytes
    job: bytes
    attempt: int
    node: bytes


class Effect(msgspec.Struct, frozen=True):
    """Say the message to the node."""

    node: bytes
    message: PlaceActor | CancelPlacement


class Hopeless(msgspec.Struct, frozen=True):
    """No worker can ever be found for the actor."""

    actor: bytes
    reason: str


class ActorPlacer:
    """The actors of the cluster that need a worker, and who was asked for one.

    *view* is what is known of all nodes; its owner tells it what nodes report.
    """

    def __init__(self, journal: Journal, view: ClusterView) -> None:
        self.outbox: list[Effect | Hopeless] = []
        self.why_group_is_gone: Callable[[bytes], str] = lambda group: ""
        """Why there is no such placement group; empty for one that there is."""
        self._journal = journal
        self._view = view
        self._placing: dict[bytes, Placing] = {}
        self._last_attempt = 0
        self._last_node = b""
        self._waiting = WaitingPlacings()
        """Those for which no node is asked."""
        self._refused: dict[tuple[object, ...], str] = {}
        """Shapes for which no node has room, as long as there is no news."""
        self._revision = 0
        self._try_again_at_s = 0.0

    def request(self, actor: bytes, job: bytes, spec: ActorSpec) -> None:
        """The actor needs a worker.

        Raises:
            ValueError: it waits for one already, or its strategy is none.
        """
        if actor in self._placing:
            raise ValueError(f"actor {short(actor)} is placed twice")
        placing = Placing(actor, job, spec)
        self._placing[actor] = placing
        self._waiting.add(placing)
        self._journal.touch(PLACEMENT, actor)

    def cancel(self, actor: bytes) -> None:
        """It needs none any more; nothing happens when it did not wait."""
        placing = self._placing.get(actor)
        if placing is not None:
            self._forget(placing)
            if placing.node:
                self.outbox.append(Effect(placing.node, CancelPlacement(actor, placing.attempt)))

    def placed(self, node: bytes, actor: bytes, attempt: int) -> bool:
        """The node has found a worker; False when it is not wanted any more."""
        placing = self._asked(node, actor, attempt)
        if placing is None:
            return False
        self._forget(placing)
        self._view.take(node, placing.need)
        return True

    def rejected(self, node: bytes, actor: bytes, attempt: int, reason: str, now_s: float) -> None:
        """The node has no room now."""
        placing = self._asked(node, actor, attempt)
        if placing is not None:
            placing.refused_until_s = {
                at: until_s for at, until_s in placing.refused_until_s.items() if until_s > now_s
            }
            placing.refused_until_s[node] = now_s + REFUSED_S
            self._try_again_at_s = min(self._try_again_at_s, *placing.refused_until_s.values())
            self._wait(placing, reason)

    def give_up(self, node: bytes, actor: bytes, attempt: int) -> bool:
        """The node says that there can never be a worker; False when it was not asked."""
        placing = self._asked(node, actor, attempt)
        if placing is None:
            return False
        self._forget(placing)
        return True

    def node_died(self, node: bytes) -> None:
        """Whoever was to go there goes elsewhere."""
        self._waiting.forgive(node)
        for placing in self._placing.values():
            placing.refused_until_s.pop(node, None)
            if placing.node == node:
                self._wait(placing, f"node {short(node)} died")

    def load_told(self, node: bytes) -> None:
        """The node has told what it has, after all that it has placed."""
        self._waiting.forgive(node)
        self.try_again()

    def try_again(self) -> None:
        """Something has changed that may give a waiting actor a node."""
        self._try_again_at_s = 0.0

    def run(self, environment_of: Callable[[bytes], JobEnvironment | None], now_s: float) -> None:
        """Ask nodes for the actors that wait, in the order in which they came."""
        is_news = now_s >= self._try_again_at_s or self._revision != self._view.revision
        if is_news:
            self._refused.clear()
            self._try_again_at_s = self._waiting.drop_old_refusals(now_s)
        untried = self._waiting.take_untried()
        self._revision = self._view.revision

        def try_one(placing: Placing) -> None:
            self._try(placing, environment_of(placing.job))

        if is_news:
            self._waiting.try_shapes(try_one)
        else:
            for placing in untried:
                try_one(placing)

    def _try(self, placing: Placing, environment: JobEnvironment | None) -> None:
        """Ask a node for it, end it, or have all of its shape wait."""
        queue = placing.queue
        assert queue is not None, "only what waits is tried"
        if environment is None:
            queue.reason = "its job has not been told to the head yet"
            return
        if placing.group and (reason := self.why_group_is_gone(placing.group)):
            self._forget(placing)
            self.outbox.append(Hopeless(placing.actor, reason))
            return
        shape = queue.shape
        if shape in self._refused:
            queue.reason = self._refused[shape]
            return
        choice = choose(
            placing.need,
            placing.placement,
            placing.strategy,
            self._view,
            placing.actor[:NODE_ID_SIZE_BYTES],
            after=self._last_node,
            excluded=placing.refused_until_s,
        )
        if isinstance(choice, Never) and choice.is_final:
            self._forget(placing)
            self.outbox.append(Hopeless(placing.actor, choice.reason))
        elif isinstance(choice, (Never, Wait)):
            self._refused[shape] = queue.reason = choice.reason
        else:
            self._ask(placing, choice, environment)

    def why_waiting(self, actor: bytes) -> str:
        """Why the actor has no node; empty when it has one, or needs none."""
        placing = self._placing.get(actor)
        return placing.why_waiting if placing is not None else ""

    def waiting(self) -> list[Placing]:
        """The actors that no node was asked for, or all refused."""
        return list(self._waiting)

    def _asked(self, node: bytes, actor: bytes, attempt: int) -> Placing | None:
        placing = self._placing.get(actor)
        return placing if placing is not None and (placing.node, placing.attempt) == (node, attempt) else None

    def _forget(self, placing: Placing) -> None:
        """It needs no worker any more, or has one."""
        del self._placing[placing.actor]
        self._waiting.remove(placing)
        self._journal.touch(PLACEMENT, placing.actor)
        if placing.node:
            self._view.ask(placing.node, placing.need, -1)

    def _wait(self, placing: Placing, reason: str) -> None:
        self._view.ask(placing.node, placing.need, -1)
        placing.node = b""
        placing.reason = reason
        self._waiting.add(placing)
        self._journal.touch(PLACEMENT, placing.actor)

    def _ask(self, placing: Placing, node: bytes, environment: JobEnvironment) -> None:
        self._waiting.remove(placing)
        self._last_attempt += 1
        placing.node, placing.attempt = node, self._last_attempt
        self._last_node = node
        self._view.ask(node, placing.need)
        self._journal.touch(PLACEMENT, placing.actor)
        self._journal.touch(COUNTER, LAST_ATTEMPT)
        spec = placing.spec
        message = PlaceActor(
            placing.actor,
            placing.attempt,
            placing.job,
            environment,
            spec.class_name,
            spec.resources,
            spec.placement,
            spec.strategy,
            spec.environment,
        )
        self.outbox.append(Effect(node, message))

    # ------------------------------------------------------------------ writing down

    @property
    def last_attempt(self) -> int:
        """The number that was given last."""
        return self._last_attempt

    def record(self, actor: bytes) -> PlacementRecord | None:
        """What is to be written down of the actor's placing."""
        placing = self._placing.get(actor)
        if placing is None:
            return None
        return PlacementRecord(actor, placing.job, placing.attempt, placing.node)

    def restore(self, records: Iterable[PlacementRecord], specs: dict[bytes, ActorSpec], last_attempt: int) -> None:
        """Take over what was written down; what was asked for counts in the view, which knows the nodes already."""
        self._last_attempt = last_attempt
        for record in records:
            placing = self._placing[record.actor] = Placing(record.actor, record.job, specs[record.actor])
            placing.attempt, placing.node = record.attempt, record.node
            if placing.node:
                self._view.ask(placing.node, placing.need)
            else:
                self._waiting.add(placing)

    def validate(self) -> None:
        """
        Raises:
            AssertionError: an index does not agree with what is placed.
        """
        self._waiting.validate()
        waiting = {placing.actor: placing for placing in self._waiting}
        assert waiting == {a: one for a, one in self._placing.items() if not one.node}, f"{self!r}: waiting"

    def __repr__(self) -> str:
        placings = ", ".join(f"{short(each.actor)} at {short(each.node) or '?'}" for each in self._placing.values())
        return f"<ActorPlacer {placings}>"
