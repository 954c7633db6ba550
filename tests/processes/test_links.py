"""Links between daemons: what is said to nodes that are not known yet, and bad words from those that are."""

from __future__ import annotations

from typing import Any

import pytest

from remora.base.credentials import ClusterCredentials
from remora.base.ids import NodeId, ProcessId, make_process_id
from remora.core.counting.vocabulary import CountingError
from remora.messages.copies import CopyDropped
from remora.messages.session import WorkerOutput
from remora.processes.daemon import links as links_module
from remora.processes.daemon.connected import ConnectedProcess, ConnectedProcesses
from remora.processes.daemon.links import Links
from remora.processes.daemon.output import MAX_UNSENT_BYTES, OutputForwarder
from remora.system.network.refusals import Refusal

HERE, OTHER = NodeId(b"\0\0\0\1"), NodeId(b"\0\0\0\2")
FIRST, SECOND = CopyDropped([b"1" * 16]), CopyDropped([b"2" * 16])


class FakeStream:
    """A stream, or a connection, that keeps what it is given."""

    def __init__(self) -> None:
        self.outgoing: list[Any] = []
        self.written: list[Any] = []
        self.is_blocked = False
        self.peer: Any = None
        self.refusals: list[int] = []

    def refuse(self, code: int) -> None:
        self.refusals.append(code)

    def flush(self) -> None:
        self.written += self.outgoing
        self.outgoing.clear()

    def close(self) -> None:
        self.outgoing.clear()


class Handler:
    """Hears what other nodes say, and finds some of it wrong."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.broken: list[NodeId] = []

    def on_node_message(self, node: NodeId, message: Any) -> None:
        if message is FIRST:
            raise CountingError("a node cannot say this")
        self.heard.append(message)

    def on_link_broken(self, node: NodeId, error: Exception) -> None:
        self.broken.append(node)


class Rig:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: dict[NodeId, str] = {}
        self.opened: list[FakeStream] = []
        self.handler = Handler()
        monkeypatch.setattr(links_module, "open_stream", self.open)
        credentials = ClusterCredentials(b"secret", b"fingerprint")
        self.links = Links(None, HERE, credentials, self.addresses.get, self.handler)  # type: ignore[arg-type]

    def open(self, *arguments: Any) -> FakeStream:
        self.opened.append(FakeStream())
        return self.opened[-1]


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(monkeypatch)


def test_what_is_said_to_a_node_that_only_others_have_heard_of_leaves_when_its_address_is_known(rig: Rig) -> None:
    rig.links.send(OTHER, FIRST)
    rig.links.members_changed()
    assert not rig.opened
    rig.addresses[OTHER] = "127.0.0.1:1"
    rig.links.members_changed()
    rig.links.send(OTHER, SECOND)
    rig.links.flush()
    (stream,) = rig.opened
    assert stream.written == [FIRST, SECOND]


def test_what_is_said_to_a_node_that_is_not_known_yet_leaves_on_the_stream_that_it_opens(rig: Rig) -> None:
    rig.links.send(OTHER, FIRST)
    stream = FakeStream()
    rig.links.accept(stream, make_process_id(2, 0))  # type: ignore[arg-type]
    rig.links.flush()
    assert stream.written == [FIRST]
    assert not rig.opened


def test_what_is_said_to_a_node_that_was_dead_before_it_was_known_goes_nowhere(rig: Rig) -> None:
    rig.links.send(OTHER, FIRST)
    rig.links.node_dead(OTHER)
    rig.addresses[OTHER] = "127.0.0.1:1"
    rig.links.members_changed()
    rig.links.send(OTHER, SECOND)
    assert not rig.opened


@pytest.mark.parametrize(
    "sender",
    [make_process_id(1, 0), make_process_id(2, 1), bytes(8)],
    ids=["this daemon", "a process that is no daemon", "the head"],
)
def test_only_daemons_of_other_nodes_open_links(rig: Rig, sender: bytes) -> None:
    stream = FakeStream()
    rig.links.accept(stream, sender)  # type: ignore[arg-type]
    assert stream.refusals == [Refusal.UNKNOWN_TARGET]
    assert not rig.links.linked_nodes()


def test_a_node_that_breaks_the_rules_of_counting_does_not_end_the_daemon(rig: Rig) -> None:
    stream = FakeStream()
    rig.links.accept(stream, make_process_id(2, 0))  # type: ignore[arg-type]
    rig.links._on_messages(stream, [FIRST])  # type: ignore[arg-type]
    assert rig.handler.broken == [OTHER]


def test_a_driver_that_does_not_read_is_told_how_many_lines_of_other_nodes_it_has_missed() -> None:
    processes = ConnectedProcesses(1)
    driver: ProcessId = processes.next_id()
    connection: Any = FakeStream()
    processes.add(ConnectedProcess(connection, driver, "driver", 1, driver))
    output = OutputForwarder(None, processes, None)  # type: ignore[arg-type]

    def say(*lines: str) -> None:
        output.pass_on(driver, WorkerOutput(7, "task", list(lines), node_address="10.0.0.2:7000"))

    say("one")
    connection.is_blocked = True
    for _ in range(3):  # many small ones, of which the socket has none
        say("x" * (MAX_UNSENT_BYTES // 2))
    say("two", "three")
    say("four")
    connection.is_blocked = False
    say("five")
    processes.flush()
    told = [(message.lines[0][:4], message.dropped_lines) for message in connection.written]
    assert told == [("one", 0), ("xxxx", 0), ("xxxx", 0), ("five", 4)]
