"""The machine of pulls: order, the bound, sources that fail, and that every pull ends."""

from __future__ import annotations

import pytest
from pull_shell import WRITER, A, B, C, PullShell, object_id

from remora.core.pull_records import PullPurpose
from remora.core.pull_sources import CHUNK_BYTES, STREAMS_PER_SOURCE, WINDOW_BYTES, WINDOW_CHUNKS
from remora.core.pull_streams import IDLE_S, STALL_S
from remora.core.pulls import GIVE_UP_S, PullManager

SMALL = 100_000
LARGE = 100 * CHUNK_BYTES + 17
NO_LIMIT = 1 << 50


def sources_in_use(shell: PullShell) -> set[bytes]:
    return {source for (source, _), queue in shell.streams.items() if queue}


def test_a_pull_gets_space_then_chunks_and_finishes() -> None:
    shell = PullShell(NO_LIMIT)
    pull = shell.start(1, LARGE, [A])
    shell.finish_all()
    assert shell.finished == [pull]
    assert shell.pulls.in_flight_bytes == 0


@pytest.mark.parametrize("size_bytes", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_objects_of_every_size_arrive(size_bytes: int) -> None:
    shell = PullShell(NO_LIMIT)
    pull = shell.start(1, size_bytes, [A])
    shell.finish_all()
    assert shell.finished == [pull]


def test_a_large_object_comes_on_several_streams_each_with_a_full_window() -> None:
    shell = PullShell(NO_LIMIT)
    shell.start(1, LARGE, [A, B])
    assert sources_in_use(shell) == {A}
    assert [sum(c.size_bytes for c in q) for q in shell.streams.values()] == [WINDOW_BYTES] * STREAMS_PER_SOURCE


def test_many_small_objects_are_asked_for_in_one_message() -> None:
    shell = PullShell(NO_LIMIT, grants=False)
    for number in range(WINDOW_CHUNKS):
        shell.start(number, 1000, [A])
    for pull in list(shell.asking):
        shell.grant(pull)
    shell.pulls.assign(shell.now_s)
    assert [len(effect.chunks) for effect in shell.pulls.outbox if hasattr(effect, "chunks")] == [WINDOW_CHUNKS]


def test_the_next_are_asked_for_when_half_of_a_window_has_come() -> None:
    shell = PullShell(NO_LIMIT)
    shell.start(1, LARGE, [A])
    at = shell.busy()[0]
    window = len(shell.streams[at])
    for left in range(window - 1, window // 2, -1):
        shell.answer(*at)
        shell.run()
        assert len(shell.streams[at]) == left
    shell.answer(*at)
    shell.run()
    assert len(shell.streams[at]) == window


def test_get_goes_before_arguments_before_prefetch_and_each_in_order() -> None:
    shell = PullShell(SMALL)
    first = shell.start(0, SMALL, [A])
    waiting = [shell.start(number, SMALL, [A], purpose) for number, purpose in enumerate([2, 1, 0, 2, 1, 0], start=1)]
    shell.finish_all()
    assert shell.finished == [first, *(waiting[i] for i in (2, 5, 1, 4, 0, 3))]


def test_a_pull_that_becomes_urgent_overtakes() -> None:
    shell = PullShell(SMALL)
    first = shell.start(0, SMALL, [A])
    argument = shell.start(1, SMALL, [A], PullPurpose.ARGUMENT)
    prefetch = shell.start(2, SMALL, [A], PullPurpose.PREFETCH)
    shell.pulls.raise_priority(object_id(2), WRITER, PullPurpose.GET)
    shell.pulls.raise_priority(object_id(2), WRITER, PullPurpose.ARGUMENT)
    shell.finish_all()
    assert shell.finished == [first, prefetch, argument]


def test_chunks_of_the_more_urgent_are_asked_first_once_both_run() -> None:
    shell = PullShell(NO_LIMIT)
    prefetch = shell.start(1, LARGE, [A], PullPurpose.PREFETCH)
    get = shell.start(2, LARGE, [A], PullPurpose.GET)
    shell.asked_order.clear()
    for _ in range(4):
        for at in shell.busy():
            shell.answer(*at)
            shell.run()
    assert set(shell.asked_order) == {get}
    shell.finish_all()
    assert shell.finished == [get, prefetch]


def test_bytes_in_flight_stay_below_the_bound() -> None:
    shell = PullShell(3 * SMALL)
    for number in range(5):
        shell.start(number, SMALL, [A])
    assert len(shell.admitted) == 3
    shell.answer(*shell.busy()[0])
    shell.run()
    assert len(shell.admitted) == 4


def test_one_object_may_exceed_the_bound_alone() -> None:
    shell = PullShell(SMALL)
    large = shell.start(1, LARGE, [A])
    small = shell.start(2, 1, [A])
    assert shell.admitted == [large]
    shell.finish_all()
    assert shell.finished == [large, small]


def test_a_large_object_is_not_overtaken_by_small_ones_that_come_later() -> None:
    shell = PullShell(2 * SMALL)
    shell.start(0, SMALL, [A])
    large = shell.start(1, LARGE, [A])
    for number in range(2, 5):
        shell.start(number, 1, [A])
    shell.finish_all()
    assert shell.finished[1] == large


def test_a_get_does_not_wait_for_prefetches_that_fill_the_bound() -> None:
    shell = PullShell(SMALL)
    prefetch = shell.start(1, SMALL, [A], PullPurpose.PREFETCH)
    get = shell.start(2, SMALL, [A], PullPurpose.GET)
    assert shell.admitted == [prefetch, get]


def test_an_object_is_pulled_once_at_a_time() -> None:
    shell = PullShell(NO_LIMIT)
    shell.start(1, SMALL, [A])
    with pytest.raises(ValueError, match="running already"):
        shell.start(1, SMALL, [B])
    shell.pulls.validate()


def test_a_source_without_the_object_is_replaced_by_the_next() -> None:
    shell = PullShell(NO_LIMIT)
    pull = shell.start(1, SMALL, [A, B])
    shell.refuse(*shell.busy()[0])
    shell.run()
    assert sources_in_use(shell) == {B}
    shell.finish_all()
    assert shell.finished == [pull]


def test_each_source_that_refused_is_told_and_without_new_ones_the_pull_fails_with_all_reasons() -> None:
    shell = PullShell(NO_LIMIT)
    pull = shell.start(1, SMALL, [A, B])
    for source in (A, B):
        shell.refuse(*shell.busy()[0])
        shell.run()
        assert shell.failed_sources[-1] == (pull, source, "it is not here")
    shell.tick(GIVE_UP_S - 1)
    assert not shell.failed
    shell.tick(1)
    assert shell.failed == {pull: "node 1: it is not here; node 2: it is not here"}
    assert not shell.space


def test_a_pull_whose_sources_failed_goes_on_with_new_ones_and_keeps_what_came() -> None:
    shell = PullShell(NO_LIMIT)
    pull = shell.start(1, 2 * CHUNK_BYTES, [A])
    shell.answer(*shell.busy()[0])
    shell.refuse(*shell.busy()[0])
    shell.run()
    shell.pulls.sources_changed(object_id(1), WRITER, [B], shell.now_s)
    shell.asked_order.clear()
    shell.run()
    assert shell.asked_order == [pull]
    shell.finish_all()
    assert shell.finished == [pull]


def test_a_pull_without_any_source_fails_at_once() -> None:
    shell = PullShell(NO_LIMIT)
    pull = shell.start(1, SMALL, [])
    assert shell.failed == {pull: "no node is known to have it"}


def test_a_stalled_source_is_replaced_and_what_came_stays() -> None:
    shell = PullShell(NO_LIMIT)
    pull = shell.start(1, LARGE, [A, B])
    for _ in range(3):
        shell.answer(*shell.busy()[0])
    shell.run()
    shell.tick(STALL_S)
    assert {source for source, _ in shell.closing} == {A}
    for at in list(shell.closing):
        shell.close(*at)
    shell.run()
    assert sources_in_use(shell) == {B}
    shell.finish_all()
    assert shell.finished == [pull]


def test_bytes_within_a_chunk_are_progress() -> None:
    shell = PullShell(NO_LIMIT)
    shell.start(1, 1, [A])
    for _ in range(10):
        shell.now_s += STALL_S / 2
        shell.pulls.stream_progress(*shell.busy()[0], shell.now_s, is_payload=True)
        shell.tick(0)
    assert not shell.closing


def test_a_source_that_only_says_that_it_waits_is_not_stalled_but_given_up_in_the_end() -> None:
    shell = PullShell(NO_LIMIT)
    pull = shell.start(1, 1, [A])
    started_s = shell.now_s
    while pull not in shell.failed and shell.now_s < started_s + 3 * GIVE_UP_S:
        shell.pulls.stream_progress(*shell.busy()[0], shell.now_s, is_payload=False)
        shell.tick(STALL_S / 2)
    assert shell.failed_sources == [(pull, A, "it gave no byte for 30 s")]
    assert shell.now_s == started_s + 2 * GIVE_UP_S
    assert shell.space, "the chunk may still come"
    shell.close(*shell.busy()[0])
    shell.run()
    assert not shell.space


def test_a_pull_waits_for_as_long_as_its_source_sends_others() -> None:
    shell = PullShell(NO_LIMIT)
    shell.start(1, LARGE, [A])
    prefetch = shell.start(2, SMALL, [A], PullPurpose.PREFETCH)
    for _ in range(3 * int(GIVE_UP_S)):
        shell.answer(*shell.busy()[0])
        for at in shell.busy():
            shell.pulls.stream_progress(*at, shell.now_s, is_payload=True)
        shell.tick(1)
    assert not shell.failed_sources
    shell.finish_all()
    assert prefetch in shell.finished


def test_a_source_that_waits_for_the_object_itself_gives_way_to_the_next() -> None:
    shell = PullShell(NO_LIMIT)
    pull = shell.start(1, SMALL, [A, B])
    shell.refuse(*shell.busy()[0], is_final=False)
    shell.run()
    assert sources_in_use(shell) == {B}
    shell.finish_all()
    assert shell.finished == [pull]
    assert not shell.failed_sources


def test_nodes_that_wait_for_each_other_give_up_though_other_objects_come() -> None:
    shell = PullShell(NO_LIMIT)
    pull = shell.start(1, SMALL, [A])
    started_s = shell.now_s
    while not shell.failed_sources and shell.now_s < started_s + 3 * GIVE_UP_S:
        at = shell.busy()[0]
        shell.now_s += 1
        shell.pulls.stream_progress(*at, shell.now_s, is_payload=True)
        shell.refuse(*at, is_final=False)
        shell.run()
    assert shell.failed_sources == [(pull, A, "it is not here")]
    assert shell.now_s == started_s + GIVE_UP_S + 1


def test_the_only_source_is_tried_again_after_a_rest() -> None:
    shell = PullShell(NO_LIMIT)
    pull = shell.start(1, SMALL, [A])
    shell.close(*shell.busy()[0])
    shell.run()
    assert not shell.streams
    shell.tick(0.25)
    assert sources_in_use(shell) == {A}
    shell.finish_all()
    assert shell.finished == [pull]


def test_a_pull_whose_only_source_always_breaks_is_given_up() -> None:
    shell = PullShell(NO_LIMIT)
    pull = shell.start(1, SMALL, [A])
    attempts = 0
    for _ in range(1000):
        for at in shell.busy():
            attempts += 1
            shell.close(*at, "connection refused")
        shell.tick(0.25)
    assert shell.failed_sources == [(pull, A, "connection refused")]
    assert shell.failed[pull] == "node 1: connection refused"
    assert 10 < attempts < 40


def test_a_dead_node_whose_streams_are_closed_is_looked_at_no_more() -> None:
    shell = PullShell(NO_LIMIT)
    pull = shell.start(1, LARGE, [A, B])
    shell.close(*shell.busy()[0])
    for node in (A, C):
        shell.pulls.node_dead(node, shell.now_s)
    shell.run()
    streams = shell.pulls._streams
    assert streams.get(A), "its other streams are in use until they are closed"
    for at in list(shell.closing):
        shell.close(*at)
    shell.finish_all()
    shell.tick(0.25)
    assert shell.finished == [pull]
    assert not [source for source in streams if source.node in (A, C)]
    assert streams.is_dead(A)
    assert streams.is_dead(C)


def test_a_dead_node_is_left_at_once_and_never_asked_again() -> None:
    shell = PullShell(NO_LIMIT)
    pull = shell.start(1, SMALL, [A, B])
    shell.pulls.node_dead(A, shell.now_s)
    shell.run()
    for at in list(shell.closing):
        shell.close(*at)
    shell.run()
    assert sources_in_use(shell) == {B}
    shell.finish_all()
    later = shell.start(2, SMALL, [A])
    assert shell.finished == [pull]
    assert shell.failed_sources == [(pull, A, "it is dead"), (later, A, "it is dead")]
    assert not shell.busy()


def test_new_sources_are_used_and_one_that_refused_may_be_named_again() -> None:
    shell = PullShell(NO_LIMIT)
    pull = shell.start(1, SMALL, [A, B])
    shell.refuse(*shell.busy()[0])
    shell.run()
    shell.pulls.sources_changed(object_id(1), WRITER, [C, A], shell.now_s)
    shell.run()
    shell.refuse(*shell.busy()[0])
    shell.run()
    assert sources_in_use(shell) == {C}
    shell.refuse(*next(at for at in shell.busy() if at[0] == C))
    shell.run()
    assert sources_in_use(shell) == {A}
    shell.finish_all()
    assert shell.finished == [pull]


def test_the_space_of_a_cancelled_pull_is_kept_until_nothing_is_written_to_it() -> None:
    shell = PullShell(NO_LIMIT)
    shell.start(1, SMALL, [A])
    shell.pulls.cancel(object_id(1), WRITER)
    shell.run()
    assert shell.space
    shell.answer(*shell.busy()[0])
    shell.run()
    assert not shell.space
    assert not shell.finished


def test_a_cancelled_pull_may_start_again_while_its_old_chunks_come() -> None:
    shell = PullShell(NO_LIMIT)
    shell.start(1, SMALL, [A])
    shell.pulls.cancel(object_id(1), WRITER)
    again = shell.start(1, SMALL, [A])
    shell.finish_all()
    assert shell.finished == [again]
    assert not shell.space


def test_space_that_is_granted_to_a_cancelled_pull_is_released() -> None:
    shell = PullShell(NO_LIMIT, grants=False)
    pull = shell.start(1, SMALL, [A])
    shell.pulls.cancel(object_id(1), WRITER)
    shell.grant(pull)
    shell.run()
    assert not shell.space
    assert shell.pulls.in_flight_bytes == 0


def test_a_pull_without_space_fails_and_blames_no_source() -> None:
    shell = PullShell(NO_LIMIT, grants=False)
    pull = shell.start(1, SMALL, [A])
    shell.pulls.space_refused(pull, "the store is full")
    shell.run()
    assert shell.failed == {pull: "the store is full"}


def test_an_idle_stream_is_closed_and_an_old_one_in_use_is_not_taken_for_stalled() -> None:
    shell = PullShell(NO_LIMIT)
    shell.start(1, SMALL, [A])
    shell.finish_all()
    shell.tick(IDLE_S - 1)
    shell.start(2, SMALL, [A])
    shell.tick(STALL_S / 2)
    assert not shell.closing
    shell.finish_all()
    shell.tick(IDLE_S)
    assert shell.closing
    shell.finish_all()
    assert not shell.pulls.has_periodic_work


def test_wrong_answers_raise_and_change_nothing() -> None:
    pulls = PullManager()
    number = pulls.start(object_id(1), WRITER, SMALL, [A], PullPurpose.GET)
    pulls.space_granted(number, 0.0)
    pulls.assign(0.0)
    with pytest.raises(ValueError, match="did not ask for space"):
        pulls.space_granted(number, 0.0)
    with pytest.raises(ValueError, match="was not asked for"):
        pulls.chunk_received(A, 1, number, 64, 0.0)
    with pytest.raises(KeyError):
        pulls.stream_closed(A, 7, "", 0.0)
    pulls.validate()
