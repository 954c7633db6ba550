"""What a process asks its daemon for, and what it must keep."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remora.core.wanted_values import AS_ARGUMENT, TO_KNOW, TO_READ, WantedValues

A, B, C = b"a", b"b", b"c"


def test_a_value_is_asked_for_once_unless_it_becomes_more_urgent() -> None:
    wanted = WantedValues()
    assert wanted.ask([A, B, A], AS_ARGUMENT) == [A, B]
    assert wanted.ask([A, C], TO_KNOW) == [C]
    assert wanted.ask([A, C], TO_READ) == [A, C]
    assert wanted.ask([A, B, C], AS_ARGUMENT) == []


def test_where_a_value_is_answers_only_who_wanted_to_know() -> None:
    wanted = WantedValues()
    wanted.ask([A], TO_KNOW)
    wanted.ask([B], TO_READ)
    wanted.answered(A, is_here=False)
    wanted.answered(B, is_here=False)
    assert wanted.ask([A, B], TO_READ) == [A]


def test_what_was_answered_may_be_asked_for_again() -> None:
    wanted = WantedValues()
    wanted.ask([A], TO_READ)
    wanted.answered(A, is_here=True)
    assert wanted.is_idle
    assert wanted.ask([A], TO_READ) == [A]


def test_of_dead_refs_only_those_are_forgotten_that_the_daemon_still_looks_for() -> None:
    wanted = WantedValues()
    wanted.ask([A, B], TO_READ)
    wanted.answered(B, is_here=True)
    assert wanted.died([A, B, C]) == [A]
    assert wanted.died([A]) == []
    assert wanted.is_idle


def test_a_return_that_is_waited_for_is_fetched_once() -> None:
    wanted = WantedValues()
    wanted.when_made.add(A)
    assert [wanted.made(A), wanted.made(A), wanted.made(B)] == [True, False, False]


def test_a_copy_may_leave_when_the_last_thread_has_read_it_and_nothing_looks_at_it() -> None:
    wanted = WantedValues()
    wanted.begin_use(A)
    wanted.begin_use(A)
    wanted.end_use(A)
    assert wanted.may_leave([A, B, C], {C}) == [B]
    wanted.end_use(A)
    assert wanted.may_leave([A, B, C], {C}) == [A, B]
    with pytest.raises(KeyError):
        wanted.end_use(A)
    wanted.validate()


@given(
    st.lists(
        st.tuples(st.sampled_from(["ask", "here", "elsewhere", "died"]), st.sampled_from([A, B]), st.integers(0, 3)),
        max_size=30,
    )
)
def test_the_daemon_is_asked_exactly_when_what_it_was_asked_for_is_not_enough(
    steps: list[tuple[str, bytes, int]],
) -> None:
    wanted = WantedValues()
    unanswered: list[tuple[bytes, int]] = []
    for step, object_id, purpose in steps:
        of_it = [asked for one, asked in unanswered if one == object_id]
        if step == "ask":
            assert wanted.ask([object_id], purpose) == ([object_id] if min(of_it, default=4) > purpose else [])
            unanswered.append((object_id, purpose))
        elif step == "died":
            assert wanted.died([object_id]) == ([object_id] if of_it else [])
            unanswered = [(one, asked) for one, asked in unanswered if one != object_id]
        else:
            is_here = step == "here"
            wanted.answered(object_id, is_here)
            if is_here or min(of_it, default=0) == TO_KNOW:
                unanswered = [(one, asked) for one, asked in unanswered if one != object_id]
        wanted.validate()
    assert wanted.is_idle == (not unanswered)
