"""Where a task or an actor wants to run, as one canonical text that any language can read and write.

An empty text stands for the default, ``SPREAD`` for "over the nodes in turn"; anything else is a JSON object with the
fields of :class:`Strategy` that are not at their defaults, in their order. Equal wishes have equal texts, so a text
may be a part of the key under which requests are kept together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

import msgspec

from remora.base.suggest import nearest_name

SPREAD = "SPREAD"

IN = "in"
NOT_IN = "not in"
EXISTS = "exists"
DOES_NOT_EXIST = "does not exist"


class LabelCondition(msgspec.Struct, array_like=True, frozen=True):
    """What one label of a node must be. A node without the label satisfies ``not in``, as in Ray.

    Example:
        >>> LabelCondition("region", IN, ("us", "eu")).matches({"region": "eu"})
        True
    """

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a node with these labels satisfies it."""
        value = labels.get(self.key)
        if self.operator == IN:
            return value is not None and value in self.values
        if self.operator == NOT_IN:
            return value is None or value not in self.values
        return (value is not None) == (self.operator == EXISTS)

    def __str__(self) -> str:
        return " ".join([self.key, self.operator, *([f"({', '.join(self.values)})"] if self.values else [])])


class Strategy(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A decoded strategy. Conditions are all to be met; ``preferred`` ones are given up when no node meets them.

    ``node`` is the hex id of the only node that may run it; with ``soft`` another one may when that is gone or can
    never run it.
    """

    spread: bool = False
    node: str = ""
    soft: bool = False
    labels: tuple[LabelCondition, ...] = ()
    preferred: tuple[LabelCondition, ...] = ()

    def encode(self) -> str:
        """The text that stands for it in messages."""
        if self == DEFAULT_STRATEGY:
            return ""
        return SPREAD if self == SPREAD_STRATEGY else _encoder.encode(self).decode()

    def __str__(self) -> str:
        parts = ["SPREAD"] if self.spread else []
        if self.node:
            parts.append(f"{'preferably ' if self.soft else ''}on node {self.node}")
        parts += [f"where {condition}" for condition in self.labels]
        parts += [f"preferably where {condition}" for condition in self.preferred]
        return ", ".join(parts) or "DEFAULT"


DEFAULT_STRATEGY = Strategy()
SPREAD_STRATEGY = Strategy(spread=True)
_encoder = msgspec.json.Encoder()


class GroupChoice(msgspec.Struct, frozen=True):
    """The placement group that a task or an actor is to run in, and the bundle; -1 for any.

    ``capture_child_tasks`` is None when the user did not say.
    """

    group: bytes
    bundle_index: int = -1
    capture_child_tasks: bool | None = None


@lru_cache(maxsize=1024)
def decode_strategy(text: str) -> Strategy:
    """The strategy that a text stands for.

    Raises:
        ValueError: it stands for none.

    Example:
        >>> decode_strategy('{"node":"00000002"}').node
        '00000002'
    """
    if not text:
        return DEFAULT_STRATEGY
    if text == SPREAD:
        return SPREAD_STRATEGY
    try:
        return msgspec.json.decode(text, type=Strategy)
    except msgspec.DecodeError as error:
        raise ValueError(f"{text[:200]!r} is no scheduling strategy: {error}") from None


def sorted_conditions(conditions: Iterable[LabelCondition]) -> tuple[LabelCondition, ...]:
    """In canonical order, each with its values sorted and once."""
    canonical = {LabelCondition(one.key, one.operator, tuple(sorted(set(one.values)))) for one in conditions}
    return tuple(sorted(canonical, key=lambda one: (one.key, one.operator, one.values)))


def why_no_labels(conditions: Iterable[LabelCondition], nodes: Iterable[Mapping[str, str]]) -> str:
    """One clause that says which of the conditions no node meets; *nodes*: the labels of each.

    Example:
        >>> why_no_labels([LabelCondition("region", IN, ("us",))], [{"region": "eu"}])
        "no node has a label region in (us); there are 'eu'"
    """
    known = list(nodes)
    lacking = []
    for condition in conditions:
        if any(condition.matches(labels) for labels in known):
            continue
        values = sorted({labels[condition.key] for labels in known if condition.key in labels})
        meant = nearest_name(condition.key, {key for labels in known for key in labels})
        hint = ""
        if values:
            hint = f"; there are {', '.join(map(repr, values[:5]))}"
        elif meant is not None:
            hint = f" (is {meant!r} meant?)"
        lacking.append(f"no node has a label {condition}{hint}")
    return "; ".join(lacking) or "no single node meets all of its conditions on labels"
