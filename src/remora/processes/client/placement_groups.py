"""Placement groups as a process sees them: making, awaiting and removing them, and the one that it runs in."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from struct import Struct
from time import monotonic
from typing import TYPE_CHECKING, Any

from remora.base.bundle_names import ANY_BUNDLE, captures_children, group_of, in_group
from remora.base.errors import LocalRayletDiedError, TaskPlacementGroupRemoved
from remora.base.ids import ObjectId
from remora.base.object_ref import INLINE, PENDING, ObjectRef
from remora.base.placement_groups import GroupInformation, GroupRequest
from remora.base.resources import Resources, describe_units
from remora.base.scheduling import GroupChoice
from remora.messages import placement_groups as m
from remora.messages.objects import Value
from remora.serialization import serialize, serialize_system_error

if TYPE_CHECKING:
    from remora.processes.client.client import Client

_pack_pair = Struct(">II").pack
REMEMBERED_REMOVED = 1000
MESSAGES = frozenset((m.PlacementGroups, m.PlacementGroupState))


class PlacementGroupClient:
    """Implements :class:`remora.base.placement_groups.PlacementGroups`. Any thread may call the public methods."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._states: dict[bytes, m.PlacementGroupState | None] = {}
        """Of each group that is watched; None until the daemon has answered."""
        self._bundles: dict[bytes, list[dict[str, int]]] = {}
        self._removed: deque[bytes] = deque()
        self._awaited: dict[bytes, list[tuple[ObjectRef[Any], bytes]]] = {}
        """Refs of :meth:`ready` and what they become."""
        self._current = b""
        self._captures = False

    # ------------------------------------------------------------------ what users ask for

    def create(self, request: GroupRequest) -> bytes:
        """See :class:`~remora.base.placement_groups.PlacementGroups`."""
        client = self._client
        group = client.process + _pack_pair(next(client.next_call), 0)
        with client.lock:
            self._states[group] = None  # its creator watches it
            self._bundles[group] = request.bundles
        answer = client.request(
            lambda number: client.send_to_daemon(
                m.CreatePlacementGroup(
                    number,
                    group,
                    request.bundles,
                    request.strategy,
                    request.name,
                    client.namespace,
                    request.detached,
                    request.selectors,
                )
            )
        )
        if answer.error:
            with client.lock:
                self._states.pop(group, None)
                self._bundles.pop(group, None)
            raise ValueError(answer.error)
        return group

    def remove(self, group: bytes) -> None:
        """See :class:`~remora.base.placement_groups.PlacementGroups`."""
        client = self._client
        client.request(lambda number: client.send_to_daemon(m.RemovePlacementGroup(number, group)))

    def find(self, name: str) -> GroupInformation:
        """See :class:`~remora.base.placement_groups.PlacementGroups`."""
        return self._find(name=name)[0]

    def describe(self, group: bytes = b"") -> list[GroupInformation]:
        """See :class:`~remora.base.placement_groups.PlacementGroups`."""
        return self._find(group=group)

    def ready(self, group: bytes, value: Any) -> ObjectRef[Any]:
        """See :class:`~remora.base.placement_groups.PlacementGroups`."""
        client = self._client
        client.check_alive()
        ref: ObjectRef[Any] = ObjectRef(ObjectId(client.process + _pack_pair(next(client.next_call), 0)), PENDING)
        data = serialize(value).to_bytes()
        with client.lock:
            self._watch(group)
            self._awaited.setdefault(group, []).append((ref, data))
            state = self._states[group]
        client.nudge()
        if state is not None:
            self._settle(state)
        return ref

    def wait(self, group: bytes, timeout_s: float | None) -> bool:
        """See :class:`~remora.base.placement_groups.PlacementGroups`."""
        client = self._client
        client.check_alive()
        with client.lock:
            self._watch(group)
        deadline_s = None if timeout_s is None else monotonic() + timeout_s
        client.wait_until(lambda: self._is_decided(group) or client.ended, deadline_s)
        client.check_alive()
        state = self._states.get(group)
        return state is not None and state.state == m.CREATED

    def current(self) -> bytes:
        """See :class:`~remora.base.placement_groups.PlacementGroups`."""
        return self._current

    def captures_children(self) -> bool:
        """See :class:`~remora.base.placement_groups.PlacementGroups`."""
        return self._captures

    # ------------------------------------------------------------------ where calls of this process run

    def enter(self, resources: Iterable[str]) -> bool:
        """What runs here from now on has resources of these names. Whether its calls go elsewhere than before."""
        names = tuple(resources)
        current, captures = group_of(names), captures_children(names)
        before = (self._current if self._captures else b"", self._captures)
        self._current, self._captures = current, captures
        return before != (current if captures else b"", captures)

    def place(self, needed: Resources, choice: GroupChoice | None, may_be_captured: bool, what: str) -> Resources:
        """What a task or an actor that needs *needed* needs in the group that it is to run in, if there is one.

        Raises:
            ValueError: the group has no bundle for it; *what* names it in the text.
        """
        group, index, captures = b"", ANY_BUNDLE, True
        if choice is not None:
            group, index = choice.group, choice.bundle_index
            captures = self._captures if choice.capture_child_tasks is None else choice.capture_child_tasks
        elif may_be_captured and self._captures:
            group = self._current
        if not any(group):  # none, or PlacementGroup.empty()
            return needed
        self._check_fits(needed, group, index, what)
        return in_group(needed, group, index, captures=captures)

    def _check_fits(self, needed: Resources, group: bytes, index: int, what: str) -> None:
        bundles = self._bundles_of(group)
        if not bundles:
            return  # the group is gone: its tasks fail with the reason
        if index >= len(bundles):
            raise ValueError(f"{what}: placement_group_bundle_index={index}, but the group has {len(bundles)} bundles")
        candidates = bundles if index < 0 else [bundles[index]]
        if not any(needed.fits_into(bundle) for bundle in candidates):
            listed = "; ".join(describe_units(bundle) for bundle in candidates[:10])
            raise ValueError(
                f"{what} needs {needed} and fits into no bundle of its placement group, which has: {listed}. Ask for "
                "less with .options(...), or make a group with such a bundle"
            )

    def _bundles_of(self, group: bytes) -> list[dict[str, int]]:
        bundles = self._bundles.get(group)
        if bundles is not None or self._client.lock_is_mine():
            return bundles or []  # a destructor cannot wait; what does not fit then waits for ever, and says so
        found = self._find(group=group)
        if not found:
            return []
        self._bundles[group] = found[0].bundles
        return found[0].bundles

    # ------------------------------------------------------------------ what the daemon says

    def on_message(self, message: m.PlacementGroups | m.PlacementGroupState) -> None:
        """An answer, or the state of a group that is watched."""
        if isinstance(message, m.PlacementGroups):
            self._client.answer(message.request, message)
            return
        with self._client.lock:
            if message.group not in self._states:
                return
            self._states[message.group] = message
            if message.state == m.REMOVED:
                self._forget(message.group)
        if message.state == m.PENDING and message.reason:
            self._client.warn(f"placement group {message.group.hex()} waits: {message.reason}")
        self._settle(message)

    def abandon(self, cause: str) -> None:
        """The session is over: no group will be created any more."""
        with self._client.lock:
            refs = [ref for awaited in self._awaited.values() for ref, _ in awaited]
            self._awaited.clear()
        if refs:
            self._client.later(self._client.values.fail, refs, serialize_system_error(LocalRayletDiedError(cause)))

    def _settle(self, state: m.PlacementGroupState) -> None:
        """Give the refs that wait for the group what they become now, if anything."""
        if state.state not in (m.CREATED, m.REMOVED):
            return
        with self._client.lock:
            awaited = self._awaited.pop(state.group, [])
        if state.state == m.CREATED:
            for ref, data in awaited:
                self._client.values.settle([ref], Value(INLINE, data))
        elif awaited:
            error = TaskPlacementGroupRemoved(
                f"placement group {state.group.hex()} will not be ready: {state.reason or 'it was removed'}"
            )
            self._client.values.fail([ref for ref, _ in awaited], serialize_system_error(error))

    def _forget(self, group: bytes) -> None:
        """It is removed. Its state is kept for a while, for threads that wait for it."""
        self._bundles.pop(group, None)
        self._removed.append(group)
        if len(self._removed) > REMEMBERED_REMOVED:
            self._states.pop(self._removed.popleft(), None)

    def _is_decided(self, group: bytes) -> bool:
        state = self._states.get(group)
        return state is not None and state.state in (m.CREATED, m.REMOVED)

    def _watch(self, group: bytes) -> None:
        if group not in self._states:
            self._states[group] = None
            self._client.send_to_daemon(m.WatchPlacementGroup(group))

    def _find(self, group: bytes = b"", name: str = "") -> list[GroupInformation]:
        client = self._client
        namespace = client.namespace if name else ""
        answer = client.request(
            lambda number: client.send_to_daemon(m.FindPlacementGroups(number, group, name, namespace))
        )
        if answer.error:
            raise ValueError(answer.error)
        return [_information(report) for report in answer.groups]


def _information(report: m.PlacementGroupReport) -> GroupInformation:
    row = report.row
    return GroupInformation(
        group=row.group,
        name=row.name,
        namespace=row.namespace,
        strategy=row.strategy,
        state=m.STATE_NAMES[row.state],
        bundles=row.bundles,
        nodes=[node.hex() for node in row.nodes],
        is_detached=row.detached,
        reason=report.reason,
        scheduling_state=report.scheduling_state,
        scheduling_attempts=report.scheduling_attempts,
        creation_s=report.creation_s,
        scheduling_s=report.scheduling_s,
        highest_retry_delay_s=report.highest_retry_delay_s,
    )
