"""What a node has, what is taken of it, and which GPUs by index.

CPUs of a blocked worker are given back while it waits and taken again when it wakes, even when others have them
by then: only for CPUs may more be in use than there is.
"""

from __future__ import annotations

from collections.abc import Mapping

from remora.base.resources import CPU, GPU, UNITS_PER_ONE, Resources


class Allocation:
    """Resources that are taken. ``gpu_shares`` says how many units of which GPU."""

    __slots__ = ("cpus_lent", "gpu_shares", "need")

    def __init__(self, need: Resources, gpu_shares: dict[int, int]) -> None:
        self.need = need
        self.gpu_shares = gpu_shares
        self.cpus_lent = False

    @property
    def gpu_ids(self) -> tuple[int, ...]:
        """The indices of the GPUs, for ``CUDA_VISIBLE_DEVICES``."""
        return tuple(self.gpu_shares)

    def __repr__(self) -> str:
        return f"<Allocation {self.need}{' without CPUs' if self.cpus_lent else ''}>"


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
        """Negative for CPU after more blocked workers woke up than there are CPUs."""
        self._gpu_free = [UNITS_PER_ONE] * (total.units.get(GPU, 0) // UNITS_PER_ONE)
        self._allocations: dict[int, Allocation] = {}

    def fits(self, need: Resources) -> bool:
        """Whether it could be allocated now."""
        free = self._free
        for name, amount in need.units.items():
            if free.get(name, 0) < amount:
                return False
        return GPU not in need.units or self._choose_gpus(need.units[GPU]) is not None

    def allocate(self, need: Resources) -> Allocation | None:
        """Take *need*, or None when there is not so much now."""
        if not self.fits(need):
            return None
        shares = (self._choose_gpus(need.units[GPU]) if GPU in need.units else None) or {}
        for index, units in shares.items():
            self._gpu_free[index] -= units
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
            if name != CPU or not allocation.cpus_lent:
                self._free[name] += amount
        for index, units in allocation.gpu_shares.items():
            self._gpu_free[index] += units

    def lend_cpus(self, allocation: Allocation) -> None:
        """Its worker is blocked: others may have its CPUs. Nothing happens when they are lent already."""
        self._check_held(allocation)
        if not allocation.cpus_lent:
            allocation.cpus_lent = True
            if CPU in allocation.need.units:
                self._free[CPU] += allocation.need.units[CPU]

    def retake_cpus(self, allocation: Allocation) -> None:
        """Its worker woke up: it has its CPUs at once, whoever uses them. Nothing happens when they are not lent."""
        self._check_held(allocation)
        if allocation.cpus_lent:
            allocation.cpus_lent = False
            if CPU in allocation.need.units:
                self._free[CPU] -= allocation.need.units[CPU]

    def grow(self, total: Resources) -> None:
        """The node has *total* now.

        Raises:
            ValueError: it has less of something than before.
        """
        more = (total - self.total).units
        for name, amount in more.items():
            self._free[name] = self._free.get(name, 0) + amount
        self._gpu_free.extend([UNITS_PER_ONE] * (total.units.get(GPU, 0) // UNITS_PER_ONE - len(self._gpu_free)))
        self.total = total

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
        if GPU in need.units and GPU not in lack and self._choose_gpus(need.units[GPU]) is None:
            lack[GPU] = min(need.units[GPU], UNITS_PER_ONE)
        return lack

    def available(self) -> dict[str, float]:
        """What is free, in ones and never negative, for ``available_resources``."""
        return {name: max(0, amount) / UNITS_PER_ONE for name, amount in self._free.items()}

    def allocated(self) -> set[int]:
        """The identities of what is allocated now, for checks."""
        return set(self._allocations)

    def _choose_gpus(self, units: int) -> dict[int, int] | None:
        """Whole GPUs by lowest index; a part of one from the fullest that has room, so that whole ones stay whole."""
        if units < UNITS_PER_ONE:
            roomy = [index for index, free in enumerate(self._gpu_free) if free >= units]
            return {min(roomy, key=self._gpu_free.__getitem__): units} if roomy else None
        count = units // UNITS_PER_ONE
        whole = [index for index, free in enumerate(self._gpu_free) if free == UNITS_PER_ONE][:count]
        return dict.fromkeys(whole, UNITS_PER_ONE) if len(whole) == count else None

    def _check_held(self, allocation: Allocation) -> None:
        if id(allocation) not in self._allocations:
            raise ValueError(f"{allocation!r} was released before")

    def validate(self) -> None:
        """
        Raises:
            AssertionError: what is free and what is taken do not add up to what there is.
        """
        taken: dict[str, int] = {}
        gpu_taken = [0] * len(self._gpu_free)
        for allocation in self._allocations.values():
            for name, amount in allocation.need.units.items():
                if name != CPU or not allocation.cpus_lent:
                    taken[name] = taken.get(name, 0) + amount
            for index, units in allocation.gpu_shares.items():
                gpu_taken[index] += units
        for name, total in self.total.units.items():
            assert self._free[name] + taken.get(name, 0) == total, f"{name} does not add up in {self!r}"
            assert name == CPU or self._free[name] >= 0, f"more {name} in use than there is in {self!r}"
        assert all(free + taken == UNITS_PER_ONE for free, taken in zip(self._gpu_free, gpu_taken, strict=True)), (
            f"GPUs do not add up in {self!r}"
        )

    def __repr__(self) -> str:
        used = ", ".join(
            f"{name} {(total - self._free[name]) / UNITS_PER_ONE:g}/{total / UNITS_PER_ONE:g}"
            for name, total in self.total.units.items()
        )
        return f"<ResourcesLedger {used or 'of nothing'}>"
