"""The names under which the resources of a placement group's bundles are resources of a node.

Bundle 2 of group G that reserved ``CPU: 1`` makes its node have one ``CPU_group_2_G`` and one ``CPU_group_G``. A task
of bundle 2 takes both, a task of any bundle takes the second alone, so neither can use what the other has. Since these
are names like any other, whoever places tasks by resources places tasks of groups too.

Two more names are markers. ``bundle_group_*`` is needed by everything that runs in the group, also by what needs
nothing else; ``capture_group_*`` by tasks and actors whose own calls are to run in the group as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from remora.base.resources import CPU, UNITS_PER_ONE, Resources

ANY_BUNDLE = -1
GROUP_ID_SIZE_BYTES = 16

BUNDLE = "bundle"
CAPTURE = "capture"
MARKER_TOTAL_UNITS = 1000 * UNITS_PER_ONE
"""How much of a marker a bundle has: enough for 1,000,000 tasks at a time."""
MARKER_UNITS = UNITS_PER_ONE // 1000

_NAME = re.compile(r"(.+)_group_(?:(\d+)_)?([0-9a-f]{32})", re.DOTALL)


def name_in_group(name: str, group: bytes, index: int = ANY_BUNDLE) -> str:
    """What the resource is called in one bundle of the group, or in any.

    Example:
        >>> name_in_group("CPU", bytes(16), 2)
        'CPU_group_2_00000000000000000000000000000000'
    """
    return f"{name}_group_{group.hex()}" if index < 0 else f"{name}_group_{index}_{group.hex()}"


def parse_name(name: str) -> tuple[str, bytes, int] | None:
    """The resource, the group and the bundle (:data:`ANY_BUNDLE`) of such a name; None for any other name."""
    if "_group_" not in name:
        return None
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    return found[1], bytes.fromhex(found[3]), int(found[2]) if found[2] else ANY_BUNDLE


def base_name(name: str) -> str:
    """``CPU`` for ``CPU``, ``CPU_group_G`` and ``CPU_group_2_G``."""
    if "_group_" not in name:
        return name
    found = _NAME.fullmatch(name)
    return found[1] if found is not None else name


def is_cpu(name: str) -> bool:
    """Whether it names CPUs of the node or of a bundle, which a blocked worker lends."""
    return name == CPU or (name.startswith("CPU_group_") and base_name(name) == CPU)


def without_group(units: Mapping[str, int]) -> dict[str, int]:
    """Amounts under the names that the node itself has for them, as users asked for them; without markers.

    Example:
        >>> without_group(in_group(Resources.of(num_cpus=1), bytes(16)).units)
        {'CPU': 10000}
    """
    plain: dict[str, int] = {}
    for name, amount in units.items():
        base = base_name(name)
        if base == name or base not in (BUNDLE, CAPTURE):
            plain[base] = max(amount, plain.get(base, 0))
    return plain


def in_group(resources: Resources, group: bytes, index: int = ANY_BUNDLE, *, captures: bool = False) -> Resources:
    """What a task needs that needs *resources* and runs in the group.

    *index* is the bundle's, or :data:`ANY_BUNDLE`; *captures* says that the task's own calls run in the group as well.
    """
    needed = dict(resources.units)
    needed[BUNDLE] = MARKER_UNITS
    if captures:
        needed[CAPTURE] = MARKER_UNITS
    units = {}
    for name, amount in needed.items():
        units[name_in_group(name, group)] = amount
        if index >= 0:
            units[name_in_group(name, group, index)] = amount
    return Resources(units)


def bundle_units(bundle: Mapping[str, int], group: bytes, index: int) -> dict[str, int]:
    """What a node has more while it has the bundle, in units."""
    amounts = {**bundle, BUNDLE: MARKER_TOTAL_UNITS, CAPTURE: MARKER_TOTAL_UNITS}
    units = {}
    for name, amount in amounts.items():
        if amount:
            units[name_in_group(name, group, index)] = units[name_in_group(name, group)] = amount
    return units


def group_of(names: Iterable[str]) -> bytes:
    """The group that something with resources of these names runs in; empty when it runs in none."""
    for name in names:
        if name.startswith(f"{BUNDLE}_group_") and (parsed := parse_name(name)) is not None:
            return parsed[1]
    return b""


def captures_children(names: Iterable[str]) -> bool:
    """Whether the calls of something with resources of these names run in its group."""
    return any(name.startswith(f"{CAPTURE}_group_") and parse_name(name) is not None for name in names)
