"""The daemon is asked about an actor when it must have told of it, and nobody waits for ever for an unknown one."""

from __future__ import annotations

import pytest

from remora.core.actor_questions import (
    EXPLANATION_TIMEOUT_S,
    PLACEMENT_PATIENCE_S,
    UNKNOWN_PATIENCE_S,
    UNKNOWN_RETRY_S,
    ActorQuestions,
)
from remora.messages.actors import ALIVE, DEAD, PENDING_CREATION, RESTARTING, ActorState

ACTOR = b"actor"
UNKNOWN = ActorState(ACTOR, DEAD, is_unknown=True)


@pytest.fixture
def questions() -> ActorQuestions:
    questions = ActorQuestions()
    assert questions.is_idle
    return questions


def test_a_new_actor_is_asked_about_when_it_has_no_worker_for_a_while(questions: ActorQuestions) -> None:
    questions.created(ACTOR, 10.0)
    assert questions.take_due(9.99 + PLACEMENT_PATIENCE_S) == []
    assert questions.take_due(10.0 + PLACEMENT_PATIENCE_S) == [ACTOR]
    assert questions.told(ActorState(ACTOR, PENDING_CREATION, waits_for="a node"), PENDING_CREATION, 12.0)
    assert questions.is_idle, "the user was told; more would be the same again"


@pytest.mark.parametrize("state", [ALIVE, DEAD])
def test_what_is_told_needs_no_question(questions: ActorQuestions, state: int) -> None:
    questions.created(ACTOR, 10.0)
    assert questions.told(ActorState(ACTOR, state), PENDING_CREATION, 10.5)
    assert questions.is_idle


def test_an_actor_that_begins_to_restart_is_asked_about_once_after_a_while(questions: ActorQuestions) -> None:
    restarting = ActorState(ACTOR, RESTARTING)
    assert questions.told(restarting, ALIVE, 10.0)
    assert questions.take_due(10.0 + PLACEMENT_PATIENCE_S) == [ACTOR]
    assert questions.told(restarting, RESTARTING, 12.1)
    assert questions.is_idle


def test_a_lost_connection_is_asked_about_until_there_is_an_answer(questions: ActorQuestions) -> None:
    questions.lost(ACTOR, 10.0)
    first_s = 10.0 + EXPLANATION_TIMEOUT_S
    assert questions.take_due(first_s) == [ACTOR]
    assert questions.take_due(first_s) == []
    assert questions.take_due(first_s + EXPLANATION_TIMEOUT_S) == [ACTOR]
    questions.lost(ACTOR, 20.0, patience_s=0.5)
    assert questions.take_due(20.5) == [ACTOR]


def test_an_unknown_actor_is_no_news_for_a_while_and_dead_after_it(questions: ActorQuestions) -> None:
    now_s = 10.0
    while now_s < 10.0 + UNKNOWN_PATIENCE_S:
        assert not questions.told(UNKNOWN, PENDING_CREATION, now_s)
        now_s += 1.0
        assert questions.take_due(now_s - 1.0 + UNKNOWN_RETRY_S) == [ACTOR]
    assert questions.told(UNKNOWN, PENDING_CREATION, now_s)
    assert questions.is_idle


def test_an_actor_that_became_known_may_be_unknown_again_for_as_long(questions: ActorQuestions) -> None:
    assert not questions.told(UNKNOWN, PENDING_CREATION, 10.0)
    assert questions.told(ActorState(ACTOR, ALIVE), PENDING_CREATION, 10.1)
    assert not questions.told(UNKNOWN, ALIVE, 10.0 + UNKNOWN_PATIENCE_S)


def test_a_forgotten_actor_is_not_asked_about(questions: ActorQuestions) -> None:
    questions.created(ACTOR, 10.0)
    assert not questions.told(UNKNOWN, PENDING_CREATION, 10.0)
    questions.forget(ACTOR)
    assert questions.is_idle
    assert not questions.told(UNKNOWN, PENDING_CREATION, 100.0), "its patience begins anew"
