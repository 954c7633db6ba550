"""The rows in which the head's state is written down: a kind, a key and a value each. Values are MessagePack."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import msgspec

from remora.core import actor_placement, actor_table, head_groups, head_links, jobs, key_value, membership
from remora.core.actor import ActorRecord
from remora.core.actor_placement import PlacementRecord
from remora.core.head_links import LinkRecord
from remora.core.jobs import JobRecord
from remora.core.membership import MemberRecord
from remora.messages.actors import ActorSpec
from remora.messages.placement_groups import PlacementGroupRow

if TYPE_CHECKING:
    from remora.core.head import Head

_encode = msgspec.msgpack.encode

RECORDS: dict[str, Any] = {
    membership.MEMBER: MemberRecord,
    membership.COUNTER: int,
    jobs.JOB: JobRecord,
    actor_table.ACTOR: ActorRecord,
    actor_table.ACTOR_SPEC: ActorSpec,
    actor_table.DRAINING: ActorRecord,
    actor_placement.PLACEMENT: PlacementRecord,
    head_links.LINK: LinkRecord,
    head_groups.GROUP: PlacementGroupRow,
    head_groups.WATCHERS: list[bytes],
}
"""What the value of each kind is; the other kinds are bytes as they are."""
IDENTITY = "identity"
"""The row that the head process itself writes once: which cluster this is."""
RAW_KINDS = (key_value.KEY_VALUE, head_links.SAID, IDENTITY)


def write_row(head: Head, kind: str, key: bytes) -> bytes | None:
    """The present value of a row; None when it is to be removed."""
    if kind == key_value.KEY_VALUE:
        return head.key_value.record(key)
    if kind == head_links.SAID:
        return head.links.said(key)
    record = _record(head, kind, key)
    return None if record is None else _encode(record)


def _record(head: Head, kind: str, key: bytes) -> Any:
    if kind == membership.COUNTER:
        return head.membership.last_number if key == membership.LAST_NUMBER else head.placer.last_attempt
    lookup = {
        membership.MEMBER: head.membership.record,
        jobs.JOB: head.jobs.record,
        actor_table.ACTOR: head.registry.table.record,
        actor_table.ACTOR_SPEC: head.registry.table.spec,
        actor_table.DRAINING: head.registry.table.draining,
        actor_placement.PLACEMENT: head.placer.record,
        head_links.LINK: head.links.record,
        head_groups.GROUP: head.groups.record,
        head_groups.WATCHERS: head.groups.watchers,
    }
    return lookup[kind](key)


class WrittenState:
    """Rows, decoded and put in order."""

    def __init__(self) -> None:
        self.members: list[MemberRecord] = []
        self.last_number = 0
        self.last_attempt = 0
        self.jobs: list[JobRecord] = []
        self.actors: list[ActorRecord] = []
        self.specs: dict[bytes, ActorSpec] = {}
        self.draining: dict[bytes, ActorRecord] = {}
        self.placements: list[PlacementRecord] = []
        self.values: list[tuple[bytes, bytes]] = []
        self.links: dict[bytes, LinkRecord] = {}
        self.said: list[tuple[bytes, bytes]] = []
        self.groups: list[PlacementGroupRow] = []
        self.watchers: dict[bytes, list[bytes]] = {}


def read_rows(rows: Iterable[tuple[str, bytes, bytes]]) -> WrittenState:
    """Decode what was written down.

    Raises:
        ValueError: a row is none of ours.
    """
    by_kind: dict[str, dict[bytes, Any]] = {kind: {} for kind in (*RECORDS, *RAW_KINDS)}
    for kind, key, value in rows:
        if kind not in by_kind:
            raise ValueError(f"there is a row of kind {kind!r}, which this version of Remora does not know")
        try:
            by_kind[kind][key] = value if kind in RAW_KINDS else msgspec.msgpack.decode(value, type=RECORDS[kind])
        except msgspec.DecodeError as error:
            raise ValueError(f"the {kind} row {key.hex()} cannot be read: {error}") from None
    state = WrittenState()
    state.members = list(by_kind[membership.MEMBER].values())
    state.last_number = by_kind[membership.COUNTER].get(membership.LAST_NUMBER, 0)
    state.last_attempt = by_kind[membership.COUNTER].get(actor_placement.LAST_ATTEMPT, 0)
    state.jobs = list(by_kind[jobs.JOB].values())
    state.actors = list(by_kind[actor_table.ACTOR].values())
    state.specs = by_kind[actor_table.ACTOR_SPEC]
    state.draining = by_kind[actor_table.DRAINING]
    state.placements = sorted(by_kind[actor_placement.PLACEMENT].values(), key=lambda record: record.actor)
    state.values = list(by_kind[key_value.KEY_VALUE].items())
    state.links = by_kind[head_links.LINK]
    state.said = list(by_kind[head_links.SAID].items())
    state.groups = list(by_kind[head_groups.GROUP].values())
    state.watchers = by_kind[head_groups.WATCHERS]
    return state
