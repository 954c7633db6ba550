"""A member that says anything whatever: the head and the other nodes live on, and it cannot speak for others."""

from __future__ import annotations

import random

import pytest

from remora.base.ids import ProcessId, make_object_id, make_process_id
from remora.core.head import Head, Identity
from remora.messages import actors, head, inspection, key_value, placement_groups
from remora.messages.links import ForProcess, FromProcess, ProcessGone
from remora.messages.node_wire import ALL_MESSAGES
from remora.messages.session import JobEnvironment
from remora.testing.random_messages import RandomMessages

SEEDS = 40
MESSAGES = 150
ENVIRONMENT = JobEnvironment([], "/", "main.py", "space")
CREATIONS = (actors.CreateActor, placement_groups.CreatePlacementGroup)
BY_PROCESSES = (
    *actors.MESSAGES,
    *placement_groups.MESSAGES,
    key_value.KeyValueRequest,
    inspection.ListJobs,
    head.ListActorStates,
    inspection.GetNodes,
)
BY_DAEMONS = (ProcessGone, *(kind for kind in head.MESSAGES if kind is not head.LeaveCluster))
STRATEGIES = ("PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD", "DEFAULT")


class Members:
    """A head with three members, of which the last one is hostile, a job, and a name."""

    def __init__(self) -> None:
        self.head = Head(Identity(b"cluster", (3, 11)))
        self.rows: dict[tuple[str, bytes], bytes] = {}
        self.now_s = 1.0
        self.nodes = [self._join(number) for number in range(3)]
        self.driver = make_process_id(1, 1)
        self.actor = make_object_id(self.driver, 1)
        self.say(0, head.JobStarted(self.driver, ENVIRONMENT))
        spec = actors.ActorSpec("Counter", b"class", b"arguments", resources={"CPU": 10_000})
        self.say(0, FromProcess(self.driver, self.driver), actors.CreateActor(self.actor, spec, "name", "space"))

    def _join(self, number: int) -> bytes:
        boot = bytes((number,)) * 16
        total = {"CPU": 40_000}
        joined = self.head.join(
            head.JoinCluster(boot, 1, (3, 11), f"10.0.0.{number}:1", "host", 1, total, {}, number == 0), self.now_s
        )
        assert isinstance(joined, head.Joined)
        self.head.heartbeat_opened(head.HeartbeatHello(joined.node, boot), self.now_s)
        return joined.node

    def say(self, sender: int, *messages: object) -> None:
        self.head.on_messages(self.nodes[sender], list(messages), self.now_s)
        self.turn()

    def turn(self) -> None:
        self.now_s += 0.1
        for node in self.nodes:
            self.head.heartbeat(node, head.Heartbeat(1), self.now_s)
        self.head.tick(self.now_s)
        changes, _ = self.head.end_turn()
        for change in changes:
            if change.value is None:
                self.rows.pop((change.kind, change.key), None)
            else:
                self.rows[change.kind, change.key] = change.value
        self.head.complaints.clear()
        self.head.validate()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_member_that_says_anything_whatever_ends_nobody_else(seed: int) -> None:
    choice = random.Random(seed)
    members = Members()
    workers = [node + number.to_bytes(4, "big") for node in members.nodes for number in (1, 2)]
    own_workers = [members.nodes[2] + number.to_bytes(4, "big") for number in (1, 2, 3)]
    own_ids = [make_object_id(ProcessId(worker), call) for worker in own_workers for call in (1, 2)]
    make = RandomMessages(
        choice, [*members.nodes, *workers, members.actor, members.driver, bytes(16), *own_ids], STRATEGIES
    )
    members.say(2, head.JobStarted(own_workers[0], ENVIRONMENT))
    for _ in range(MESSAGES):
        if not members.head.membership.is_member(members.nodes[2]):
            break
        kinds = choice.choice([CREATIONS, BY_PROCESSES, BY_DAEMONS, BY_DAEMONS, ALL_MESSAGES])
        said = [make.one_of(kinds)]
        if choice.random() < (0.9 if kinds in (CREATIONS, BY_PROCESSES) else 0.1):
            own = FromProcess(choice.choice(own_workers), own_workers[0])
            said.insert(0, choice.choice([own, own, own, make.make(FromProcess), make.make(ForProcess)]))
        members.say(2, *said)
    for node in members.nodes[:2]:
        assert members.head.membership.is_member(node)
    assert members.head.jobs.environment(members.driver) == ENVIRONMENT
    assert not members.head.jobs.has_ended(members.driver)
    again = Head(Identity(b"cluster", (3, 11)))
    again.restore([(kind, key, value) for (kind, key), value in members.rows.items()], members.now_s)
    again.validate()
