"""The smaller machines of the head: links that count, jobs, keys and values, the choice of nodes for actors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remora.core.actor_placement import ActorPlacer, Effect, Hopeless
from remora.core.cluster_view import ClusterView
from remora.core.counted_link import CountedLink, UnitReader
from remora.core.jobs import REMEMBERED_JOBS, JobTable
from remora.core.journal import Journal
from remora.core.key_value import KeyValueTable, row_key, split_row_key
from remora.messages.actors import ActorSpec
from remora.messages.head import (
    CancelPlacement,
    Confirm,
    JobStarted,
    PlaceActor,
)
from remora.messages.key_value import (
    KEY_DELETE,
    KEY_EXISTS,
    KEY_GET,
    KEY_LIST,
    KEY_PUT,
    MAX_KEY_BYTES,
    KeyValueAnswer,
    KeyValueRequest,
)
from remora.messages.links import ForProcess
from remora.messages.session import JobEnvironment

# ---------------------------------------------------------------------- links


def test_what_is_confirmed_is_not_said_again_and_the_rest_is() -> None:
    link = CountedLink()
    for number in range(1, 5):
        assert link.say((number,)) == number
    assert link.confirmed(2) == [1, 2]
    assert link.unconfirmed_after(3) == [(4,)]
    link.validate()


def test_what_was_never_said_cannot_be_confirmed_and_what_is_forgotten_cannot_be_asked_for() -> None:
    link = CountedLink()
    link.say((1,))
    link.say((2,))
    with pytest.raises(ValueError, match="only 2 were said"):
        link.confirmed(3)
    link.confirmed(1)
    with pytest.raises(ValueError, match="2 to 2 are kept"):
        link.unconfirmed_after(0)


@given(st.lists(st.sampled_from(["say", "hear", "break", "confirm"]), max_size=60))
def test_everything_arrives_once_and_in_order_over_links_that_break(steps: list[str]) -> None:
    """One side says numbers; what is under way when the link breaks is lost."""
    sender, receiver = CountedLink(), CountedLink()
    under_way: list[int] = []
    heard: list[int] = []
    said = 0
    for step in [*steps, "break", *["hear"] * 60]:
        if step == "say":
            said += 1
            sender.say((said,))
            under_way.append(said)
        elif step == "hear" and under_way:
            heard.append(under_way.pop(0))
            receiver.received += 1
        elif step == "break":
            under_way = [unit[0] for unit in sender.unconfirmed_after(receiver.received)]
        elif step == "confirm":
            sender.confirmed(receiver.received)
        sender.validate()
    assert heard == list(range(1, said + 1))


def test_a_marker_counts_with_the_message_behind_it_also_in_the_next_frame() -> None:
    reader = UnitReader()
    marker, message = ForProcess(bytes(8)), Confirm(1)
    assert list(reader.read([message, marker])) == [(message,)]
    assert list(reader.read([message, message])) == [(marker, message), (message,)]


# ---------------------------------------------------------------------- jobs

ENVIRONMENT = JobEnvironment([], "/", "main.py", "space")


def test_a_job_is_listed_while_it_runs_and_after_it_ended_and_ends_once() -> None:
    jobs = JobTable(Journal())
    jobs.started(JobStarted(b"node0001", ENVIRONMENT, 7, "python x"), 10.0)
    jobs.started(JobStarted(b"node0001", ENVIRONMENT, 7, "python x"), 11.0)
    assert jobs.of_node(b"node") == [b"node0001"]
    assert jobs.ended(b"node0001", "it left", 12.0)
    assert not jobs.ended(b"node0001", "it left", 13.0)
    (report,) = jobs.reports()
    assert (report.started_s, report.ended_s, report.namespace) == (10.0, 12.0, "space")
    with pytest.raises(ValueError, match="after it has ended"):
        jobs.started(JobStarted(b"node0001", ENVIRONMENT), 14.0)
    jobs.validate()


def test_the_oldest_ended_jobs_are_forgotten_unless_an_actor_still_needs_their_environment() -> None:
    jobs = JobTable(Journal())
    for number in range(REMEMBERED_JOBS + 2):
        jobs.started(JobStarted(b"%08d" % number, ENVIRONMENT), 1.0)
        jobs.ended(b"%08d" % number, "", 2.0)
    jobs.forget_oldest([b"00000000"])
    assert jobs.environment(b"00000000") is not None
    assert jobs.environment(b"00000001") is None
    assert len(jobs.reports()) == REMEMBERED_JOBS


# ---------------------------------------------------------------------- keys and values


def ask(table: KeyValueTable, operation: int, key: bytes, namespace: bytes = b"n", **options: object) -> KeyValueAnswer:
    return table.answer(KeyValueRequest(1, operation, namespace, key, **options))  # type: ignore[arg-type]


def test_a_value_is_put_found_kept_or_overwritten_and_deleted() -> None:
    table = KeyValueTable()
    assert ask(table, KEY_PUT, b"k", value=b"1").count == 1
    assert ask(table, KEY_PUT, b"k", value=b"2", overwrite=False).count == 0
    assert ask(table, KEY_GET, b"k").value == b"1"
    assert ask(table, KEY_PUT, b"k", value=b"3").count == 0
    assert ask(table, KEY_GET, b"k") == KeyValueAnswer(1, 1, b"3")
    assert ask(table, KEY_EXISTS, b"k").count == 1
    assert ask(table, KEY_GET, b"k", namespace=b"other").count == 0
    assert ask(table, KEY_DELETE, b"k").count == 1
    assert ask(table, KEY_DELETE, b"k").count == 0


def test_keys_are_listed_and_deleted_by_prefix() -> None:
    table = KeyValueTable()
    for key in (b"b", b"ab", b"aa"):
        ask(table, KEY_PUT, key, value=b"")
    assert ask(table, KEY_LIST, b"a").keys == [b"aa", b"ab"]
    assert ask(table, KEY_DELETE, b"a", by_prefix=True).count == 2
    assert ask(table, KEY_LIST, b"").keys == [b"b"]


def test_an_unknown_operation_is_refused() -> None:
    with pytest.raises(ValueError, match="operation 9"):
        ask(KeyValueTable(), 9, b"k")


@given(st.binary(max_size=6), st.binary(max_size=6))
def test_every_namespace_and_key_have_a_row_of_their_own(namespace: bytes, key: bytes) -> None:
    assert split_row_key(row_key(namespace, key)) == (namespace, key)


@given(
    st.lists(st.tuples(st.sampled_from([KEY_PUT, KEY_DELETE]), st.sampled_from([b"a", b"b"]), st.binary(max_size=3)))
)
def test_a_table_made_from_its_rows_is_the_same(steps: list[tuple[int, bytes, bytes]]) -> None:
    journal = Journal()
    table = KeyValueTable(journal)
    rows: dict[bytes, bytes] = {}
    for operation, key, value in steps:
        ask(table, operation, key, value=value)
        for _, row in journal.take():
            written = table.record(row)
            if written is None:
                rows.pop(row, None)
            else:
                rows[row] = written
    again = KeyValueTable()
    again.restore(rows.items())
    for key in (b"a", b"b"):
        assert ask(again, KEY_GET, key) == ask(table, KEY_GET, key)


# ---------------------------------------------------------------------- the choice of nodes

ONE, TWO = b"\0\0\0\1", b"\0\0\0\2"
CPU = {"CPU": 10_000}


class PlacerRig:
    def __init__(self, *nodes: bytes) -> None:
        self.view = ClusterView()
        self.placer = ActorPlacer(Journal(), self.view)
        for node in nodes:
            self.report(node)

    def report(self, node: bytes, available: int = 10_000) -> None:
        self.view.report(node, total=CPU, available={"CPU": available}, now_s=0)
        self.placer.load_told(node)

    def request(self, number: int, **options: object) -> bytes:
        actor = b"\0\0\0\1" + b"%012d" % number
        self.placer.request(actor, b"job", ActorSpec("A", b"", b"", **({"resources": CPU} | options)))  # type: ignore[arg-type]
        return actor

    def run(self, now_s: float = 0.0) -> list[tuple[bytes, bytes, int]]:
        self.placer.run(lambda job: ENVIRONMENT, now_s)
        self.placer.validate()
        self.view.validate()
        asked = [
            (effect.node, effect.message.actor, effect.message.attempt)
            for effect in self.placer.outbox
            if isinstance(effect, Effect) and isinstance(effect.message, PlaceActor)
        ]
        self.placer.outbox.clear()
        return asked


def test_a_node_is_not_asked_for_more_than_it_has() -> None:
    rig = PlacerRig(ONE, TWO)
    actors = [rig.request(number) for number in range(3)]
    assert rig.run() == [(ONE, actors[0], 1), (TWO, actors[1], 2)]
    assert rig.placer.why_waiting(actors[2])
    assert rig.placer.placed(ONE, actors[0], 1)
    assert rig.run() == [], "what was placed is taken, until the node tells what it has"
    rig.report(ONE)
    assert rig.run() == [(ONE, actors[2], 3)]


def test_an_answer_to_an_older_attempt_is_passed_over() -> None:
    rig = PlacerRig(ONE)
    actor = rig.request(1)
    rig.run()
    rig.placer.rejected(ONE, actor, 1, "full", 0)
    assert rig.run(1.0) == [(ONE, actor, 2)]
    assert not rig.placer.placed(ONE, actor, 1)
    rig.placer.rejected(ONE, actor, 1, "full", 1.0)
    assert rig.placer.placed(ONE, actor, 2)


def test_a_refused_actor_goes_to_another_node_at_once_and_back_after_a_while() -> None:
    rig = PlacerRig(ONE, TWO)
    actor = rig.request(1)
    assert rig.run() == [(ONE, actor, 1)]
    rig.placer.rejected(ONE, actor, 1, "full", 0)
    assert rig.run(0.1) == [(TWO, actor, 2)]
    rig.placer.rejected(TWO, actor, 2, "full", 0.1)
    assert rig.run(0.2) == []
    assert rig.run(0.55) == [(ONE, actor, 3)]


def test_whoever_was_to_go_to_a_dead_node_goes_elsewhere() -> None:
    rig = PlacerRig(ONE, TWO)
    actor = rig.request(1)
    rig.run()
    rig.view.died(ONE, "killed")
    rig.placer.node_died(ONE)
    assert rig.run() == [(TWO, actor, 2)]


def test_a_cancelled_placing_is_taken_back_from_its_node() -> None:
    rig = PlacerRig(ONE)
    actor = rig.request(1)
    rig.run()
    rig.placer.cancel(actor)
    assert rig.placer.outbox == [Effect(ONE, CancelPlacement(actor, 1))]
    rig.placer.outbox.clear()
    other = rig.request(2)
    assert rig.run() == [(ONE, other, 2)], "its room is free again"


def test_an_actor_waits_for_a_node_that_may_come_but_not_for_one_that_is_gone() -> None:
    rig = PlacerRig(ONE)
    waits = rig.request(1, resources={"GPU": 10_000})
    rig.view.died(TWO, "killed")
    gone = rig.request(2, strategy=f'{{"node":"{TWO.hex()}"}}')
    assert rig.run() == []
    assert "GPU" in rig.placer.why_waiting(waits)
    rig.placer.request(gone, b"job", ActorSpec("A", b"", b"", strategy=f'{{"node":"{TWO.hex()}"}}'))
    rig.placer.run(lambda job: ENVIRONMENT, 0)
    (hopeless,) = rig.placer.outbox
    assert isinstance(hopeless, Hopeless)
    assert hopeless.actor == gone


def test_an_actor_whose_job_is_not_known_yet_waits_for_it() -> None:
    rig = PlacerRig(ONE)
    actor = rig.request(1)
    rig.placer.run(lambda job: None, 0)
    assert "job" in rig.placer.why_waiting(actor)
    rig.placer.try_again()
    assert rig.run() == [(ONE, actor, 1)]


def test_a_key_that_no_database_can_write_down_is_refused_and_changes_nothing() -> None:
    table = KeyValueTable()
    ask(table, KEY_PUT, b"k" * (MAX_KEY_BYTES - 1), value=b"longest")
    with pytest.raises(ValueError, match="with its namespace"):
        ask(table, KEY_PUT, b"k" * MAX_KEY_BYTES, value=b"too long")
    assert ask(table, KEY_LIST, b"").keys == [b"k" * (MAX_KEY_BYTES - 1)]
