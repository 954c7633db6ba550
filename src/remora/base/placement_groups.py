"""What the API layer calls of a runtime for placement groups, and what it is told."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from remora.base.object_ref import ObjectRef


class GroupRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A placement group to be made; the API layer has checked it. ``bundles`` are in units of 1/10000.

    ``selectors`` has for each bundle the text of a :class:`~remora.base.scheduling.Strategy`, or is empty.
    """

    bundles: list[dict[str, int]]
    strategy: str = "PACK"
    name: str = ""
    detached: bool = False
    selectors: list[str] = []


class GroupInformation(msgspec.Struct, frozen=True, kw_only=True):
    """A placement group as ``placement_group_table`` shows it. ``nodes`` are hexadecimal ids, empty for none yet."""

    group: bytes
    name: str
    namespace: str
    strategy: str
    state: str
    bundles: list[dict[str, int]]
    nodes: list[str]
    is_detached: bool = False
    reason: str = ""
    scheduling_state: str = ""
    scheduling_attempts: int = 0
    creation_s: float = 0.0
    scheduling_s: float = 0.0
    highest_retry_delay_s: float = 0.0


class PlacementGroups(Protocol):
    """``runtime.placement_groups``."""

    def create(self, request: GroupRequest) -> bytes:
        """Ask for a group; returns its id when the request is registered, whether or not there is room.

        Raises:
            ValueError: the name is taken.
        """
        ...

    def remove(self, group: bytes) -> None:
        """Give its resources back, and end what uses them. Nothing happens when it is removed."""
        ...

    def find(self, name: str) -> GroupInformation:
        """The group of this name in the caller's namespace.

        Raises:
            ValueError: there is none.
        """
        ...

    def describe(self, group: bytes = b"") -> list[GroupInformation]:
        """The group, or without one all that there are, and those that were removed lately."""
        ...

    def ready(self, group: bytes, value: Any) -> ObjectRef[Any]:
        """A ref that has *value* as soon as the group is created, or an error when it is removed."""
        ...

    def wait(self, group: bytes, timeout_s: float | None) -> bool:
        """Whether the group is created, at the latest at the timeout; at once when it is removed."""
        ...

    def current(self) -> bytes:
        """The group that the running task or actor is in; empty for none."""
        ...

    def captures_children(self) -> bool:
        """Whether what is called here runs in that group, too."""
        ...
