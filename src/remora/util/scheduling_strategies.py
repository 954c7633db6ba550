"""Where tasks and actors run, for ``scheduling_strategy=``, under Ray's names.

Besides the objects of these classes ``scheduling_strategy`` takes ``"DEFAULT"`` (here if there is room, else where
there is, and near large arguments) and ``"SPREAD"`` (over the nodes in turn).

Example:
    >>> from remora.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    >>> there = NodeAffinitySchedulingStrategy(remora.nodes()[1]["NodeID"], soft=False)
    >>> remora.get(square.options(scheduling_strategy=there).remote(7))
    49
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from remora.api.label_checks import check_label_key
from remora.base.ids import NODE_ID_SIZE_BYTES
from remora.base.scheduling import (
    DOES_NOT_EXIST,
    EXISTS,
    IN,
    NOT_IN,
    GroupChoice,
    LabelCondition,
    Strategy,
    sorted_conditions,
)
from remora.base.text import check_encodable

__all__ = [
    "DoesNotExist",
    "Exists",
    "In",
    "NodeAffinitySchedulingStrategy",
    "NodeLabelSchedulingStrategy",
    "NotIn",
    "PlacementGroupSchedulingStrategy",
]


class NodeAffinitySchedulingStrategy:
    """Run on one particular node.

    If that node is busy, the task waits for it. If it is gone, was never there, or can never run the task, the task
    fails, or runs elsewhere when *soft*.

    Parameters:
        node_id: the node as in ``remora.nodes()[i]["NodeID"]`` or ``get_runtime_context().get_node_id()``.
        soft: whether another node may run it when this one cannot.

    Raises:
        TypeError: *node_id* is no string or *soft* no bool.
        ValueError: *node_id* is no hex id of a node.

    Example:
        >>> here = remora.get_runtime_context().get_node_id()
        >>> Counter.options(scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=True)).remote()
    """

    def __init__(self, node_id: str, soft: bool) -> None:
        if isinstance(node_id, bytes):
            node_id = node_id.hex()
        if not isinstance(node_id, str):
            raise TypeError(f"node_id must be a hex string, not {node_id!r} ({type(node_id).__name__})")
        if not isinstance(soft, bool):
            raise TypeError(f"soft must be True or False, not {soft!r}")
        self.node_id = _checked_node_id(node_id)
        self.soft = soft

    def to_strategy(self) -> Strategy:
        """What is sent of it."""
        return Strategy(node=self.node_id, soft=self.soft)

    def __repr__(self) -> str:
        return f"NodeAffinitySchedulingStrategy({self.node_id!r}, soft={self.soft})"


class _Operator:
    """What the value of a label must be."""

    name = ""

    def __init__(self, *values: str) -> None:
        own_name = type(self).__name__
        if not values:
            raise ValueError(f'{own_name}() needs at least one value, as {own_name}("value")')
        for position, value in enumerate(values):
            if not isinstance(value, str):
                raise ValueError(
                    f"{own_name}: value {position} must be a string, not {value!r} ({type(value).__name__})"
                )
            check_encodable(own_name, value)
        self.values = list(values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.values))})"


class In(_Operator):
    """The node has the label with one of these values.

    Example:
        >>> NodeLabelSchedulingStrategy({"region": In("us", "eu")})
    """

    name = IN


class NotIn(_Operator):
    """The node has the label with none of these values, or not at all.

    Example:
        >>> NodeLabelSchedulingStrategy({"region": NotIn("us")})
    """

    name = NOT_IN


class Exists(_Operator):
    """The node has the label, with any value.

    Example:
        >>> NodeLabelSchedulingStrategy({"gpu_type": Exists()})
    """

    name = EXISTS

    def __init__(self) -> None:
        self.values = []


class DoesNotExist(_Operator):
    """The node does not have the label.

    Example:
        >>> NodeLabelSchedulingStrategy({"spot": DoesNotExist()})
    """

    name = DOES_NOT_EXIST

    def __init__(self) -> None:
        self.values = []


class NodeLabelSchedulingStrategy:
    """Run on a node with such labels.

    Parameters:
        hard: for each label what it must be, by :class:`In`, :class:`NotIn`, :class:`Exists` or
            :class:`DoesNotExist`; a task for which there is no such node waits, and ``remora status`` says why.
        soft: the same for nodes to be preferred among those.

    Raises:
        ValueError: there are no conditions, or one is wrong.

    Example:
        >>> near_data = NodeLabelSchedulingStrategy({"region": In("us")}, soft={"disk": In("ssd")})
        >>> square.options(scheduling_strategy=near_data).remote(7)
    """

    def __init__(self, hard: Mapping[str, _Operator] | None, *, soft: Mapping[str, _Operator] | None = None) -> None:
        self._strategy = Strategy(labels=_conditions("hard", hard), preferred=_conditions("soft", soft))
        self.hard = dict(hard or {})
        self.soft = dict(soft or {})
        if not (self.hard or self.soft):
            raise ValueError("NodeLabelSchedulingStrategy: hard and soft cannot both be empty")

    def to_strategy(self) -> Strategy:
        """What is sent of it."""
        return self._strategy

    def __repr__(self) -> str:
        return f"NodeLabelSchedulingStrategy({self.hard!r}, soft={self.soft!r})"


class PlacementGroupSchedulingStrategy:
    """Run in a placement group.

    Parameters:
        placement_group: what ``remora.util.placement_group(...)`` returned; None for no group, also when the caller
            runs in one that captures its children.
        placement_group_bundle_index: which of its bundles; -1 for any with room.
        placement_group_capture_child_tasks: whether tasks and actors that are made there run in the group, too.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the index is below -1, or not below the number of bundles.

    Example:
        >>> group = placement_group([{"CPU": 1}] * 2)
        >>> square.options(scheduling_strategy=PlacementGroupSchedulingStrategy(group)).remote(7)
    """

    def __init__(
        self,
        placement_group: Any,
        placement_group_bundle_index: int = -1,
        placement_group_capture_child_tasks: bool | None = None,
    ) -> None:
        index = placement_group_bundle_index
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(f"placement_group_bundle_index must be a whole number, not {index!r}")
        if placement_group is not None and not isinstance(getattr(placement_group, "id", None), bytes):
            raise TypeError(f"placement_group must be a placement group or None, not {placement_group!r}")
        bundles = getattr(placement_group, "bundle_count", None)
        if index < -1 or (bundles is not None and index >= bundles):
            limit = "" if bundles is None else f", and the group has {bundles} bundles"
            raise ValueError(f"placement_group_bundle_index={index}: it is -1 or counts from 0{limit}")
        if not isinstance(placement_group_capture_child_tasks, bool | None):
            raise TypeError(
                "placement_group_capture_child_tasks must be True, False or None, not "
                f"{placement_group_capture_child_tasks!r}"
            )
        self.placement_group = placement_group
        self.placement_group_bundle_index = index
        self.placement_group_capture_child_tasks = placement_group_capture_child_tasks

    def to_choice(self) -> GroupChoice | None:
        """What is sent of it; None for no group."""
        if self.placement_group is None:
            return None
        return GroupChoice(
            self.placement_group.id, self.placement_group_bundle_index, self.placement_group_capture_child_tasks
        )

    def __repr__(self) -> str:
        return f"PlacementGroupSchedulingStrategy({self.placement_group!r}, {self.placement_group_bundle_index})"


def _checked_node_id(node_id: str) -> str:
    try:
        node = bytes.fromhex(node_id)
    except ValueError:
        node = b""
    if len(node) != NODE_ID_SIZE_BYTES or not any(node):
        raise ValueError(
            f"node_id={node_id!r}: it must be the hex id of a node, of {2 * NODE_ID_SIZE_BYTES} digits, as in "
            'remora.nodes()[i]["NodeID"]'
        )
    return node.hex()


def _conditions(argument: str, given: Mapping[str, _Operator] | None) -> tuple[LabelCondition, ...]:
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f'{argument} must be a dict, as {{"region": In("us")}}, not {given!r}')
    conditions = []
    for key, operator in (given or {}).items():
        check_label_key(argument, key)
        if not isinstance(operator, _Operator) or not operator.name:
            raise ValueError(
                f"{argument}[{key!r}] must be In(...), NotIn(...), Exists() or DoesNotExist(), not {operator!r} "
                f"({type(operator).__name__})"
            )
        conditions.append(LabelCondition(key, operator.name, tuple(operator.values)))
    return sorted_conditions(conditions)
