"""What a node has, what is taken of it, and which GPUs by index.

CPUs of a blocked worker are given back while it waits and taken again when it wakes, even when others have them
by then: only for CPUs may more be in use than there is.

A bundle of a placement group takes from the node and adds names of its own (:mod:`remora.base.bundle_names`). GPUs
of a bundle are those that it took from the node, so each name of GPUs has a pool of indices of its own. What is
dissolved while it is in use is owed: nothing of that name is given out before it was given back.
"""

from __future__ import annotations

from collections.abc import Mapping

from remora.base.bundle_names import ANY_BUNDLE, base_name, bundle_units, is_cpu, name_in_group, parse_name
from remora.base.resources import GPU, UNITS_PER_ONE, Resources

GpuShare = tuple[str, int, int]
"""Of which pool (its name), which GPU, how many units."""


class Allocation:
    """Resources that are taken. ``gpu_shares`` says how many units of which GPU."""

    __slots__ = ("cpus_lent", "gpu_shares", "need")

    def __init__(self, need: Resources, gpu_shares: tuple[GpuShare, ...] = ()) -> None:
        self.need = need
        self.gpu_shares = gpu_shares
        self.cpus_lent = False

    @property
    def gpu_ids(self) -> tuple[int, ...]:
        """The indices of the GPUs, for ``CUDA_VISIBLE_DEVICES``."""
        return tuple(index for _, index, _ in self.gpu_shares)

    def __repr__(self) -> str:
        return f"<Allocation {self.need}{' without CPUs' if self.cpus_lent else ''}>"


class Bundle:
    """One bundle of a group on this node: what it has taken, and whether its own names are there."""

    __slots__ = ("allocation", "group", "index", "units")

    def __init__(self, group: bytes, index: int, allocation: Allocation) -> None:
        self.group = group
        self.index = index
        self.allocation = allocation
        self.units: dict[str, int] = {}
        """What it adds to the node; empty until it is committed."""

    @property
    def name(self) -> str:
        """The name of its own GPUs, if it has some."""
        return name_in_group(GPU, self.group, self.index)

    def __repr__(self) -> str:
        return f"<Bundle {self.index} of {self.group.hex()[:12]} {'committed' if self.units else 'reserved'}>"


class ResourcesLedger:
    """The resources of one node.

    Example:
        >>> ledger = ResourcesLedger(Resources.of(num_cpus=1))
        >>> first = ledger.allocate(Resources.of(num_cpus=1))
        >>> ledger.allocate(Resources.of(num_cpus=0.5)) is None
        True
    """

    def __init__(self, total: Resources) -> None:
        self.total = total
        self._free = dict(total.units)
        """Negative for CPU after more blocked workers woke up than there are CPUs, and for what is owed."""
        self._gpus: dict[str, dict[int, int]] = {
            GPU: dict.fromkeys(range(total.units.get(GPU, 0) // UNITS_PER_ONE), UNITS_PER_ONE)
        }
        """Name of the pool to units free of each GPU in it."""
        self._owed: set[str] = set()
        """Names of which more is in use than there is, because a bundle was dissolved."""
        self._allocations: dict[int, Allocation] = {}

    def fits(self, need: Resources) -> bool:
        """Whether it could be allocated now."""
        free = self._free
        for name, amount in need.units.items():
            if free.get(name, 0) < amount:
                return False
        return self._choose_gpus(need) is not None

    def allocate(self, need: Resources) -> Allocation | None:
        """Take *need*, or None when there is not so much now."""
        if not self.fits(need):
            return None
        shares = self._choose_gpus(need) or ()
        for pool, index, units in shares:
            self._gpus[pool][index] -= units
        for name, amount in need.units.items():
            self._free[name] -= amount
        allocation = Allocation(need, shares)
        self._allocations[id(allocation)] = allocation
        return allocation

    def release(self, allocation: Allocation) -> None:
        """Give everything back.

        Raises:
            ValueError: it is not allocated here any more.
        """
        if self._allocations.pop(id(allocation), None) is None:
            raise ValueError(f"{allocation!r} was released before")
        for name, amount in allocation.need.units.items():
            if not allocation.cpus_lent or not is_cpu(name):
                self._free[name] += amount
            if name in self._owed or name not in self.total.units:
                self._settle(name)
        for pool, index, units in allocation.gpu_shares:
            if pool in self._gpus:  # else its bundle was dissolved
                self._gpus[pool][index] += units

    def lend_cpus(self, allocation: Allocation) -> None:
        """Its worker is blocked: others may have its CPUs. Nothing happens when they are lent already."""
        self._check_held(allocation)
        if not allocation.cpus_lent:
            allocation.cpus_lent = True
            for name, amount in allocation.need.units.items():
                if is_cpu(name):
                    self._free[name] += amount

    def retake_cpus(self, allocation: Allocation) -> None:
        """Its worker woke up: it has its CPUs at once, whoever uses them. Nothing happens when they are not lent."""
        self._check_held(allocation)
        if allocation.cpus_lent:
            allocation.cpus_lent = False
            for name, amount in allocation.need.units.items():
                if is_cpu(name):
                    self._free[name] = self._free.get(name, 0) - amount

    def grow(self, total: Resources) -> None:
        """The node has *total* now; what bundles add does not count.

        Raises:
            ValueError: it has less of something than before.
        """
        more = (Resources(_without_bundles(total)) - Resources(_without_bundles(self.total))).units
        for name, amount in more.items():
            self._free[name] = self._free.get(name, 0) + amount
        gpus = self._gpus[GPU]
        for index in range(len(gpus), total.units.get(GPU, 0) // UNITS_PER_ONE):
            gpus[index] = UNITS_PER_ONE
        self.total = self.total + Resources(more)

    # ------------------------------------------------------------------ bundles of placement groups

    def reserve_bundle(self, group: bytes, index: int, bundle: Resources) -> Bundle | None:
        """Take what the bundle needs from the node, or None when there is not so much now."""
        allocation = self.allocate(bundle)
        return Bundle(group, index, allocation) if allocation is not None else None

    def commit_bundle(self, bundle: Bundle) -> None:
        """What the bundle has taken can be used under its own names.

        Raises:
            ValueError: it was committed before.
        """
        if bundle.units:
            raise ValueError(f"{bundle!r} was committed before")
        self._check_held(bundle.allocation)
        bundle.units = bundle_units(bundle.allocation.need.units, bundle.group, bundle.index)
        self.total = self.total + Resources(bundle.units)
        for name, amount in bundle.units.items():
            self._free[name] = self._free.get(name, 0) + amount
            self._settle(name)
        if bundle.allocation.gpu_shares:
            self._gpus[bundle.name] = {index: units for _, index, units in bundle.allocation.gpu_shares}

    def dissolve_bundle(self, bundle: Bundle) -> None:
        """Its names are no resources any more; who uses some of them has to be ended. Not committed: nothing happens.

        The node has back what the bundle took by :meth:`release` of its allocation, when nobody uses it any more.
        """
        if not bundle.units:
            return
        self.total = self.total - Resources(bundle.units)
        for name, amount in bundle.units.items():
            self._free[name] -= amount
            if self._free[name] < 0:
                self._owed.add(name)
            self._settle(name)
        self._gpus.pop(bundle.name, None)
        bundle.units = {}

    def _settle(self, name: str) -> None:
        """Forget what is owed no more, and names of which nothing is left."""
        free = self._free.get(name, 0)
        if free >= 0:
            self._owed.discard(name)
        if name in self.total.units or any(name in one.need.units for one in self._allocations.values()):
            return
        self._free.pop(name, None)

    # ------------------------------------------------------------------ looking

    def free(self) -> Mapping[str, int]:
        """Units of each resource that nobody has; negative for CPUs in use more than once. Not to be changed."""
        return self._free

    def lacking(self, need: Resources) -> dict[str, int]:
        """What must become free before *need* fits, in units; GPUs also lack when they are free in pieces only."""
        lack = {}
        for name, amount in need.units.items():
            missing = amount - self._free.get(name, 0)
            if missing > 0:
                lack[name] = missing
        name = _gpu_name(need)
        if name and name not in lack and self._choose_gpus(need) is None:
            lack[name] = min(need.units[name], UNITS_PER_ONE)
        return lack

    def available(self) -> dict[str, float]:
        """What is free, in ones and never negative, for ``available_resources``."""
        return {name: max(0, amount) / UNITS_PER_ONE for name, amount in self._free.items()}

    def names_in_use(self) -> set[str]:
        """The names of everything that somebody has taken."""
        return {name for allocation in self._allocations.values() for name in allocation.need.units}

    def allocated(self) -> set[int]:
        """The identities of what is allocated now, for checks."""
        return set(self._allocations)

    def _choose_gpus(self, need: Resources) -> tuple[GpuShare, ...] | None:
        """Whole GPUs by lowest index; a part of one from the fullest that has room, so that whole ones stay whole."""
        name = _gpu_name(need)
        if not name:
            return ()
        units = need.units[name]
        free = [
            (pool, index, units_free)
            for pool in self._pools_of(name)
            for index, units_free in self._gpus.get(pool, {}).items()
        ]
        if units < UNITS_PER_ONE:
            roomy = [one for one in free if one[2] >= units]
            if not roomy:
                return None
            pool, index, _ = min(roomy, key=lambda one: one[2])
            return ((pool, index, units),)
        count = units // UNITS_PER_ONE
        whole = sorted(index for _, index, units_free in free if units_free == UNITS_PER_ONE)[:count]
        if len(whole) < count:
            return None
        return tuple(
            (pool, index, UNITS_PER_ONE)
            for pool, index, units_free in sorted(free, key=lambda one: one[1])
            if units_free == UNITS_PER_ONE and index in whole
        )

    def _pools_of(self, name: str) -> list[str]:
        """One pool, or for GPUs of any bundle of a group the pools of all its bundles here."""
        parsed = parse_name(name)
        if parsed is None or parsed[2] != ANY_BUNDLE:
            return [name]
        return [pool for pool in self._gpus if (other := parse_name(pool)) is not None and other[1] == parsed[1]]

    def _check_held(self, allocation: Allocation) -> None:
        if id(allocation) not in self._allocations:
            raise ValueError(f"{allocation!r} was released before")

    def validate(self) -> None:
        """
        Raises:
            AssertionError: what is free and what is taken do not add up to what there is.
        """
        taken: dict[str, int] = {}
        gpu_taken: dict[tuple[str, int], int] = {}
        for allocation in self._allocations.values():
            for name, amount in allocation.need.units.items():
                if not allocation.cpus_lent or not is_cpu(name):
                    taken[name] = taken.get(name, 0) + amount
            for pool, index, units in allocation.gpu_shares:
                gpu_taken[pool, index] = gpu_taken.get((pool, index), 0) + units
        total = self.total.units
        for name in {*total, *taken, *self._free}:
            free = self._free.get(name, 0)
            assert free + taken.get(name, 0) == total.get(name, 0), f"{name} does not add up in {self!r}"
            assert free >= 0 or is_cpu(name) or name in self._owed, f"more {name} in use than there is in {self!r}"
        for index, free in self._gpus[GPU].items():
            assert free + gpu_taken.get((GPU, index), 0) == UNITS_PER_ONE, f"GPUs do not add up in {self!r}"
        assert all(free >= 0 for pool in self._gpus.values() for free in pool.values()), f"GPUs in {self!r}"

    def __repr__(self) -> str:
        used = ", ".join(
            f"{name} {(total - self._free[name]) / UNITS_PER_ONE:g}/{total / UNITS_PER_ONE:g}"
            for name, total in self.total.units.items()
        )
        return f"<ResourcesLedger {used or 'of nothing'}>"


def _without_bundles(total: Resources) -> dict[str, int]:
    return {name: amount for name, amount in total.units.items() if base_name(name) == name}


def _gpu_name(need: Resources) -> str:
    """Under which name GPUs are needed; that of the bundle when it is needed together with that of its group."""
    if GPU in need.units:
        return GPU
    found = ""
    for name in need.units:
        if name.startswith("GPU_group_") and (parsed := parse_name(name)) is not None and parsed[0] == GPU:
            if parsed[2] != ANY_BUNDLE:
                return name
            found = name
    return found
