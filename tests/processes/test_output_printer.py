"""A driver that leaves asks for the lines that are still under way, and no longer than there are some."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from remora.messages.session import FlushOutput, OutputFlushed, WorkerOutput
from remora.processes.client.output import MAX_FLUSHES, OutputPrinter


class Client:
    """Answers each question with what *answer* makes of it; a wait ends at once."""

    ended = False

    def __init__(self, answer: Callable[[int], list[WorkerOutput | OutputFlushed]]) -> None:
        self.asked: list[int] = []
        self.waits: list[bool] = []
        self._answer = answer
        self.printer = OutputPrinter(cast(Any, self))

    def send_to_daemon(self, message: FlushOutput) -> None:
        self.asked.append(message.request)

    def flush(self) -> None:
        for message in self._answer(self.asked[-1]):
            self.printer.on_message(message)

    def wait_until(self, done: Callable[[], bool], deadline_s: float) -> bool:
        self.waits.append(done())
        return self.waits[-1]


def line(text: str) -> WorkerOutput:
    return WorkerOutput(7, "f", [text])


def test_one_answer_is_enough_when_it_had_all(capsys: pytest.CaptureFixture[str]) -> None:
    client = Client(lambda number: [line("last"), OutputFlushed(number)])
    client.printer.flush()
    assert client.asked == [1]
    assert client.waits == [True]
    assert capsys.readouterr().out == "(f pid=7) last\n"


def test_every_node_that_was_asked_is_waited_for_in_any_order() -> None:
    for answers in ([0, 2, 0], [2, 0, 0], [0, 0, 2]):
        client = Client(lambda number, answers=answers: [OutputFlushed(number, others) for others in answers])
        client.printer.flush()
        assert client.waits == [True], answers
        client = Client(lambda number, answers=answers: [OutputFlushed(number, others) for others in answers[:2]])
        client.printer.flush()
        assert client.waits == [False], answers


def test_it_asks_again_while_a_node_has_more_and_at_last_no_longer() -> None:
    client = Client(lambda number: [OutputFlushed(number, 1), OutputFlushed(number, has_more=number < 3)])
    client.printer.flush()
    assert client.asked == [1, 2, 3]
    endless = Client(lambda number: [OutputFlushed(number, has_more=True)])
    endless.printer.flush()
    assert len(endless.asked) == MAX_FLUSHES


def test_an_answer_to_an_earlier_question_counts_for_nothing() -> None:
    client = Client(lambda number: [OutputFlushed(number - 1), OutputFlushed(number - 1, has_more=True)])
    client.printer.flush()
    assert client.waits == [False]
    assert client.asked == [1]
