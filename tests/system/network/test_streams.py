"""Streams over real sockets: what arrives, how they end, and who is refused."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import pytest
from network_ends import DEADLINE_S, NODE, End, Node, connect, serve

from remora.base.credentials import ClusterCredentials
from remora.messages.tasks import Done
from remora.messages.wire import encode_frame
from remora.system.certificates import create_credentials
from remora.system.connection import RECEIVE_BUFFER_BYTES
from remora.system.network import opener
from remora.system.network.preface import Purpose
from remora.system.network.refusals import Refusal, StreamRefused, refuse
from remora.system.network.reliable_stream import ACK_FRAMES
from remora.system.network.stream_link import StreamLink

Nodes = tuple[Node, Node]


def send(end: End, messages: list[Any]) -> None:
    for message in messages:
        end.stream.send(message)
    end.stream.flush()


def code_of(end: End) -> int:
    (error,) = end.ends
    assert isinstance(error, StreamRefused)
    return error.code


def test_what_was_sent_before_the_connection_stands_arrives_in_order(nodes: Nodes) -> None:
    left, right = nodes
    end = left.open(right.address)
    messages = [Done(call, b"x" * call) for call in range(1500)]
    send(end, messages)
    serve(left.reactor, right.reactor, until=lambda: right.accepted and len(right.accepted[0].received) == 1500)
    assert right.accepted[0].received == messages


def test_the_acceptor_learns_who_opened_the_stream_and_for_what(nodes: Nodes) -> None:
    _, accepted = connect(*nodes)
    assert accepted.stream.remote == NODE
    assert accepted.stream.purpose == Purpose.LINK


def test_a_name_is_looked_up_without_blocking(nodes: Nodes) -> None:
    left, right = nodes
    connect(left, right, f"localhost:{right.doorkeeper.port}")


def test_a_name_that_nobody_has_ends_the_stream_with_a_sentence(nodes: Nodes) -> None:
    left, _ = nodes
    end = left.open("no-such-host.invalid:1")
    serve(left.reactor, until=lambda: end.ends)
    assert "no-such-host.invalid was not found" in str(end.ends[0])


def test_frames_larger_than_every_buffer_cross_both_ways_at_once(nodes: Nodes) -> None:
    left, right = nodes
    ends = connect(left, right)
    messages = [Done(call, bytes([call]) * (5 * RECEIVE_BUFFER_BYTES + call)) for call in range(8)]
    for end in ends:
        send(end, messages)
        assert end.stream.unsent_bytes
    serve(left.reactor, right.reactor, until=lambda: all(len(end.received) == 8 for end in ends))
    for end in ends:
        assert end.received == messages
    serve(left.reactor, right.reactor, until=lambda: not any(end.stream.unsent_bytes for end in ends))


def test_messages_of_each_thread_arrive_in_its_order_while_others_come(nodes: Nodes) -> None:
    left, right = nodes
    end, accepted = connect(left, right)
    count = 1500

    def write(sender: int) -> None:
        for number in range(count):
            end.stream.send(Done(number, bytes([sender]) * 300))
            end.stream.flush()

    threads = [threading.Thread(target=write, args=(sender,)) for sender in range(3)]
    for thread in threads:
        thread.start()
    back = [Done(number, b"y" * 500) for number in range(count)]
    send(accepted, back)
    serve(
        left.reactor,
        right.reactor,
        until=lambda: len(accepted.received) == 3 * count and len(end.received) == count,
    )
    for thread in threads:
        thread.join()
    assert end.received == back
    for sender in range(3):
        assert [m.call for m in accepted.received if m.data[0] == sender] == list(range(count))


def test_frames_are_kept_only_until_they_are_acknowledged(nodes: Nodes) -> None:
    left, right = nodes
    end, accepted = connect(left, right)
    most = 0
    for call in range(10 * ACK_FRAMES):
        send(end, [Done(call, b"")])
        left.reactor.poll(0)
        right.reactor.poll(0.001)
        most = max(most, len(end.stream._kept))
    assert most <= 3 * ACK_FRAMES
    serve(left.reactor, right.reactor, until=lambda: not end.stream._kept)
    assert len(accepted.received) == 10 * ACK_FRAMES


@pytest.mark.parametrize("closer", [0, 1], ids=["opener closes", "acceptor closes"])
def test_a_close_is_told_as_an_orderly_end_after_all_that_was_written(nodes: Nodes, closer: int) -> None:
    left, right = nodes
    ends = connect(left, right)
    send(ends[closer], [Done(call, b"x") for call in range(700)])
    ends[closer].stream.close()
    other = ends[1 - closer]
    seen: list[int] = []
    other.stream.on_closed = lambda stream, error: (seen.append(len(other.received)), other.end(stream, error))[0]
    serve(left.reactor, right.reactor, until=lambda: other.ends)
    assert seen == [700]
    assert other.ends == [None]
    assert ends[closer].ends == []
    assert other.stream.closed


@pytest.mark.parametrize("victim", [0, 1], ids=["opener dies", "acceptor dies"])
def test_the_end_of_file_of_a_process_that_died_is_final(nodes: Nodes, victim: int) -> None:
    left, right = nodes
    ends = connect(left, right)
    send(ends[victim], [Done(1, b"last words")])
    ends[victim].stream.abandon_in_child()  # closes the socket without a word, as the kernel does
    other = ends[1 - victim]
    serve(nodes[1 - victim].reactor, until=lambda: other.ends)
    assert other.received == [Done(1, b"last words")]
    assert other.ends == [None]


def test_sending_to_a_process_that_closed_does_not_turn_its_end_into_a_broken_connection(nodes: Nodes) -> None:
    left, right = nodes
    end, accepted = connect(left, right)
    accepted.stream.abandon_in_child()
    for call in range(10):
        send(end, [Done(call, b"x" * 1000)])
    serve(left.reactor, until=lambda: end.ends)
    assert end.ends == [None]


def test_a_closed_stream_takes_and_drops_what_is_sent(nodes: Nodes) -> None:
    end, _ = connect(*nodes)
    end.stream.close()
    send(end, [Done(1, b"")])
    assert end.stream.outgoing == []
    end.stream.close()


def test_read_to_end_hands_out_what_is_there(nodes: Nodes) -> None:
    left, right = nodes
    end, accepted = connect(left, right)
    send(end, [Done(call, b"x" * 1000) for call in range(100)])
    end_s = monotonic() + DEADLINE_S
    while len(accepted.received) < 100 and monotonic() < end_s:
        accepted.stream.read_to_end()
    assert len(accepted.received) == 100
    assert not accepted.stream.closed


def test_who_is_refused_by_the_acceptor_is_told_why(nodes: Nodes) -> None:
    left, right = nodes
    right.acceptor._on_stream = lambda stream, sender: stream.refuse(Refusal.DECLARED_DEAD)
    end = left.open(right.address)
    serve(left.reactor, right.reactor, until=lambda: end.ends)
    assert code_of(end) == Refusal.DECLARED_DEAD
    assert "declared dead" in str(end.ends[0])


def test_a_wrong_secret_is_refused_on_both_sides_and_logged_once(credentials: ClusterCredentials, nodes: Nodes) -> None:
    left, right = nodes
    wrong = msgspec.structs.replace(credentials, secret=b"x" * 32)
    for _ in range(3):
        end = left.open(right.address, wrong)
        serve(left.reactor, right.reactor, until=lambda end=end: end.ends)
        assert code_of(end) == Refusal.WRONG_SECRET
    serve(left.reactor, right.reactor, until=lambda: right.log.counts.total() == 3)
    assert len(right.lines) == 1
    assert "does not know the secret" in right.lines[0]
    assert not right.accepted


def test_nothing_is_decoded_before_the_secret_is_proved(
    credentials: ClusterCredentials, nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right = nodes
    decoded: list[bytes] = []
    decode = StreamLink.decode

    def note(body: Any) -> list[Any]:
        decoded.append(bytes(body))
        return decode(body)

    monkeypatch.setattr(StreamLink, "decode", staticmethod(note))
    wrong = msgspec.structs.replace(credentials, secret=b"x" * 32)
    end = left.open(right.address, wrong)
    # An opener that does not wait: frames follow its wrong proof at once.
    sent = bytes(encode_frame([Done(1, b"forged")]))
    monkeypatch.setattr(opener, "open_steps", _impatient_steps(opener.open_steps, sent))
    impatient = left.open(right.address, wrong)
    serve(left.reactor, right.reactor, until=lambda: end.ends and impatient.ends and right.log.counts.total() == 2)
    assert decoded == []
    monkeypatch.undo()
    monkeypatch.setattr(StreamLink, "decode", staticmethod(note))
    connect(left, right)
    assert decoded, "the test does not see what is decoded"


def _impatient_steps(steps: Any, extra: bytes) -> Any:
    """The steps of an opener, with *extra* behind the third and last thing that it writes: its proof."""

    def run(*args: Any) -> Any:
        inner = steps(*args)
        step = next(inner)
        writes = 0
        while True:
            writes += isinstance(step, bytes)
            answer = yield (step + extra if isinstance(step, bytes) and writes == 3 else step)
            step = inner.send(answer)

    return run


def test_the_nodes_of_another_cluster_are_refused(nodes: Nodes, tmp_path: Path) -> None:
    left, right = nodes
    other = create_credentials(str(tmp_path / "other"), right.credentials.encrypt)
    end = left.open(right.address, other)
    serve(left.reactor, right.reactor, until=lambda: end.ends)
    assert code_of(end) == Refusal.OTHER_CLUSTER


def test_an_impostor_with_another_certificate_is_recognized(tmp_path: Path, make_node: Callable[..., Node]) -> None:
    genuine = create_credentials(str(tmp_path / "genuine"))
    other = create_credentials(str(tmp_path / "other"))
    # It knows even the secret, and the first bytes of the fingerprint, which are sent in the clear.
    fake = msgspec.structs.replace(
        other, secret=genuine.secret, fingerprint=genuine.fingerprint[:8] + other.fingerprint[8:]
    )
    impostor, victim = make_node(fake), make_node(genuine)
    end = victim.open(impostor.address)
    serve(impostor.reactor, victim.reactor, until=lambda: end.ends)
    assert code_of(end) == Refusal.WRONG_CERTIFICATE
    assert not impostor.accepted


def test_an_impostor_without_the_secret_is_recognized(nodes: Nodes, make_node: Callable[..., Node]) -> None:
    victim, _ = nodes
    impostor = make_node(msgspec.structs.replace(victim.credentials, secret=b"x" * 32))
    end = victim.open(impostor.address)
    serve(impostor.reactor, victim.reactor, until=lambda: end.ends)
    assert code_of(end) == Refusal.WRONG_SECRET


def test_encryption_that_only_one_side_wants_is_refused(nodes: Nodes) -> None:
    left, right = nodes
    mixed = msgspec.structs.replace(left.credentials, encrypt=not left.credentials.encrypt)
    end = left.open(right.address, mixed)
    serve(left.reactor, right.reactor, until=lambda: end.ends)
    assert code_of(end) == (Refusal.NOT_ENCRYPTED if right.credentials.encrypt else Refusal.ENCRYPTED)


def test_what_is_no_node_of_remora_is_recognized_by_its_answer(
    clear_credentials: ClusterCredentials, make_node: Callable[..., Node]
) -> None:
    node = make_node(clear_credentials)
    with socket.create_server(("127.0.0.1", 0)) as server:
        end = node.open(f"127.0.0.1:{server.getsockname()[1]}")
        sock, _ = server.accept()
        with sock:
            sock.sendall(b"SSH-2.0-OpenSSH\r\n")
            serve(node.reactor, until=lambda: end.ends)
    assert code_of(end) == Refusal.STRANGE_ANSWER


def test_a_port_where_nobody_listens_ends_the_stream(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opener, "GIVE_UP_NOBODY_LISTENS_S", 0.1)
    left, right = nodes
    address = right.address
    right.doorkeeper.close()
    end = left.open(address)
    serve(left.reactor, until=lambda: end.ends)
    assert isinstance(end.ends[0], ConnectionRefusedError)


def test_an_acceptor_that_falls_silent_is_given_up(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opener, "ATTEMPT_TIMEOUT_S", 0.05)
    monkeypatch.setattr(opener, "GIVE_UP_S", 0.2)
    left, right = nodes
    end = left.open(right.address)  # nobody polls the other reactor
    serve(left.reactor, until=lambda: end.ends)
    assert isinstance(end.ends[0], TimeoutError)


def test_an_address_without_a_port_is_refused_at_once(nodes: Nodes) -> None:
    with pytest.raises(ValueError, match="has no port"):
        nodes[0].open("127.0.0.1")


def test_no_repr_and_no_error_shows_the_secret(credentials: ClusterCredentials, nodes: Nodes) -> None:
    left, right = nodes
    end, _ = connect(left, right)
    texts = [repr(item) for item in (credentials, end.stream, right.acceptor, right.doorkeeper, end.stream._keeper)]
    texts.append(str(StreamRefused(Refusal.WRONG_SECRET, right.address)))
    for text in texts:
        assert credentials.secret.hex() not in text
        assert repr(credentials.secret) not in text


def test_an_acceptor_forgets_streams_that_ended(nodes: Nodes) -> None:
    left, right = nodes
    end, _ = connect(left, right)
    assert len(right.acceptor.streams) == 1
    end.stream.close()
    serve(right.reactor, until=lambda: not right.acceptor.streams)


def test_an_opener_tries_again_while_the_node_is_starting(nodes: Nodes) -> None:
    left, right = nodes
    take = right.doorkeeper._on_preface
    turned_away: list[Any] = []

    def not_yet(sock: socket.socket, preface: Any) -> None:
        refuse(sock, Refusal.STARTING)
        turned_away.append(preface)
        if len(turned_away) == 3:
            right.doorkeeper._on_preface = take

    right.doorkeeper._on_preface = not_yet
    connect(left, right)
    assert len(turned_away) == 3


def test_a_forked_child_closes_its_copies_and_the_stream_goes_on(nodes: Nodes) -> None:
    left, right = nodes
    end, accepted = connect(left, right)
    trying = left.open(right.address)
    link = end.stream._link
    assert link is not None
    child = os.fork()
    if child == 0:
        # As if another thread had been writing when the process was forked.
        with link._write_lock, getattr(link.transport, "_lock", threading.Lock()):
            end.stream.abandon_in_child()
            trying.stream.abandon_in_child()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0
    send(end, [Done(1, b"still here")])
    serve(left.reactor, right.reactor, until=lambda: accepted.received and trying.stream.is_connected)
    assert not end.ends


def test_older_versions_of_tls_are_refused(tmp_path: Path, make_node: Callable[..., Node]) -> None:
    node = make_node(create_credentials(str(tmp_path)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with node.connect_raw() as client:
        client.sendall(node.preface().encode())
        serve(node.reactor, until=lambda: len(node.acceptor.half_open) == 1)
        node.reactor.poll(0.01)
        assert client.recv(1) == b"\0"
        client.settimeout(0.01)
        wrapped = context.wrap_socket(client, do_handshake_on_connect=False)
        with wrapped:
            with pytest.raises(TimeoutError):
                wrapped.do_handshake()
            serve(node.reactor, until=lambda: node.lines)
            with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
                wrapped.do_handshake()
    assert "the handshake failed" in node.lines[0]
