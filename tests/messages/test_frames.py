"""Messages are joined into frames that no peer refuses for their size, none is lost and none comes twice."""

from __future__ import annotations

import random
from typing import Any

import pytest

from remora.messages import wire
from remora.messages.tasks import Done


def batches(messages: list[Any]) -> list[list[Any]]:
    """What arrives, frame by frame, when all of them are sent."""
    outgoing, arrived = messages[:], []
    while outgoing:
        frame, count = wire.encode_batch(outgoing)
        (length,) = wire.unpack_length(frame, 0)
        assert length == len(frame) - wire.HEADER_SIZE_BYTES
        arrived.append(wire.decode_body(frame[wire.HEADER_SIZE_BYTES :]))
        assert len(arrived[-1]) == count
        del outgoing[:count]
    return arrived


@pytest.mark.parametrize("count", [1, 2, 15, 16, 31, 32, 33, 47, 48, 64, 65, 511, 512, 513, 1600])
def test_all_messages_arrive_in_their_order_however_many_they_are(count: int) -> None:
    messages = [Done(number, b"x" * (number % 7)) for number in range(count)]
    arrived = batches(messages)
    assert [one for batch in arrived for one in batch] == messages
    assert len(arrived) == -(-count // wire.MAX_FRAME_MESSAGES)


def test_a_frame_takes_no_more_messages_when_it_has_become_large() -> None:
    size_bytes = wire.FULL_FRAME_BYTES // 8
    messages = [Done(number, bytes(size_bytes)) for number in range(wire.MAX_FRAME_MESSAGES)]
    arrived = batches(messages)
    assert [one.call for batch in arrived for one in batch] == list(range(len(messages)))
    assert {len(batch) for batch in arrived} == {wire.GROUP_MESSAGES}


@pytest.mark.parametrize("seed", range(20))
def test_messages_of_any_sizes_arrive(seed: int) -> None:
    choice = random.Random(seed)
    sizes = [choice.choice([0, 1, 30, 300, 70_000, 1 << 20]) for _ in range(choice.randrange(150))]
    messages = [Done(number, choice.randbytes(size)) for number, size in enumerate(sizes)]
    assert [one for batch in batches(messages) for one in batch] == messages


class Growing(list[Any]):
    """Another thread appends to it whenever it is looked at."""

    def __getitem__(self, key: Any) -> Any:
        taken = super().__getitem__(key)
        self.append(Done(-1, b"of another thread"))
        return taken


@pytest.mark.parametrize("count", [1, wire.GROUP_MESSAGES, 100])
def test_a_message_that_is_sent_meanwhile_is_not_taken_for_one_of_the_frame(count: int) -> None:
    outgoing = Growing(Done(number, b"") for number in range(count))
    frame, taken = wire.encode_batch(outgoing)
    assert (
        [one.call for one in wire.decode_body(frame[wire.HEADER_SIZE_BYTES :])] == list(range(taken)) == [*range(count)]
    )
