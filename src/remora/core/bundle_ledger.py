"""The bundles of placement groups on one node: reserved, committed, given back.

The manager of the groups speaks in attempts: it reserves the bundles of one attempt on several nodes, and when all
nodes have said yes it commits them, else it returns them. A node takes all bundles of a reservation or none. What it
is told twice it does once: a manager that was started again repeats itself.

Returned bundles whose resources are in use are **draining**: their users are to be ended (``EndUsers``), and the node
has the resources back when the last one has let go.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from remora.base.bundle_names import parse_name
from remora.base.resources import Resources
from remora.core.resources_ledger import Bundle, ResourcesLedger


class EndUsers(msgspec.Struct, frozen=True):
    """End everything that has some of these resources, and everything that waits to."""

    group: bytes
    names: frozenset[str]
    reason: str


class BundleLedger:
    """The bundles of one node. ``outbox`` is emptied by the daemon.

    Example:
        >>> bundles = BundleLedger(ResourcesLedger(Resources.of(num_cpus=2)))
        >>> bundles.reserve(group, 1, {0: Resources.of(num_cpus=1)})
        True
        >>> bundles.commit(group, 1)
        True
    """

    def __init__(self, ledger: ResourcesLedger) -> None:
        self.outbox: list[EndUsers] = []
        self._ledger = ledger
        self._bundles: dict[bytes, dict[int, Bundle]] = {}
        self._attempts: dict[bytes, dict[int, int]] = {}
        """Of each bundle, which attempt has placed it here."""
        self._draining: list[Bundle] = []

    def reserve(self, group: bytes, attempt: int, bundles: Mapping[int, Resources]) -> bool:
        """Take what all these bundles need, or nothing and say no. Reserving again what is there says yes.

        Raises:
            ValueError: no bundle is named.
        """
        if not bundles:
            raise ValueError(f"a reservation of no bundles of group {group.hex()}")
        here = self._bundles.get(group, {})
        attempts = self._attempts.get(group, {})
        if all(index in here and attempts[index] == attempt for index in bundles):
            return True
        taken: list[Bundle] = []
        for index, resources in bundles.items():
            is_occupied = index in here or any(old.group == group and old.index == index for old in self._draining)
            bundle = None if is_occupied else self._ledger.reserve_bundle(group, index, resources)
            if bundle is None:
                for one in taken:
                    self._ledger.release(one.allocation)
                return False
            taken.append(bundle)
        for bundle in taken:
            self._bundles.setdefault(group, {})[bundle.index] = bundle
            self._attempts.setdefault(group, {})[bundle.index] = attempt
        return True

    def commit(self, group: bytes, attempt: int) -> bool:
        """Tasks may use what the attempt has reserved here. False: there is nothing of it, it was returned."""
        attempts = self._attempts.get(group, {})
        found = [bundle for index, bundle in self._bundles.get(group, {}).items() if attempts[index] == attempt]
        for bundle in found:
            if not bundle.units:
                self._ledger.commit_bundle(bundle)
        return bool(found)

    def give_back(self, group: bytes, indices: Collection[int] = (), reason: str = "") -> None:
        """The node has these bundles no more, or without *indices* all of the group. Those not here are passed over."""
        here = self._bundles.get(group, {})
        gone = [here[index] for index in list(here) if not indices or index in indices]
        names: set[str] = set()
        for bundle in gone:
            del here[bundle.index], self._attempts[group][bundle.index]
            names.update(bundle.units)
            self._ledger.dissolve_bundle(bundle)
            self._draining.append(bundle)
        # What uses any bundle of the group is spared as long as some of them are left here.
        names -= self._ledger.total.units.keys()
        if not here:
            self._bundles.pop(group, None)
            self._attempts.pop(group, None)
        self.settle()
        if names:
            self.outbox.append(EndUsers(group, frozenset(names), reason or "its placement group was removed"))

    def settle(self) -> bool:
        """Give back to the node what nobody uses any more. To be called after the end of leases; whether some was."""
        if not self._draining:
            return False
        used = self._ledger.names_in_use()
        done = [bundle for bundle in self._draining if not self._is_used(bundle, used)]
        for bundle in done:
            self._draining.remove(bundle)
            self._ledger.release(bundle.allocation)
        return bool(done)

    def _is_used(self, bundle: Bundle, used: Iterable[str]) -> bool:
        """Whether something has its resources by its own names, or by those of any bundle of a group that has left."""
        for name in used:
            parsed = parse_name(name)
            if parsed is None or parsed[1] != bundle.group:
                continue
            if parsed[2] == bundle.index or (parsed[2] < 0 and not self._ledger.total.units.get(name)):
                return True
        return False

    @property
    def is_draining(self) -> bool:
        """Whether :meth:`settle` waits for something to end."""
        return bool(self._draining)

    def allocated(self) -> set[int]:
        """The identities of what bundles have taken of the node, for checks."""
        bundles = [bundle for here in self._bundles.values() for bundle in here.values()]
        return {id(bundle.allocation) for bundle in (*bundles, *self._draining)}

    def validate(self) -> None:
        """
        Raises:
            AssertionError: bundles, attempts and the ledger do not agree.
        """
        self._ledger.validate()
        assert self.allocated() <= self._ledger.allocated(), f"{self!r}: a bundle without its resources"
        assert self._bundles.keys() == self._attempts.keys(), f"{self!r}: attempts"
        for group, bundles in self._bundles.items():
            assert bundles, f"{self!r}: an empty group"
            assert bundles.keys() == self._attempts[group].keys(), f"{self!r}: attempts of {group.hex()}"
            for index, bundle in bundles.items():
                assert (bundle.group, bundle.index) == (group, index), f"{bundle!r} is filed wrongly"
                total = self._ledger.total.units
                assert all(total.get(name, 0) >= amount for name, amount in bundle.units.items()), f"{bundle!r}: names"
        assert not any(bundle.units for bundle in self._draining), f"{self!r}: draining with names"

    def __repr__(self) -> str:
        bundles = [bundle for here in self._bundles.values() for bundle in here.values()]
        return f"<BundleLedger {bundles}, draining {self._draining}>"
