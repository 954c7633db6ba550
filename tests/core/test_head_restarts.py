"""A head that is killed at any moment, with nodes that die: every request is answered once, a name has one actor."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from remora.base.ids import make_object_id, make_process_id
from remora.core.counted_link import CountedLink, UnitReader
from remora.core.head import Head, Identity
from remora.core.membership import UNREACHABLE_S
from remora.core.unreachable_peers import UnreachablePeers
from remora.messages import actors as a
from remora.messages import head as m
from remora.messages.links import FromProcess
from remora.messages.session import JobEnvironment

IDENTITY = Identity(cluster=b"cluster", python=(3, 11))
ENVIRONMENT = JobEnvironment([], "/", "main.py", "space")
NAMES = ("a", "b")


class Node:
    """What a daemon does with the head's words, with the queues of its stream in both directions."""

    def __init__(self, joined: m.Joined, boot: bytes) -> None:
        self.node = joined.node
        self.boot = boot
        self.link = CountedLink()
        self.reader = UnitReader()
        self.to_head: list[tuple[Any, ...]] = []
        self.is_open = True
        self.calls = 0
        self.workers: dict[bytes, bytes] = {}
        """Workers that live, with their actors."""
        self.asked: set[int] = set()
        self.answers: list[tuple[int, a.ActorFound]] = []
        self.departed: list[bytes] = []
        self.unreachable = UnreachablePeers()

    def process(self, number: int) -> bytes:
        return make_process_id(int.from_bytes(self.node, "big"), number)

    def load(self) -> m.NodeLoad:
        """It has room for two actors, which is as many as there are names."""
        return m.NodeLoad({"CPU": 20_000}, {"CPU": max(0, 20_000 - 10_000 * len(self.workers))})

    def say(self, *unit: Any) -> None:
        self.link.say(unit)
        if self.is_open:
            self.to_head.append(unit)

    def say_reachability(self, peer: bytes, is_reachable: bool) -> None:
        report = m.PeerReachability(peer, is_reachable)
        self.unreachable.said(report)
        self.say(report)

    def say_as(self, process: bytes, message: Any) -> None:
        self.say(FromProcess(process, self.process(1)), message)

    def create(self, name: str, max_restarts: int) -> None:
        self.calls += 1
        self.asked.add(self.calls)
        actor = make_object_id(self.process(1), self.calls)  # type: ignore[arg-type]
        spec = a.ActorSpec("Counter", b"", b"", max_restarts=max_restarts, resources={"CPU": 10_000})
        self.say_as(self.process(1), a.CreateActor(actor, spec, name, "space", request=self.calls))

    def hear(self, messages: tuple[Any, ...]) -> None:
        for unit in self.reader.read(messages):
            if type(unit[-1]) not in m.UNCOUNTED:
                self.link.received += 1
            self.on(unit[0].process if len(unit) == 2 else b"", unit[-1])

    def on(self, process: bytes, message: Any) -> None:
        if isinstance(message, m.Rejoined):
            self.is_open = True
            self.link.confirmed(message.received)
            self.to_head += self.link.unconfirmed_after(message.received)
            for report in self.unreachable.to_say_again(member.node for member in message.members):
                self.say(report)
        elif isinstance(message, m.Confirm):
            self.link.confirmed(message.received)
        elif isinstance(message, m.PlaceActor):
            worker = self.process(100 + message.attempt)
            self.workers[worker] = message.actor
            self.say(m.ActorPlaced(message.actor, message.attempt, worker, "/w", 0))
        elif isinstance(message, a.ConstructActor) and process in self.workers:
            self.say_as(process, a.ActorConstructed(message.actor, message.incarnation))
        elif isinstance(message, m.KillProcess):
            self.end_worker(message.process)
        elif isinstance(message, a.ActorFound):
            self.answers.append((message.request, message))
        elif isinstance(message, m.NodeDead):
            self.departed.append(message.departure.node)
            self.unreachable.departed(message.departure.node)

    def end_worker(self, worker: bytes) -> None:
        if self.workers.pop(worker, None) is not None:
            self.say(m.ProcessEnded(worker, "it was killed"))


class World:
    """A head with a store, and nodes; the head may lose what it has not written, and what it has not sent."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, bytes], bytes] = {}
        self.head = Head(IDENTITY)
        self.now_s = 0.0
        self.nodes: dict[bytes, Node] = {}
        self.dead: list[bytes] = []
        for number in range(3):
            self.join(number)

    def join(self, number: int) -> None:
        boot = b"boot%d" % number
        total = {"CPU": 20_000}
        joined = self.head.join(
            m.JoinCluster(boot, 1, (3, 11), f"h:{7000 + number}", "h", 1, total, is_head_node=number == 0), self.now_s
        )
        assert isinstance(joined, m.Joined)
        node = self.nodes[joined.node] = Node(joined, boot)
        self.turn(True, True)
        node.say(m.JobStarted(node.process(1), ENVIRONMENT))

    def turn(self, is_written: bool, is_sent: bool) -> None:
        changes, outbox = self.head.end_turn()
        self.head.validate()
        self.check_names()
        if is_written:
            for change in changes:
                if change.value is None:
                    self.rows.pop((change.kind, change.key), None)
                else:
                    self.rows[change.kind, change.key] = change.value
        if not (is_written and is_sent):
            self.restart()
            return
        for effect in outbox:
            node = self.nodes.get(effect.node)
            if node is not None and node.is_open:
                node.hear(effect.messages)

    def restart(self) -> None:
        self.head = Head(IDENTITY)
        self.head.restore([(kind, key, value) for (kind, key), value in self.rows.items()], self.now_s)
        self.head.validate()
        for node in self.nodes.values():
            node.is_open = False
            node.to_head.clear()
            node.reader = UnitReader()

    def handle(self, index: int, is_written: bool = True, is_sent: bool = True) -> bool:
        """Let the head handle what one node said; whether there was something."""
        node = list(self.nodes.values())[index % len(self.nodes)]
        if not node.is_open:
            for message in self.head.rejoin(m.Rejoin(node.node, node.boot, node.link.received), self.now_s):
                assert not isinstance(message, m.JoinRefused), message
                node.hear((message,))
            return True
        if not node.to_head:
            return False
        unit = node.to_head.pop(0)
        self.head.on_messages(node.node, list(unit), self.now_s)
        self.turn(is_written, is_sent)
        return True

    def kill_node(self, index: int) -> None:
        """Never the head's own."""
        others = list(self.nodes)[1:]
        if not others:
            return
        doomed = self.nodes.pop(others[index % len(others)])
        self.dead.append(doomed.node)
        self.head.heartbeat_opened(m.HeartbeatHello(doomed.node, doomed.boot), self.now_s)
        self.head.heartbeat_closed(doomed.node, self.now_s)

    def tick(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            self.now_s += 0.1
            for node in self.nodes.values():
                self.head.heartbeat(node.node, m.Heartbeat(1), self.now_s)
                if node.is_open:
                    self.head.on_messages(node.node, [node.load()], self.now_s)
            self.head.tick(self.now_s)
            self.turn(True, True)

    def settle(self) -> None:
        """Until nothing happens any more."""
        for _ in range(3):
            self.tick(12)
            self.handle_all()

    def handle_all(self) -> None:
        while any(self.handle(index) for index in range(len(self.nodes))):
            pass

    def check_names(self) -> None:
        holders: dict[str, bytes] = {}
        for actor in self.head.registry.actors():
            if actor.state.state != a.DEAD:
                assert holders.setdefault(actor.key[1], actor.id) == actor.id, f"two actors are named {actor.key[1]}"


STEPS = st.one_of(
    st.tuples(st.just("create"), st.integers(0, 2), st.sampled_from(NAMES), st.integers(0, 1)),
    st.tuples(st.just("handle"), st.integers(0, 2), st.sampled_from(["well", "unwritten", "unsent"]), st.just(0)),
    st.tuples(st.just("handle"), st.integers(0, 2), st.just("well"), st.just(0)),
    st.tuples(st.just("kill node"), st.integers(0, 1), st.just(""), st.just(0)),
    st.tuples(st.just("kill worker"), st.integers(0, 2), st.just(""), st.integers(0, 5)),
    st.tuples(st.just("restart"), st.just(0), st.just(""), st.just(0)),
    st.tuples(st.just("tick"), st.just(0), st.just(""), st.just(0)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_a_killed_head_forgets_and_repeats_nothing(steps: list[tuple[str, int, str, int]]) -> None:
    world = World()
    for kind, index, text, number in steps:
        if kind == "create":
            list(world.nodes.values())[index % len(world.nodes)].create(text, number)
        elif kind == "handle":
            world.handle(index, text != "unwritten", text != "unsent")
        elif kind == "kill node":
            world.kill_node(index)
        elif kind == "kill worker":
            node = list(world.nodes.values())[index % len(world.nodes)]
            if node.workers:
                node.end_worker(list(node.workers)[number % len(node.workers)])
        elif kind == "restart":
            world.restart()
        else:
            world.tick(1.0)
    world.settle()
    for node in world.nodes.values():
        requests = [request for request, _ in node.answers]
        assert sorted(requests) == sorted(node.asked), "each request has one answer"
        assert sorted(node.departed) == sorted(world.dead), "each death is told once"
    living = [actor for actor in world.head.registry.actors() if actor.state.state != a.DEAD]
    assert all(actor.state.state == a.ALIVE for actor in living), world.head
    workers = [worker for node in world.nodes.values() for worker in node.workers]
    assert sorted(actor.state.worker for actor in living) == sorted(workers), "workers of living actors, and no other"


def test_a_head_that_was_started_again_hears_anew_who_cannot_reach_whom() -> None:
    world = World()
    one, two, three = world.nodes.values()
    two.say_reachability(three.node, False)
    world.handle_all()
    world.tick(UNREACHABLE_S / 2)
    assert two.link.kept_count == 0, "the report is confirmed, so the link does not say it again"
    world.restart()
    world.handle_all()
    world.tick(UNREACHABLE_S - 0.2)
    assert one.departed == [], "the new head gives them as much time"
    world.tick(0.4)
    assert (one.departed, two.departed) == ([three.node], [three.node])
    assert two.unreachable.to_say_again([one.node, three.node]) == [], "nobody need reach it any more"


def test_only_reports_of_members_that_stand_are_said_again() -> None:
    peers = UnreachablePeers()
    reports = [m.PeerReachability(node, False, "it is cut off") for node in (b"\0\0\0\1", b"\0\0\0\2", b"\0\0\0\3")]
    for report in reports:
        peers.said(report)
    peers.said(m.PeerReachability(reports[1].node, True))
    assert peers.to_say_again(report.node for report in reports) == [reports[0], reports[2]]
    assert peers.to_say_again([reports[0].node]) == [reports[0]], "the other one is gone"
    peers.departed(reports[0].node)
    assert peers.to_say_again([reports[0].node]) == []
