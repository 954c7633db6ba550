"""Messages and descriptors over a socket pair: in order, without waiting, and nothing leaks."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import msgspec
import pytest

from remora.messages.children import Forked, Preload
from remora.system.descriptor_channel import DescriptorChannel


@pytest.fixture
def channels() -> Iterator[tuple[DescriptorChannel, DescriptorChannel]]:
    before = len(os.listdir("/proc/self/fd"))
    left, right = socket.socketpair()
    ends = DescriptorChannel(left.detach()), DescriptorChannel(right.detach())
    yield ends
    for end in ends:
        end.close()
    assert len(os.listdir("/proc/self/fd")) == before


def inode(descriptor: int) -> int:
    return os.fstat(descriptor).st_ino


def test_descriptors_come_in_the_order_of_their_messages(channels: tuple[DescriptorChannel, DescriptorChannel]) -> None:
    left, right = channels
    sent = []
    for number in range(10):
        pair = list(os.pipe())
        sent += [inode(descriptor) for descriptor in pair]
        left.send([Forked(number, number)])
        left.send([Preload([str(number)])], pair)
    received = []
    messages = right.receive()
    for message in messages:
        if isinstance(message, Preload):
            pair = right.take_descriptors(2)
            received += [inode(descriptor) for descriptor in pair]
            for descriptor in pair:
                assert not os.get_inheritable(descriptor)
                os.close(descriptor)
    assert received == sent
    assert [message.pid for message in messages if isinstance(message, Forked)] == list(range(10))


def test_what_does_not_fit_waits_and_leaves_whole(channels: tuple[DescriptorChannel, DescriptorChannel]) -> None:
    left, right = channels
    big = [Preload(["x" * 300_000, str(number)]) for number in range(5)]
    for message in big:
        left.send([message], list(os.pipe()))
    assert left.has_unsent
    received = []
    while len(received) < len(big):
        left.flush()
        received += right.receive()
    assert received == big
    assert not left.has_unsent


def test_the_end_of_the_peer_is_seen_after_its_last_message(
    channels: tuple[DescriptorChannel, DescriptorChannel],
) -> None:
    left, right = channels
    left.send([Forked(1, 2)], list(os.pipe()))
    left.close()
    assert right.receive() == [Forked(1, 2)]
    assert right.ended


def test_sending_to_a_peer_that_is_gone_is_no_error(channels: tuple[DescriptorChannel, DescriptorChannel]) -> None:
    left, right = channels
    right.close()
    left.send([Forked(1, 2)], list(os.pipe()))
    assert not left.has_unsent


def test_a_frame_that_is_no_message_of_ours_is_an_error() -> None:
    left, right = socket.socketpair()
    channel = DescriptorChannel(right.detach())
    left.sendall(b"\x03\x00\x00\x00abc")
    with pytest.raises(msgspec.MsgspecError):
        channel.receive()
    left.close()
    channel.close()
