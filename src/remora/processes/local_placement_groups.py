"""Placement groups in local mode: there at once, and without effect, as everything about resources is there."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from remora.base.ids import ProcessId, make_object_id
from remora.base.object_ref import ObjectRef
from remora.base.placement_groups import GroupInformation, GroupRequest


class LocalPlacementGroups:
    """See :class:`remora.base.placement_groups.PlacementGroups`, whose methods these are."""

    def __init__(self, process: ProcessId, node_id: str, namespace: str, put: Callable[[Any], ObjectRef[Any]]) -> None:
        self._process = process
        self._node_id = node_id
        self._namespace = namespace
        self._put = put
        self._numbers = count(1)
        self._groups: dict[bytes, GroupInformation] = {}

    def create(self, request: GroupRequest) -> bytes:
        if request.name and self._named(request.name) is not None:
            raise ValueError(
                f"the name {request.name!r} is taken: choose another name, or use get_placement_group() to get that one"
            )
        group = bytes(make_object_id(self._process, next(self._numbers), 1))
        self._groups[group] = GroupInformation(
            group=group,
            name=request.name,
            namespace=self._namespace,
            strategy=request.strategy,
            state="CREATED",
            bundles=request.bundles,
            nodes=[self._node_id] * len(request.bundles),
            is_detached=request.detached,
            scheduling_state="FINISHED",
        )
        return group

    def remove(self, group: bytes) -> None:
        self._groups.pop(group, None)

    def find(self, name: str) -> GroupInformation:
        found = self._named(name)
        if found is None:
            raise ValueError(f"there is no placement group named {name!r} in namespace {self._namespace!r}")
        return found

    def describe(self, group: bytes = b"") -> list[GroupInformation]:
        return [one for one in self._groups.values() if group in (b"", one.group)]

    def ready(self, group: bytes, value: Any) -> ObjectRef[Any]:
        return self._put(value)

    def wait(self, group: bytes, timeout_s: float | None) -> bool:
        return group in self._groups

    def current(self) -> bytes:
        return b""

    def captures_children(self) -> bool:
        return False

    def _named(self, name: str) -> GroupInformation | None:
        return next((one for one in self._groups.values() if one.name == name), None)
