"""Which node is to run something: a pure function of what is wanted and what is known of the nodes.

Of the nodes that the strategy allows, that have the resources in all, and that have them free now, the default takes

1. this node, unless another one has ``LOCALITY_BYTES`` more of the arguments. A megabyte takes 8 ms on a link of
   1 Gbit/s and less on faster ones: for less than that it is not worth to leave the node;
2. the one with the most bytes of the arguments, in steps of as much;
3. the one that would be least full, by the resources that are asked for, then the one where least waits;
4. the next one in turn.

``SPREAD`` takes the next one in turn. Nodes that meet the preferred labels come before those that do not. An actor
that holds nothing goes where the CPU is free that it needs for a moment, if there is such a node, and waits for none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from remora.base.resources import Resources, describe_units, why_never
from remora.base.scheduling import LabelCondition, Strategy, why_no_labels
from remora.core.cluster_view import ClusterView, NodeView

LOCALITY_BYTES = 1_000_000

_NO_ARGUMENTS: Mapping[bytes, int] = {}


class Wait(msgspec.Struct, frozen=True):
    """Nodes can run it, and none has room now; ``nodes`` are those that may be waited at."""

    reason: str
    nodes: tuple[bytes, ...]


class Never(msgspec.Struct, frozen=True):
    """No node that is there can run it.

    ``is_final`` says that no node that joins could, either. ``is_certain`` is false when news may be on the way that
    change it: of a node that was never heard of, or of what one has in all.
    """

    reason: str
    is_final: bool = False
    is_certain: bool = True


def choose(
    need: Resources,
    placement: Resources,
    strategy: Strategy,
    view: ClusterView,
    own: bytes = b"",
    *,
    arguments: Mapping[bytes, int] = _NO_ARGUMENTS,
    after: bytes = b"",
    excluded: Collection[bytes] = (),
) -> bytes | Wait | Never:
    """The node to run it on, or why there is none.

    *need* is what it takes while it runs, *placement* what its node must have in all. *own* is preferred by the
    default strategy; empty for nobody's. *arguments* are bytes of its arguments by node. *after* is the node that was
    chosen before: turns go on from there. *excluded* nodes may run it, but are not asked now.

    Example:
        >>> choose(Resources.of(num_cpus=1), Resources(), Strategy(spread=True), view, here, after=here)
    """
    required = need.or_more(placement)
    allowed = _allowed(required, strategy, view)
    if isinstance(allowed, Never):
        return allowed
    able = [node for node in allowed if node.may_ever_run(required)]
    if not able and strategy.node and not strategy.soft:
        has = describe_units({name: amount for name, amount in allowed[0].total.items() if name in required})
        return Never(f"{_asked_for(strategy)}, and {allowed[0]} has only {has} of {required}", True, False)
    if not able:
        return Never(_why_never(required, strategy, allowed, view))
    ready = [node for node in able if node.node not in excluded and node.has_room(need)]
    if not need and placement:
        ready = [node for node in ready if node.has_room(placement)] or ready
    if not ready:
        return Wait(_why_wait(need, able), tuple(node.node for node in able))
    if strategy.preferred:
        ready = [node for node in ready if _meets(node, strategy.preferred)] or ready
    if strategy.spread:
        return _next_in_turn(ready, after).node
    return _nearest(ready, need or placement, own, arguments, after).node


def may_run(required: Resources, strategy: Strategy, view: ClusterView, node: bytes) -> bool:
    """Whether the strategy and what the node has in all allow it to run something, sooner or later."""
    allowed = _allowed(required, strategy, view)
    return not isinstance(allowed, Never) and any(one.node == node and one.may_ever_run(required) for one in allowed)


def _allowed(required: Resources, strategy: Strategy, view: ClusterView) -> Sequence[NodeView] | Never:
    alive: Sequence[NodeView] = view.alive()
    if strategy.node:
        wanted = view.get(bytes.fromhex(strategy.node))
        is_fit = wanted is not None and wanted.is_alive and _meets(wanted, strategy.labels)
        if is_fit and wanted is not None and (not strategy.soft or wanted.may_ever_run(required)):
            return [wanted]
        if not strategy.soft:
            return _why_not_there(strategy, wanted)
    if strategy.labels:
        alive = [node for node in alive if _meets(node, strategy.labels)]
        if not alive:
            labels = [node.labels for node in view.alive()]
            return Never(f"{why_no_labels(strategy.labels, labels)}; it waits until a node that has them joins")
    return alive


def _why_not_there(strategy: Strategy, wanted: NodeView | None) -> Never:
    asked = _asked_for(strategy)
    if wanted is None:
        return Never(f"{asked}, and there is no such node in the cluster; remora.nodes() lists their ids", True, False)
    if not wanted.is_alive:
        cause = f": {wanted.death_cause}" if wanted.death_cause else ""
        return Never(f"{asked}, and {wanted} is gone{cause}", True)
    return Never(f"{asked}, and {wanted}: {why_no_labels(strategy.labels, [wanted.labels])}", True)


def _asked_for(strategy: Strategy) -> str:
    return f"its scheduling_strategy asks for node {strategy.node} and no other (soft=False)"


def _why_never(required: Resources, strategy: Strategy, allowed: Sequence[NodeView], view: ClusterView) -> str:
    if not allowed:
        return "there is no node in the cluster"
    reason = why_never(required, [node.total for node in allowed])
    if len(allowed) < len(view.alive()):
        reason += f" among those that its scheduling_strategy allows ({strategy})"
    return f"{reason}; it waits until a node that has it joins"


def _why_wait(need: Resources, able: Sequence[NodeView]) -> str:
    where = str(able[0]) if len(able) == 1 else f"the {len(able)} nodes that can run it"
    return f"it needs {need}, and {where} {'has' if len(able) == 1 else 'have'} no room now"


def _meets(node: NodeView, conditions: Iterable[LabelCondition]) -> bool:
    return all(condition.matches(node.labels) for condition in conditions)


def _next_in_turn(ready: Sequence[NodeView], after: bytes) -> NodeView:
    return next((node for node in ready if node.node > after), ready[0])


def _nearest(
    ready: Sequence[NodeView], need: Resources, own: bytes, arguments: Mapping[bytes, int], after: bytes
) -> NodeView:
    most_bytes = max((arguments.get(node.node, 0) for node in ready), default=0) if arguments else 0
    for node in ready:
        if node.node == own and most_bytes - arguments.get(own, 0) < LOCALITY_BYTES:
            return node
    first = _next_in_turn(ready, after)
    start = ready.index(first)
    in_turn = [*ready[start:], *ready[:start]]
    return min(
        in_turn,
        key=lambda node: (-(arguments.get(node.node, 0) // LOCALITY_BYTES), node.use_with(need), node.queue_length),
    )
