"""Whatever bytes come, decoding them raises the one error that connections know."""

from __future__ import annotations

import random

import msgspec
import pytest

from remora.messages.head import Confirm, JoinRefused
from remora.messages.node_wire import ALL_MESSAGES, decode_node_body
from remora.messages.wire import HEADER_SIZE_BYTES, encode_frame

SEEDS = 20
FRAMES = 500


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x91\x92\xcc\x98\xa1\xff", id="text that is no UTF-8"),
        pytest.param(b"\x91\x93\xcc\x9b\x01" + b"\x91" * 100_000, id="deeply nested"),
        pytest.param(b"\xdd\xff\xff\xff\xff", id="an array of 4 billion"),
        pytest.param(b"\x91\x92\xcc\x98\xdb\xff\xff\xff\xff", id="a text of 4 GB"),
        pytest.param(b"\x91\x92\xcc\x9b\xd6\xff\0\0\0\0", id="an extension"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_a_body_that_is_no_frame_of_ours_is_a_decode_error(body: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_node_body(body)


def test_an_undamaged_body_is_decoded() -> None:
    messages = [Confirm(7), JoinRefused("no")]
    assert decode_node_body(encode_frame(messages)[HEADER_SIZE_BYTES:]) == messages


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_fields_behind_every_tag_are_messages_or_a_decode_error(seed: int) -> None:
    choice = random.Random(seed)
    for _ in range(FRAMES):
        tag = choice.choice(ALL_MESSAGES).__struct_config__.tag
        fields = b"".join(_random_field(choice) for _ in range(choice.randrange(12)))
        body = bytes((0x91, 0x90 + choice.randrange(16))) + msgspec.msgpack.encode(tag) + fields
        try:
            decode_node_body(body)
        except msgspec.DecodeError:
            continue


def _random_field(choice: random.Random) -> bytes:
    good: list[object] = [0, 1, -1, 2**63, -(2**63), 2**64 - 1, True, None, "abc", b"ab", bytes(8), 1.5, float("nan")]
    good += [[], [1], {}, {"a": 1}, [3, 11], [[], []], {1: b""}]
    bad = [b"\xa1\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\x81\x90\x01"]
    return choice.choice([msgspec.msgpack.encode(choice.choice(good)), choice.choice(bad), choice.randbytes(3)])
