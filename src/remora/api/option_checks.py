"""Checks of single options: each returns the value to use, or says in an error what the option must be."""

from __future__ import annotations

import operator
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from remora.base.options import RetryExceptions, full_name
from remora.base.scheduling import DEFAULT_STRATEGY, SPREAD, SPREAD_STRATEGY, GroupChoice, Strategy
from remora.base.suggest import did_you_mean, nearest_name
from remora.base.text import check_encodable

Check = Callable[[str, Any], Any]
"""``check(name, value)`` returns the value to use; raises ``TypeError`` or ``ValueError``."""

_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_warned: set[tuple[str, str]] = set()


LARGEST = 2**63 - 1
"""What is larger may be no number to who reads a message."""


def integer(minimum: int, maximum: int = LARGEST) -> Check:
    """A whole number from *minimum* to *maximum*; a bool is not one."""

    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{name} must be a whole number, not {value!r} ({type(value).__name__})")
        value = operator.index(value)
        if not minimum <= value <= maximum:
            is_open = maximum == LARGEST and value < minimum
            bounds = f"at least {minimum}" if is_open else f"from {minimum} to {maximum}"
            raise ValueError(f"{name}={value}: it must be {bounds}")
        return int(value)

    return check


def boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def text(name: str, value: Any) -> str:
    """A string that is not empty."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, not {value!r} ({type(value).__name__})")
    if not value:
        raise ValueError(f"{name} must not be empty")
    return check_encodable(name, value)


def one_of(*allowed: str) -> Check:
    def check(name: str, value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"{name}={value!r}: it must be {' or '.join(map(repr, allowed))}")
        return str(value)

    return check


def mapping(name: str, value: Any) -> dict[str, Any]:
    """A dict with strings as keys."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{name} must be a dict with strings as keys, not {value!r}")
    return dict(value)


def amount(name: str, value: Any) -> Any:
    """Left to :meth:`Resources.of`, which knows amounts."""
    return value


def exceptions(name: str, value: Any) -> RetryExceptions:
    """True, False, or exception classes, which become their full names; names stay as they are."""
    if isinstance(value, bool):
        return value
    names = set()
    for one in value if isinstance(value, (list, tuple, set, frozenset)) else (value,):
        if isinstance(one, type) and issubclass(one, BaseException):
            names.add(full_name(one))
        elif isinstance(one, str):
            names.add(one)
        else:
            raise TypeError(f"{name} must be True, False or a list of exception classes; {one!r} is no exception class")
    return frozenset(names)


def num_returns(name: str, value: Any) -> int:
    if value in ("dynamic", "streaming"):
        raise ValueError(
            f"{name}={value!r}: generators that stream their items are not part of Remora yet; "
            "return a list, or give the number of returns"
        )
    return int(integer(0, 2**32 - 1)(name, value))


def scheduling_strategy(name: str, value: Any) -> tuple[Strategy, GroupChoice | None]:
    """Where something is to run: the strategy, and the placement group if it is one."""
    from remora.util import scheduling_strategies as classes

    if isinstance(value, str):
        if value == "DEFAULT":
            return DEFAULT_STRATEGY, None
        if value == SPREAD:
            return SPREAD_STRATEGY, None
    elif isinstance(value, classes.PlacementGroupSchedulingStrategy):
        return DEFAULT_STRATEGY, value.to_choice()
    elif isinstance(value, (classes.NodeAffinitySchedulingStrategy, classes.NodeLabelSchedulingStrategy)):
        return value.to_strategy(), None
    names = {"DEFAULT", SPREAD, *(one for one in classes.__all__ if one.endswith("Strategy"))}
    meant = (nearest_name(value, names) or nearest_name(value.upper(), names)) if isinstance(value, str) else None
    hint = f". Did you mean {meant!r}?" if meant is not None else ""
    raise (ValueError if isinstance(value, str) else TypeError)(
        f"{name}={value!r}: it must be 'DEFAULT', 'SPREAD', or an object of one of the classes of "
        f"remora.util.scheduling_strategies{hint}"
    )


def placement_group(name: str, value: Any) -> Any:
    """A placement group, or "default" for none of its own."""
    if value != "default":
        group_choice(value, -1, None)
    return value


def group_choice(placement_group: Any, bundle_index: int, capture_child_tasks: bool | None) -> GroupChoice | None:
    """The group that ``PlacementGroupSchedulingStrategy`` with these arguments stands for."""
    from remora.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    return PlacementGroupSchedulingStrategy(placement_group, bundle_index, capture_child_tasks).to_choice()


def no_environment(name: str, value: Any) -> None:
    """Refuse an environment that asks for something: to run without it would be worse than not to run."""
    mapping(name, value)
    if value:
        raise ValueError(
            f"{name}={value!r}: environments of tasks and actors are not part of Remora yet; workers have the driver's "
            "sys.path, working directory and environment variables, so set these before init()"
        )


def check_options(
    kind: str,
    given: Mapping[str, Any],
    checks: Mapping[str, Check],
    meaningless: Iterable[str],
    belongs_to: Callable[[str], str] = lambda name: "",
) -> dict[str, Any]:
    """The options of *given*, checked; those with the value None are taken as not given.

    *kind* is what they belong to, as in "an actor". *meaningless* ones are left out with one warning per name.
    *belongs_to* gives a sentence for a name that belongs to something else, or nothing.

    Raises:
        TypeError, ValueError: a value is wrong.
        ValueError: a name is unknown.
    """
    checked = {}
    for name, value in given.items():
        check = checks.get(name)
        if check is not None:
            if value is not None:
                checked[name] = check(name, value)
        elif name in meaningless:
            if value is not None:
                warn_meaningless(kind, name)
        else:
            raise ValueError(f"{name!r} is no option of {kind}. {belongs_to(name) or did_you_mean(name, checks)}")
    return checked


def warn_meaningless(kind: str, name: str) -> None:
    """Say once that the option is accepted and ignored, at the user's own line."""
    if (kind, name) in _warned:
        return
    _warned.add((kind, name))
    message = f"the option {name!r} of {kind} has no meaning in Remora and is ignored"
    warnings.warn(message, UserWarning, stacklevel=_user_stacklevel())


def _user_stacklevel() -> int:
    """The ``stacklevel``, seen from the caller, of the innermost frame that is not ours."""
    level = 1
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
        level += 1
    return level
