"""Placement groups: resources that are reserved together, on one node or on several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from remora.api.init import connect_or_init
from remora.api.label_checks import check_label_selector
from remora.base import runtime
from remora.base.bundle_names import GROUP_ID_SIZE_BYTES
from remora.base.object_ref import ObjectRef
from remora.base.placement_groups import GroupInformation, GroupRequest, PlacementGroups
from remora.base.resources import UNITS_PER_ONE, to_units
from remora.base.scheduling import Strategy
from remora.base.suggest import did_you_mean
from remora.base.text import check_encodable

STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD")


class PlacementGroup:
    """Bundles of resources that were reserved together; what :func:`placement_group` returns.

    Groups may be passed to tasks and actors; two are equal when they are the same group. Nothing is given back when
    the last of these objects goes: a group ends with :func:`remove_placement_group` or with its job.

    Attributes:
        id: 16 bytes.

    Example:
        >>> group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="SPREAD")
        >>> remora.get(group.ready()) == group
        True
    """

    __slots__ = ("_bundles", "id")

    def __init__(self, id: bytes, bundle_cache: Sequence[Mapping[str, float]] | None = None) -> None:
        self.id = id
        self._bundles = None if bundle_cache is None else [dict(bundle) for bundle in bundle_cache]

    @staticmethod
    def empty() -> PlacementGroup:
        """The group that stands for none, which tasks and actors may be given to run outside of any."""
        return PlacementGroup(bytes(GROUP_ID_SIZE_BYTES), [])

    @property
    def bundle_specs(self) -> list[dict[str, float]]:
        """The resources of each bundle; empty when the group was removed long ago."""
        if self._bundles is None:
            found = _groups().describe(self.id)
            self._bundles = [_amounts(bundle) for bundle in found[0].bundles] if found else []
        return self._bundles

    @property
    def bundle_count(self) -> int:
        """How many bundles it has."""
        return len(self.bundle_specs)

    @property
    def is_empty(self) -> bool:
        """Whether it stands for no group."""
        return not any(self.id)

    def ready(self) -> ObjectRef[PlacementGroup]:
        """A ref that has the group as its value as soon as all bundles are reserved.

        ``get`` of it raises ``TaskPlacementGroupRemoved`` when the group was removed before.
        """
        if self.is_empty:
            return (runtime.current or connect_or_init()).put(self)
        return _groups().ready(self.id, self)

    def wait(self, timeout_seconds: float | None = 30) -> bool:
        """Wait until all bundles are reserved.

        Parameters:
            timeout_seconds: how long at most; None for as long as it takes.

        Returns:
            Whether they are. False at once when the group is removed.

        Raises:
            TypeError, ValueError: the timeout is no number, or negative.
        """
        if timeout_seconds is not None:
            if isinstance(timeout_seconds, bool) or not isinstance(timeout_seconds, int | float):
                raise TypeError(f"timeout_seconds must be a number or None, not {timeout_seconds!r}")
            if math.isnan(timeout_seconds) or timeout_seconds < 0:
                raise ValueError(f"timeout_seconds={timeout_seconds}: it must not be negative")
        return _groups().wait(self.id, timeout_seconds)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PlacementGroup) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"PlacementGroup({self.id.hex()})"

    def __reduce__(self) -> tuple[Any, ...]:
        return PlacementGroup, (self.id, self._bundles)


def placement_group(
    bundles: list[dict[str, float]],
    strategy: str = "PACK",
    name: str = "",
    lifetime: str | None = None,
    bundle_label_selector: list[dict[str, str]] | None = None,
) -> PlacementGroup:
    """Reserve bundles of resources together; returns at once, see :meth:`PlacementGroup.ready`.

    All bundles are reserved, or none: a group that does not fit waits, and holds nothing meanwhile. A bundle is on one
    node. Tasks and actors run in a group by ``scheduling_strategy=PlacementGroupSchedulingStrategy(group)``.
    When a node dies, its bundles are reserved again on others as soon as there is room.

    Parameters:
        bundles: the resources of each, as ``[{"CPU": 2}, {"CPU": 1, "GPU": 1, "memory": 1e9}]``.
        strategy: "PACK": on few nodes. "SPREAD": on many. "STRICT_PACK": on one, "STRICT_SPREAD": each on another one,
            or else the group waits.
        name: for :func:`get_placement_group`; of the groups of a namespace each has another name.
        lifetime: None: the group ends with the program that made it. "detached": with the cluster.
        bundle_label_selector: for each bundle what labels its node must have, as in ``label_selector``.

    Raises:
        TypeError: an argument or an amount has the wrong type.
        ValueError: a bundle is empty, an amount, the strategy, a selector or *lifetime* is wrong, or the name is taken.

    Example:
        >>> group = placement_group([{"CPU": 1}] * 4, strategy="SPREAD")
        >>> group.wait(10)
        True
    """
    request = GroupRequest(
        bundles=[_bundle(index, bundle) for index, bundle in enumerate(_bundle_list(bundles))],
        strategy=_strategy(strategy),
        name=_name(name),
        detached=_is_detached(lifetime),
        selectors=_selectors(bundle_label_selector, len(bundles)),
    )
    group = _groups().create(request)
    return PlacementGroup(group, [_amounts(bundle) for bundle in request.bundles])


def remove_placement_group(placement_group: PlacementGroup) -> None:
    """Give a group's resources back. Tasks and actors that use them are ended, and those that wait for them fail.

    Parameters:
        placement_group: the group; when it was removed before, nothing happens.

    Raises:
        TypeError: it is no placement group.

    Example:
        >>> remove_placement_group(group)
    """
    _groups().remove(_checked(placement_group).id)


def get_placement_group(placement_group_name: str) -> PlacementGroup:
    """The group of this name in the namespace of the program.

    Parameters:
        placement_group_name: what :func:`placement_group` was given as *name*.

    Raises:
        TypeError: the name is no string.
        ValueError: it is empty, or no group has it.

    Example:
        >>> placement_group([{"CPU": 1}], name="ring", lifetime="detached")
        >>> get_placement_group("ring").bundle_count
        1
    """
    if not _name(placement_group_name):
        raise ValueError("get_placement_group: the name must not be empty")
    found = _groups().find(placement_group_name)
    return PlacementGroup(found.group, [_amounts(bundle) for bundle in found.bundles])


def get_current_placement_group() -> PlacementGroup | None:
    """The group that the running task or actor is in; None in a driver, and for a task that is in none.

    Example:
        >>> get_current_placement_group() is None
        True
    """
    group = _groups().current()
    return PlacementGroup(group) if group else None


def placement_group_table(placement_group: PlacementGroup | None = None) -> dict[str, Any]:
    """What there is to know of a group: ``state``, ``bundles``, ``bundles_to_node_id``, ``stats`` and more.

    ``state`` is PENDING, CREATED, RESCHEDULING or REMOVED; ``reason`` says why a group waits or was removed.

    Parameters:
        placement_group: the group; None for all, then the result has one entry for each, by its hexadecimal id.

    Raises:
        TypeError: it is no placement group.

    Example:
        >>> placement_group_table(group)["state"]
        'CREATED'
    """
    if placement_group is None:
        return {one.group.hex(): _table_entry(one) for one in _groups().describe()}
    found = _groups().describe(_checked(placement_group).id)
    return _table_entry(found[0]) if found else {}


def _groups() -> PlacementGroups:
    return (runtime.current or connect_or_init()).placement_groups


def _table_entry(group: GroupInformation) -> dict[str, Any]:
    return {
        "placement_group_id": group.group.hex(),
        "name": group.name,
        "namespace": group.namespace,
        "bundles": {index: _amounts(bundle) for index, bundle in enumerate(group.bundles)},
        "bundles_to_node_id": dict(enumerate(group.nodes)),
        "strategy": group.strategy,
        "state": group.state,
        "reason": group.reason,
        "is_detached": group.is_detached,
        "stats": {
            "end_to_end_creation_latency_ms": group.creation_s * 1000,
            "scheduling_latency_ms": group.scheduling_s * 1000,
            "scheduling_attempt": group.scheduling_attempts,
            "highest_retry_delay_ms": group.highest_retry_delay_s * 1000,
            "scheduling_state": group.scheduling_state,
        },
    }


def _amounts(bundle: Mapping[str, int]) -> dict[str, float]:
    return {name: amount / UNITS_PER_ONE for name, amount in bundle.items()}


# ------------------------------------------------------------------ checks


def _checked(group: object) -> PlacementGroup:
    if not isinstance(group, PlacementGroup):
        raise TypeError(f"placement_group must be what placement_group(...) returned, not {group!r}")
    return group


def _bundle_list(bundles: object) -> list[Any]:
    if not isinstance(bundles, list):
        raise TypeError(f"bundles must be a list of dicts, as [{{'CPU': 1}}], not {bundles!r}")
    if not bundles:
        raise ValueError("bundles must not be empty: give the resources of each bundle, as [{'CPU': 1}]")
    return bundles


def _bundle(index: int, bundle: object) -> dict[str, int]:
    if not isinstance(bundle, dict) or not all(isinstance(name, str) for name in bundle):
        raise TypeError(f"bundles[{index}] must be a dict with names of resources as keys, not {bundle!r}")
    units = {
        check_encodable(f"bundles[{index}]", name): to_units(amount, f"bundles[{index}][{name!r}]")
        for name, amount in bundle.items()
    }
    if not any(units.values()):
        raise ValueError(f"bundles[{index}]={bundle!r}: a bundle must have something")
    for name, amount in units.items():
        if name == "GPU" and amount > UNITS_PER_ONE and amount % UNITS_PER_ONE:
            raise ValueError(f"bundles[{index}]={bundle!r}: above 1 only whole GPUs can be had")
        if name in ("bundle", "capture") or "_group_" in name:
            raise ValueError(f"bundles[{index}]={bundle!r}: {name!r} is a name that placement groups use themselves")
    return {name: amount for name, amount in units.items() if amount}


def _strategy(strategy: object) -> str:
    if strategy is None:
        return "PACK"
    if not isinstance(strategy, str):
        raise TypeError(f"strategy must be a string, not {strategy!r}")
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy={strategy!r}: there is no such strategy. {did_you_mean(strategy, STRATEGIES)}")
    return strategy


def _name(name: object) -> str:
    if name is None:
        return ""
    if not isinstance(name, str):
        raise TypeError(f"the name of a placement group must be a string, not {name!r}")
    return check_encodable("name", name)


def _is_detached(lifetime: object) -> bool:
    if lifetime not in (None, "detached"):
        raise ValueError(f"lifetime={lifetime!r}: it must be None or 'detached'")
    return lifetime == "detached"


def _selectors(given: object, count: int) -> list[str]:
    if given is None or given == []:
        return []
    if not isinstance(given, list):
        raise TypeError(f"bundle_label_selector must be a list of dicts, not {given!r}")
    if len(given) != count:
        raise ValueError(f"bundle_label_selector has {len(given)} selectors for {count} bundles")
    checked = [check_label_selector(f"bundle_label_selector[{index}]", one) for index, one in enumerate(given)]
    return [Strategy(labels=conditions).encode() for conditions in checked]
