"""The bundles of placement groups on this node: :class:`~remora.core.bundle_ledger.BundleLedger` and its effects."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from remora.base.resources import Resources
from remora.messages import placement_groups as m
from remora.processes.daemon.workers import WorkerService


class BundleService:
    """Does what the manager of the groups says, wherever that lives; ``answer`` sends it the answer."""

    def __init__(self, workers: WorkerService) -> None:
        self._workers = workers
        self._bundles = workers.leases.bundles
        self.answer: Callable[[m.BundlesAnswer], None] = lambda message: None

    def on_message(self, message: m.ReserveBundles | m.CommitBundles | m.ReturnBundles, now_s: float) -> None:
        """The manager wants something."""
        if isinstance(message, m.ReserveBundles):
            wanted = {index: Resources(units) for index, units in message.bundles.items()}
            has_room = self._bundles.reserve(message.group, message.attempt, wanted)
            self._answer(message, m.RESERVED if has_room else m.REFUSED)
        elif isinstance(message, m.CommitBundles):
            is_held = self._bundles.commit(message.group, message.attempt)
            self._changed(now_s)
            self._answer(message, m.COMMITTED if is_held else m.MISSING)
        else:
            self._bundles.give_back(message.group, message.indices, message.reason)
            self._end_users(now_s)
            self._bundles.settle()
            self._changed(now_s)

    def settle(self, now_s: float) -> None:
        """Give back to the node what nobody uses any more. To be called often: it looks only when something drains."""
        if self._bundles.is_draining and self._bundles.settle():
            self._changed(now_s)

    def free(self) -> Mapping[str, int]:
        """What the node has free, in units."""
        return self._workers.leases.ledger.free()

    def total(self) -> Mapping[str, int]:
        """What the node has in all, in units."""
        return self._workers.leases.ledger.total.units

    def group_removed(self, group: bytes, reason: str, now_s: float) -> None:
        """What waits for a bundle of the group fails, and what has one is ended."""
        for process in self._workers.router.group_removed(group, reason, now_s):
            self._workers.kill(process, reason)
        self._workers.carry_out()

    def _end_users(self, now_s: float) -> None:
        effects = self._bundles.outbox[:]
        self._bundles.outbox.clear()
        for effect in effects:
            self.group_removed(effect.group, effect.reason, now_s)

    def _changed(self, now_s: float) -> None:
        self._workers.leases.bundles_changed(now_s)
        self._workers.router.view_changed(now_s)
        self._workers.carry_out()

    def _answer(self, message: m.ReserveBundles | m.CommitBundles, outcome: int) -> None:
        self.answer(m.BundlesAnswer(message.group, message.attempt, outcome, dict(self.free())))
