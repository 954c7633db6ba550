"""Labels of nodes and selectors of them, in the syntax of Kubernetes, which Ray has, too.

A selector is a value (``"us"``), one that is not wanted (``"!us"``), or several: ``"in(us, eu)"``, ``"!in(us, eu)"``.
"""

from __future__ import annotations

import re
from typing import Any

from remora.base.scheduling import IN, NOT_IN, LabelCondition, sorted_conditions
from remora.base.suggest import nearest_name

_NAME = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?")
_PREFIX = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9_-]*[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9_-]*[a-zA-Z0-9])?)*")
_SELECTOR = re.compile(r"(?P<not>!?)(?:(?P<operator>[^()!]*)\((?P<values>[^()]*)\)|(?P<value>[^()!]*))")
_LONGEST_PREFIX = 253
_WORDING = "up to 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends"


def check_label_key(argument: str, key: object) -> str:
    """The key of a label: a name, which may have a prefix and a slash before it, as ``ray.io/zone``.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(key, str):
        raise ValueError(f"{argument}: the keys of labels are strings, not {key!r}")
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > _LONGEST_PREFIX or not _PREFIX.fullmatch(prefix)):
        raise ValueError(f"{argument}: the prefix of the label {key!r} must be a domain name, as 'example.com'")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{argument}: the label {key!r} has no valid name: it must be {_WORDING}")
    return key


def check_labels(argument: str, given: Any) -> dict[str, str]:
    """The labels of a node.

    Raises:
        TypeError: it is no dict.
        ValueError: a key or a value is wrong.
    """
    labels = _checked_mapping(argument, given)
    for key, value in labels.items():
        check_label_key(argument, key)
        _check_value(argument, key, value)
    return labels


def check_label_selector(argument: str, given: Any) -> tuple[LabelCondition, ...]:
    """The conditions of a ``label_selector``, in canonical order.

    Raises:
        TypeError: it is no dict of strings.
        ValueError: a key or a selector is wrong.

    Example:
        >>> check_label_selector("label_selector", {"region": "!in(us, eu)"})
        (LabelCondition(key='region', operator='not in', values=('eu', 'us')),)
    """
    conditions = []
    for key, selector in _checked_mapping(argument, given).items():
        check_label_key(argument, key)
        conditions.append(_condition(argument, key, selector))
    return sorted_conditions(conditions)


def _condition(argument: str, key: str, selector: str) -> LabelCondition:
    match = _SELECTOR.fullmatch(selector)
    if match is None:
        raise ValueError(
            f"{argument}[{key!r}]={selector!r}: it must be a value, '!value', 'in(one, other)' or '!in(one, other)'"
        )
    operator = NOT_IN if match["not"] else IN
    if match["value"] is not None:
        return LabelCondition(key, operator, (_check_value(argument, key, match["value"]),))
    if match["operator"] not in ("in", ""):
        meant = nearest_name(match["operator"].strip(), ["in"])
        hint = f"Did you mean '{match['not']}in({match['values']})'?" if meant else "The only operators are in and !."
        raise ValueError(f"{argument}[{key!r}]={selector!r}: there is no operator {match['operator']!r}. {hint}")
    values = tuple(value.strip() for value in match["values"].split(","))
    if not all(values):
        raise ValueError(f"{argument}[{key!r}]={selector!r}: a value is missing, as in 'in(one, other)'")
    return LabelCondition(key, operator, tuple(_check_value(argument, key, value) for value in values))


def _check_value(argument: str, key: str, value: str) -> str:
    if value and not _NAME.fullmatch(value):
        raise ValueError(f"{argument}[{key!r}]: {value!r} is no value of a label: it must be {_WORDING}")
    return value


def _checked_mapping(argument: str, given: Any) -> dict[str, str]:
    if not isinstance(given, dict):
        raise TypeError(f"{argument} must be a dict with strings as keys and values, not {given!r}")
    for key, value in given.items():
        if not isinstance(value, str):
            raise TypeError(f"{argument}[{key!r}] must be a string, not {value!r} ({type(value).__name__})")
    return dict(given)
