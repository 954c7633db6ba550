"""Waiting actors by shape: news of a node costs the shapes, and the outcome is as if every actor were tried."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from remora.core.actor_placement import ActorPlacer, Hopeless
from remora.core.cluster_view import ClusterView
from remora.core.journal import Journal
from remora.core.waiting_placings import Placing, WaitingPlacings
from remora.messages.actors import ActorSpec
from remora.messages.head import PlaceActor
from remora.messages.session import JobEnvironment

ENVIRONMENT = JobEnvironment([], "/", "main.py", "space")
NODES = [b"\0\0\0\1", b"\0\0\0\2", b"\0\0\0\3"]
JOBS = [b"job0", b"job1"]
TOTAL = {"CPU": 40_000}


class TriesEach(WaitingPlacings):
    """What is the same, and slow."""

    def try_shapes(self, try_one: Callable[[Placing], None]) -> None:
        for placing in self:
            try_one(placing)


class Rig:
    def __init__(self, waiting: WaitingPlacings | None = None) -> None:
        self.view = ClusterView()
        self.placer = ActorPlacer(Journal(), self.view)
        if waiting is not None:
            self.placer._waiting = waiting
        self.placer.why_group_is_gone = lambda group: "it is gone" if group in self.gone_groups else ""
        self.gone_groups: set[bytes] = set()
        self.jobs: set[bytes] = set(JOBS)
        self.asked: list[tuple[bytes, bytes, int]] = []
        """Nodes, actors and attempts that have no answer."""
        self.environments_asked = 0
        self.actors: list[bytes] = []
        self.now_s = 0.0

    def report(self, node: bytes, cpus: int) -> None:
        self.view.report(node, total=TOTAL, available={"CPU": cpus * 10_000}, now_s=self.now_s)
        self.placer.load_told(node)

    def request(self, cpus: int, job: bytes = JOBS[0], home: int = 0, strategy: str = "") -> bytes:
        actor = NODES[home] + b"%012d" % len(self.actors)
        self.actors.append(actor)
        resources = {"CPU": cpus * 10_000} if cpus else {}
        placement = {} if cpus else {"CPU": 10_000}
        self.placer.request(
            actor, job, ActorSpec("A", b"", b"", resources=resources, placement=placement, strategy=strategy)
        )
        return actor

    def environment(self, job: bytes) -> JobEnvironment | None:
        self.environments_asked += 1
        return ENVIRONMENT if job in self.jobs else None

    def run(self) -> list[object]:
        self.placer.run(self.environment, self.now_s)
        self.placer.validate()
        said: list[object] = []
        for effect in self.placer.outbox:
            if not isinstance(effect, Hopeless) and isinstance(effect.message, PlaceActor):
                self.asked.append((effect.node, effect.message.actor, effect.message.attempt))
            said.append(effect)
        self.placer.outbox.clear()
        return said

    def do(self, kind: str, one: int, two: int, three: int) -> object:
        """One step, and what can be seen of it."""
        node = NODES[one % len(NODES)]
        if kind == "report":
            self.report(node, two % 5)
        elif kind == "request":
            strategy = f'{{"node":"{node.hex()}"}}' if three == 1 else '{"spread":true}' if three == 2 else ""
            self.request(two % 3, JOBS[one % 2], one % len(NODES), strategy)
        elif kind == "job":
            self.jobs ^= {JOBS[one % 2]}
            self.placer.try_again()
        elif kind == "cancel" and self.actors:
            self.placer.cancel(self.actors[one % len(self.actors)])
        elif kind in ("placed", "rejected") and self.asked:
            asked, actor, attempt = self.asked.pop(one % len(self.asked))
            if kind == "placed":
                self.placer.placed(asked, actor, attempt)
            else:
                self.placer.rejected(asked, actor, attempt, f"full {two}", self.now_s)
        elif kind == "dies":
            self.view.died(node, "killed")
            self.placer.node_died(node)
        elif kind == "time":
            self.now_s += 0.1 * (1 + two)
        before = self.reasons()
        return before, self.run(), self.reasons()

    def reasons(self) -> list[str]:
        return [self.placer.why_waiting(actor) for actor in self.actors]


STEPS = st.tuples(
    st.sampled_from(["report", "request", "request", "request", "job", "cancel", "placed", "rejected", "time"])
    | st.sampled_from(["dies"] + 20 * ["rejected"]),
    st.integers(0, 20),
    st.integers(0, 5),
    st.integers(0, 3),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_all_is_as_if_every_actor_were_tried_at_every_news(steps: list[tuple[str, int, int, int]]) -> None:
    rig, plain = Rig(), Rig(TriesEach())
    for each in (rig, plain):
        for node in NODES:
            each.report(node, 2)
    for step in steps:
        assert rig.do(*step) == plain.do(*step)


def test_news_of_a_node_cost_the_shapes_that_wait_and_not_the_actors() -> None:
    rig = Rig()
    rig.report(NODES[0], 0)
    for number in range(500):
        rig.request(1 + number % 2)
    rig.run()
    rig.environments_asked = 0
    rig.report(NODES[0], 0)
    assert rig.run() == []
    assert rig.environments_asked == 2
    rig.placer.try_again()
    assert rig.run() == []
    assert rig.environments_asked == 4
    assert all("no room now" in reason for reason in rig.reasons())


def test_actors_of_different_shapes_get_nodes_in_the_order_in_which_they_came() -> None:
    rig = Rig()
    rig.report(NODES[0], 0)
    actors = [rig.request(cpus) for cpus in (2, 1, 2, 1)]
    rig.run()
    rig.report(NODES[0], 4)
    rig.run()
    assert [actor for _, actor, _ in rig.asked] == [actors[0], actors[1], actors[3]]
    assert rig.placer.why_waiting(actors[2])


def test_who_is_refused_says_why_until_it_is_tried_again() -> None:
    rig = Rig()
    rig.report(NODES[0], 1)
    actor = rig.request(1)
    rig.run()
    rig.placer.rejected(*rig.asked.pop(), "its disk is full", rig.now_s)
    assert rig.placer.why_waiting(actor) == "its disk is full"
    rig.placer.load_told(NODES[0])
    assert rig.placer.why_waiting(actor) == "its disk is full"
    rig.run()
    assert rig.placer.why_waiting(actor) == ""
    assert [asked for _, asked, _ in rig.asked] == [actor]


def test_all_actors_of_a_group_that_is_gone_are_hopeless_at_once() -> None:
    rig = Rig()
    rig.report(NODES[0], 0)
    group = bytes(range(16))
    for number in range(3):
        resources = {f"bundle_group_0_{group.hex()}": 10_000}
        rig.placer.request(NODES[0] + b"%012d" % number, JOBS[0], ActorSpec("A", b"", b"", resources=resources))
    assert rig.run() == []
    placing = rig.placer.waiting()[0]
    assert placing.group == group
    rig.gone_groups.add(group)
    rig.placer.try_again()
    assert [type(effect) for effect in rig.run()] == [Hopeless] * 3
    assert not rig.placer.waiting()
