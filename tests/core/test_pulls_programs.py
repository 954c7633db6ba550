"""Random programs of pulls, with streams that break, stall and refuse anywhere: every pull ends, the bound holds."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pull_shell import WRITER, A, B, C, PullShell, object_id

from remora.base.ids import NodeId
from remora.core.pull_records import PullPurpose
from remora.core.pull_sources import CHUNK_BYTES
from remora.core.pull_streams import STALL_S
from remora.core.pulls import GIVE_UP_S

LIMIT = 6 * CHUNK_BYTES
PICK = st.integers(0, 10_000)
OBJECTS = st.integers(0, 5)
SOURCES = st.lists(st.sampled_from([A, B, C]), max_size=4)
SIZES = st.one_of(st.integers(0, 3), st.integers(0, 10 * CHUNK_BYTES))


class PullPrograms(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.shell = PullShell(LIMIT, grants=False)
        self.ended: set[int] = set()
        self.started: dict[int, int] = {}
        """Object number of each pull that has not ended."""
        self.dead: set[NodeId] = set()

    def is_running(self, number: int) -> bool:
        return any(pull.id == object_id(number) for pull in self.shell.pulls.pulls())

    @rule(number=OBJECTS, size=SIZES, sources=SOURCES, purpose=st.sampled_from(PullPurpose))
    def start(self, number: int, size: int, sources: list[NodeId], purpose: PullPurpose) -> None:
        if not self.is_running(number):
            self.started[self.shell.start(number, size, sources, purpose)] = number

    @rule(number=OBJECTS, purpose=st.sampled_from(PullPurpose))
    def raise_priority(self, number: int, purpose: PullPurpose) -> None:
        self.shell.pulls.raise_priority(object_id(number), WRITER, purpose)
        self.shell.run()

    @rule(number=OBJECTS)
    def cancel(self, number: int) -> None:
        self.ended |= {p.number for p in self.shell.pulls.pulls() if p.id == object_id(number)}
        self.shell.pulls.cancel(object_id(number), WRITER)
        self.shell.run()

    @rule(number=OBJECTS, sources=SOURCES)
    def sources_changed(self, number: int, sources: list[NodeId]) -> None:
        self.shell.pulls.sources_changed(object_id(number), WRITER, sources, self.shell.now_s)
        self.shell.run()

    @precondition(lambda self: self.shell.asking)
    @rule(pick=PICK, is_granted=st.booleans())
    def answer_space(self, pick: int, is_granted: bool) -> None:
        pull = list(self.shell.asking)[pick % len(self.shell.asking)]
        if is_granted:
            self.shell.grant(pull)
        else:
            del self.shell.asking[pull]
            self.shell.pulls.space_refused(pull, "full")
        self.shell.run()

    @precondition(lambda self: self.shell.busy())
    @rule(pick=PICK, what=st.sampled_from(["come", "come", "come", "refuse", "time out", "break", "some bytes"]))
    def answer_stream(self, pick: int, what: str) -> None:
        busy = self.shell.busy()
        at = busy[pick % len(busy)]
        if what == "come":
            self.shell.answer(*at)
        elif what == "break":
            self.shell.close(*at)
        elif what == "some bytes":
            self.shell.pulls.stream_progress(*at, self.shell.now_s, is_payload=True)
        else:
            self.shell.refuse(*at, is_final=what == "refuse")
        self.shell.run()

    @precondition(lambda self: self.shell.closing)
    @rule(pick=PICK)
    def close(self, pick: int) -> None:
        self.shell.close(*list(self.shell.closing)[pick % len(self.shell.closing)])
        self.shell.run()

    @rule(seconds=st.sampled_from([0.01, 0.25, STALL_S, GIVE_UP_S]))
    def tick(self, seconds: float) -> None:
        self.shell.tick(seconds)

    @precondition(lambda self: not self.dead)
    @rule(node=st.sampled_from([A, B, C]))
    def node_dies(self, node: NodeId) -> None:
        self.dead.add(node)
        self.shell.pulls.node_dead(node, self.shell.now_s)
        self.shell.run()

    @invariant()
    def the_bound_holds(self) -> None:
        shell = self.shell
        sizes = sorted((shell.sizes[pull] for pull in {*shell.asking, *shell.space}), reverse=True)
        assert sum(sizes[len(PullPurpose) :]) <= LIMIT
        assert shell.pulls.in_flight_bytes == sum(sizes)

    @invariant()
    def an_end_is_told_once(self) -> None:
        assert len(self.shell.finished) == len(set(self.shell.finished))
        assert not set(self.shell.finished) & set(self.shell.failed)
        assert not self.ended & (set(self.shell.finished) | set(self.shell.failed))

    @invariant()
    def a_dead_node_is_not_asked(self) -> None:
        assert all(source not in self.dead for source, _ in self.shell.busy())

    def teardown(self) -> None:
        shell: Any = self.shell
        shell.grants = True
        for pull in list(shell.asking):
            shell.grant(pull)
        shell.run()
        shell.finish_all()
        assert {*shell.finished, *shell.failed, *self.ended} == set(self.started)
        assert not shell.space
        assert shell.released == {*shell.failed, *self.ended}
        assert shell.pulls.in_flight_bytes == 0


PullPrograms.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestPullPrograms = PullPrograms.TestCase
