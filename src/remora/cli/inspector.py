"""The command line's side of an inspection: finds a running session and asks its daemon."""

from __future__ import annotations

import os
import socket
from typing import Any, TypeVar

import click

from remora.base.errors import RemoraError
from remora.messages.wire import HEADER_SIZE_BYTES, decode_body, encode_frame, unpack_length
from remora.system.handshake import connect_unix, receive_welcome, send_hello
from remora.system.session_directory import DAEMON_SOCKET, SessionRecord, running_sessions

ANSWER_TIMEOUT_S = 30.0

Answer = TypeVar("Answer")

session_option = click.option(
    "--session", metavar="DIR", help="Folder of the session to look at; by default the one that was started last."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, ids in full.")


def choose_session(directory: str | None) -> tuple[SessionRecord, list[SessionRecord]]:
    """The session to look at, and the others that run.

    Raises:
        click.ClickException: none runs, or not the one that was asked for.
    """
    sessions = running_sessions()
    if not sessions:
        raise click.ClickException(
            "no session of this user runs on this machine: start a program that calls remora.init(), "
            "and ask while it runs, or start a node with `remora start`"
        )
    if directory is None:
        return sessions[0], sessions[1:]
    wanted = os.path.realpath(directory)
    for session in sessions:
        if os.path.realpath(session.directory) == wanted:
            return session, [other for other in sessions if other is not session]
    running = "\n".join(f"  {session.directory} ({owner_of(session)})" for session in sessions)
    raise click.ClickException(f"no session runs in {directory}; these do:\n{running}")


def owner_of(session: SessionRecord) -> str:
    """``driver 4711``, or that it belongs to none."""
    return f"driver {session.driver_pid}" if session.driver_pid else "node of a cluster"


def ask(session: SessionRecord, question: Any, answer_class: type[Answer]) -> Answer:
    """The daemon's answer to *question*.

    Raises:
        click.ClickException: the session ends just now, or its daemon does not answer.
    """
    try:
        with connect_unix(f"{session.directory}/{DAEMON_SOCKET}", ANSWER_TIMEOUT_S) as sock:
            send_hello(sock, "inspector")
            _, descriptors = receive_welcome(sock)
            for descriptor in descriptors:
                os.close(descriptor)
            sock.sendall(encode_frame([question]))
            return _receive(sock, answer_class)
    except TimeoutError:
        raise click.ClickException(
            f"the daemon of session {session.directory} has not answered for {ANSWER_TIMEOUT_S:g} s"
        ) from None
    except (OSError, RemoraError) as error:
        raise click.ClickException(
            f"session {session.directory} cannot be asked, perhaps it has ended: {error}"
        ) from None


def tell(directory: str, message: Any) -> None:
    """Say something to the daemon of the session in *directory*.

    Raises:
        click.ClickException: it is not there.
    """
    try:
        with connect_unix(f"{directory}/{DAEMON_SOCKET}", ANSWER_TIMEOUT_S) as sock:
            send_hello(sock, "inspector")
            for descriptor in receive_welcome(sock)[1]:
                os.close(descriptor)
            sock.sendall(encode_frame([message]))
    except (OSError, RemoraError) as error:
        raise click.ClickException(f"the node in {directory} cannot be reached: {error}") from None


def _receive(sock: socket.socket, answer_class: type[Answer]) -> Answer:
    while True:
        (length,) = unpack_length(_receive_exactly(sock, HEADER_SIZE_BYTES), 0)
        for message in decode_body(_receive_exactly(sock, length)):
            if isinstance(message, answer_class):
                return message


def _receive_exactly(sock: socket.socket, size_bytes: int) -> bytearray:
    data = bytearray(size_bytes)
    view, filled = memoryview(data), 0
    while filled < size_bytes:
        received = sock.recv_into(view[filled:])
        if not received:
            raise ConnectionResetError("its daemon closed the connection")
        filled += received
    return data
