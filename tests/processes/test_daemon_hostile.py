"""A real daemon, and a member of its cluster that says anything whatever to it."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from typing import Any

import pytest

from remora.base.ids import ProcessId, make_object_id
from remora.base.join_string import JoinString
from remora.messages import copies, counting, inspection, leases, links, objects
from remora.messages.node_wire import ALL_MESSAGES
from remora.messages.session import WorkerOutput
from remora.processes.daemon.head_link import HeadLink
from remora.processes.node_start import NodeOptions, join_string_of, start_head_node
from remora.system.handshake import connect_unix, receive_welcome, send_hello
from remora.system.launch import LaunchedNode
from remora.system.network.preface import Purpose
from remora.system.network.stream import Stream, open_stream
from remora.system.process_control import wait_ended
from remora.system.reactor import Reactor
from remora.testing.random_messages import RandomMessages

SEEDS = 2
MESSAGES = 400
CONTROL = (links.StreamHello, links.StreamAck, links.StreamEnd)
BY_DAEMONS = [*links.MESSAGES, *counting.MESSAGES, *copies.MESSAGES, *objects.MESSAGES, *inspection.MESSAGES]
OF_LEASES = [*leases.MESSAGES, WorkerOutput]


class Listener:
    """Hears nothing of what the head says."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


@pytest.fixture
def node() -> Iterator[LaunchedNode]:
    node = start_head_node(NodeOptions(host="127.0.0.1", num_cpus=1), encrypt=False, is_detached=False)
    yield node
    node.end(0)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_daemon_lives_on_and_answers(node: LaunchedNode, seed: int) -> None:
    choice = random.Random(seed)
    join = JoinString.parse(join_string_of(node.session.path))
    reactor = Reactor()
    head = HeadLink(reactor, join.address, join.credentials, Listener())
    joined = head.join("127.0.0.1:9", {"CPU": 10_000})
    own, theirs = _processes(joined.node), _processes(joined.head_node)
    made = [make_object_id(ProcessId(process), call) for process in own + theirs for call in (1, 2)]
    make = RandomMessages(choice, [joined.node, joined.head_node, *own, *theirs, *made], ["127.0.0.1:9"])
    stream: Stream | None = None
    for _ in range(MESSAGES):
        if stream is None or stream.closed:
            stream = open_stream(
                reactor,
                join.address,
                ProcessId(theirs[0]),
                ProcessId(own[0]),
                Purpose.LINK,
                join.credentials,
                lambda stream, messages: None,
                lambda stream, error: None,
            )
        for message in _said(choice, make, own, theirs):
            stream.send(message)
        stream.flush()
        head.flush()
        reactor.poll(0.001)
    with connect_unix(node.socket_path) as sock:
        send_hello(sock, "inspector")
        for descriptor in receive_welcome(sock)[1]:
            os.close(descriptor)
    assert not wait_ended(node.pidfd, 0)
    assert stream is not None
    stream.close()
    head.close()
    reactor.close()


def _processes(node: bytes) -> list[bytes]:
    return [node + number.to_bytes(4, "big") for number in range(3)]


def _said(choice: random.Random, make: RandomMessages, own: list[bytes], theirs: list[bytes]) -> list[Any]:
    kind = choice.random()
    if kind < 0.5:
        return [make.one_of([message for message in BY_DAEMONS if message not in CONTROL])]
    if kind < 0.7:
        marker = choice.choice([links.FromProcess(own[1], own[1]), make.make(links.FromProcess)])
        return [marker, make.one_of(OF_LEASES)]
    if kind < 0.9:
        return [choice.choice([links.ForProcess(theirs[1]), make.make(links.ForProcess)]), make.one_of(OF_LEASES)]
    return [make.one_of(ALL_MESSAGES)]
