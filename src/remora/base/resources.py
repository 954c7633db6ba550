"""Amounts of resources, exact: whole numbers of 1/10000.

Floats would let 0.1 + 0.2 + 0.7 CPUs not fit into 1. ``CPU``, ``GPU`` and ``memory`` (bytes) are known to every
node; any other name is the user's own. Names are case-sensitive, as in Ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite

from remora.base.suggest import nearest_name
from remora.base.text import check_encodable

UNITS_PER_ONE = 10_000
MAX_UNITS = 1 << 60
"""Of one resource on one node: of memory 115 TB. What is larger cannot be added up on the wire."""

CPU = "CPU"
GPU = "GPU"
MEMORY = "memory"
STORE = "object_store_memory"
"""Under this name the object store is listed among the resources of a node, as in Ray; nothing can ask for it."""

_OWN_ARGUMENT = {CPU: "num_cpus", GPU: "num_gpus", MEMORY: "memory"}


class Resources:
    """An immutable amount of each of some resources; a name that is not in it stands for 0.

    Example:
        >>> one = Resources.of(num_cpus=1)
        >>> one - Resources.of(num_cpus=0.3)
        Resources(CPU=0.7)
    """

    __slots__ = ("_hash", "units")

    units: Mapping[str, int]
    """Name to amount in 1/10000, without zeros. Not to be changed."""

    def __init__(self, units: Mapping[str, int] | None = None) -> None:
        """
        Raises:
            ValueError: an amount is negative.
        """
        kept = {}
        for name, amount in (units or {}).items():
            if amount < 0:
                raise ValueError(f"there cannot be {amount / UNITS_PER_ONE:g} of {name!r}: amounts are never negative")
            if amount:
                kept[name] = amount
        self.units = kept
        self._hash = hash(frozenset(kept.items()))

    @classmethod
    def of(
        cls,
        num_cpus: float | None = None,
        num_gpus: float | None = None,
        memory: float | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> Resources:
        """What a user asked for in options of ``remote`` or ``init``; *memory* in bytes.

        Raises:
            TypeError: an amount is not a number, or a name is not a string.
            ValueError: an amount is negative, infinite or finer than 1/10000, GPUs above 1 are not whole, or
                *resources* has a name with an argument of its own.
        """
        units = {}
        for name, argument, amount in ((CPU, "num_cpus", num_cpus), (GPU, "num_gpus", num_gpus)):
            if amount is not None:
                units[name] = to_units(amount, argument)
        if memory is not None:
            units[MEMORY] = to_units(memory, "memory")
        for name, amount in (resources or {}).items():
            _check_custom_name(name)
            units[name] = to_units(amount, f"resources[{name!r}]")
        gpu_units = units.get(GPU, 0)
        if gpu_units > UNITS_PER_ONE and gpu_units % UNITS_PER_ONE:
            raise ValueError(
                f"num_gpus={num_gpus}: above 1 only whole GPUs can be had, because they are given by index"
            )
        return cls(units)

    def __add__(self, other: Resources) -> Resources:
        total = dict(self.units)
        for name, amount in other.units.items():
            total[name] = total.get(name, 0) + amount
        return Resources(total)

    def __sub__(self, other: Resources) -> Resources:
        """Raises ValueError when *other* does not fit into it."""
        rest = dict(self.units)
        for name, amount in other.units.items():
            rest[name] = rest.get(name, 0) - amount
        return Resources(rest)

    def or_more(self, other: Resources) -> Resources:
        """Of each resource the larger amount of both."""
        most = dict(self.units)
        for name, amount in other.units.items():
            most[name] = max(amount, most.get(name, 0))
        return Resources(most)

    def fits_into(self, room: Mapping[str, int]) -> bool:
        """Whether *room* (name to units) has all of it."""
        return all(amount <= room.get(name, 0) for name, amount in self.units.items())

    def to_floats(self) -> dict[str, float]:
        """Name to amount in ones, as users see it; whole amounts come out exact."""
        return {name: amount / UNITS_PER_ONE for name, amount in self.units.items()}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Resources) and self.units == other.units

    def __hash__(self) -> int:
        return self._hash

    def __bool__(self) -> bool:
        return bool(self.units)

    def __iter__(self) -> Iterator[str]:
        return iter(self.units)

    def __str__(self) -> str:
        return describe_units(self.units)

    def __repr__(self) -> str:
        return f"Resources({', '.join(f'{name}={_number(amount)}' for name, amount in self.units.items())})"


def to_units(amount: float, argument: str) -> int:
    """*amount* in 1/10000, rounded to the nearest one; *argument* names it in errors.

    Raises:
        TypeError: it is not a number.
        ValueError: it is negative, infinite, not a number, above :data:`MAX_UNITS`, or positive and finer than 1/10000.
    """
    if isinstance(amount, bool) or not isinstance(amount, (int, float)):
        raise TypeError(f"{argument} must be a number, not {amount!r} ({type(amount).__name__})")
    if not isfinite(amount):
        raise ValueError(f"{argument}={amount}: it must be a finite number")
    if amount < 0:
        raise ValueError(f"{argument}={amount}: it must not be negative")
    if amount > MAX_UNITS // UNITS_PER_ONE:
        raise ValueError(f"{argument}={amount:g}: the largest amount is {MAX_UNITS // UNITS_PER_ONE:,}")
    units = round(amount * UNITS_PER_ONE)
    if amount and not units:
        raise ValueError(f"{argument}={amount}: the smallest amount is {1 / UNITS_PER_ONE:g}")
    return units


def describe_units(units: Mapping[str, int]) -> str:
    """``CPU 2, memory 1.50 GB`` for messages to people; ``nothing`` when it is empty."""
    if any("_group_" in name for name in units):
        from remora.base.bundle_names import group_of, without_group

        if group := group_of(units):
            return f"{describe_units(without_group(units))} of placement group {group.hex()}"
    return ", ".join(f"{name} {_amount(name, amount)}" for name, amount in units.items()) or "nothing"


def why_never(need: Resources, nodes: Sequence[Mapping[str, int]]) -> str:
    """One clause that says what of *need* no node has. *nodes*: what each has in all, in units.

    Raises:
        ValueError: some node has all of it.
    """
    if any(need.fits_into(node) for node in nodes):
        raise ValueError(f"a node has {need}")
    if any("_group_" in name for name in need):
        from remora.base.bundle_names import BUNDLE, group_of, name_in_group

        group = group_of(need)
        if group and not any(name_in_group(BUNDLE, group) in node for node in nodes):
            return f"no node has a bundle of its placement group {group.hex()} yet"
    most: dict[str, int] = {}
    for node in nodes:
        for name, amount in node.items():
            most[name] = max(amount, most.get(name, 0))
    lacking = [_lack(name, amount, most) for name, amount in need.units.items() if amount > most.get(name, 0)]
    if not lacking:
        return f"no single node has {need} together"
    return "; ".join(lacking)


def _lack(name: str, amount: int, most: Mapping[str, int]) -> str:
    if name in most:
        return f"no node has {name} {_amount(name, amount)}, the most is {_amount(name, most[name])}"
    meant = None if name in _OWN_ARGUMENT else nearest_name(name, most)
    return f"no node has any {name!r}" + (f" (is {meant!r} meant?)" if meant else "")


def _check_custom_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"resources: names are strings, not {name!r}")
    if not name:
        raise ValueError("resources: a name must not be empty")
    check_encodable("resources", name)
    for known, argument in _OWN_ARGUMENT.items():
        if name == known or name.casefold() == argument or name.casefold() == known.casefold():
            raise ValueError(f"resources={{{name!r}: ...}}: use the argument {argument}= for it")


def _amount(name: str, units: int) -> str:
    if name != MEMORY:
        return _number(units)
    size_bytes = units / UNITS_PER_ONE
    for unit in ("bytes", "KB", "MB", "GB"):
        if size_bytes < 1000 or unit == "GB":
            break
        size_bytes /= 1000
    return f"{size_bytes:.3g} {unit}"


def _number(units: int) -> str:
    return f"{units / UNITS_PER_ONE:.10g}"
