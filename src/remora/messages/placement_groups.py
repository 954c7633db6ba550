"""Placement groups: bundles of resources that are reserved together, on one node or on many.

A group is named by 16 bytes that its creator chose, as it chooses the ids of objects. One manager decides for the
whole cluster: it reserves all bundles on their nodes, and commits when every node has said yes, or returns what it has.
Each try to place bundles has a number, the attempt, so that late answers are told from those that count. All of this
may be said again after the manager was started anew: nobody does anything twice.

Amounts are whole numbers of 1/10000.
"""

from __future__ import annotations

import msgspec

PENDING = 0
"""Waits for room, or is being reserved."""
CREATED = 1
"""Every bundle is committed on a living node."""
RESCHEDULING = 2
"""It was created, and a node with bundles of it has died: those wait for room elsewhere."""
REMOVED = 3
"""For good."""

STATE_NAMES = {PENDING: "PENDING", CREATED: "CREATED", RESCHEDULING: "RESCHEDULING", REMOVED: "REMOVED"}

UNPLACED = 0
"""A bundle has no node."""
RESERVING = 1
"""Its node was asked to hold it."""
HELD = 2
"""Its node holds it; other nodes of the attempt have not answered."""
COMMITTING = 3
"""All nodes hold their bundles, and were told that they count."""
IN_PLACE = 4
"""It can be used."""

RESERVED = 0
"""Answer to ``ReserveBundles``: they are held for the group."""
REFUSED = 1
"""Answer to ``ReserveBundles``: there is no room, nothing is held."""
COMMITTED = 2
"""Answer to ``CommitBundles``."""
MISSING = 3
"""Answer to ``CommitBundles``: nothing of this attempt is held here."""


class CreatePlacementGroup(msgspec.Struct, array_like=True, tag=190, frozen=True):
    """Process to daemon, daemon to head: reserve these bundles. Answered by ``PlacementGroups``, with an error or not.

    ``strategy`` is PACK, SPREAD, STRICT_PACK or STRICT_SPREAD. ``selectors`` is empty or has for each bundle the text
    of a scheduling strategy whose conditions on labels its node must meet. The group ends with its job unless it is
    ``detached``. The sender watches it.
    """

    request: int
    group: bytes
    bundles: list[dict[str, int]]
    strategy: str = "PACK"
    name: str = ""
    namespace: str = ""
    detached: bool = False
    selectors: list[str] = []


class RemovePlacementGroup(msgspec.Struct, array_like=True, tag=191, frozen=True):
    """Process to daemon, daemon to head: give the group's bundles back. What uses them is ended.

    Answered by ``PlacementGroups`` when the group is removed for good; a group that was removed already is none.
    """

    request: int
    group: bytes


class FindPlacementGroups(msgspec.Struct, array_like=True, tag=192, frozen=True):
    """Process to daemon, daemon to head: the group with this id, or of this name in the namespace, or all."""

    request: int
    group: bytes = b""
    name: str = ""
    namespace: str = ""


class PlacementGroupRow(msgspec.Struct, array_like=True, frozen=True):
    """All that is to be remembered of a group, which is what the head stores.

    For each bundle, ``nodes`` has the id of the node that was chosen for it, empty when there is none, ``attempts`` in
    which attempt, and ``phases`` how far that has come. ``attempt`` is the last one.
    """

    group: bytes
    job: bytes
    bundles: list[dict[str, int]]
    strategy: str
    name: str = ""
    namespace: str = ""
    detached: bool = False
    selectors: list[str] = []
    state: int = PENDING
    attempt: int = 0
    nodes: list[bytes] = []
    attempts: list[int] = []
    phases: list[int] = []


class PlacementGroupReport(msgspec.Struct, array_like=True, frozen=True):
    """A group and how its placing goes, for people: ``reason`` says why it waits."""

    row: PlacementGroupRow
    reason: str = ""
    scheduling_state: str = "QUEUED"
    scheduling_attempts: int = 0
    creation_s: float = 0.0
    scheduling_s: float = 0.0
    highest_retry_delay_s: float = 0.0


class PlacementGroups(msgspec.Struct, array_like=True, tag=193, frozen=True):
    """The answer to a request; ``error`` is the text of a ``ValueError``."""

    request: int
    groups: list[PlacementGroupReport] = []
    error: str = ""


class WatchPlacementGroup(msgspec.Struct, array_like=True, tag=194, frozen=True):
    """Process to daemon, daemon to head: send ``PlacementGroupState`` now and at every change."""

    group: bytes


class PlacementGroupState(msgspec.Struct, array_like=True, tag=195, frozen=True):
    """To those who watch the group. ``reason`` says why it waits for long, or was removed."""

    group: bytes
    state: int
    reason: str = ""


class ReserveBundles(msgspec.Struct, array_like=True, tag=196, frozen=True):
    """Manager to node: hold all of these bundles (index to resources) or none; answered by ``BundlesAnswer``."""

    group: bytes
    attempt: int
    bundles: dict[int, dict[str, int]]


class CommitBundles(msgspec.Struct, array_like=True, tag=197, frozen=True):
    """Manager to node: what the attempt has reserved there can be used; answered by ``BundlesAnswer``."""

    group: bytes
    attempt: int


class ReturnBundles(msgspec.Struct, array_like=True, tag=198, frozen=True):
    """Manager to node: end what uses these bundles, and have their resources back. No ``indices``: all of the group."""

    group: bytes
    indices: list[int] = []
    reason: str = ""


class BundlesAnswer(msgspec.Struct, array_like=True, tag=199, frozen=True):
    """Node to manager: ``RESERVED``, ``REFUSED``, ``COMMITTED`` or ``MISSING``, and what the node has free now."""

    group: bytes
    attempt: int
    outcome: int
    available: dict[str, int] = {}


MESSAGES = (
    CreatePlacementGroup,
    RemovePlacementGroup,
    FindPlacementGroups,
    PlacementGroups,
    WatchPlacementGroup,
    PlacementGroupState,
    ReserveBundles,
    CommitBundles,
    ReturnBundles,
    BundlesAnswer,
)
